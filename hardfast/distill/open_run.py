"""Which directory a run goes to, and that one process alone writes there."""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hardfast.distill.atomic import write_error
from hardfast.distill.checkpoint import CheckpointPolicy
from hardfast.distill.processes import ALONE, Processes
from hardfast.distill.run_dir import UNFINISHED, RunDir

__all__ = ["held", "open_run"]


def open_run(
    config: Mapping[str, Any],
    out: Path | None,
    resume: str,
    policy: CheckpointPolicy,
    processes: Processes = ALONE,
) -> RunDir:
    """Opens the directory of a run: that of an earlier one to be continued, or a new one.

    Args:
        config: of the recipe, as :meth:`RunDir.write_config` takes it.
        out: directory of the run; None for ``runs/<recipe>/<time>``.
        resume: ``"auto"`` continues the run in ``out`` or, without ``out``, the last one of the recipe that has the
            same settings, is not finished and is written by nobody; where there is none, a run begins. ``"never"``
            begins one. Anything else is the directory of the run to continue.
        policy: of the checkpoints.
        processes: those that train together; the first one looks for all.

    Raises:
        ValueError: the directory's run has other settings, or two directories are given.
        FileNotFoundError: there is no run to continue in ``resume``.
        FileExistsError, NotADirectoryError: ``out`` is not empty and no run, or a file.
        OSError: the directory cannot be made.
    """
    return RunDir(processes.from_first(lambda: _path(config, out, resume)), policy, processes)


def _path(config: Mapping[str, Any], out: Path | None, resume: str) -> Path:
    recipe = config["recipe"]
    if resume not in ("auto", "never"):
        path = Path(resume)
        if out is not None and Path(out) != path:
            raise ValueError(f"give either --out or the directory of --resume; got {out} and {path}")
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"--resume {path} must be the directory of a run, auto or never; it has no config.json"
            )
    elif resume == "auto" and out is not None and (Path(out) / "config.json").is_file():
        path = Path(out)
    elif resume == "auto" and out is None and (found := _last_unfinished(Path("runs") / recipe, config)):
        path = found
    else:
        return RunDir.create(recipe, out).path
    RunDir(path).check_config(config)
    return path


@contextmanager
def held(run_dir: RunDir) -> Iterator[None]:
    """Keeps others from a run, and marks it as not finished until the block ends without an error.

    What a killed process left half-written is removed.

    Raises:
        BlockingIOError: another process is writing there.
        OSError: the directory cannot be written.
    """
    with ExitStack() as stack:
        run_dir.processes.from_first(lambda: stack.enter_context(_held(run_dir)))
        yield


@contextmanager
def _held(run_dir: RunDir) -> Iterator[None]:
    mark = run_dir.path / UNFINISHED
    try:
        file = open(mark, "ab")  # noqa: SIM115 - closed below, in the same block
    except OSError as error:
        raise write_error(mark, error, "nothing was begun") from error
    with file:
        if not _lock(file):
            raise BlockingIOError(
                errno.EAGAIN, f"{run_dir.path} is being written by another process; wait for it, or give another --out"
            )
        for temporary in run_dir.path.rglob(".*.tmp"):
            temporary.unlink(missing_ok=True)
        yield
        mark.unlink(missing_ok=True)


def _last_unfinished(parent: Path, config: Mapping[str, Any]) -> Path | None:
    for mark in sorted(parent.glob(f"*/{UNFINISHED}"), reverse=True):
        with suppress(ValueError, OSError), open(mark, "rb") as file:
            if (mark.parent / "config.json").exists() and _lock(file):
                RunDir(mark.parent).check_config(config)
                return mark.parent
    return None


def _lock(file: Any) -> bool:
    """Whether this process could lock a file, until it is closed; the lock of a killed one ends with it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
