"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["atomic_write", "make_directory", "plain", "write_bytes", "write_error", "write_json"]

_ELSEWHERE = "choose another directory (--out)"
_REMEDIES = {
    errno.ENOSPC: f"free some space or {_ELSEWHERE}",
    errno.EDQUOT: f"free some of the disk quota or {_ELSEWHERE}",
    errno.EFBIG: f"raise the file-size limit (ulimit -f) or {_ELSEWHERE}",
    errno.EACCES: f"make the directory writable or {_ELSEWHERE}",
    errno.EPERM: f"make the directory writable or {_ELSEWHERE}",
    errno.EROFS: _ELSEWHERE,
}


def write_error(path: Path, error: OSError, consequence: str) -> OSError:
    """Returns an OSError of the same errno that says which file, which cause and what to do."""
    cause = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, f"check that the directory exists, or {_ELSEWHERE}")
    return OSError(error.errno or errno.EIO, f"cannot write {path}: {cause}; {consequence}; {remedy}")


def _sync_directory(directory: Path) -> None:
    """Makes a rename in ``directory`` survive a power cut (POSIX only; elsewhere directories cannot be opened)."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Writes a file aside, then rename it over ``path``: readers see the old file or the new one, never a part.

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
        raise write_error(path, error, consequence) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    """:func:`atomic_write` of what is in memory."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    return atomic_write(path, write)


def write_json(path: Path, value: Any) -> Path:
    """:func:`atomic_write` of a value as :func:`plain` has it."""
    return write_bytes(path, (json.dumps(plain(value), indent=2, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """Returns ``value`` as strict JSON has it: paths as text, tuples as lists, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def make_directory(path: Path) -> None:
    """Makes a directory with its parents, if it is not there.

    Raises:
        OSError: it cannot be made; the message names cause and remedy.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error, "no directory was made") from error
