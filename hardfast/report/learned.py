"""What the augmentors of a run do, and what they have learned: pictures, scales and a table."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hardfast.report.figures import WIDTH, axes_of, colour_of, draw_series
from hardfast.report.load import MethodRun, Quantities, Run
from hardfast.report.tables import Table, method_label

__all__ = ["augmented_images", "has_pictures", "learned_table", "scale_curves"]

_TRANSLATION, _LINEAR = "#009E73", "#7570B3"
_MAX_ROWS = 8
_MAX_COLUMNS = 12
_MAX_QUANTITIES = 12
_EMPTY = "-"
#: Unit by the end of a quantity's name -> how it is shown, with how many decimals.
_UNITS = {"px": ("px", 2), "deg": ("degrees", 1), "percent": ("%", 1)}
_WORDS = {
    "shift_x": "shift to the right",
    "shift_y": "shift downwards",
    "rotation": "rotation, clockwise",
    "zoom_x": "enlargement in width",
    "zoom_y": "enlargement in height",
    "displacement_x": "displacement to the right",
    "displacement_y": "displacement downwards",
    "perspective_x": "enlargement at the right edge",
    "perspective_y": "enlargement at the lower edge",
    "gain": "gain in brightness",
    "offset": "offset",
    "mixing": "share of another channel added",
    "share": "share of the image itself",
    "opacity": "opacity of the partner's rectangle",
    "centre_x": "rectangle's centre from the left",
    "centre_y": "rectangle's centre from the top",
    "width": "rectangle's width",
    "height": "rectangle's height",
}
_EDITS = {"mean": "shift of the mean", "spread": "change of the spread"}


def augmented_images(run: Run) -> Figure | None:
    """A grid of the same images: clean; of one learned augmentor through training, or of each of several at its end;
    of the others at their end.
    """
    found = {method: snapshots for method in run.method_names() if (snapshots := _snapshots(run, method)) is not None}
    learners = [method for method in run.learners() if method in found]
    last = {method: snapshots["augmented"][-1] for method, snapshots in found.items()}
    rows = [("clean", snapshots["clean"]) for snapshots in list(found.values())[:1]]
    if len(run.learners()) > 1:
        rows += [(method_label(method), images) for method, images in last.items()]
    else:
        for method in learners:
            steps, augmented = found[method]["steps"], found[method]["augmented"]
            for index in _spread(len(steps), _MAX_ROWS):
                rows.append((f"{method_label(method)}, step {int(steps[index]):,}", augmented[index]))
        rows += [(method_label(method), images) for method, images in last.items() if method not in learners]
    return _image_grid(rows) if rows else None


def has_pictures(run: Run, method: str) -> bool:
    """Whether :func:`augmented_images` has a row of a method."""
    return _snapshots(run, method) is not None


def _snapshots(run: Run, method: str) -> dict[str, np.ndarray] | None:
    """The snapshots of a method's first seed that has any."""
    found = (part.snapshots for part in run.of(method))
    return next((snapshots for snapshots in found if snapshots is not None and len(snapshots["steps"])), None)


