"""evaluation.html: how the methods of a run do on other sets, on one self-contained page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hardfast.data.evaluation_sets import EVALUATION_SETS
from hardfast.distill.atomic import write_bytes
from hardfast.distill.evaluation_rows import EvaluationRow, deviation
from hardfast.report import figures, page
from hardfast.report.load import method_rank
from hardfast.report.tables import Table, method_label

__all__ = [
    "METRICS",
    "build_evaluation",
    "corruption_table",
    "metric_table",
    "metric_tables",
    "notes",
    "set_figure",
    "severity_figure",
]

#: Name of a metric -> heading and factor by which it is shown.
METRICS = {
    "accuracy": ("accuracy, %", 100.0),
    "agreement": ("agreement, %", 100.0),
    "kl_to_teacher": ("KL to teacher, nats", 1.0),
    "calibration_error": ("calibration error, %", 100.0),
    "nll": ("NLL, nats", 1.0),
}
_EMPTY = "-"


class _Trained(NamedTuple):
    """A method and which of its weights: what a line of a table or of a figure is of."""

    method: str
    weights: str

    @property
    def label(self) -> str:
        suffix = "" if self.weights == "last" else f" ({self.weights})"
        return method_label(self.method) + suffix


def metric_table(rows: Sequence[EvaluationRow], metric: str) -> Table | None:
    """Return one metric: a line a method, a column a set; None where nothing has it.

    Of a set with corruptions, the mean over those that its benchmark averages over, at all severities.
    """
    rows = [row for row in rows if row.metric == metric]
    if not rows:
        return None
    heading, factor = METRICS[metric]
    names, trained = _sets(rows), _trained(rows)
    lines = [
        [item.label, *(_cell(_seeds(_counted(_of(rows, item, name))), factor) for name in names)] for item in trained
    ]
    strong = {line for line, item in enumerate(trained) if item.method == "hard"}
    return Table([heading, *names], lines, strong=strong, numeric=True)


def metric_tables(rows: Sequence[EvaluationRow]) -> list[Table]:
    """Return a table for each metric that something has, with the notes below the last."""
    found = [table for metric in METRICS if (table := metric_table(rows, metric)) is not None]
    if found:
        found[-1].notes += notes(rows)
    return found


def corruption_table(rows: Sequence[EvaluationRow], name: str) -> Table | None:
    """Return the accuracy under each corruption of a set, mean of the severities; None for a set without."""
    rows = [row for row in rows if row.set == name and row.metric == "accuracy" and row.corruption is not None]
    if not rows:
        return None
    trained = _trained(rows)
    lines = []
    for corruption in dict.fromkeys(row.corruption for row in rows):
        under = [row for row in rows if row.corruption == corruption]
        cells = [_cell(_seeds(_of(under, item, name)), 100.0) for item in trained]
        lines.append([str(corruption).replace("_", " "), *cells])
    return Table(["accuracy, %", *(item.label for item in trained)], lines, numeric=True)


def set_figure(rows: Sequence[EvaluationRow]) -> Figure | None:
    """Return the accuracy on every set, a mark a method; to be drawn within :func:`hardfast.report.figures.style`."""
    rows = [row for row in rows if row.metric == "accuracy"]
    if not rows:
        return None
    trained, names = _trained(rows), _sets(rows)
    colours = _colours(trained)
    figure = Figure(figsize=(8.2, 1.3 + (0.25 + 0.05 * len(trained)) * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for place, item in enumerate(trained):
        seeds = [_seeds(_counted(_of(rows, item, name))) for name in names]
        shown = [(line, values) for line, values in enumerate(seeds) if values]
        # Side by side, so that equal values do not hide each other.
        offset = 0.5 * ((place + 0.5) / len(trained) - 0.5)
        axes.errorbar(
            [statistics.fmean(values) for _, values in shown],
            [line + offset for line, _ in shown],
            xerr=[deviation(values) for _, values in shown],
            fmt="o",
            markersize=4,
            color=colours[item],
            label=item.label,
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(title="Accuracy on each set")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def severity_figure(rows: Sequence[EvaluationRow], name: str) -> Figure | None:
    """Return the accuracy on a set against the severity of its corruptions; None for a set without severities."""
    rows = [row for row in _counted(rows) if row.set == name and row.metric == "accuracy" and row.severity is not None]
    if not rows:
        return None
    trained = _trained(rows)
    colours = _colours(trained)
    figure = Figure(figsize=(8.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for item in trained:
        mine = _of(rows, item, name)
        severities = sorted({row.severity for row in mine if row.severity is not None})
        seeds = [_seeds([row for row in mine if row.severity == severity]) for severity in severities]
        means, deviations = [statistics.fmean(values) for values in seeds], [deviation(values) for values in seeds]
        line = axes.errorbar(severities, means, yerr=deviations, marker="o", markersize=3.5, color=colours[item])
        line.set_label(item.label)
    axes.set(title=f"Accuracy on {_title(name)}", xlabel="severity")
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def notes(rows: Sequence[EvaluationRow]) -> list[str]:
    """Return what a reader of the tables must know: the seeds, the corruptions averaged over, the choice of classes."""
    counts = sorted({len(row.seeds) for row in rows})
    if counts == [1]:
        sentences = ["One seed: no deviation can be given."]
    else:
        number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        sentences = [f"Mean ± sample standard deviation of {number} seeds."]
    sentences.append("Agreement and KL(teacher || student) are those with the teacher of the same seed.")
    for name in _sets(rows):
        mine = [row for row in rows if row.set == name]
        if mine[0].corruption is not None:
            there = len({row.corruption for row in _counted(mine)})
            sentences.append(f"{name}: mean of {there} of the {len(_benchmark(name))} corruptions.")
        chosen = {row.classes for row in mine}
        if name in EVALUATION_SETS and chosen != {EVALUATION_SETS[name].classes}:
            sentences.append(f"{name}: the answer is chosen among {', '.join(map(str, sorted(chosen)))} classes.")
    return sentences


def build_evaluation(run: Path, rows: Sequence[EvaluationRow]) -> Path:
    """Write ``evaluation.html`` into a run directory: one page that needs no network and no JavaScript.

    Args:
        run: directory of the run.
        rows: what its evaluation.json has, at least one.

    Returns:
        Path of the page; it has the same bytes for the same rows.

    Raises:
        OSError: the page cannot be written.
    """
    if not rows:
        raise ValueError("rows must be at least one, got none")
    with figures.style():
        content = page.document(f"{rows[0].recipe}: hardfast evaluation", _body(rows))
    return write_bytes(run / "evaluation.html", content.encode())


def _body(rows: Sequence[EvaluationRow]) -> Iterable[str]:
    yield f"<header><h1>{escape(rows[0].recipe)}</h1>"
    yield f'<p class="about">Evaluated on {escape(", ".join(_sets(rows)))}</p></header>'
    overview = set_figure(rows)
    if overview is not None:
        yield page.figure(overview, "Mean of the seeds; the bars are one sample standard deviation to each side.")
    for table in metric_tables(rows):
        yield f"<h2>{escape(table.columns[0])}</h2>"
        yield page.table(table)
    for name in _sets(rows):
        by_corruption = corruption_table(rows, name)
        if by_corruption is None:
            continue
        yield f"<h2>{escape(_title(name))}, by corruption</h2>"
        figure = severity_figure(rows, name)
        if figure is not None:
            yield page.figure(figure, "Mean of the corruptions that the benchmark averages over, and of the seeds.")
        yield page.table(by_corruption)


def _trained(rows: Iterable[EvaluationRow]) -> list[_Trained]:
    found = {_Trained(row.method, row.weights) for row in rows}
    return sorted(found, key=lambda item: (method_rank(item.method), item.weights != "last", item.weights))


def _colours(trained: Sequence[_Trained]) -> dict[_Trained, str]:
    names = [item.method if item.weights == "last" else item.label for item in trained]
    return {item: figures.colour_of(name, names) for item, name in zip(trained, names, strict=True)}


def _sets(rows: Iterable[EvaluationRow]) -> list[str]:
    """The sets in the order of the registry, after the recipe's own."""
    known = list(EVALUATION_SETS)
    return sorted({row.set for row in rows}, key=lambda name: known.index(name) if name in known else -1)


