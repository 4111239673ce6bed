"""Seeds in processes of their own: one that dies, being asked to stop, and a parent that is killed."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import together
import train_elsewhere

from hardfast.interruption import Interrupted, exit_status
from hardfast.recipes import recipe as recipe_module
from hardfast.recipes.recipe import WorkerDiedError, of_each_seed


@pytest.fixture(scope="module", autouse=True)
def processes():
    """Processes that start in milliseconds, in place of those that import everything anew."""
    context = together.quick_processes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe_module.multiprocessing, "get_context", lambda method: context)
        yield context


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_answers_come_in_the_order_of_the_seeds():
    assert list(of_each_seed(abs, [-3, -1, -2], 2)) == [3, 1, 2]


def test_a_worker_that_dies_is_told_and_the_others_save(tmp_path):
    work = partial(train_elsewhere.learn_beside, tmp_path, train_elsewhere.die)
    with pytest.raises(
        WorkerDiedError, match=r"one of the 2 processes of --workers died; .* the same command continues"
    ):
        list(of_each_seed(work, range(3), 2))
    assert names(tmp_path) == {"begun-1", "saved-1"}


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_every_worker_saves_and_none_takes_up_another_seed(tmp_path, signum, status):
    work = partial(train_elsewhere.learn_beside, tmp_path, partial(train_elsewhere.send, os.getpid(), signum))
    with pytest.raises(Interrupted) as stop:
        list(of_each_seed(work, range(5), 2))
    assert exit_status(stop.value) == status
    assert names(tmp_path) == {"begun-0", "begun-1", "saved-0", "saved-1"}


def test_asked_twice_nobody_is_waited_for(tmp_path):
    with pytest.raises(Interrupted) as stop:
        list(of_each_seed(partial(train_elsewhere.deaf, tmp_path, os.getpid()), range(2), 2))
    assert (exit_status(stop.value), stop.value.at_once) == (143, True)


def test_workers_end_with_a_parent_that_is_killed(tmp_path, processes):
    work = partial(train_elsewhere.learn, tmp_path)
    parent = processes.Process(target=train_elsewhere.seeds_of, args=(work, 2, 2))
    parent.start()
    for seed in range(2):
        train_elsewhere.wait_for(tmp_path / f"begun-{seed}")
    time.sleep(0.1)
    pids = [int((tmp_path / f"begun-{seed}").read_text()) for seed in range(2)]
    parent.kill()
    parent.join()
    end = time.monotonic() + 30
    while not all(map(gone, pids)):
        assert time.monotonic() < end
        time.sleep(0.02)
