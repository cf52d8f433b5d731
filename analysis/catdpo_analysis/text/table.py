"""Plain text tables for the terminal."""


def format_table(heading, rows, last_is_total=False):
    """Columns as wide as their widest cell; numbers to the right, texts to the left."""
    cells = [[cell_text(cell) for cell in row] for row in [heading, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heading))]
    right = [all(not isinstance(row[i], str) for row in rows) for i in range(len(heading))]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width) for cell, width, to_right in zip(row, widths, right)
        ).rstrip()
        for row in cells
    ]
    rule = "-" * max(map(len, lines))
    lines.insert(1, rule)
    if last_is_total:
        lines.insert(len(lines) - 1, rule)
    return "\n".join(lines)


def cell_text(cell):
    """None and NaN are a dash; fractional numbers have three digits."""
    if cell is None or cell != cell:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def format_columns(heading, rows, width):
    """A table in as many parts as it takes to have no line wider than `width`, each with the first column."""
    sizes = [max(len(cell_text(row[i])) for row in [heading, *rows]) for i in range(len(heading))]
    parts, columns, used = [], [0], sizes[0]
    for i in range(1, len(heading)):
        if len(columns) > 1 and used + 2 + sizes[i] > width:
            parts.append(columns)
            columns, used = [0], sizes[0]
        columns.append(i)
        used += 2 + sizes[i]
    parts.append(columns)
    return "\n\n".join(
        format_table([heading[i] for i in columns], [[row[i] for i in columns] for row in rows]) for columns in parts
    )