def _spread(count: int, most: int) -> list[int]:
    """Return at most ``most`` indices below ``count``, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _image_grid(rows: list[tuple[str, np.ndarray]]) -> Figure:
    columns = min(_MAX_COLUMNS, *(len(images) for _, images in rows))
    cell = (WIDTH - 1.4) / max(columns, 8)
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
    """The learned standard deviations of every affine map through training, translation apart from the linear part."""
    methods = [method for method in run.learners() if any(_has_scales(part) for part in run.of(method))]
    if not methods:
        return None
    columns = min(4, len(methods))
    lines = -(-len(methods) // columns)
    figure = Figure(figsize=(WIDTH, 3.2 if len(methods) == 1 else 2.4 * lines), layout="constrained")
    for place, method in enumerate(methods):
        title = "Scales of the augmentor's distribution" if len(methods) == 1 else method_label(method)
        axes = axes_of(figure, lines, columns, place + 1, title=title)
        drawn = False
        for part in run.of(method):
            drawn |= _draw_scales(axes, part, first=not drawn)
        level = _initial_scale(run) if method == "hard" else None
        if level is not None:
            colour = colour_of("random_augmentor", run.method_names())
            axes.axhline(level, color=colour, linestyle="--", linewidth=1.2, label="random augmentor")
        if place % columns == 0:
            axes.set_ylabel("standard deviation")
        if place == 0:
            axes.legend()
    highest = max(axes.get_ylim()[1] for axes in figure.axes)
    for axes in figure.axes:
        axes.set_ylim(0.0, highest)
    return figure


def _scales(part: MethodRun) -> np.ndarray | None:
    """The standard deviations ``[S, 2, 3]`` of an affine map, which may be part of a sequence."""
    snapshots = part.snapshots or {}
    for name in ("scale", "affine.scale"):
        if name in snapshots and snapshots[name].shape == (len(snapshots["steps"]), 2, 3) and len(snapshots[name]):
            return snapshots[name]
    return None


def _logged(part: MethodRun) -> str | None:
    """The start of the names under which the scales of an affine map are logged; None where there is none."""
    for prefix in ("", "affine."):
        entries = [len(part.series(f"{prefix}scale_{name}")[0]) for name in ("translation", "linear", "perspective")]
        if any(entries[:2]) and not entries[2]:
            return prefix
    return None


def _has_scales(part: MethodRun) -> bool:
    return _scales(part) is not None or _logged(part) is not None


def _draw_scales(axes: Axes, part: MethodRun, first: bool) -> bool:
    """Draw all six entries where snapshots have them, else the logged means of the two parts."""
    scales = _scales(part)
    if scales is None or part.snapshots is None:
        prefix = _logged(part) or ""
        named = {"translation": _TRANSLATION, "linear": _LINEAR}
        drawn = [
            draw_series(axes, [part], f"{prefix}scale_{name}", colour, f"{name} (mean)" if first else None)
            for name, colour in named.items()
        ]
        return any(drawn)
    steps = part.snapshots["steps"]
    marker = "o" if len(steps) == 1 else None
    for row, column in np.ndindex(2, 3):
        colour, label = (_TRANSLATION, "translation") if column == 2 else (_LINEAR, "linear")
        shown = label if first and row == 0 and column in (0, 2) else None
        values = scales[:, row, column]
        axes.plot(steps, values, color=colour, label=shown, marker=marker, markersize=4, linewidth=1.2, alpha=0.8)
    return True


def _initial_scale(run: Run) -> float | None:
    """The scale from which all random entries start."""
    for part in run.of("random_augmentor"):
        scales = _scales(part)
        if scales is not None and scales[0].any():
            return float(scales[0][scales[0] > 0].mean())
    return None


def learned_table(run: Run) -> Table | None:
    """Return what each learned augmentor does before and after the training; None where nothing says it."""
    lines: list[list[str]] = []
    names: set[str] = set()
    for method in run.learners():
        before, after = (_over_seeds(run.of(method), when) for when in ("before", "after"))
        label = method_label(method)
        # A part that the family lacks is 0 for good.
        after = {name: value for name, value in after.items() if {value, before.get(name, value)} != {(0.0, 0.0)}}
        for name in _most_changed(before, after):
            lines.append([label, _in_words(name), _told(name, before.get(name)), _told(name, after[name])])
            label = ""
        if len(after) > _MAX_QUANTITIES:
            lines.append(["", f"and {len(after) - _MAX_QUANTITIES} more, which changed less", "", ""])
        names |= set(after)
    if not lines:
        return None
    notes = ["Mean ± standard deviation of the learned distribution, averaged over the seeds."]
    if any("." in name for name in names):
        notes.append("The parts of a sequence are told as if each stood alone.")
    return Table(["method", "quantity", "before", "after"], lines, notes, numeric=True, names=2)


def _over_seeds(parts: Sequence[MethodRun], when: str) -> Quantities:
    """The quantities that all seeds tell, averaged; None where one of them is not finite."""
    told = [part.augmentor[when] for part in parts if part.augmentor is not None]
    names = [name for name in (told[0] if told else ()) if all(name in quantities for quantities in told)]
    return {
        name: (
            _mean([quantities[name][0] for quantities in told]),
            _mean([quantities[name][1] for quantities in told]),
        )
        for name in names
    }


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(finite) if len(finite) == len(values) else None


def _most_changed(before: Quantities, after: Quantities) -> list[str]:
    """The names of the quantities that changed most, in the order in which they are told."""

    def change(name: str) -> float:
        pairs = zip(before.get(name, (None, None)), after[name], strict=True)
        return sum(math.inf if old is None or new is None else abs(new - old) for old, new in pairs)

    chosen = set(sorted(after, key=change, reverse=True)[:_MAX_QUANTITIES])
    return [name for name in after if name in chosen]


def _in_words(name: str) -> str:
    """A quantity in words, with its unit: of ``affine.shift_x_px`` "affine: shift to the right, px"."""
    *parts, quantity = name.split(".")
    stem, _, unit = quantity.rpartition("_")
    if unit not in _UNITS:
        stem, unit = quantity, ""
    numbered = re.fullmatch(r"(\w+?)_(\d+)(?:_(\w+))?", stem)
    if numbered is not None:
        kind, number, what = numbered.groups()
        words = f"{kind} {number}" if what is None else f"{kind} {number}, {_EDITS.get(what, what.replace('_', ' '))}"
    else:
        words = _WORDS.get(stem, stem.replace("_", " "))
    of = ", ".join(method_label(part) for part in parts)
    return (f"{of}: " if of else "") + words + (f", {_UNITS[unit][0]}" if unit else "")


def _told(name: str, value: tuple[float | None, float | None] | None) -> str:
    mean, std = value or (None, None)
    if mean is None or std is None:
        return _EMPTY
    _, digits = _UNITS.get(name.rpartition("_")[2], ("", 3))
    # Nothing is shown as -0.
    return f"{round(mean, digits) + 0.0:,.{digits}f} ± {std:,.{digits}f}"
