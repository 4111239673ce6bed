"""Everything of a run that touches the disk: metrics, weights, arrays, configuration and results."""

from __future__ import annotations

import datetime
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hardfast.distill.atomic import make_directory, plain, write_bytes, write_error, write_json
from hardfast.distill.checkpoint import CheckpointPolicy, Checkpoints
from hardfast.distill.metrics_log import MetricsLog
from hardfast.distill.processes import ALONE, Processes
from hardfast.distill.run_header import run_header

if TYPE_CHECKING:
    from torch import nn

__all__ = ["MethodDir", "ResultRow", "RunDir"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
#: In the directory of a run that is not finished; who holds its lock is writing there.
UNFINISHED = ".unfinished"
#: Settings that say how processes share the work.
_SHARING = ("workers", "execution.fully_shard")


def _check_name(argument: str, value: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            f"{argument} must be a file name of letters, digits, '_', '-' and '.', starting with a letter or digit; "
            f"got {value!r}"
        )
    return value


@dataclass(frozen=True)
class ResultRow:
    """One line of the results table: a metric of a method on a test split, one value per seed.

    Args:
        recipe: name of the recipe.
        method: name of the method, such as ``"teacher"`` or ``"hard"``.
        split: name of the test split, such as ``"centred"`` or ``"shifted"``.
        metric: name of the metric; ``"accuracy"`` is a fraction in [0, 1].
        seeds: one value per seed; empty only for a published result that was not run here.
        published: the published value on the same scale, or None.
        source: where ``published`` was published, or None.
    """

    recipe: str
    method: str
    split: str
    metric: str
    seeds: list[float]
    published: float | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if len(self.seeds) == 0 and self.published is None:
            raise ValueError(f"seeds must hold one value per seed; got none for {self.method}/{self.split}")

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None without seeds."""
        return statistics.fmean(self.seeds) if self.seeds else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over the seeds; 0.0 for one seed, None without seeds."""
        if not self.seeds:
            return None
        return statistics.stdev(self.seeds) if len(self.seeds) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the row as it stands in results.json."""
        return {
            "recipe": self.recipe,
            "method": self.method,
            "split": self.split,
            "metric": self.metric,
            "mean": self.mean,
            "std": self.std,
            "seeds": [float(value) for value in self.seeds],
            "published": self.published,
            "source": self.source,
        }


class MethodDir:
    """One method and seed of a run: ``<run>/<method>/seed-<seed>/``.

    Metrics go to ``metrics.jsonl`` (flushed line by line) and to TensorBoard; weights, state and arrays are written
    atomically, so that a full disk or a kill leaves the previous file. Usable as a context manager.

    Args:
        path: directory, created with its parents.
        policy: of the checkpoints.
        processes: those that train; the first one reads and writes for all, which call the same methods.
    """

    def __init__(self, path: Path, policy: CheckpointPolicy | None = None, processes: Processes = ALONE) -> None:
        self.path = Path(path)
        self.policy = policy or CheckpointPolicy()
        self.processes = processes
        self._metrics = MetricsLog(self.path)
        if processes.first:
            make_directory(self.path)

    def __enter__(self) -> MethodDir:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, step: int, **scalars: float | str) -> None:
        """Append one line to ``metrics.jsonl`` and the numbers in it to TensorBoard.

        Args:
            step: training step, >= 0.
            scalars: numbers (also 0-d tensors and arrays; NaN and infinities become null) or text, by name.

        Raises:
            TypeError: a value is neither a number nor text.
            OSError: the disk is full or not writable.
        """
        if self.processes.first:
            self._metrics.log(step, scalars)

    def metrics(self) -> str:
        """Return the lines of ``metrics.jsonl`` so far."""
        return self._metrics.text()

    def restore_metrics(self, text: str = "") -> None:
        """Make the metrics those of an earlier :meth:`metrics`; empty for a method that starts again.

        Raises:
            OSError: the disk is full or not writable.
        """
        if self.processes.first:
            self._metrics.restore(text)

    def checkpoints(self, first_step: int, last_step: int) -> Checkpoints:
        """Return the checkpoints of the training that takes the method from one step to another."""
        return Checkpoints(self.path / "checkpoints", self.policy, first_step, last_step, self.processes)

    def tested(self) -> dict[str, float] | None:
        """Return what :meth:`finish` was told; None where the method is still to be trained or tested.

        Raises:
            ValueError: tested.json is damaged.
        """
        return self.read_json("tested")

    def finish(self, tested: Mapping[str, float]) -> None:
        """Write ``tested.json``, which says that nothing of the method is to be done again.

        Raises:
            OSError: as :func:`atomic_write`.
        """
        self.save_json("tested", tested)

    def save_weights(self, name: str, module: nn.Module) -> Path:
        """Write the module's state dict to ``<name>.safetensors`` and return the path.

        Raises:
            OSError: as :func:`atomic_write`.
        """
        from safetensors.torch import save

        path = self.path / f"{_check_name('name', name)}.safetensors"
        if self.processes.first:
            tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
            write_bytes(path, save(tensors))
        return path

    def save_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write ``<name>.json``, named tuples as lists, and return the path.

        Raises:
            OSError: as :func:`atomic_write`.
        """
        path = self.path / f"{_check_name('name', name)}.json"
        if self.processes.first:
            write_json(path, value)
        return path

    def add_unreadable(self, sentences: Sequence[str]) -> None:
        """Add sentences on images that could not be read to those of ``unreadable.json``.

        Raises:
            OSError: as :func:`atomic_write`.
        """
        before = (self.read_json("unreadable") or {}).get("images", [])
        self.save_json("unreadable", {"images": sorted({*before, *sentences})})

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return what :meth:`save_json` wrote, as JSON has it; None without such a file.

        Raises:
            ValueError: the file is damaged; the message names it.
        """
        path = self.path / f"{_check_name('name', name)}.json"
        return self.processes.from_first(lambda: _read_json(path))

    def save_arrays(self, name: str, **arrays: np.ndarray) -> Path:
        """Write numeric arrays to ``<name>.npz`` and return the path.

        Raises:
            TypeError: an array holds Python objects, which would need pickle to be read back.
            OSError: as :func:`atomic_write`.
        """
        path = self.path / f"{_check_name('name', name)}.npz"
        numeric = {key: np.asarray(value) for key, value in arrays.items()}
        for key, value in numeric.items():
            if value.dtype.hasobject:
                raise TypeError(f"{key} must be an array of numbers or text; got dtype {value.dtype}")
        if self.processes.first:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **numeric)  # type: ignore[arg-type]
            write_bytes(path, buffer.getvalue())
        return path

    def close(self) -> None:
        """Close the metrics and TensorBoard files; a later :meth:`log` opens them again."""
        self._metrics.close()


class RunDir:
    """The directory of one run: configuration, results and one :class:`MethodDir` per method and seed.

    Args:
        path: directory, created with its parents.
        policy: of the checkpoints.
        processes: those that train; the first one reads and writes for all, which call the same methods.
    """

    def __init__(self, path: Path, policy: CheckpointPolicy | None = None, processes: Processes = ALONE) -> None:
        self.path = Path(path)
        self.policy = policy or CheckpointPolicy()
        self.processes = processes
        if processes.first:
            make_directory(self.path)

    @staticmethod
    def create(recipe: str, out: Path | None = None, policy: CheckpointPolicy | None = None) -> RunDir:
        """Create the directory of a new run.

        Args:
            recipe: name of the recipe.
            out: directory to use, new or empty; None for ``runs/<recipe>/<YYYYmmdd-HHMMSS>``.
            policy: of the checkpoints.

        Raises:
            FileExistsError: ``out`` holds something already.
            NotADirectoryError: ``out`` is a file.
        """
        _check_name("recipe", recipe)
        if out is None:
            return RunDir(_fresh_directory(Path("runs") / recipe), policy)
        out = Path(out)
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"--out {out} is a file; give a directory that is new or empty")
        if out.is_dir() and any(child.name != UNFINISHED for child in out.iterdir()):
            raise FileExistsError(f"--out {out} is not empty; give a directory that is new or empty")
        return RunDir(out, policy)

    def method(self, method: str, seed: int) -> MethodDir:
        """Return (and create) the directory of one method and seed (>= 0)."""
        if seed < 0:
            raise ValueError(f"seed must be >= 0; got {seed}")
        return MethodDir(self.path / _check_name("method", method) / f"seed-{int(seed)}", self.policy, self.processes)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.json``; in a directory that has one already, compare with it.

        Args:
            config: ``{"recipe": name, "fields": {field: {"value": ..., "provenance": "known" | "earlier code" |
                "reported" | "our choice" | "overridden"}}}``; further keys are kept.

        Raises:
            ValueError: as :meth:`check_config`.
        """
        self.processes.from_first(lambda: self.check_config(config))
        if self.processes.first:
            write_json(self.path / "config.json", config)

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Compare a configuration with that of the directory, if it has one.

        Raises:
            ValueError: they differ in what decides the results, or config.json is damaged; the message names it.
        """
        path = self.path / "config.json"
        if not path.exists():
            return
        try:
            theirs = _deciding(json.loads(path.read_bytes()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); choose another directory (--out)") from error
        ours = _deciding(plain(config))
        # What a run of an earlier version does not name was as the recipe has it by itself.
        for name in ours.keys() - theirs.keys():
            if config["fields"][name]["provenance"] != "overridden":
                del ours[name]
        for name in (*ours, *(name for name in theirs if name not in ours)):
            old, new = theirs.get(name), ours.get(name)
            if old != new:
                raise ValueError(
                    f"{self.path} was begun with {name} {old!r}, and this run has {new!r}; take the same settings to "
                    "continue it, or another directory (--out)"
                )

    def seconds(self) -> float:
        """Return the wall-clock time that ``results.json`` tells of the run so far; 0 without it."""
        try:
            return float(json.loads((self.path / "results.json").read_bytes())["header"]["seconds"])
        except (OSError, ValueError, TypeError, KeyError):
            return 0.0

    def write_results(self, rows: Sequence[ResultRow], seconds: float) -> None:
        """Write ``results.json``: a header that says how the numbers came about, and the rows.

        Args:
            rows: the rows so far; may be called after every method, so that an interrupted run has its results.
            seconds: wall-clock time of the run so far.
        """
        if not self.processes.first:
            return
        header = {**run_header(), "seconds": round(float(seconds), 3)}
        write_json(self.path / "results.json", {"header": header, "rows": [row.to_json() for row in rows]})


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and it is made again") from error


def _deciding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide what a run comes to: how processes share the work does not."""
    fields = {name: entry["value"] for name, entry in config["fields"].items() if name not in _SHARING}
    return {"recipe": config["recipe"], **fields}


def _fresh_directory(parent: Path) -> Path:
    """Return a directory that this call made, named by the time; two runs in one second do not share it."""
    make_directory(parent)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 1000):
        path = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise write_error(path, error, "no directory was made") from error
    raise FileExistsError(f"{parent / stamp} and 998 numbered variants of it exist already")
