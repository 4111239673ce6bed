"""Several processes that do the same, as torchrun starts them, for tests."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.distributed import environments
from hardfast.distill.processes import joined


def quick_processes() -> Any:
    """The context of processes that start in milliseconds, and not with the threads of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_elsewhere", "test_distributed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()
    return context


def start(function: Callable[..., Any], world_size: int, folder: Path, *arguments: Any) -> list:
    """Starts processes that call ``function(*arguments)``; rank ``r`` prints to ``folder/told-r.txt``."""
    context = quick_processes()
    started = []
    for rank, environment in enumerate(environments(world_size)):
        told = folder / f"told-{rank}.txt"
        process = context.Process(target=_call, args=(environment, told, function, arguments))
        process.start()
        started.append(process)
    return started


def answers(function: Callable[..., Any], world_size: int, folder: Path, *arguments: Any) -> list[Any]:
    """What ``function(processes, *arguments)`` returns in each of the joined processes."""
    started = start(_save, world_size, folder, folder, function, arguments)
    for process in started:
        process.join()
    told = [(folder / f"told-{rank}.txt").read_text() for rank in range(world_size)]
    assert [process.exitcode for process in started] == [0] * world_size, told
    return [torch.load(folder / f"answer-{rank}.pt", weights_only=False) for rank in range(world_size)]


def _call(environment: dict[str, str], told: Path, function: Callable[..., Any], arguments: tuple) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    function(*arguments)


def _save(folder: Path, function: Callable[..., Any], arguments: tuple) -> None:
    with joined(timeout_s=60) as processes:
        torch.save(function(processes, *arguments), folder / f"answer-{processes.rank}.pt")


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Waits for what another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
