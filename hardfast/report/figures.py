"""The figures of a report; each takes a run and returns a figure, or None where the run lacks its data."""

from __future__ import annotations

import io
from collections.abc import Iterator
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
    "accuracy_curves",
    "alternation",
    "augmented_images",
    "loss_curves",
    "scale_curves",
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
_OTHER_COLOURS = ("#CC79A7", "#56B4E9", "#D55E00", "#8C6BB1", "#A6761D")
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
_WIDTH = 8.2  # inches: the text width of the page
_MAX_POINTS = 300
_MAX_ROWS = 8
_MAX_COLUMNS = 12


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


def _draw(axes: Axes, run: MethodRun, name: str, colour: str, label: str | None, phase: str | None = None) -> bool:
    steps, values = _thin(*run.series(name, phase))
    if len(steps) == 0:
        return False
    marker = "o" if len(steps) == 1 else None
    axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=4, alpha=0.85)
    return True


def _draw_methods(axes: Axes, run: Run, name: str, phase: str | None = None) -> bool:
    """Draw a metric of every method that has it, one line per seed, and say whether there was any."""
    drawn: set[str] = set()
    names = run.method_names()
    for part in run.methods:
        label = None if part.method in drawn else method_label(part.method)
        if _draw(axes, part, name, colour_of(part.method, names), label, phase):
            drawn.add(part.method)
    if drawn:
        axes.legend()
    return bool(drawn)


def _axes(figure: Figure, *position: int, title: str, y: str = "", x: str = "training step") -> Axes:
    axes = figure.add_subplot(*position)
    axes.set(title=title, xlabel=x, ylabel=y)
    return axes


