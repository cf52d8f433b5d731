"""One HTML page without any outside reference: figures as inline PNG, tables, folded details."""

import base64
import html
import io
import math

CSS = """
:root { --ink: #1f2933; --soft: #616e7c; --rule: #e4e7eb; --paper: #ffffff; --back: #f5f7fa; --good: #2f855a;
  --bad: #c53030; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; }
p.lead, figcaption, .note { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(185px, 1fr)); gap: 12px;
  margin: 22px 0 8px; }
.tile { background: var(--paper); border: 1px solid var(--rule); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 19px; font-variant-numeric: tabular-nums; white-space: nowrap; }
  .tile span { color: var(--soft); font-size: 13px; }
figure, .card { margin: 14px 0; background: var(--paper); border: 1px solid var(--rule); border-radius: 10px;
  padding: 14px 16px; overflow-x: auto; }
figure img { width: 100%; height: auto; display: block; } figcaption { font-size: 13px; margin-top: 6px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 13.5px; }
th { text-align: right; font-weight: 600; color: var(--soft); border-bottom: 2px solid var(--rule);
  padding: 6px 8px; vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid var(--rule); padding: 6px 8px; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.total td { font-weight: 600;
  border-top: 2px solid var(--rule); }
td small { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
.dot { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 8px;
  vertical-align: -1px; }
.missing { background: #fffaf0; border-color: #f6e0b5; } details { margin: 10px 0; }
  summary { cursor: pointer; font-weight: 600; }
pre { background: var(--paper); border: 1px solid var(--rule); border-radius: 8px; padding: 12px;
  overflow-x: auto; font-size: 12.5px; }
@media print { body { background: white; } figure, .tile, .card { break-inside: avoid; } }
"""


def escape(value):
    return html.escape(str(value))


def image(figure):
    """A figure as an <img> that carries its own data."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", facecolor="white")
    return base64.b64encode(buffer.getvalue()).decode()


def tiles(facts):
    """[(value, label)] as a row of tiles."""
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span></div>' for value, label in facts
        )
        + "</div>"
    )


def percent(value):
    return f"{value:.1%}" if value is not None and math.isfinite(value) else "–"


def rate_cell(value, interval):
    """A rate with its interval in small print."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.0%} <small>{interval[0]:.0%}–{interval[1]:.0%}</small>"


def change_cell(value, lower_is_better):
    """A difference, coloured by whether it is for the better."""
    if value is None or not math.isfinite(value):
        return "–"
    kind = "" if abs(value) < 5e-4 else "good" if (value < 0) == lower_is_better else "bad"
    return f'<span class="{kind}">{round(100 * value):+d} pp</span>'


def table(heading, rows, totals=0):
    """Cells are HTML already; the last `totals` rows are summaries."""
    head = "".join(f"<th>{cell}</th>" for cell in heading)
    body = "".join(
        f"<tr{' class=total' if i >= len(rows) - totals else ''}>"
        + "".join(f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for i, row in enumerate(rows)
    )
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def page(title, lead, parts):
    """The whole document. `parts`: HTML strings in order."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main><h1>{escape(title)}</h1><p "
        f'class="lead">{escape(lead)}</p>\n' + "\n".join(parts) + "\n</main></body></html>\n"
    )
