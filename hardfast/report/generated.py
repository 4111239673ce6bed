"""What a run of ConfiG generated: pictures of its own search, and a table of all methods."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from hardfast.diffusion.image_store import Candidate, ImageStore
from hardfast.report.contact_sheet import comparison_figure, comparisons
from hardfast.report.load import Run
from hardfast.report.tables import Table, method_label

__all__ = ["generated_images", "generation_table"]


def generated_images(run: Run) -> Figure | None:
    """The first images of ConfiG's search, of the first seed that has any; to be drawn in the style of the figures."""
    for path in _rounds(run, "config"):
        figure = comparison_figure(comparisons(ImageStore.open(path)))
        if figure is not None:
            return figure
    return None


def generation_table(run: Run) -> Table | None:
    """What became of the candidates of each method, of all seeds and rounds; None if nothing was generated."""
    rows = []
    for method in run.method_names():
        found = [candidate for path in _rounds(run, method) for candidate in ImageStore.open(path).candidates()]
        if found:
            kept = sum(candidate.kept for candidate in found)
            confidences = (
                _mean(found, who) for who in ("teacher_before", "teacher_after", "student_before", "student_after")
            )
            rows.append([method_label(method), f"{len(found):,}", f"{100 * kept / len(found):.1f}", *confidences])
    if not rows:
        return None
    columns = ["method", "candidates", "kept, %", "teacher before", "after", "student before", "after"]
    notes = ["Confidences are the mean probability of the label, on the unguided image and after the search."]
    return Table(
        columns, rows, notes, {i for i, row in enumerate(rows) if row[0] == method_label("config")}, numeric=True
    )


def _rounds(run: Run, method: str) -> Iterator[Path]:
    for part in run.of(method):
        folder = run.path / method / f"seed-{part.seed}"
        yield from sorted(path.parent for path in folder.glob("round-*/generation.json"))


def _mean(candidates: list[Candidate], name: str) -> str:
    values = [value for candidate in candidates if (value := getattr(candidate, name)) is not None]
    return f"{statistics.fmean(values):.2f}" if values else "-"
