"""The picture of speed against size: the share of the roofline that each implementation reaches."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from .results import Result

FILE = "speed.svg"
PANELS = (
    ("affine_warp", "forward", re.compile(r"16x3x(\d+)x\1"), "affine_warp forward, 16x3xSxS", "S in pixels"),
    (
        "affine_warp",
        "parameters",
        re.compile(r"16x3x(\d+)x\1"),
        "affine_warp parameters, 16x3xSxS",
        "S in pixels",
    ),
    ("kl_disagreement", "all", re.compile(r"\d+x(\d+)"), "kl_disagreement, all gradients", "classes"),
)
PEERS = ("hardfast", "eager", "compiled", "kornia", "torchvision", "OpenCV")

Series = dict[str, list[tuple[int, float]]]


def series(result: Result) -> list[Series]:
    """For each panel, by implementation, size and share of the roofline; of sizes measured twice the first."""
    panels = []
    for op, pass_name, pattern, _, _ in PANELS:
        found: dict[str, dict[int, float]] = {}
        for row in result.rows:
            match = pattern.fullmatch(row.case)
            plain = (row.op, row.pass_name, row.dtype, row.memory_format) == (op, pass_name, "float32", "contiguous")
            if match and plain and row.implementation in PEERS and row.roofline_fraction is not None:
                found.setdefault(row.implementation, {}).setdefault(int(match[1]), row.roofline_fraction)
        panels.append({name: sorted(points.items()) for name, points in found.items()})
    return panels


def digest(result: Result) -> str:
    """What tells whether a picture shows these numbers; the drawing itself depends on matplotlib's version."""
    return hashlib.sha256(json.dumps(series(result), sort_keys=True).encode()).hexdigest()[:16]


def is_stale(path: Path, result: Result) -> bool:
    return not path.exists() or f"data {digest(result)}" not in path.read_text()


def draw(path: Path, result: Result) -> None:
    """Writes the picture as SVG, the same bytes for the same numbers and version of matplotlib."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "hardfast", "font.size": 8, "svg.fonttype": "none"}):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        for axes, (_, _, _, title, label), found in zip(figure.subplots(1, 3), PANELS, series(result), strict=True):
            for place, name in enumerate(PEERS):
                if name in found:
                    width = 2.2 if name == "hardfast" else 1.1
                    axes.plot(*zip(*found[name], strict=True), "o-", color=f"C{place}", lw=width, ms=3, label=name)
            sizes = sorted({size for points in found.values() for size, _ in points})
            axes.axhline(1, color="0.6", lw=0.8, ls="--")
            axes.set(title=title, xlabel=label, ylabel="share of the roofline", xscale="log", yscale="log")
            axes.set_xticks(sizes, labels=map(str, sizes), minor=False)
            axes.set_xticks([], minor=True)
            if found:
                axes.legend(fontsize=7)
        metadata = {"Date": None, "Description": f"data {digest(result)}"}
        figure.savefig(path, format="svg", metadata=metadata)
