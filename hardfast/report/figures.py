"""The figures of a report; each takes a run and returns a figure, or None where the run lacks its data."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from hardfast.report.load import MethodRun, Run
from hardfast.report.tables import method_label

__all__ = [
    "WIDTH",
    "accuracy_curves",
    "alternation",
    "axes_of",
    "colour_of",
    "draw_series",
    "first_learner",
    "loss_curves",
    "many_methods",
    "shift_curve",
    "shift_maps",
    "style",
    "to_svg",
]

# Okabe and Ito's palette: distinct for colour-blind readers.
_COLOURS = {
    "teacher": "#333333",
    "student": "#999999",
    "distillation": "#0072B2",
    "random_augmentor": "#E69F00",
    "hard": "#009E73",
}
_OTHER_COLOURS = (
    *("#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#A6761D", "#66A61E"),
    *("#E7298A", "#1B4F72", "#F0C808", "#7F0000", "#17BECF", "#B5B5F0"),
)
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.hashsalt": "hardfast",
}
WIDTH = 8.2  # inches: the text width of the page
_MAX_POINTS = 300
# More methods than this get one line each, not one a seed, and their legend beside the axes.
_FEW_METHODS = 10


@contextmanager
def style() -> Iterator[None]:
    """Set the look of the figures; matplotlib's global settings come back afterwards."""
    with mpl.rc_context(_STYLE):
        yield


