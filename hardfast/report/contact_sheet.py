"""contact_sheet.html: what the search made of the first generated images, on one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from hardfast.diffusion.image_store import PREVIEWS, BrokenGroupError, Candidate, ImageStore
from hardfast.report import figures, page
from hardfast.report.tables import Table

__all__ = ["CAPTION", "Comparison", "build_contact_sheet", "comparison_figure", "comparisons"]

CAPTION = (
    "Per image: without guidance, after the search, and the difference, grey where nothing changed and scaled to its "
    "own largest change. Below it the label, and the probability of that for teacher and student, before and after."
)
_MOST = 24
_COLUMNS = 4
_SIDE_PX = 128  # of an image on the page; larger ones are shrunk, so that it stays small


class Comparison(NamedTuple):
    """A kept image, ``[C, H, W]`` in [0, 1], and the unguided one that its search began with."""

    candidate: Candidate
    before: Tensor
    after: Tensor


def comparisons(store: ImageStore, most: int = _MOST) -> list[Comparison]:
    """Return up to ``most`` kept images with a preview: the first of each class, then the second, and so on.

    Damaged groups are passed over.
    """
    by_class: dict[int, list[Candidate]] = {}
    for candidate in store.candidates():
        if candidate.kept and candidate.number < PREVIEWS:
            by_class.setdefault(candidate.label, []).append(candidate)
    turns = [(turn, item) for items in by_class.values() for turn, item in enumerate(items)]
    turns.sort(key=lambda entry: (entry[0], entry[1].label))
    chosen = {item.number: position for position, (_, item) in enumerate(turns[:most])}
    found = []
    for group in sorted({number // store.settings.group_size for number in chosen}):
        try:
            images = store.read(group)
        except BrokenGroupError:
            continue
        for candidate, after in images:
            before = store.read_before(candidate.number) if candidate.number in chosen else None
            if before is not None:
                found.append(Comparison(candidate, before, after))
    return sorted(found, key=lambda item: chosen[item.candidate.number])


def comparison_figure(shown: Sequence[Comparison]) -> Figure | None:
    """Return before, after and difference of each image with the confidences; None without images.

    To be drawn within :func:`hardfast.report.figures.style`.
    """
    if not shown:
        return None
    lines = -(-len(shown) // _COLUMNS)
    width = 8.2
    height = lines * (width / _COLUMNS / 3 + 0.55)
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(lines, _COLUMNS, squeeze=False)
    figure.subplots_adjust(left=0.0, right=1.0, top=1.0, bottom=0.5 / height, wspace=0.06, hspace=0.7)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, item in zip(grid.flat, shown, strict=False):
        axes.imshow(_strip(item), vmin=0.0, vmax=1.0, cmap="gray", interpolation="none")
        legend = {"va": "top", "transform": axes.transAxes, "fontsize": 7, "color": "#333333", "parse_math": False}
        axes.text(0.0, -0.08, _legend(item.candidate), **legend)
    return figure


def build_contact_sheet(path: Path) -> Path:
    """Write ``contact_sheet.html`` into a directory of generated images, finished or not.

    Args:
        path: what ``hardfast generate`` wrote.

    Returns:
        Path of the page; it has the same bytes for the same images.

    Raises:
        FileNotFoundError: there is no generation.json.
        ValueError: generation.json is damaged.
        OSError: the page cannot be written.
    """
    store = ImageStore.open(path)
    return store.write_shared("contact_sheet.html", lambda: _document(store).encode())


def _document(store: ImageStore) -> str:
    settings = store.settings
    counts = Table(["candidates", "count"], [[name, f"{count:,}"] for name, count in store.counts().items()])
    counts.numeric = True
    fields = [[name, "-" if value is None else str(value)] for name, value in settings.fields.items()]
    with figures.style():
        figure = comparison_figure(comparisons(store))
        shown = page.figure(figure, CAPTION) if figure else '<p class="absent">No image has been kept yet.</p>'
    title = settings.recipe or "generated images"
    return page.document(
        f"{title}: generated images",
        [
            f"<header><h1>{escape(title)}</h1>",
            f'<p class="about">{settings.count:,} candidates of {len(settings.class_names)} classes, '
            f"{settings.group_size} a group, as {escape(settings.format)}</p></header>",
            "<h2>Kept and dropped</h2>",
            page.table(counts),
            "<h2>Before, after, difference</h2>",
            shown,
            "<h2>Settings</h2>",
            page.table(Table(["field", "value"], fields), "details"),
        ],
    )


def _strip(item: Comparison) -> np.ndarray:
    """Before, after and difference side by side, as imshow takes them."""
    before, after = _shrunk(item.before), _shrunk(item.after)
    change = after - before
    difference = 0.5 + 0.5 * change / change.abs().max().clamp_min(1e-6)
    gap = np.ones((before.shape[1], max(1, before.shape[2] // 16), before.shape[0]), np.float32)
    images = [image.permute(1, 2, 0).numpy() for image in (before, after, difference)]
    strip = np.concatenate([images[0], gap, images[1], gap, images[2]], axis=1)
    return strip if strip.shape[2] == 3 else strip[..., 0]


def _shrunk(image: Tensor) -> Tensor:
    if max(image.shape[1:]) <= _SIDE_PX:
        return image
    scale = _SIDE_PX / max(image.shape[1:])
    return F.interpolate(image[None], scale_factor=scale, mode="bilinear", antialias=True)[0].clamp(0, 1)


def _legend(item: Candidate) -> str:
    teacher = f"teacher {_percent(item.teacher_before)} → {_percent(item.teacher_after)}"
    student = f"student {_percent(item.student_before)} → {_percent(item.student_after)}"
    return f"{item.class_name[:32]} (no. {item.number})\n{teacher}\n{student}"


def _percent(confidence: float | None) -> str:
    return "-" if confidence is None else f"{100 * confidence:.0f} %"
