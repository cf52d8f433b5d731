"""The colours of pages and figures. Here they are those of the light scheme; a page has each as a CSS variable."""

PALETTE = ("#3b6fb6", "#e07b39", "#3a9d6e", "#c94f5d", "#8661b4", "#b08b2e", "#2ba3b8", "#d46bb0", "#7a8f2a", "#8a5a44")
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)))  # further rounds of the palette
GREYS = ("#8d939b", "#b4b9bf", "#6b7178")
INK, SOFT, RULE, AXIS, PAPER, FAINT = "#1f2933", "#616e7c", "#e4e7eb", "#9aa5b1", "#ffffff", "#c3ccd6"
VARIABLES = {  # colour: CSS variable (page/templates/style.css)
    INK: "--ink",
    SOFT: "--soft",
    RULE: "--rule",
    AXIS: "--axis",
    PAPER: "--paper",
    FAINT: "--faint",
    **{colour: f"--c{i}" for i, colour in enumerate(PALETTE)},
    **{colour: f"--g{i}" for i, colour in enumerate(GREYS)},
}


def category_styles(harm):
    """name -> (colour, line style), from name -> whether a margin applies."""
    styles, coloured, grey = {}, 0, 0
    for name, applies in harm.items():
        if applies:
            styles[name] = PALETTE[coloured % len(PALETTE)], DASHES[coloured // len(PALETTE) % len(DASHES)]
            coloured += 1
        else:
            styles[name] = GREYS[grey % len(GREYS)], "-"
            grey += 1
    return styles


def css(colour):
    """A colour as a page has it."""
    return f"var({VARIABLES[colour]})"
