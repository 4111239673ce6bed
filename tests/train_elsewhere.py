"""What tests of ``hardfast train`` run in processes of their own, which start with all of this imported."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import sklearn.datasets  # noqa: F401 - imported when data are loaded
import torch
import torch.utils.tensorboard

import hardfast.report  # noqa: F401 - imported when results are reported
from hardfast.cli import main
from hardfast.distill.checkpoint import Checkpoints
from hardfast.interruption import interruption
from hardfast.recipes import RECIPES  # noqa: F401 - imported when a recipe is looked for
from hardfast.recipes.recipe import of_each_seed


def train(arguments: list[str], told: Path, prepare: Callable[[], None] | None = None) -> None:
    """Ends the process with the exit status of ``hardfast train``; what it prints goes to a file."""
    torch.set_num_threads(1)
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if prepare is not None:
        prepare()
    sys.exit(main(["train", *arguments]))


def fill_disk_after(checkpoints: int) -> None:
    """After so many checkpoints no file can grow beyond a page any more."""
    save, left = Checkpoints.save, iter(range(checkpoints - 1, -1, -1))

    def saving(*args) -> Path:
        path = save(*args)
        if next(left) == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        return path

    Checkpoints.save = saving


def leave_memory(mebibytes: int) -> None:
    """Lets the process have so much more memory than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def seeds_of(work: Callable[[int], int], seeds: int, workers: int) -> None:
    """Has a pool work, for a test that kills this process."""
    list(of_each_seed(work, range(seeds), workers))


def wait_for(path: Path) -> None:
    """Waits until another process has made a file."""
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.005)


def learn(folder: Path, seed: int) -> int:
    """Begins, and learns until it is asked to stop; then it saves, and does not answer."""
    (folder / f"begun-{seed}").write_text(str(os.getpid()))
    with interruption("saving") as asked:
        while not asked.requested:
            time.sleep(0.005)
        (folder / f"saved-{seed}").touch()
        asked.raise_if_requested()
    return seed


def learn_beside(folder: Path, act: Callable[[], None], seed: int) -> int:
    """The first seed waits for the second to begin, does something, and learns."""
    if seed == 0:
        wait_for(folder / "begun-1")
        act()
    return learn(folder, seed)


def die() -> None:
    """Ends this process as the kernel does that of the most memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def send(pid: int, *signums: int) -> None:
    """Sends signals to a process, the next one when it may have seen the last."""
    for signum in signums:
        os.kill(pid, signum)
        time.sleep(0.2)


def deaf(folder: Path, parent: int, seed: int) -> int:
    """Never looks whether it is asked to stop, and has its parent asked twice."""
    (folder / f"begun-{seed}").write_text(str(os.getpid()))
    if seed == 0:
        send(parent, signal.SIGINT, signal.SIGTERM)
    time.sleep(600)
    return seed