def _log_scale_if_wide(axes: Axes) -> None:
    """Use a logarithmic axis where positive values span more than a factor of 30."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()])
    if len(values) and values.min() > 0 and values.max() > 30 * values.min():
        axes.set_yscale("log")


def accuracy_curves(run: Run) -> Figure | None:
    """Validation accuracy of every method against the training step, one line per seed."""
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    axes = _axes(figure, 1, 1, 1, title="Validation accuracy (centred)")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    return figure if _draw_methods(axes, run, "validation_accuracy") else None


def loss_curves(run: Run) -> Figure | None:
    """The two losses: the student's for every method, the augmentor's where one learns."""
    with_augmentor = any(len(part.series("augmentor_loss")[0]) for part in run.methods)
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    left = _axes(figure, 1, 2 if with_augmentor else 1, 1, title="Student loss")
    drawn = _draw_methods(left, run, "student_loss")
    if drawn:
        _log_scale_if_wide(left)
    if with_augmentor:
        right = _axes(figure, 1, 2, 2, title="Augmentor loss")
        right.axhline(0.0, color="#BBBBBB", linewidth=0.8)
        _draw_methods(right, run, "augmentor_loss")
    return figure if drawn or with_augmentor else None


def alternation(run: Run) -> Figure | None:
    """Disagreement in the steps of the student and of the augmentor, and how many steps the augmentor has had."""
    part = _first_learner(run)
    if part is None:
        return None
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    left = _axes(figure, 1, 2, 1, title="Disagreement by phase")
    left.set_ylabel("disagreement, nats")
    for phase, colour in (("student", "#0072B2"), ("augmentor", "#D55E00")):
        _draw(left, part, "disagreement", colour, f"{phase} steps", phase)
    _draw(left, part, "teacher_consistency", "#AAAAAA", "teacher: augmented against clean")
    if left.get_lines():
        left.set_ylim(0.0, 1.35 * left.get_ylim()[1])  # room for the legend
        left.legend(loc="upper right")
    right = _axes(figure, 1, 2, 2, title="Augmentor steps so far")
    right.yaxis.set_major_locator(MaxNLocator(integer=True))
    for other in run.of(part.method):
        steps, values = _augmentor_steps(other)
        right.plot(steps, values, color=_COLOURS["hard"], alpha=0.85)
    return figure


def _first_learner(run: Run) -> MethodRun | None:
    for part in run.methods:
        if any(line.get("phase") == "augmentor" for line in part.metrics):
            return part
    return None


def _augmentor_steps(part: MethodRun) -> tuple[np.ndarray, np.ndarray]:
    steps, values = part.series("augmentor_steps")
    if len(steps) == 0:
        steps, _ = part.series("step", "augmentor")
        values = np.arange(1, len(steps) + 1, dtype=np.float64)
    return _thin(steps, values)


def augmented_images(run: Run) -> Figure | None:
    """A grid of the same images: clean, from the learned augmentor through training, from the random one."""
    learned = next((part.snapshots for part in run.of("hard") if part.snapshots is not None), None)
    random = next((part.snapshots for part in run.of("random_augmentor") if part.snapshots is not None), None)
    rows: list[tuple[str, np.ndarray]] = []
    if learned is not None and len(learned["steps"]):
        rows.append(("clean", learned["clean"]))
        for index in _spread(len(learned["steps"]), _MAX_ROWS):
            rows.append((f"HARD, step {int(learned['steps'][index]):,}", learned["augmented"][index]))
    if random is not None and len(random["steps"]):
        rows = rows or [("clean", random["clean"])]
        rows.append(("random augmentor", random["augmented"][-1]))
    return _image_grid(rows) if rows else None


def _spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices below ``count``, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _image_grid(rows: list[tuple[str, np.ndarray]]) -> Figure:
    columns = min(_MAX_COLUMNS, *(len(images) for _, images in rows))
    cell = (_WIDTH - 1.4) / max(columns, 8)
    figure = Figure(figsize=(1.4 + cell * columns, cell * len(rows)))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    left = 1.4 / figure.get_figwidth()
    figure.subplots_adjust(left=left, right=1.0, top=1.0, bottom=0.0, wspace=0.04, hspace=0.04)
    for line, (label, images) in zip(grid, rows, strict=True):
        line[0].text(-0.12, 0.5, label, ha="right", va="center", transform=line[0].transAxes, color="#333333")
        for axes, image in zip(line, images[:columns], strict=True):
            axes.imshow(_displayable(image), cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            axes.set_axis_off()
    return figure


def _displayable(image: np.ndarray) -> np.ndarray:
    """Return an image [C, H, W] as imshow takes it: [H, W, 3] for colour, the first channel [H, W] otherwise."""
    image = np.clip(np.nan_to_num(image.astype(np.float32)), 0.0, 1.0)
    return image.transpose(1, 2, 0) if image.shape[0] == 3 else image[0]


def scale_curves(run: Run) -> Figure | None:
    """The learned standard deviations through training, translation apart from the linear part."""
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    axes = _axes(figure, 1, 1, 1, title="Scales of the augmentor's distribution", y="standard deviation")
    drawn = [_draw_scales(axes, part, first=part is run.of("hard")[0]) for part in run.of("hard")]
    if not any(drawn):
        return None
    level = _initial_scale(run)
    if level is not None:
        axes.axhline(level, color=_COLOURS["random_augmentor"], linestyle="--", linewidth=1.2, label="random augmentor")
    axes.set_ylim(bottom=0.0)
    axes.legend()
    return figure


def _draw_scales(axes: Axes, part: MethodRun, first: bool) -> bool:
    """Draw all six entries where snapshots have them, else the logged means of translation and linear part."""
    snapshots = part.snapshots
    if snapshots is not None and snapshots.get("scale", np.empty(0)).shape == (len(snapshots["steps"]), 2, 3):
        steps, scale = snapshots["steps"], snapshots["scale"]
        marker = "o" if len(steps) == 1 else None
        for row, column in np.ndindex(2, 3):
            colour, label = ("#009E73", "translation") if column == 2 else ("#7570B3", "linear")
            shown = label if first and row == 0 and column in (0, 2) else None
            values = scale[:, row, column]
            axes.plot(
                steps,
                values,
                color=colour,
                label=shown,
                marker=marker,
                markersize=4,
                linewidth=1.2,
                alpha=0.8,
            )
        return len(steps) > 0
    translation = _draw(axes, part, "scale_translation", "#009E73", "translation (mean)" if first else None)
    linear = _draw(axes, part, "scale_linear", "#7570B3", "linear (mean)" if first else None)
    return translation or linear


def _initial_scale(run: Run) -> float | None:
    for part in run.of("random_augmentor"):
        if part.snapshots is not None and part.snapshots.get("scale", np.empty(0)).size:
            return float(part.snapshots["scale"][0].mean())
    return None


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
    figure = Figure(figsize=(_WIDTH, 2.2 * lines + 0.1), layout="constrained")
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
    figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
    axes = _axes(figure, 1, 1, 1, title="Accuracy against the length of the shift", x="length of the shift, px")
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
