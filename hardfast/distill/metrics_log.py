"""The metrics of one training: a line of JSON each, and the same numbers for TensorBoard."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardfast.distill.atomic import plain, write_bytes, write_error

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["MetricsLog"]


class MetricsLog:
    """``metrics.jsonl``, flushed line by line, and ``tensorboard/`` beside it, which follows from it.

    Args:
        directory: where they are; it must exist.
    """

    def __init__(self, directory: Path) -> None:
        self.path = Path(directory) / "metrics.jsonl"
        self._board_path = Path(directory) / "tensorboard"
        self._file: io.FileIO | None = None
        self._board: SummaryWriter | None = None

    def log(self, step: int, scalars: Mapping[str, Any]) -> None:
        """Appends one line.

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
        line = json.dumps(plain({"step": int(step), **record}), allow_nan=False) + "\n"
        self._append(line.encode())
        self._show([(int(step), record)])

    def text(self) -> str:
        """All lines so far."""
        return self.path.read_text(encoding="utf-8") if self.path.exists() else ""

    def restore(self, text: str) -> None:
        """Makes the lines those of an earlier :meth:`text`, for TensorBoard too.

        Raises:
            OSError: the disk is full or not writable.
        """
        self.close()
        shutil.rmtree(self._board_path, ignore_errors=True)
        if not text:
            self.path.unlink(missing_ok=True)
            return
        write_bytes(self.path, text.encode())
        records = [json.loads(line) for line in text.splitlines()]
        self._show((record.pop("step"), record) for record in records)

    def close(self) -> None:
        """Closes the files; a later :meth:`log` opens them again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        board, self._board = self._board, None
        if board is not None:
            try:
                board.close()
            except OSError as error:
                raise write_error(self._board_path, error, "metrics.jsonl is complete") from error

    def _append(self, line: bytes) -> None:
        try:
            if self._file is None:
                _drop_partial_line(self.path)
                self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            if self._file is not None:
                self._file.close()
                self._file = None
            raise write_error(self.path, error, "the lines before this one are kept") from error

    def _show(self, records: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        try:
            for step, record in records:
                for name, value in record.items():
                    if isinstance(value, str):
                        continue
                    if self._board is None:
                        from torch.utils.tensorboard import SummaryWriter

                        self._board = SummaryWriter(str(self._board_path))
                    self._board.add_scalar(name, math.nan if value is None else value, step)
        except OSError as error:
            raise write_error(self._board_path, error, "metrics.jsonl is complete") from error


def _to_float(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a number or text; got {type(value).__name__}") from error


def _drop_partial_line(path: Path) -> None:
    """Cuts off what a kill or a full disk left after the last complete line."""
    if not path.exists():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        os.truncate(path, complete)
