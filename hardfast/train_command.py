"""What ``hardfast train`` does once its arguments are known."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from hardfast import report_command
from hardfast.data.image_files import UnreadableImageError
from hardfast.distill.checkpoint import CheckpointPolicy
from hardfast.distill.open_run import held, open_run
from hardfast.distill.processes import LostProcessError, joined, told_of_loss
from hardfast.distill.run_dir import UNFINISHED, RunDir
from hardfast.interruption import Interrupted, exit_status, interruptible
from hardfast.out_of_memory import ran_out_of_memory
from hardfast.recipes.recipe import Recipe, WorkerDiedError
from hardfast.report import BrokenRunError

__all__ = ["TrainingError", "run"]


class TrainingError(Exception):
    """The command cannot go on, and the message says all that the user needs."""


#: By their messages.
_TOLD_WHOLLY = (OSError, FloatingPointError, UnreadableImageError, WorkerDiedError, LostProcessError)


def run(recipe: Recipe, out: Path | None, resume: str, checkpoint_every: str, keep_checkpoints: int) -> int:
    """Runs a recipe, or goes on with it, prints the results and writes the report.

    With torchrun, all of its processes train every network together.

    Args:
        recipe: the recipe.
        out: directory of the run; None for ``runs/RECIPE/TIME``.
        resume: as :func:`open_run` takes it.
        checkpoint_every: as :class:`CheckpointPolicy` takes it.
        keep_checkpoints: how many of each training, >= 1.

    Returns:
        Exit status: 0 done, 130 interrupted by Ctrl-C, 143 by SIGTERM.

    Raises:
        TrainingError: wrong settings, missing data, a full disk, too little memory, steps that are not finite, or
            another process was lost.
    """
    with ExitStack() as stack:
        try:
            policy = CheckpointPolicy(checkpoint_every, keep_checkpoints)
            config = recipe.resolved().describe()  # all is checked before anything is on disk
            processes = stack.enter_context(joined())
            run_dir = open_run(config, out, resume, policy, processes)
        except (ValueError, OSError, LostProcessError) as error:
            raise TrainingError(error) from error
        return _train(recipe, run_dir)


def _train(recipe: Recipe, run_dir: RunDir) -> int:
    """Trains with all processes; the first one reports."""
    first = run_dir.processes.first
    if first:
        begun = (run_dir.path / "config.json").exists()
        print(f"{recipe.name}: {recipe.title}\n{'continuing' if begun else 'writing to'} {run_dir.path}", flush=True)
    start = time.perf_counter()
    try:
        with interruptible(), held(run_dir), told_of_loss(run_dir.processes):
            recipe.run(run_dir, progress=first)
    except KeyboardInterrupt as stop:
        return _interrupted(recipe, run_dir, stop, time.perf_counter() - start) if first else exit_status(stop)
    except BlockingIOError as error:  # what is there is another process's
        raise TrainingError(error) from error
    except _TOLD_WHOLLY as error:
        raise _failed(run_dir, error) from error
    except (RuntimeError, ValueError) as error:
        trained = any(run_dir.path.glob("*/*/metrics.jsonl"))
        if ran_out_of_memory(error) or (isinstance(error, ValueError) and not trained):
            raise _failed(run_dir, error) from error
        raise  # in the middle of training it is no slip of the user, and the traceback is needed
    if first:
        _finish(run_dir)
    return 0


def _interrupted(recipe: Recipe, run_dir: RunDir, stop: KeyboardInterrupt, seconds: float) -> int:
    print(f"\ninterrupted after {seconds:.0f} s", file=sys.stderr)
    if (run_dir.path / "config.json").exists():
        told = f"the same command continues it, or: hardfast train {recipe.name} [OPTIONS] --resume {run_dir.path}"
        print(told, file=sys.stderr)
    if isinstance(stop, Interrupted) and (stop.at_once or exit_status(stop) != exit_status(KeyboardInterrupt())):
        return exit_status(stop)  # who sends SIGTERM does not wait for a report
    try:
        _finish(run_dir)
    except TrainingError as error:
        print(f"hardfast: {error}", file=sys.stderr)
    return exit_status(stop)


def _finish(run_dir: RunDir) -> None:
    """Prints the results and writes the report, as far as the run has come."""
    if _remove_if_empty(run_dir):
        raise TrainingError("nothing was written")
    try:
        report_command.run(run_dir.path)
    except (BrokenRunError, OSError) as error:
        raise TrainingError(error) from error


def _failed(run_dir: RunDir, error: Exception) -> TrainingError:
    nothing = run_dir.processes.first and _remove_if_empty(run_dir)
    if nothing or not (run_dir.path / "config.json").exists():
        return TrainingError(error)
    diverged = isinstance(error, FloatingPointError)
    remedy = "with other settings, take another --out" if diverged else "the same command continues it"
    return TrainingError(f"{error}\nwhat is in {run_dir.path} is whole; {remedy}")


def _remove_if_empty(run_dir: RunDir) -> bool:
    """Removes the directory of a run that has left nothing but its mark."""
    if any(child.name != UNFINISHED for child in run_dir.path.iterdir()):
        return False
    with suppress(OSError):
        (run_dir.path / UNFINISHED).unlink(missing_ok=True)
        run_dir.path.rmdir()
    return True