def _of(rows: Iterable[EvaluationRow], item: _Trained, name: str) -> list[EvaluationRow]:
    return [row for row in rows if (row.method, row.weights, row.set) == (*item, name)]


def _counted(rows: Iterable[EvaluationRow]) -> list[EvaluationRow]:
    """Without the corruptions that a benchmark leaves out of its average."""
    return [row for row in rows if row.corruption is None or row.corruption in _benchmark(row.set)]


def _benchmark(name: str) -> tuple[str, ...]:
    return EVALUATION_SETS[name].corruptions if name in EVALUATION_SETS else ()


def _title(name: str) -> str:
    return EVALUATION_SETS[name].title if name in EVALUATION_SETS else name


def _seeds(rows: Sequence[EvaluationRow]) -> list[float]:
    """The mean over the parts of a set, for each seed; NaN where a part has one."""
    return [statistics.fmean(values) for values in zip(*(row.seeds for row in rows), strict=True)]


def _cell(seeds: Sequence[float], factor: float) -> str:
    if not seeds or not all(map(math.isfinite, seeds)):
        return _EMPTY
    digits = ".1f" if factor != 1 else ".3f"
    text = f"{factor * statistics.fmean(seeds):{digits}}"
    return text if len(seeds) == 1 else f"{text} ± {factor * deviation(seeds):{digits}}"
