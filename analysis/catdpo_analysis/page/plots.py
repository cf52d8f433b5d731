"""What all figures have in common: colours, sizes, and how one becomes part of a page.

A figure is drawn in two sizes, for a wide page and for a phone, of which the page's style shows one. Colours are those
of the light scheme; in a page each becomes the CSS variable of its name, so that the dark scheme has its own.
"""

import dataclasses
import io
import re

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from markupsafe import Markup, escape

from catdpo_analysis.page.colours import AXIS, INK, PAPER, RULE, SOFT, VARIABLES

STYLE = {
    "axes.edgecolor": AXIS,
    "axes.labelcolor": SOFT,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "figure.dpi": 100,
    "savefig.dpi": 170,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
}
MOST_POINTS = 600  # of a line: more than a page has pixels for


@dataclasses.dataclass(frozen=True)
class Size:
    """`columns`: panels side by side, at most three."""

    name: str
    width: float  # inches
    columns: int
    font: float

    @property
    def wide(self):
        return self.columns > 1

    def style(self):
        small = {"axes.titlesize": self.font + 1, "legend.fontsize": self.font - 0.5, "axes.labelsize": self.font}
        return {**STYLE, "font.size": self.font, "xtick.labelsize": self.font, "ytick.labelsize": self.font, **small}


WIDE = Size("wide", 9.2, 3, 11)
NARROW = Size("narrow", 4.4, 1, 11)


@dataclasses.dataclass
class Picture:
    """A figure in both sizes: `draw(size)` gives a matplotlib figure. `description`: what it shows, in words."""

    name: str
    heading: str
    caption: str
    description: str
    draw: object

    @property
    def svg(self):
        return Markup("\n").join(_inline(self, size) for size in (WIDE, NARROW))

    def save(self, path, size=WIDE):
        """As a picture of its own, in the light scheme."""
        with plt.rc_context(size.style()):
            figure = self.draw(size)
            figure.savefig(path, bbox_inches="tight")
            plt.close(figure)


def short_name(name, most=30):
    return name if len(name) <= most else name[: most - 2] + "\u2026"


def window_of(steps):
    """Steps over which noisy per-step values are averaged."""
    return max(1, min(50, round(steps / 15)))


def thin(x, y, most=MOST_POINTS):
    """Points of a line, no more than can be seen."""
    if len(x) <= most:
        return x, y
    chosen = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))
    return np.asarray(x)[chosen], np.asarray(y)[chosen]


# ---- as part of a page -----------------------------------------------------------------------------------------------


def _inline(picture, size):
    salt = f"{picture.name}-{size.name}"  # ids differ between the figures of a page
    with plt.rc_context({**size.style(), "svg.hashsalt": salt}):
        figure = picture.draw(size)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", pad_inches=0.03, metadata={"Date": None})
        plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    used = {a or b for a, b in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text)}
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)  # that of the page
    text = re.sub(r"font: ((?:[\w-]+ )*[\d.]+px) [^;\"]*", r"font: \1 var(--font)", text)  # matplotlib before 3.9
    text = re.sub(r' transform="rotate\(-?0 [^"]*\)"', "", text)
    text = re.sub("#[0-9a-f]{6}", lambda found: _variable(found[0]), text)
    box = re.search(r'viewBox="([^"]+)"', text)[1]
    opening = f'<svg class="{size.name}" viewBox="{box}" role="img" aria-label="{escape(picture.description)}">'
    return Markup(opening + text[text.index(">") + 1 :])


def _variable(colour):
    return f"var({VARIABLES[colour]})" if colour in VARIABLES else colour
