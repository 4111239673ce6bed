"""Read a run directory back, complete or not, and say which file is broken."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hardfast.distill.run_dir import ResultRow

__all__ = ["FIXED", "BrokenRunError", "MethodRun", "Quantities", "Run", "learns", "load_run", "method_rank"]

#: Mean and standard deviation of quantities by name; None where they are not finite.
Quantities = dict[str, tuple[float | None, float | None]]

#: Fixed augmentations, which are methods too.
FIXED = ("crop_flip", "rand_augment", "auto_augment", "trivial_augment", "augmix", "cutmix", "mixup")
_FAMILIES = (
    "affine",
    "translation",
    "linear",
    "projective",
    "flow",
    "thin_plate",
    "color",
    "mix",
    "affine_flow_color",
    "latent",
    "vdvae",
)
_METHOD_ORDER = (
    "teacher",
    "student",
    "distillation",
    *FIXED,
    "random_augmentor",
    *_FAMILIES,
    "unguided",
    "image_to_image",
    "other_class",
    "teacher_only",
    "student_only",
    "hard",
    "config",
)
_SNAPSHOTS = ("steps", "clean", "augmented")
_TOLD = 5  # of the images that could not be read
_SHIFTS = ("dx_px", "dy_px", "accuracy")


class BrokenRunError(ValueError):
    """A file of a run directory cannot be read; the message names it."""


@dataclass
class MethodRun:
    """What one method and seed left on disk.

    Args:
        method: name of the method.
        seed: seed.
        metrics: the lines of metrics.jsonl, in order.
        unreadable: a sentence for each image that could not be read.
        snapshots: the arrays of snapshots.npz, or None.
        shifts: the arrays of shift_accuracy.npz, or None.
        augmentor: the content of augmentor.json, what its augmentor does ``before`` and ``after`` the training; or
            None.
    """

    method: str
    seed: int
    metrics: list[dict[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    snapshots: dict[str, np.ndarray] | None = None
    shifts: dict[str, np.ndarray] | None = None
    augmentor: dict[str, Quantities] | None = None

    def series(self, name: str, phase: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return steps and values ([n] float64 each) of a metric, optionally of one phase only."""
        lines = [line for line in self.metrics if isinstance(line.get(name), (int, float))]
        if phase is not None:
            lines = [line for line in lines if line.get("phase") == phase]
        steps = np.array([line["step"] for line in lines], dtype=np.float64)
        return steps, np.array([line[name] for line in lines], dtype=np.float64)


@dataclass
class Run:
    """A run directory in memory.

    Args:
        path: the directory.
        config: content of config.json, or None.
        header: header of results.json, or None.
        rows: rows of results.json.
        methods: one entry per method and seed, teacher first.
        missing: a sentence for each piece that is not there.
    """

    path: Path
    config: dict[str, Any] | None
    header: dict[str, Any] | None
    rows: list[ResultRow]
    methods: list[MethodRun]
    missing: list[str]

    @property
    def recipe(self) -> str:
        """Name of the recipe, or of the directory where nothing on disk says it."""
        if self.config is not None and isinstance(self.config.get("recipe"), str):
            return self.config["recipe"]
        return self.rows[0].recipe if self.rows else self.path.resolve().name

    @property
    def generates(self) -> bool:
        """Whether it is a run of ConfiG, which generates images and knows no shifts."""
        return "generator.kind" in _fields(self.config)

    @property
    def shifts(self) -> bool:
        """Whether it is a run that tests at every shift."""
        return any(part.shifts is not None for part in self.methods) or "data.max_shift_px" in _fields(self.config)

    @property
    def centred(self) -> bool:
        """Whether its validation images are centred ones, and said to be so."""
        return self.shifts or any(row.split == "centred" for row in self.rows)

    def of(self, method: str) -> list[MethodRun]:
        """Return the seeds of one method."""
        return [run for run in self.methods if run.method == method]

    def method_names(self) -> list[str]:
        """Return the methods on disk, in the order of the report."""
        return list(dict.fromkeys(run.method for run in self.methods))

    def learners(self) -> list[str]:
        """Return the methods on disk that learn an augmentor, in the order of the report."""
        return [] if self.generates else [method for method in self.method_names() if learns(method)]


def method_rank(method: str) -> tuple[int, str]:
    """Sort key: the known methods from teacher to HARD and ConfiG, then the others by name."""
    known = method in _METHOD_ORDER
    return (_METHOD_ORDER.index(method) if known else len(_METHOD_ORDER), "" if known else method)


def learns(method: str) -> bool:
    """Whether a method of a run of HARD learns an augmentor: HARD itself, or a family under its own name."""
    return method == "hard" or method in _FAMILIES


