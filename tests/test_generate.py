"""Generation as a program: the set is the same however it came about, and nothing is lost on the way."""

from __future__ import annotations

import math
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from multiprocessing import forkserver

import pytest
import torch
from diffusers import DDIMScheduler
from diffusion_models import TinyDenoiser
from fake_maker import GROUP, FakeMaker, generate, generate_elsewhere, generate_until, tree
from torch import nn

from hardfast.diffusion import CutOuts, GuidanceSettings, Sampler, Schedule, guide, seeded_noise
from hardfast.diffusion.generate import generate_images
from hardfast.diffusion.image_store import FORMATS, ImageStore

COUNT = 14  # the fourth group is cut


@pytest.fixture(scope="module", params=FORMATS)
def reference(request, tmp_path_factory):
    """A format, and the files of an uninterrupted run."""
    path = tmp_path_factory.mktemp("reference") / "set"
    generate(path, request.param, COUNT)
    return request.param, tree(path)


@pytest.fixture(scope="module")
def processes():
    """Processes that start in milliseconds, and not with the threads of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fake_maker"])
    with pytest.MonkeyPatch.context() as patch:
        # Before Python 3.12 the server does not look for what it is to load where this process does.
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        forkserver.ensure_running()
    return context


def test_summary_counts_every_candidate(tmp_path):
    maker = FakeMaker()
    summary = generate(tmp_path, "folder", COUNT, maker=maker)
    reasons = [maker.reason(number) for number in range(COUNT)]
    assert summary.made == COUNT
    assert summary.skipped == 0
    assert summary.kept == reasons.count(None)
    assert summary.dropped == {reason: reasons.count(reason) for reason in ("not finite", "teacher")}
    assert summary.images_per_second == pytest.approx(COUNT / summary.seconds)
    # The last group is made whole, though two of its numbers are not stored.
    assert maker.made == [list(range(start, start + GROUP)) for start in (0, 4, 8, 12)]


def test_a_finished_set_is_left_alone(reference, tmp_path):
    format, expected = reference
    generate(tmp_path, format, COUNT)
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "images").rglob("*.*") if file.suffix != ".jsonl"}
    maker = FakeMaker()
    summary = generate(tmp_path, format, COUNT, maker=maker)
    assert (summary.made, summary.skipped, summary.images_per_second) == (0, COUNT, 0.0)
    assert maker.made == []
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert tree(tmp_path) == expected


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("strategy='recursive'"), KeyboardInterrupt()])
def test_continues_after_an_error(reference, tmp_path, error):
    format, expected = reference

    class Failing(FakeMaker):
        def make(self, numbers):
            if numbers[0] == 2 * GROUP:
                raise error
            return super().make(numbers)

    with pytest.raises(type(error)) as raised:
        generate(tmp_path, format, COUNT, maker=Failing())
    assert raised.value is error
    maker = FakeMaker()
    summary = generate(tmp_path, format, COUNT, maker=maker)
    assert (summary.made, summary.skipped) == (COUNT - 2 * GROUP, 2 * GROUP)
    assert tree(tmp_path) == expected


def test_interrupt_waits_for_the_group(reference, tmp_path):
    format, expected = reference

    class Interrupted(FakeMaker):
        def make(self, numbers):
            if numbers[0] == GROUP:
                signal.raise_signal(signal.SIGINT)
            return super().make(numbers)

    before = signal.getsignal(signal.SIGINT)
    maker = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, format, COUNT, maker=maker)
    assert len(maker.made) == 2
    assert signal.getsignal(signal.SIGINT) is before
    assert ImageStore.open(tmp_path).counts()["to be made"] == COUNT - 2 * GROUP
    generate(tmp_path, format, COUNT)
    assert tree(tmp_path) == expected


def test_second_interrupt_stops_at_once(tmp_path):
    class Interrupted(FakeMaker):
        def make(self, numbers):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, "folder", COUNT, maker=Interrupted())
    assert ImageStore.open(tmp_path).counts() == {"kept": 0, "to be made": COUNT}


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_one_after_the_other(reference, tmp_path, world_size):
    format, expected = reference
    made = 0
    for rank in reversed(range(world_size)):
        made += generate(tmp_path, format, COUNT, rank=rank, world_size=world_size).made
    assert made == COUNT
    assert tree(tmp_path) == expected


def test_processes_at_once(reference, tmp_path, processes):
    format, expected = reference
    ready = processes.Event()
    workers = [
        processes.Process(
            target=generate_elsewhere,
            args=(tmp_path / "set", format, COUNT, 0.01, ready),
            kwargs={"rank": rank, "world_size": 3},
        )
        for rank in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert tree(tmp_path / "set") == expected


def test_a_larger_count_continues(reference, tmp_path):
    format, expected = reference
    generate(tmp_path, format, GROUP + 3)
    maker = FakeMaker()
    summary = generate(tmp_path, format, COUNT, maker=maker)
    assert (summary.made, summary.skipped) == (COUNT - GROUP, GROUP)  # a group that was cut is made again
    assert summary.broken == ()
    assert tree(tmp_path) == expected


def test_twenty_kills(reference, tmp_path, processes):
    """At random moments of making and writing; the process would never end by itself."""
    format, _ = reference
    path, count = tmp_path / "killed", 160
    moments = random.Random(f"kills of {format}")
    left = set()
    for _ in range(20):
        ready = processes.Event()
        arguments = path, format, count, 0.02, ready
        worker = processes.Process(target=generate_elsewhere, args=arguments, kwargs={"stuck_from": count - GROUP})
        worker.start()
        assert ready.wait(60)
        time.sleep(moments.uniform(0.0, 0.2))
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        left.add(ImageStore.open(path).counts()["to be made"] if (path / "generation.json").exists() else count)
    assert len(left) > 3, left  # they came in different places
    generate(path, format, count)
    generate(tmp_path / "whole", format, count)
    assert tree(path) == tree(tmp_path / "whole")


def test_killed_before_every_write(reference, tmp_path, processes):
    """Wherever a process ends between two operations on files, the next one makes the same set of what is left."""
    format, _ = reference
    generate(tmp_path / "whole", format, 5)
    expected = tree(tmp_path / "whole")
    operation, ended = 0, False
    while not ended:
        path = tmp_path / f"killed-{operation}"
        worker = processes.Process(target=generate_until, args=(path, format, 5, operation))
        worker.start()
        worker.join()
        ended = worker.exitcode == 0
        assert ended or worker.exitcode == -signal.SIGKILL
        generate(path, format, 5)
        assert tree(path) == expected, f"killed before operation {operation}"
        operation += 4 if operation > 8 else 1
    assert operation > 30


class _NanForSome(nn.Module):
    """Answers NaN to images that are brighter than another teacher would mind."""

    def __init__(self, seed: int, threshold: float) -> None:
        super().__init__()
        self.weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        self.threshold = threshold

    def forward(self, images):
        means = images.mean((2, 3))
        return torch.where(means[:, :1] > self.threshold, torch.nan, means @ self.weight)


class _SearchingMaker(FakeMaker):
    """The real search, on images that would be valid but for the teacher."""

    def make(self, numbers):
        noise = seeded_noise([self.seed_of(number) for number in numbers], (2, 6, 6)).double()
        sampler = Sampler(TinyDenoiser(strength=0.5), Schedule.from_scheduler(DDIMScheduler(clip_sample=False), 3))
        guided = guide(
            sampler,
            _NanForSome(0, math.inf),
            _NanForSome(1, 0.6),
            torch.tensor([number % 3 for number in numbers]),
            noise,
            list(numbers),
            conditioning=torch.zeros(len(numbers), 6, dtype=torch.float64),
            decode=lambda latents: latents.sigmoid(),
            settings=GuidanceSettings(cutouts=CutOuts(size=6, smallest=4, count=2), iterations=1),
        )
        # PNG files have one or three channels.
        return replace(guided, images=guided.images[:, :1], images_before=guided.images_before[:, :1])


def test_nan_guidance_is_dropped_and_counted(tmp_path):
    maker = _SearchingMaker()
    valid = torch.cat([maker.make(range(start, start + 4)).valid for start in (0, 4)])
    assert 0 < valid.sum() < 8
    store = ImageStore(tmp_path, "webdataset")
    summary = generate_images(maker, 8, store, group_size=4, progress=False)
    assert summary.made == 8
    assert summary.dropped["not finite"] == int((~valid).sum())
    assert [item.reason != "not finite" for item in store.candidates()] == valid.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "count must be an integer of at least 1, got 0"),
        ({"group_size": 0}, "group_size must be an integer of at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank must be below world_size, 2, got 2"),
        ({"rank": -1}, "rank must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    options = {"count": 4, "group_size": 2, **options}
    with pytest.raises(ValueError, match=message):
        generate_images(FakeMaker(), options.pop("count"), ImageStore(tmp_path / "set"), **options)
    assert not (tmp_path / "set").exists()


def test_a_label_outside_the_classes(tmp_path):
    maker = FakeMaker()
    maker.class_names = ("square", "circle")
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), the classes named, got 2"):
        generate(tmp_path, "folder", 4, maker=maker)


def test_a_maker_of_too_few_images(tmp_path):
    class Short(FakeMaker):
        def make(self, numbers):
            return super().make(numbers[:-1])

    with pytest.raises(ValueError, match="the maker must return 4 images, one a number, got 3"):
        generate(tmp_path, "folder", 4, maker=Short())
