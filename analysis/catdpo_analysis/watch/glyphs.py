"""Small plots of characters, in Unicode or in ASCII."""

import dataclasses

import numpy as np

from catdpo_analysis.text.streams import asks_for_utf8


@dataclasses.dataclass(frozen=True)
class Glyphs:
    levels: str  # of a sparkline, from low to high
    full: str
    parts: str  # of the last cell of a bar, from nearly empty to nearly full
    empty: str
    mark: str
    up: str
    down: str
    flat: str
    dot: str
    between: str
    more: str
    plus_minus: str
    unicode: bool


UNICODE = Glyphs("▁▂▃▄▅▆▇█", "█", "▏▎▍▌▋▊▉", "·", "│", "↑", "↓", "→", "●", " · ", "…", "±", True)
ASCII = Glyphs("_.,-~=*#", "#", "", ".", "|", "^", "v", "-", "*", " | ", "...", "+-", False)


def choose_glyphs(encoding, environment=None):
    """Unicode if both the stream and the locale of the user have it."""
    return UNICODE if asks_for_utf8(environment) and "utf" in (encoding or "").lower() else ASCII


def sparkline(values, width, glyphs, low=None, high=None):
    """`values` in at most `width` characters, each the mean of a stretch of them; a gap is a space."""
    values = np.asarray(values, dtype=float)
    if width < 1 or not values.size:
        return ""
    stretches = np.array_split(values, min(width, values.size))
    means = [part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in stretches]
    known = [mean for mean in means if np.isfinite(mean)]
    if not known:
        return " " * len(means)
    low, high = min(known) if low is None else low, max(known) if high is None else high
    top = len(glyphs.levels) - 1

    def level(mean):
        if not np.isfinite(mean):
            return " "
        share = (mean - low) / (high - low) if high > low else 0.5
        return glyphs.levels[round(min(max(share, 0.0), 1.0) * top)]

    return "".join(level(mean) for mean in means)


def bar(share, width, glyphs, mark=None):
    """(filled, rest) of a bar of `width` characters; `mark`: a share to be marked in the part that is not filled."""
    share = min(max(share, 0.0), 1.0) if np.isfinite(share) else 0.0
    cells = share * width
    filled = glyphs.full * int(cells)
    part = int((cells - int(cells)) * (len(glyphs.parts) + 1))
    if part and glyphs.parts:
        filled += glyphs.parts[part - 1]
    rest = list(glyphs.empty * (width - len(filled)))
    if mark is not None and rest:
        place = min(int(mark * width), width - 1) - len(filled)
        if place >= 0:
            rest[place] = glyphs.mark
    return filled, "".join(rest)


def change(values, window=50):
    """(now, before): means of the last values and of as many before them; None if there are too few."""
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    n = min(window, len(values) // 2)
    return (float(values[-n:].mean()), float(values[-2 * n : -n].mean())) if n else None


def trend(values, glyphs, least, window=50):
    """An arrow: whether the values grow or fall by more than `least`; a space if that cannot be told."""
    means = change(values, window)
    if means is None:
        return " "
    return glyphs.flat if abs(means[0] - means[1]) <= least else glyphs.up if means[0] > means[1] else glyphs.down


def clean(text, glyphs):
    """Text for the terminal: what it would take for a command, or cannot show, becomes a question mark."""
    text = "".join(c if c.isprintable() else "?" for c in str(text))
    return text if glyphs.unicode else text.encode("ascii", "replace").decode()
