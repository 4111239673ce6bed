"""Everything of a run that touches the disk: metrics, weights, arrays, configuration and results."""

from __future__ import annotations

import datetime
import errno
import io
import json
import math
import os
import re
import secrets
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from hardfast.distill.run_header import run_header

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["MethodDir", "ResultRow", "RunDir", "atomic_write", "write_bytes"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ELSEWHERE = "choose another directory (--out)"
_REMEDIES = {
    errno.ENOSPC: f"free some space or {_ELSEWHERE}",
    errno.EDQUOT: f"free some of the disk quota or {_ELSEWHERE}",
    errno.EFBIG: f"raise the file-size limit (ulimit -f) or {_ELSEWHERE}",
    errno.EACCES: f"make the directory writable or {_ELSEWHERE}",
    errno.EPERM: f"make the directory writable or {_ELSEWHERE}",
    errno.EROFS: _ELSEWHERE,
}


def _write_error(path: Path, error: OSError, consequence: str) -> OSError:
    """Return an OSError of the same errno that says which file, which cause and what to do."""
    cause = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, f"check that the directory exists, or {_ELSEWHERE}")
    return OSError(error.errno or errno.EIO, f"cannot write {path}: {cause}; {consequence}; {remedy}")


def _sync_directory(directory: Path) -> None:
    """Make a rename in ``directory`` survive a power cut (POSIX only; elsewhere directories cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Write a file aside, then rename it over ``path``: readers see the old file or the new one, never a part.

    Args:
        path: file to create or replace; its directory must exist.
        write: called once with a binary file open for writing.

    Returns:
        ``path``.

    Raises:
        OSError: the write failed. The message names the file, the cause and a remedy; the previous file is intact
            and the temporary one is removed.
    """
    path = Path(path)
    consequence = "the previous version is kept" if path.exists() else "nothing was written"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise _write_error(path, error, consequence) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    def write(file: BinaryIO) -> None:
        file.write(content)

    return atomic_write(path, write)


def _write_json(path: Path, value: Any) -> Path:
    return write_bytes(path, (json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode())


def _plain(value: Any) -> Any:
    """Return ``value`` as strict JSON has it: paths as text, tuples as lists, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._metrics: io.FileIO | None = None
        self._tensorboard: SummaryWriter | None = None
        _make_directory(self.path)

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
        record: dict[str, float | str] = {}
        for name, value in scalars.items():
            record[name] = value if isinstance(value, str) else _to_float(name, value)
        line = json.dumps(_plain({"step": int(step), **record}), allow_nan=False) + "\n"
        self._append(line.encode())
        numbers = {name: value for name, value in record.items() if not isinstance(value, str)}
        if numbers:
            self._log_tensorboard(int(step), numbers)

    def save_weights(self, name: str, module: nn.Module) -> Path:
        """Write the module's state dict to ``<name>.safetensors`` and return the path.

        Raises:
            OSError: as :func:`atomic_write`.
        """
        from safetensors.torch import save

        path = self.path / f"{_check_name('name', name)}.safetensors"
        tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
        return write_bytes(path, save(tensors))

    def save_state(self, state: dict[str, Any]) -> Path:
        """Write ``state.pt`` for ``torch.load(weights_only=True)`` and return the path.

        Args:
            state: tensors, numbers, text and containers of them, such as optimiser state dicts, step and RNG state.

        Raises:
            OSError: as :func:`atomic_write`.
        """
        import torch

        # torch.save straight to a file turns a full disk into a RuntimeError without a cause, hence the buffer.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return write_bytes(self.path / "state.pt", buffer.getvalue())

    def save_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write ``<name>.json``, named tuples as lists, and return the path.

        Raises:
            OSError: as :func:`atomic_write`.
        """
        return _write_json(self.path / f"{_check_name('name', name)}.json", value)

    def save_arrays(self, name: str, **arrays: np.ndarray) -> Path:
        """Write numeric arrays to ``<name>.npz`` and return the path.

        Raises:
            TypeError: an array holds Python objects, which would need pickle to be read back.
            OSError: as :func:`atomic_write`.
        """
        path = self.path / f"{_check_name('name', name)}.npz"
        plain = {key: np.asarray(value) for key, value in arrays.items()}
        for key, value in plain.items():
            if value.dtype.hasobject:
                raise TypeError(f"{key} must be an array of numbers or text; got dtype {value.dtype}")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **plain)  # type: ignore[arg-type]
        return write_bytes(path, buffer.getvalue())

    def close(self) -> None:
        """Close the metrics and TensorBoard files; a later :meth:`log` opens them again."""
        metrics, self._metrics = self._metrics, None
        if metrics is not None:
            metrics.close()
        tensorboard, self._tensorboard = self._tensorboard, None
        if tensorboard is not None:
            try:
                tensorboard.close()
            except OSError as error:
                raise _write_error(self.path / "tensorboard", error, "metrics.jsonl is complete") from error

    def _append(self, line: bytes) -> None:
        path = self.path / "metrics.jsonl"
        try:
            if self._metrics is None:
                _drop_partial_line(path)
                self._metrics = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
            while line:
                line = line[self._metrics.write(line) :]
        except OSError as error:
            if self._metrics is not None:
                self._metrics.close()
                self._metrics = None
            raise _write_error(path, error, "the lines before this one are kept") from error

    def _log_tensorboard(self, step: int, numbers: Mapping[str, float]) -> None:
        try:
            if self._tensorboard is None:
                from torch.utils.tensorboard import SummaryWriter

                self._tensorboard = SummaryWriter(str(self.path / "tensorboard"))
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        except OSError as error:
            raise _write_error(self.path / "tensorboard", error, "metrics.jsonl is complete") from error


