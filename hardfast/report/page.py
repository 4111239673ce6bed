"""What the pages of a report are made of: one look, no network, no JavaScript."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from matplotlib.figure import Figure

from hardfast.report.figures import to_svg
from hardfast.report.tables import Table

__all__ = ["document", "figure", "table"]

_CSS = """
:root { color-scheme: light; --ink: #222; --soft: #666; --line: #ddd; --accent: #00795a; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 54rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 1.9rem; letter-spacing: -0.01em; }
h2 { margin: 2.75rem 0 0.75rem; font-size: 1.2rem; border-bottom: 1px solid var(--line); padding-bottom: 0.3rem; }
p { margin: 0.5rem 0; }
.about, figcaption, .notes, .absent { color: var(--soft); font-size: 0.875rem; }
.headline { margin: 1.25rem 0 0; font-size: 1.15rem; border-left: 3px solid var(--accent); padding-left: 0.9rem; }
.missing { margin: 1.25rem 0 0; padding: 0.7rem 1rem; background: #fff8e6; border: 1px solid #f0dca8;
  border-radius: 4px; font-size: 0.9rem; }
.missing ul { margin: 0.3rem 0 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; }
.notes + .scroll, .notes + figure { margin-top: 1.5rem; }
table { border-collapse: collapse; font-size: 0.925rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 1.1rem 0.35rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee; }
thead th { border-bottom: 1px solid #999; font-weight: 600; color: var(--soft); vertical-align: bottom; }
table.numeric :is(th, td):not(:first-child) { text-align: right; padding: 0.35rem 0 0.35rem 1.4rem;
  white-space: nowrap; }
table.two-names :is(th, td):nth-child(2) { text-align: left; white-space: normal; padding-left: 0; }
tr.strong td, td.best { font-weight: 650; background: #f1f8f5; }
.details td:nth-child(2) { overflow-wrap: anywhere; font-family: ui-monospace, "DejaVu Sans Mono", monospace;
  font-size: 0.82rem; }
.details td:nth-child(3) { white-space: nowrap; color: var(--soft); }
figure { margin: 1.25rem 0 1.75rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { margin-top: 0.4rem; }
@media print { body { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""


def document(title: str, body: Iterable[str]) -> str:
    """Return a page of a title, as text, and the parts of its body, as HTML; empty parts are left out."""
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n"
    )
    return head + "<body>\n" + "\n".join(part for part in body if part) + "\n</body>\n</html>\n"


def figure(figure: Figure, caption: str) -> str:
    """Return a figure with its caption, to be called within :func:`hardfast.report.figures.style`."""
    label = escape(caption, quote=True)
    return (
        f'<figure><div role="img" aria-label="{label}">{to_svg(figure)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(table: Table, kind: str = "") -> str:
    """Return a table with its notes; ``kind`` is a class of the style sheet, for what is not numeric."""
    if table.numeric:
        kind = "numeric" if table.names == 1 else "numeric two-names"
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    lines = []
    for index, row in enumerate(table.rows):
        mark = ' class="strong"' if index in table.strong else ""
        cells = (_cell(text, (index, column) in table.best) for column, text in enumerate(row))
        lines.append(f"<tr{mark}>" + "".join(cells) + "</tr>")
    notes = "".join(f'<p class="notes">{escape(note)}</p>' for note in table.notes)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{notes}"
    )


def _cell(text: str, best: bool) -> str:
    return f'<td class="best">{escape(text)}</td>' if best else f"<td>{escape(text)}</td>"