def load_run(path: Path) -> Run:
    """Read a run directory; pieces that are absent are listed in ``missing``.

    Raises:
        FileNotFoundError: there is no such directory.
        BrokenRunError: the directory holds no run, or one of its files is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a directory; give the directory of a run, such as runs/RECIPE/TIME")
    config = _read_json(path / "config.json")
    results = _read_json(path / "results.json")
    methods = [_load_method(child) for child in sorted(path.glob("*/seed-*")) if _is_method(child)]
    methods.sort(key=lambda run: (method_rank(run.method), run.seed))
    if config is None and results is None and not methods:
        raise BrokenRunError(
            f"{path} is not the directory of a run: it has no config.json, no results.json and no METHOD/seed-N"
        )
    header, rows = _results(path / "results.json", results)
    run = Run(path, config, header, rows, methods, [])
    run.missing += _missing(run)
    return run


def _is_method(path: Path) -> bool:
    return path.is_dir() and re.fullmatch(r"seed-\d+", path.name) is not None


def _fields(config: dict[str, Any] | None) -> dict[str, Any]:
    fields = (config or {}).get("fields")
    return fields if isinstance(fields, dict) else {}


def _missing(run: Run) -> list[str]:
    missing = []
    if run.config is None:
        missing.append("config.json is missing: the configuration is unknown.")
    if run.header is None:
        missing.append("results.json is missing: the run was interrupted before its first results, or is still going.")
    for part in run.methods:
        where = f"{part.method}/seed-{part.seed}"
        if not part.metrics:
            missing.append(f"{where}/metrics.jsonl is missing or empty: no curves for it.")
        if part.unreadable:
            count = f"{len(part.unreadable)} image{'s' * (len(part.unreadable) > 1)}"
            told = "; ".join(part.unreadable[:_TOLD]) + "; ..." * (len(part.unreadable) > _TOLD)
            missing.append(f"{where} did without {count} that could not be read, all in its unreadable.json: {told}")
        if part.shifts is None and run.shifts:
            missing.append(f"{where}/shift_accuracy.npz is missing: it was not evaluated on the shifts.")
        if run.generates:
            continue
        if part.snapshots is not None and part.augmentor is None:
            missing.append(f"{where}/augmentor.json is missing: what it learned is not told in numbers.")
        if part.snapshots is None and (part.method in (*FIXED, "random_augmentor") or learns(part.method)):
            missing.append(f"{where}/snapshots.npz is missing: no pictures of its augmented images.")
    return missing


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BrokenRunError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise BrokenRunError(f"cannot read {path}: expected a JSON object, got {type(value).__name__}")
    return value


def _results(path: Path, results: dict[str, Any] | None) -> tuple[dict[str, Any] | None, list[ResultRow]]:
    if results is None:
        return None, []
    fields = ("recipe", "method", "split", "metric", "seeds", "published", "source")
    try:
        rows = [ResultRow(**{name: row[name] for name in fields}) for row in results["rows"]]
        for row in rows:
            row.to_json()
        header = dict(results["header"])
    except KeyError as error:
        raise BrokenRunError(f"cannot read {path}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise BrokenRunError(f"cannot read {path}: {error}") from error
    return header, sorted(rows, key=lambda row: method_rank(row.method))


def _load_method(path: Path) -> MethodRun:
    return MethodRun(
        method=path.parent.name,
        seed=int(path.name.removeprefix("seed-")),
        metrics=_read_metrics(path / "metrics.jsonl"),
        unreadable=_read_unreadable(path / "unreadable.json"),
        snapshots=_read_arrays(path / "snapshots.npz", _SNAPSHOTS),
        shifts=_read_arrays(path / "shift_accuracy.npz", _SHIFTS),
        augmentor=_read_augmentor(path / "augmentor.json"),
    )


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line without its newline is of a run that goes on, or was killed, and is left out."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BrokenRunError(f"cannot read {path}: {error}") from error
    lines = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
            float(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise BrokenRunError(f'cannot read {path}: line {number} is not a JSON object with a "step"') from error
        lines.append(record)
    return lines


def _read_unreadable(path: Path) -> list[str]:
    sentences = (_read_json(path) or {}).get("images", [])
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise BrokenRunError(f"cannot read {path}: 'images' must be sentences, got {sentences!r}")
    return sentences


def _read_augmentor(path: Path) -> dict[str, Quantities] | None:
    content = _read_json(path)
    if content is None:
        return None
    told: dict[str, Quantities] = {}
    for when in ("before", "after"):
        quantities = content.get(when)
        if not isinstance(quantities, dict):
            raise BrokenRunError(f"cannot read {path}: {when!r} must be an object of quantities, got {quantities!r}")
        for name, value in quantities.items():
            numbers = value if isinstance(value, list) else ()
            if len(numbers) != 2 or not all(number is None or type(number) in (int, float) for number in numbers):
                raise BrokenRunError(f"cannot read {path}: {when!r}, {name!r} must be [mean, std], got {value!r}")
        told[when] = {name: (mean, std) for name, (mean, std) in quantities.items()}
    return told


def _read_arrays(path: Path, required: tuple[str, ...]) -> dict[str, np.ndarray] | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BrokenRunError(f"cannot read {path}: {error}") from error
    absent = [name for name in required if name not in arrays]
    if absent:
        raise BrokenRunError(f"cannot read {path}: it lacks {', '.join(absent)}")
    if len({len(arrays[name]) for name in required if name != "clean"}) != 1:
        raise BrokenRunError(f"cannot read {path}: {', '.join(required)} differ in length")
    return arrays