def to_svg(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element, the same bytes for the same figure."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].strip()


def colour_of(method: str, methods: list[str]) -> str:
    """Return the colour of a method, the same in all figures of a run."""
    if method in _COLOURS:
        return _COLOURS[method]
    others = [name for name in methods if name not in _COLOURS]
    return _OTHER_COLOURS[others.index(method) % len(_OTHER_COLOURS)]


def _thin(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring points until at most ``_MAX_POINTS`` are left."""
    if len(steps) <= _MAX_POINTS:
        return steps, values
    parts = [part for part in np.array_split(np.arange(len(steps)), _MAX_POINTS) if len(part)]
    return np.array([steps[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def draw_series(
    axes: Axes,
    runs: MethodRun | Sequence[MethodRun],
    name: str,
    colour: str,
    label: str | None,
    phase: str | None = None,
) -> bool:
    """Draw a metric of one seed, or its mean over several, and say whether there was any."""
    runs = [runs] if isinstance(runs, MethodRun) else runs
    series = [run.series(name, phase) for run in runs]
    steps, places = np.unique(np.concatenate([steps for steps, _ in series]), return_inverse=True)
    if len(steps) == 0:
        return False
    values = np.bincount(places, np.concatenate([values for _, values in series])) / np.bincount(places)
    marker = "o" if len(steps) == 1 else None
    axes.plot(*_thin(steps, values), color=colour, label=label, marker=marker, markersize=4, alpha=0.85)
    return True


def many_methods(run: Run) -> bool:
    """Whether a run has more methods than can be told apart with a line per seed."""
    return len(run.method_names()) > _FEW_METHODS


def _draw_methods(axes: Axes, run: Run, name: str, phase: str | None = None) -> bool:
    """Draw a metric of every method that has it, and say whether there was any."""
    drawn: set[str] = set()
    names = run.method_names()
    groups = [run.of(method) for method in names] if many_methods(run) else [[part] for part in run.methods]
    for parts in groups:
        method = parts[0].method
        label = None if method in drawn else method_label(method)
        if draw_series(axes, parts, name, colour_of(method, names), label, phase):
            drawn.add(method)
    return bool(drawn)


def _legend(figure: Figure, axes: Axes, run: Run) -> None:
    if many_methods(run):
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    elif axes.get_lines():
        axes.legend()


def axes_of(figure: Figure, *position: int, title: str, y: str = "", x: str = "training step") -> Axes:
    axes = figure.add_subplot(*position)
    axes.set(title=title, xlabel=x, ylabel=y)
    return axes


def _log_scale_if_wide(axes: Axes) -> None:
    """Use a logarithmic axis where positive values span more than a factor of 30."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()])
    if len(values) and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")


def accuracy_curves(run: Run) -> Figure | None:
    """Validation accuracy of every method against the training step."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = axes_of(figure, 1, 1, 1, title="Validation accuracy (centred)" if run.centred else "Validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    drawn = _draw_methods(axes, run, "validation_accuracy")
    _legend(figure, axes, run)
    return figure if drawn else None


def loss_curves(run: Run) -> Figure | None:
    """The two losses: the student's for every method, the augmentor's where one learns."""
    with_augmentor = any(len(part.series("augmentor_loss")[0]) for part in run.methods)
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left = axes_of(figure, 1, 2 if with_augmentor else 1, 1, title="Student loss")
    drawn = _draw_methods(left, run, "student_loss")
    _legend(figure, left, run)
    if drawn:
        _log_scale_if_wide(left)
    if with_augmentor:
        right = axes_of(figure, 1, 2, 2, title="Augmentor loss")
        right.axhline(0.0, color="#BBBBBB", linewidth=0.8)
        if _draw_methods(right, run, "augmentor_loss") and not many_methods(run):
            right.legend()
    return figure if drawn or with_augmentor else None


def alternation(run: Run) -> Figure | None:
    """Disagreement in the steps of the student and of the augmentor, and how many steps the augmentor has had."""
    part = first_learner(run)
    if part is None:
        return None
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left = axes_of(figure, 1, 2, 1, title="Disagreement by phase")
    left.set_ylabel("disagreement, nats")
    for phase, colour in (("student", "#0072B2"), ("augmentor", "#D55E00")):
        draw_series(left, [part], "disagreement", colour, f"{phase} steps", phase)
    draw_series(left, [part], "teacher_consistency", "#AAAAAA", "teacher: augmented against clean")
    if left.get_lines():
        left.set_ylim(0.0, 1.35 * left.get_ylim()[1])  # room for the legend
        left.legend(loc="upper right")
    right = axes_of(figure, 1, 2, 2, title="Augmentor steps so far")
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    for other in run.of(part.method):
        steps, values = _augmentor_steps(other)
        right.plot(steps, values, color=colour_of(part.method, run.method_names()), alpha=0.85)
    return figure


def first_learner(run: Run) -> MethodRun | None:
    """Return the first seed whose augmentor has learned, of HARD if it is there."""
    for part in sorted(run.methods, key=lambda part: part.method != "hard"):
        if any(line.get("phase") == "augmentor" for line in part.metrics):
            return part
    return None


def _augmentor_steps(part: MethodRun) -> tuple[np.ndarray, np.ndarray]:
    steps, values = part.series("augmentor_steps")
    if len(steps) == 0:
        steps, _ = part.series("step", "augmentor")
        values = np.arange(1, len(steps) + 1, dtype=np.float64)
    return _thin(steps, values)


def _mean_shifts(run: Run, method: str) -> dict[tuple[int, int], float]:
    """Return the accuracy at each shift (dx_px, dy_px), averaged over seeds."""
    values: dict[tuple[int, int], list[float]] = {}
    for part in run.of(method):
        if part.shifts is not None:
            for dx, dy, accuracy in zip(*(part.shifts[name] for name in ("dx_px", "dy_px", "accuracy")), strict=True):
                values.setdefault((int(dx), int(dy)), []).append(float(accuracy))
    return {shift: float(np.mean(accuracies)) for shift, accuracies in values.items()}


def _methods_with_shifts(run: Run) -> list[tuple[str, dict[tuple[int, int], float]]]:
    found = [(method, _mean_shifts(run, method)) for method in run.method_names()]
    return [(method, shifts) for method, shifts in found if shifts]


def shift_maps(run: Run) -> Figure | None:
    """Accuracy at every shift, one map per method, averaged over seeds."""
    found = _methods_with_shifts(run)
    if not found:
        return None
    columns = min(5, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(WIDTH, 2.2 * lines + 0.1), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    reach = max(max(abs(dx), abs(dy)) for _, shifts in found for dx, dy in shifts)
    image = None
    for axes, (method, shifts) in zip(grid.flat, found, strict=False):
        square = np.full((2 * reach + 1, 2 * reach + 1), np.nan)
        for (dx, dy), accuracy in shifts.items():
            square[dy + reach, dx + reach] = accuracy
        edge = reach + 0.5
        image = axes.imshow(square, cmap="viridis", vmin=0.0, vmax=1.0, extent=(-edge, edge, edge, -edge))
        axes.set_title(f"{method_label(method)}\n{100 * np.nanmean(square):.1f} %", fontweight="normal")
        axes.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("dx, px")
    for axes in grid.flat[len(found) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("dy, px")
    assert image is not None
    figure.colorbar(image, ax=grid, format=PercentFormatter(1.0), shrink=0.7, aspect=18)
    return figure


def shift_curve(run: Run) -> Figure | None:
    """Accuracy against the length of the shift, rounded to whole pixels, averaged over shifts and seeds."""
    found = _methods_with_shifts(run)
    if not found:
        return None
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = axes_of(figure, 1, 1, 1, title="Accuracy against the length of the shift", x="length of the shift, px")
    for method, shifts in found:
        lengths = np.array([round(float(np.hypot(dx, dy))) for dx, dy in shifts])
        accuracy = np.array(list(shifts.values()))
        bins = np.unique(lengths)
        means = [accuracy[lengths == length].mean() for length in bins]
        colour = colour_of(method, run.method_names())
        axes.plot(bins, means, color=colour, label=method_label(method), marker="o", markersize=3.5)
    axes.set_ylim(0.0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure
