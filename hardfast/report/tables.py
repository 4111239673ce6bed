"""The tables of a report, as plain text cells: for the terminal and for HTML alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hardfast.distill.run_dir import ResultRow
from hardfast.report.load import method_rank

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Table",
    "config_table",
    "gap_closed",
    "header_table",
    "headline",
    "method_label",
    "print_table",
    "results_table",
]

_LABELS = {
    "teacher": "teacher",
    "student": "student alone",
    "distillation": "distillation",
    "cutmix": "CutMix",
    "mixup": "MixUp",
    "hard": "HARD",
    "config": "ConfiG",
}
_OURS = ("hard", "config")
# Below this the gap is of the size of its own noise, and a ratio to it says nothing.
_SMALLEST_GAP = 0.05
_EMPTY = "-"


@dataclass
class Table:
    """Cells ready to be shown.

    Args:
        columns: heading of each column; the first column holds names and is aligned left.
        rows: one text per column.
        notes: sentences for below the table.
        strong: indices of rows to be emphasised.
        numeric: whether the columns after the first are numbers, aligned right.
    """

    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    strong: set[int] = field(default_factory=set)
    numeric: bool = False


def method_label(method: str) -> str:
    """Return the name of a method as readers know it."""
    return _LABELS.get(method, method.replace("_", " "))


def is_fraction(metric: str) -> bool:
    """Return whether a metric is a fraction in [0, 1], shown in percent."""
    return "accuracy" in metric


def format_value(metric: str, value: float, std: float | None = None) -> str:
    """Return a value for reading, in percent where the metric is a fraction, with its deviation if given."""
    scale, digits = (100.0, ".1f") if is_fraction(metric) else (1.0, ".4g")
    text = f"{value * scale:{digits}}"
    return text if std is None else f"{text} ± {std * scale:{digits}}"


def _find(rows: Sequence[ResultRow], method: str, split: str, metric: str) -> ResultRow | None:
    for row in rows:
        if (row.method, row.split, row.metric) == (method, split, metric):
            return row
    return None


def gap_closed(rows: Sequence[ResultRow], method: str, split: str, metric: str = "accuracy") -> float | None:
    """Return the fraction of the gap between distillation and teacher that a method closes, from means over seeds.

    Returns:
        ``(method - distillation) / (teacher - distillation)``; None where one of the three has not been measured, or
        where the gap is below 0.05.
    """
    value, distillation = _mean(rows, method, split, metric), _mean(rows, "distillation", split, metric)
    gap = _gap_to_teacher(rows, split, metric)
    if value is None or distillation is None or gap is None or gap < _SMALLEST_GAP:
        return None
    return (value - distillation) / gap


def _mean(rows: Sequence[ResultRow], method: str, split: str, metric: str) -> float | None:
    row = _find(rows, method, split, metric)
    return None if row is None else row.mean


def _gap_to_teacher(rows: Sequence[ResultRow], split: str, metric: str) -> float | None:
    teacher, distillation = (_mean(rows, name, split, metric) for name in ("teacher", "distillation"))
    return None if teacher is None or distillation is None else teacher - distillation


def results_table(rows: Sequence[ResultRow]) -> Table:
    """Return the results: one line per method; per split ours, what was published, and the gap closed."""
    methods = sorted({row.method for row in rows}, key=method_rank)
    splits = list(dict.fromkeys((row.split, row.metric) for row in rows))
    published = {key for key in splits if any(r.published is not None for r in rows if (r.split, r.metric) == key)}
    gaps = {key for key in splits if any(_shows_gap(rows, method, *key) for method in methods)}

    columns = ["method"]
    for split, metric in splits:
        unit = ", %" if is_fraction(metric) else ""
        columns.append(f"{split} {metric.replace('_', ' ')}{unit}")
        columns += ["published"] if (split, metric) in published else []
        columns += ["gap closed, %"] if (split, metric) in gaps else []

    sources: list[str] = []
    cells = []
    for method in methods:
        line = [method_label(method)]
        for split, metric in splits:
            row = _find(rows, method, split, metric)
            line.append(_ours(row))
            line += [_published(row, sources)] if (split, metric) in published else []
            line += [_gap(rows, method, split, metric)] if (split, metric) in gaps else []
        cells.append(line)
    strong = {index for index, method in enumerate(methods) if method in _OURS}
    return Table(columns, cells, _notes(rows, sources, bool(gaps)), strong, numeric=True)


def _shows_gap(rows: Sequence[ResultRow], method: str, split: str, metric: str) -> bool:
    return method not in ("teacher", "distillation") and gap_closed(rows, method, split, metric) is not None


def _ours(row: ResultRow | None) -> str:
    if row is None or row.mean is None or row.std is None:
        return _EMPTY
    return format_value(row.metric, row.mean, row.std if len(row.seeds) > 1 else None)


def _published(row: ResultRow | None, sources: list[str]) -> str:
    if row is None or row.published is None:
        return _EMPTY
    text = format_value(row.metric, row.published)
    if not row.source:
        return text
    if row.source not in sources:
        sources.append(row.source)
    return f"{text} [{sources.index(row.source) + 1}]"


def _gap(rows: Sequence[ResultRow], method: str, split: str, metric: str) -> str:
    if not _shows_gap(rows, method, split, metric):
        return _EMPTY
    return f"{100 * (gap_closed(rows, method, split, metric) or 0.0):.1f}"


def _notes(rows: Sequence[ResultRow], sources: list[str], gaps: bool) -> list[str]:
    notes = []
    counts = sorted({len(row.seeds) for row in rows if row.seeds})
    if counts == [1]:
        notes.append("One seed: no deviation can be given.")
    elif counts:
        number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        notes.append(f"Mean ± sample standard deviation of {number} seeds.")
    if gaps:
        notes.append("Gap closed: (method - distillation) / (teacher - distillation), from the means.")
    notes += [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    return notes


def headline(rows: Sequence[ResultRow]) -> str | None:
    """Return the outcome of the run in one sentence, about the split where distillation falls furthest behind."""
    candidates = []
    for row in rows:
        closed = gap_closed(rows, row.method, row.split, row.metric)
        gap = _gap_to_teacher(rows, row.split, row.metric)
        if row.method in _OURS and closed is not None and gap is not None:
            candidates.append((gap, closed, row))
    if not candidates:
        return None
    _, closed, row = max(candidates, key=lambda candidate: candidate[0])
    unit = " %" if is_fraction(row.metric) else ""
    value = format_value(row.metric, row.mean or 0.0)
    test_set = "test set" if row.split == "test" else f"{row.split} test set"
    return (
        f"On the {test_set} {method_label(row.method)} reaches {value}{unit} {row.metric.replace('_', ' ')} and "
        f"closes {100 * closed:.1f} % of the gap between distillation and teacher."
    )


def config_table(config: Mapping[str, Any]) -> Table:
    """Return the configuration: field, value, and where the value comes from."""
    fields = config.get("fields", config)
    rows = []
    for name, entry in fields.items():
        if isinstance(entry, Mapping) and "value" in entry:
            rows.append([str(name), _plain_text(entry["value"]), str(entry.get("provenance") or _EMPTY)])
        else:
            rows.append([str(name), _plain_text(entry), _EMPTY])
    return Table(["field", "value", "provenance"], rows)


def header_table(header: Mapping[str, Any]) -> Table:
    """Return how the numbers came about: commit, versions, machine, command, time."""
    rows = []
    for name, value in header.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        rows.append([name, _plain_text(value)])
    return Table(["", "this run"], rows)


def _plain_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return _EMPTY
    return json.dumps(value, ensure_ascii=False)


def print_table(table: Table, console: Console | None = None) -> None:
    """Print a table to the terminal, its notes below it."""
    import rich.box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = console or Console()
    shown = RichTable(box=rich.box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(table.columns):
        shown.add_column(Text(column), justify="right" if table.numeric and index else "left", overflow="fold")
    for index, row in enumerate(table.rows):
        shown.add_row(*(Text(cell) for cell in row), style="bold" if index in table.strong else None)
    console.print(shown)
    for note in table.notes:
        console.print(Text(note, style="dim"))
