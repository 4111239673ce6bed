"""The tables of a report, as plain text cells: for the terminal and for HTML alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hardfast.distill.run_dir import ResultRow
from hardfast.report.load import learns, method_rank

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "Table",
    "config_table",
    "gap_closed",
    "gap_table",
    "header_table",
    "headline",
    "method_label",
    "print_table",
    "results_table",
    "results_tables",
]

_LABELS = {
    "student": "student alone",
    "crop_flip": "crop and flip",
    "rand_augment": "RandAugment",
    "auto_augment": "AutoAugment",
    "trivial_augment": "TrivialAugmentWide",
    "augmix": "AugMix",
    "cutmix": "CutMix",
    "mixup": "MixUp",
    "color": "colour",
    "affine_flow_color": "affine, flow, colour",
    "latent": "latent codes",
    "vdvae": "very deep VAE",
    "hard": "HARD",
    "config": "ConfiG",
}
_OURS = ("hard", "config")
# Below this the gap is of the size of its own noise, and a ratio to it says nothing.
_SMALLEST_GAP = 0.05
_GAP_NOTE = "Gap closed: (method - distillation) / (teacher - distillation), from the means."
_EMPTY = "-"


@dataclass
class Table:
    """Cells ready to be shown.

    Args:
        columns: heading of each column; the first column holds names and is aligned left.
        rows: one text per column.
        notes: sentences for below the table.
        strong: indices of rows to be emphasised.
        numeric: whether the columns after those of names are numbers, aligned right.
        names: number of columns of names where the others are numbers, 1 or 2.
        best: (row, column) of single cells to be emphasised.
    """

    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)
    strong: set[int] = field(default_factory=set)
    numeric: bool = False
    names: int = 1
    best: set[tuple[int, int]] = field(default_factory=set)


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


def results_tables(rows: Sequence[ResultRow]) -> list[Table]:
    """Return the results: one table, or with many splits two, of which the second is about the gap closed."""
    gaps = gap_table(rows) if _many(_splits(rows)) else None
    return [results_table(rows), *([gaps] if gaps is not None else [])]


def results_table(rows: Sequence[ResultRow]) -> Table:
    """Return one line per method; per split ours, what was published, and with one or two splits the gap closed."""
    methods = _methods(rows)
    splits = _splits(rows)
    published = {key for key in splits if any(r.published is not None for r in rows if (r.split, r.metric) == key)}
    gaps = set() if _many(splits) else {key for key in splits if any(_shows_gap(rows, m, *key) for m in methods)}
    metrics = {metric for _, metric in splits}
    short = _many(splits) and len(metrics) == 1

    columns = [_heading("", *metrics) if short else "method"]
    for split, metric in splits:
        columns.append(split if short else _heading(split, metric))
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
    return Table(columns, cells, _notes(rows, sources, bool(gaps)), _strong(methods), numeric=True)


def gap_table(rows: Sequence[ResultRow]) -> Table | None:
    """Return the gap closed, a line a method, a column a split, its largest value emphasised; None without a gap."""
    splits = [key for key in _splits(rows) if any(_shows_gap(rows, method, *key) for method in _methods(rows))]
    methods = [method for method in _methods(rows) if any(_shows_gap(rows, method, *key) for key in splits)]
    if not splits:
        return None
    same = len({metric for _, metric in splits}) == 1
    columns = ["gap closed, %", *(split if same else _heading(split, metric) for split, metric in splits)]
    cells = [[method_label(method), *(_gap(rows, method, *key) for key in splits)] for method in methods]
    best = set()
    for column, key in enumerate(splits, start=1):
        values = {line: gap_closed(rows, method, *key) for line, method in enumerate(methods)}
        known = {line: value for line, value in values.items() if value is not None}
        most = max(known, key=known.__getitem__, default=None)
        if most is not None and known[most] > 0:
            best.add((most, column))
    notes = [_GAP_NOTE, "Emphasised in each column: the method that closes most."]
    return Table(columns, cells, notes, _strong(methods), numeric=True, best=best)


def _methods(rows: Sequence[ResultRow]) -> list[str]:
    return sorted({row.method for row in rows}, key=method_rank)


def _splits(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row.split, row.metric) for row in rows))


def _many(splits: Sequence[tuple[str, str]]) -> bool:
    return len({split for split, _ in splits}) > 2


def _heading(split: str, metric: str) -> str:
    unit = ", %" if is_fraction(metric) else ""
    return f"{split} {metric.replace('_', ' ')}{unit}".strip()


def _strong(methods: Sequence[str]) -> set[int]:
    return {index for index, method in enumerate(methods) if method in _OURS}


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
        notes.append(_GAP_NOTE)
    notes += [f"[{number}] {source}" for number, source in enumerate(sources, start=1)]
    return notes


def headline(rows: Sequence[ResultRow]) -> str | None:
    """Return the outcome of the run: of the one learned method where distillation falls furthest behind, or of several
    learned ones which closes most of the gap on each split.
    """
    ours = sorted({row.method for row in rows if row.method in _OURS or learns(row.method)}, key=method_rank)
    if len(ours) > 1:
        return _best_of_each_split(rows, ours)
    candidates = []
    for row in rows:
        closed = gap_closed(rows, row.method, row.split, row.metric)
        gap = _gap_to_teacher(rows, row.split, row.metric)
        if row.method in ours and closed is not None and gap is not None:
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


def _best_of_each_split(rows: Sequence[ResultRow], methods: Sequence[str]) -> str | None:
    found = []
    for split, metric in _splits(rows):
        values = {method: gap_closed(rows, method, split, metric) for method in methods}
        known = {method: value for method, value in values.items() if value is not None}
        best = max(known, key=known.__getitem__, default=None)
        if best is not None and known[best] > 0:
            found.append(f"by {method_label(best)} on {split} ({100 * known[best]:.1f} %)")
    if not found:
        return None
    *first, last = found
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"The gap between distillation and teacher is closed furthest {listed}."


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
        shown.add_column(
            Text(column), justify="right" if table.numeric and index >= table.names else "left", overflow="fold"
        )
    for index, row in enumerate(table.rows):
        cells = (Text(cell, "bold" if (index, column) in table.best else "") for column, cell in enumerate(row))
        shown.add_row(*cells, style="bold" if index in table.strong else None)
    console.print(shown)
    for note in table.notes:
        console.print(Text(note, style="dim"))