class RunDir:
    """The directory of one run: configuration, results and one :class:`MethodDir` per method and seed.

    Args:
        path: directory, created with its parents.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        _make_directory(self.path)

    @staticmethod
    def create(recipe: str, out: Path | None = None) -> RunDir:
        """Create the directory of a new run.

        Args:
            recipe: name of the recipe.
            out: directory to use, new or empty; None for ``runs/<recipe>/<YYYYmmdd-HHMMSS>``.

        Raises:
            FileExistsError: ``out`` holds something already.
            NotADirectoryError: ``out`` is a file.
        """
        _check_name("recipe", recipe)
        if out is None:
            return RunDir(_fresh_directory(Path("runs") / recipe))
        out = Path(out)
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"--out {out} is a file; give a directory that is new or empty")
        if out.is_dir() and any(out.iterdir()):
            raise FileExistsError(f"--out {out} is not empty; give a directory that is new or empty")
        return RunDir(out)

    def method(self, method: str, seed: int) -> MethodDir:
        """Return (and create) the directory of one method and seed (>= 0)."""
        if seed < 0:
            raise ValueError(f"seed must be >= 0; got {seed}")
        return MethodDir(self.path / _check_name("method", method) / f"seed-{int(seed)}")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.json``.

        Args:
            config: ``{"recipe": name, "fields": {field: {"value": ..., "provenance": "known" | "earlier code" |
                "reported" | "our choice" | "overridden"}}}``; further keys are kept.
        """
        _write_json(self.path / "config.json", config)

    def write_results(self, rows: Sequence[ResultRow], seconds: float) -> None:
        """Write ``results.json``: a header that says how the numbers came about, and the rows.

        Args:
            rows: the rows so far; may be called after every method, so that an interrupted run has its results.
            seconds: wall-clock time of the run so far.
        """
        header = {**run_header(), "seconds": round(float(seconds), 3)}
        _write_json(self.path / "results.json", {"header": header, "rows": [row.to_json() for row in rows]})


def _to_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number or text; got {type(value).__name__}") from error


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _write_error(path, error, "no directory was made") from error


def _fresh_directory(parent: Path) -> Path:
    """Return a directory that this call made, named by the time; two runs in one second do not share it."""
    _make_directory(parent)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1, 1000):
        path = parent / (stamp if attempt == 1 else f"{stamp}-{attempt}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            continue
        except OSError as error:
            raise _write_error(path, error, "no directory was made") from error
    raise FileExistsError(f"{parent / stamp} and 998 numbered variants of it exist already")


def _drop_partial_line(path: Path) -> None:
    """Cut off what a kill or a full disk left after the last complete line."""
    if not path.exists():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        os.truncate(path, complete)
