"""Checkpoints of one training: whole or refused, and the last few kept."""

from __future__ import annotations

import hashlib
import io
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from hardfast.distill.atomic import atomic_write, make_directory
from hardfast.distill.processes import ALONE, Processes
from hardfast.ops import _checks
from hardfast.out_of_memory import ran_out_of_memory

__all__ = ["BrokenCheckpointError", "CheckpointPolicy", "Checkpoints", "Loaded", "read_checkpoint", "write_checkpoint"]

_MAGIC = b"hardfast checkpoint 1, sha256 "
_HEADER_BYTES = len(_MAGIC) + 64 + 1  # and the digest in hexadecimal digits, and a newline
_NAME = re.compile(r"step-(\d{9})\.pt")
_CLAIM = re.compile(r"tried to allocate (\d+) bytes")
_EVERY = re.compile(r"(\d+(?:\.\d+)?)(s|min)|(\d+)")


class BrokenCheckpointError(ValueError):
    """A file is no whole checkpoint; the message names it."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """When checkpoints are written, and how many are kept. Neither changes what a training comes to.

    Args:
        every: time from one to the next, such as ``"60s"`` or ``"10min"``, or a number of student steps.
        keep: how many of a training, the last ones, >= 1. More than one serve where the last is damaged.
    """

    every: str = "60s"
    keep: int = 2

    def __post_init__(self) -> None:
        _checks.integer("keep_checkpoints", self.keep, 1)
        if not _EVERY.fullmatch(self.every) or not any(character in "123456789" for character in self.every):
            raise ValueError(
                f"checkpoint_every must be a time, such as 60s or 10min, or a number of steps >= 1, got {self.every!r}"
            )

    @property
    def seconds(self) -> float | None:
        """Between checkpoints; None where they go by steps."""
        match = _EVERY.fullmatch(self.every)
        assert match is not None
        return None if match[3] else float(match[1]) * (60 if match[2] == "min" else 1)

    @property
    def steps(self) -> int | None:
        """Between checkpoints; None where they go by time."""
        return int(self.every) if self.seconds is None else None


class Loaded(NamedTuple):
    """A checkpoint that was read.

    Args:
        path: where it lies.
        state: what was saved.
        broken: a sentence for each later checkpoint that is damaged.
    """

    path: Path | None
    state: dict[str, Any] | None
    broken: tuple[str, ...]


class Checkpoints:
    """Those of one training, a file each, in a folder that it may share with trainings of other steps.

    Args:
        folder: created when the first one is saved.
        policy: when they are due, and how many are kept.
        first_step: where the training begins; it has the checkpoints after this step,
        last_step: up to this one.
        processes: those that train; the first one reads and writes for all.
    """

    def __init__(
        self,
        folder: Path,
        policy: CheckpointPolicy,
        first_step: int,
        last_step: int,
        processes: Processes = ALONE,
    ) -> None:
        self.folder, self.policy, self._processes = Path(folder), policy, processes
        self._range = range(first_step + 1, last_step + 1)
        self._written = (time.monotonic(), first_step)

    def due(self, step: int) -> bool:
        """Whether the policy asks for a checkpoint after ``step``."""
        then, last = self._written
        if self.policy.steps is not None:
            return step - last >= self.policy.steps
        return time.monotonic() - then >= (self.policy.seconds or 0)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Writes a checkpoint and removes those that are no longer kept.

        Args:
            step: in the range of the training.
            state: tensors, numbers, text and containers of them.

        Raises:
            OSError: it cannot be written; the earlier ones are intact.
        """
        make_directory(self.folder)
        path = write_checkpoint(self.folder / f"step-{step:09d}.pt", state)
        self.keep(self.policy.keep)
        self._written = (time.monotonic(), step)
        return path

    def keep(self, count: int) -> None:
        """Removes all but the last ``count``."""
        for path in self._paths()[:-count] if self._processes.first else ():
            path.unlink(missing_ok=True)

    def load(self) -> Loaded:
        """The last checkpoint that is whole, and what is wrong with those after it, which are removed.

        Raises:
            OSError: one cannot be read. None is removed that might be whole.
        """
        return self._processes.from_first(self._load)

    def _load(self) -> Loaded:
        broken = []
        for path in reversed(self._paths()):
            try:
                state = read_checkpoint(path)
            except BrokenCheckpointError as error:
                broken.append(str(error))
                path.unlink(missing_ok=True)
                continue
            step = self._step(path)
            self._written = (time.monotonic(), step)
            return Loaded(path, state, tuple(broken))
        return Loaded(None, None, tuple(broken))

    def _paths(self) -> list[Path]:
        found = self.folder.glob("step-*.pt") if self.folder.is_dir() else ()
        return sorted(path for path in found if _NAME.fullmatch(path.name) and self._step(path) in self._range)

    @staticmethod
    def _step(path: Path) -> int:
        return int(path.stem.removeprefix("step-"))


def write_checkpoint(path: Path, state: dict[str, Any]) -> Path:
    """Writes a file that says whether it is whole: the SHA-256 of what follows, and ``torch.save`` of the state.

    Raises:
        OSError: it cannot be written; what was there before is intact.
    """
    buffer = io.BytesIO()  # torch.save straight to a file turns a full disk into a RuntimeError without a cause
    torch.save(state, buffer)
    content = buffer.getbuffer()
    digest = hashlib.sha256(content).hexdigest()

    def write(file: Any) -> None:
        file.write(_MAGIC + digest.encode() + b"\n")
        file.write(content)

    return atomic_write(path, write)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what :func:`write_checkpoint` wrote, tensors on the CPU; nothing that a file may hold is run.

    Raises:
        BrokenCheckpointError: the file is cut short, altered or something else.
        OSError: there is none, or it cannot be read now; it may well be whole.
    """
    whole = memoryview(Path(path).read_bytes())
    header, content = bytes(whole[:_HEADER_BYTES]), whole[_HEADER_BYTES:]
    if not (header.startswith(_MAGIC) and header.endswith(b"\n") and len(header) == _HEADER_BYTES):
        raise BrokenCheckpointError(f"checkpoint {path} is damaged: it does not begin as one does")
    if hashlib.sha256(content).hexdigest().encode() != header[len(_MAGIC) : -1]:
        raise BrokenCheckpointError(
            f"checkpoint {path} is damaged: its {len(content)} bytes are not those that were written"
        )
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file with a checksum may raise anything
        if _wants_memory(error, len(content)):
            raise  # the file may well be whole, and is not to be removed
        raise BrokenCheckpointError(f"checkpoint {path} holds what is no state of a training: {error!r}") from error
    if not isinstance(state, dict):
        raise BrokenCheckpointError(f"checkpoint {path} holds what is no state of a training: {type(state).__name__}")
    return state


def _wants_memory(error: Exception, size: int) -> bool:
    """Whether memory ran out for what a file has. It is not compressed, so a tensor larger than it is a lie."""
    claim = _CLAIM.search(str(error))
    return isinstance(error, MemoryError) or (ran_out_of_memory(error) and (claim is None or int(claim[1]) <= size))
