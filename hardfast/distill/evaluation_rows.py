"""evaluation.json: what was measured of a run on sets other than those it was trained on."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hardfast.distill.atomic import write_bytes
from hardfast.distill.run_header import run_header

__all__ = ["EvaluationRow", "deviation", "read_rows", "write_rows"]

_FILE = "evaluation.json"


@dataclass(frozen=True)
class EvaluationRow:
    """A metric of a method on a set, or on a part of it, with one value per seed.

    Args:
        recipe: name of the recipe.
        method: name of the method.
        weights: which weights: ``"last"``, ``"best"`` or ``"ema"``.
        set: name of the set.
        corruption: of the part; None in a set without.
        severity: of the part; None in a set without.
        metric: a field of :class:`~hardfast.distill.evaluate.SetMetrics`.
        seeds: one value per seed, NaN for a network whose answers are not finite.
        images: how many there are.
        classes: how many answers there were to choose from.
    """

    recipe: str
    method: str
    weights: str
    set: str
    corruption: str | None
    severity: int | None
    metric: str
    seeds: list[float]
    images: int
    classes: int

    def __post_init__(self) -> None:
        if not self.seeds:
            raise ValueError(f"seeds must hold one value per seed, got none for {self.method} on {self.set}")

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.seeds)

    @property
    def std(self) -> float:
        """Sample standard deviation over the seeds; 0 for one seed."""
        return deviation(self.seeds)

    @property
    def measurement(self) -> tuple[str, str, str]:
        """What is measured in one go: set, method and weights."""
        return self.set, self.method, self.weights


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; 0 of one value, NaN where a value is not finite, which ``statistics`` cannot take."""
    if not all(map(math.isfinite, values)):
        return math.nan
    return statistics.stdev(values) if len(values) > 1 else 0.0


def read_rows(run: Path) -> list[EvaluationRow]:
    """Reads ``evaluation.json`` of a run; no rows if there is none.

    Raises:
        ValueError: the file is damaged.
    """
    path = run / _FILE
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        names = EvaluationRow.__dataclass_fields__
        parsed = [EvaluationRow(**{name: row[name] for name in names}) for row in rows]
        return [_with_numbers(row) for row in parsed]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be what `hardfast eval` wrote, got: {error!r}") from error


def write_rows(run: Path, rows: Iterable[EvaluationRow], seconds: float) -> list[EvaluationRow]:
    """Adds rows to ``evaluation.json`` of a run; those of the same set, method and weights are replaced.

    A header says of each (set, method, weights) with which commit, versions and machine it was measured.

    Args:
        run: directory of the run.
        rows: what was measured.
        seconds: wall-clock time that it took.

    Returns:
        All rows that the file has now.

    Raises:
        ValueError: the file that is there is damaged.
        OSError: it cannot be written; the previous file is intact.
    """
    new = list(rows)
    replaced = {row.measurement for row in new}
    everything = [row for row in read_rows(run) if row.measurement not in replaced] + new
    header = {**run_header(), "seconds": round(seconds, 3), "measured": sorted(replaced)}
    content = {
        "headers": [*_headers_without(run, replaced), header],
        "rows": [_to_json(row) for row in everything],
    }
    write_bytes(run / _FILE, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    return everything


def _headers_without(run: Path, replaced: set[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """How the rows that stay came about: the headers that are there, of which each tells what it is of."""
    path = run / _FILE
    headers = json.loads(path.read_text(encoding="utf-8")).get("headers", []) if path.exists() else []
    kept = [
        {**header, "measured": [entry for entry in header["measured"] if tuple(entry) not in replaced]}
        for header in headers
    ]
    return [header for header in kept if header["measured"]]


def _with_numbers(row: EvaluationRow) -> EvaluationRow:
    seeds = [math.nan if value is None else float(value) for value in row.seeds]
    return EvaluationRow(**{**asdict(row), "seeds": seeds})


def _to_json(row: EvaluationRow) -> dict[str, Any]:
    """With the mean and the deviation, and null for what is not finite, which strict JSON has no word for."""
    numbers: dict[str, Any] = {"mean": _finite(row.mean), "std": _finite(row.std), "seeds": _all_finite(row.seeds)}
    return {**asdict(row), **numbers}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _all_finite(values: Sequence[float]) -> list[float | None]:
    return [_finite(value) for value in values]
