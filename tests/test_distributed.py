"""Several processes on one training: what one process comes to, and what becomes of the others when one is lost."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import together
import torch
from timm.layers import BatchNormAct2d, DropPath
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from hardfast.augment import (
    AffineAugmentor,
    Augmentor,
    ColorAugmentor,
    CutMix,
    MixAugmentor,
    SequentialAugmentor,
    ThinPlateAugmentor,
)
from hardfast.augment.baselines import make_baseline
from hardfast.data import LabelledImages
from hardfast.distill import (
    AugmentorObjective,
    Execution,
    FixedRatio,
    Thresholds,
    Trainer,
    TrainerConfig,
    measure,
    predict_logits,
)
from hardfast.distill.checkpoint import CheckpointPolicy
from hardfast.distill.processes import ALONE, LostProcessError, Processes, joined, told_of_loss
from hardfast.distill.run_dir import MethodDir
from hardfast.distill.shard import Shard
from hardfast.distill.sharded_layers import shard_layers
from hardfast.interruption import Interrupted
from hardfast.recipes.recipe import check_workers

CONFIG = TrainerConfig(16, 12, warmup_steps=5, validate_every=8, log_every=4, snapshots=2, snapshot_images=2)


def images(count: int, seed: int, size: int = 10) -> LabelledImages:
    """Three channels, four classes: the bright quadrant."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    pixels = 0.3 * torch.rand(count, 3, size, size, generator=generator)
    half = size // 2
    for pixel, label in zip(pixels, labels.tolist(), strict=True):
        pixel[:, half * (label // 2) :, half * (label % 2) :][:, :half, :half] += 0.6
    return LabelledImages(pixels, labels)


class Net(nn.Module):
    """Every kind of layer that looks at more than one image, or draws, and a parameter that nothing looks at."""

    def __init__(self, seed: int, *, width: int = 8) -> None:
        torch.manual_seed(seed)
        super().__init__()
        # No bias before a batch norm: its gradient is nothing but rounding, and Adam makes steps of that.
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            BatchNormAct2d(width, act_layer=nn.Sigmoid),
            nn.Dropout2d(0.1),
        )
        self.path = DropPath(0.3)
        self.unused = nn.Parameter(torch.ones(2))
        self.last = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, 4))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.features(images).mean((2, 3))
        return self.last(features + self.path(features.square()))


def supervised(processes: Processes) -> Trainer:
    return Trainer(Net(0), images(41, 0), images(17, 1), CONFIG, processes=processes, seed=3)


def policy(processes: Processes) -> Trainer:
    transform = make_baseline("crop_flip", flip=True)
    return Trainer(Net(0), images(41, 0), images(17, 1), CONFIG, transform=transform, processes=processes, seed=1)


def plain_transform(processes: Processes) -> Trainer:
    """A function of the whole batch, which a process alone with its part could not compute."""

    def transform(batch: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        shift = torch.randn(len(batch), 1, 1, 1, generator=generator)
        return batch + 0.1 * shift - 0.1 * batch.mean(0)

    return Trainer(Net(0), images(41, 0), images(17, 1), CONFIG, transform=transform, processes=processes)


def hard(processes: Processes, augmentor: Augmentor, config: TrainerConfig = CONFIG, **options) -> Trainer:
    torch.manual_seed(11)
    options = {"alternation": Thresholds(0.07, 0.09, max_augmentor_steps=4)} | options
    parts = {"teacher": Net(5, width=12), "augmentor": augmentor, "seed": 2, "processes": processes}
    return Trainer(Net(0), images(40, 0), images(17, 1), config, **parts, **options)


def thresholds(processes: Processes, **options) -> Trainer:
    augmentor = SequentialAugmentor(AffineAugmentor(components=2), ColorAugmentor(in_channels=3))
    return hard(processes, augmentor, replace(CONFIG, steps=50, ema_decay=0.9), **options)


def non_saturating(processes: Processes) -> Trainer:
    """The logarithm of a batch's mean is not the mean of its parts' logarithms; and 13 images are no whole shares."""
    objective = AugmentorObjective(form="non_saturating", teacher_weight=0.5)
    config = replace(CONFIG, batch_size=13, augmentor_objective=objective, reuse_augmented=False, cache_teacher=False)
    return hard(processes, ThinPlateAugmentor(), config, alternation=FixedRatio(2))


def mixes(processes: Processes) -> Trainer:
    return hard(processes, SequentialAugmentor(AffineAugmentor(), MixAugmentor()), alternation=FixedRatio(3))


def fixed_mix(processes: Processes) -> Trainer:
    return hard(processes, CutMix(), alternation=None)


def generated(processes: Processes) -> Trainer:
    options = {"teacher": Net(5), "generated": images(23, 4), "processes": processes}
    return Trainer(Net(0), images(41, 0), images(17, 1), CONFIG, **options)


def compiled(processes: Processes) -> Trainer:
    config = replace(CONFIG, steps=6, batch_size=8, execution=Execution(compile=True))
    options = {"alternation": FixedRatio(2), "teacher": linear(5), "augmentor": AffineAugmentor(), "seed": 2}
    return Trainer(linear(0), images(40, 0), images(17, 1), config, processes=processes, **options)


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(300, 4))


def train(processes: Processes, make) -> tuple[dict[str, torch.Tensor], list, object]:
    """Everything that was learned, each turn with the disagreement that decided it, and the summary."""
    trainer, turns = make(processes), []
    if trainer.alternation is not None:
        update = trainer.alternation.update
        trainer.alternation.update = lambda disagreement: (
            turns.append((trainer.alternation.phase, float(disagreement))) or update(disagreement)
        )
    summary = trainer.fit()
    learned = {"model": trainer.model, "trained": trainer.trained, "augmentor": trainer.augmentor}
    tensors = {
        f"{part}.{name}": value.clone()
        for part, module in learned.items()
        if module is not None
        for name, value in module.state_dict().items()
    }
    return tensors, turns, summary


CASES = [supervised, policy, plain_transform, thresholds, non_saturating, mixes, fixed_mix, generated, compiled]


def train_all(processes: Processes) -> dict[str, tuple]:
    # Compiling takes long enough in two processes.
    makes = [make for make in CASES if make is not compiled or processes.world_size < 4]
    return {make.__name__: train(processes, make) for make in makes}


@pytest.fixture(scope="module")
def alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield train_all(ALONE)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=[2, 4])
def answers(request, tmp_path_factory):
    """What each of several processes comes to, by rank."""
    return together.answers(train_all, request.param, tmp_path_factory.mktemp("together"))


@pytest.mark.parametrize("name", [make.__name__ for make in CASES])
def test_processes_come_to_what_one_comes_to(name, alone, answers):
    if name not in answers[0]:
        assert len(answers) == 4
        return
    tensors, turns, summary = alone[name]
    for rank, (theirs, their_turns, their_summary) in enumerate(answer[name] for answer in answers):
        assert their_turns == answers[0][name][1]  # all of one mind, to the last digit
        assert [phase for phase, _ in their_turns] == [phase for phase, _ in turns]
        assert their_summary == summary
        assert list(theirs) == list(tensors)
        for key, value in theirs.items():
            assert torch.equal(value, answers[0][name][0][key]), (rank, key)
            torch.testing.assert_close(
                value, tensors[key], rtol=2e-5, atol=2e-6, msg=lambda text, k=key: f"{k}: {text}"
            )


def test_both_phases_take_turns(alone):
    phases = [phase for phase, _ in alone["thresholds"][1]]
    assert {"student", "augmentor"} == set(phases)
    assert sum(a != b for a, b in itertools.pairwise(phases)) > 4


def evaluate(processes: Processes) -> list:
    """Of two networks, all that is measured of them, and the logits of an odd number of images."""
    teacher, student = Net(5, width=12), Net(0)
    tested = images(203, 9)
    found = measure({"t": teacher, "s": student}, tested, teachers={"s": "t"}, batch_size=7, processes=processes)
    choice = measure({"s": student}, tested, classes=torch.tensor([3, 1, 0, 2]), batch_size=50, processes=processes)
    few = predict_logits(student, images(3, 2), batch_size=2, processes=processes)
    return [found, choice, few.tolist(), predict_logits(student, tested.images, 11, processes).tolist()]


@pytest.mark.parametrize("world_size", [2, 4])
def test_evaluation_is_that_of_one_process_to_the_last_digit(world_size, tmp_path):
    alone = evaluate(ALONE)
    assert alone[0]["s"].kl_to_teacher > 0
    assert together.answers(evaluate, world_size, tmp_path) == [alone] * world_size


def train_half(processes: Processes, path: Path, steps: int | None) -> dict:
    """Trains with checkpoints, from the last one on where there is one; stops after some steps, or does not."""
    method = MethodDir(path, CheckpointPolicy("4", 2), processes)
    trainer = thresholds(processes, directory=method)
    resumed, step = trainer.resume(), trainer._student_step
    if steps is not None and processes.rank == processes.world_size - 1:  # the others are told by this one

        def stopping(bar) -> None:
            step(bar)
            if trainer.step == steps:
                os.kill(os.getpid(), signal.SIGTERM)

        trainer._student_step = stopping
    stopped = False
    try:
        trainer.fit()
    except Interrupted:
        stopped = True
    method.close()
    return {"resumed": resumed, "stopped": stopped, "step": trainer.step, "model": trainer.trained.state_dict()}


def test_stopped_processes_go_on_as_if_they_had_not_been(tmp_path):
    whole = together.answers(train_half, 2, tmp_path, tmp_path / "whole", None)
    first = together.answers(train_half, 2, tmp_path, tmp_path / "parts", 18)
    assert [(half["resumed"], half["stopped"], half["step"]) for half in first] == [(False, True, 20)] * 2
    second = together.answers(train_half, 2, tmp_path, tmp_path / "parts", None)
    for half, full in zip(second, whole, strict=True):
        assert (half["resumed"], half["stopped"], half["step"]) == (True, False, full["step"])
        for name, value in half["model"].items():
            assert torch.equal(value, full["model"][name]), name
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    assert len(lines[0]) == len(lines[1]) > 12  # one process alone writes
    # As many processes as there are go on with what others began.
    alone = train_half(ALONE, tmp_path / "alone", 18)
    assert alone["stopped"]
    both = together.answers(train_half, 2, tmp_path, tmp_path / "alone", None)
    for name, value in whole[0]["model"].items():
        torch.testing.assert_close(both[0]["model"][name], value, rtol=2e-5, atol=2e-6, msg=name)


def normalise(processes: Processes) -> list[torch.Tensor]:
    """Output, gradients and statistics of batch norms in double, over batches that do not split evenly."""
    found = []
    for options in ({}, {"affine": False, "momentum": None}, {"eps": 0.5, "momentum": 0.3}):
        torch.manual_seed(4)
        norm = nn.Sequential(nn.BatchNorm2d(5, **options)).double()
        images = (torch.randn(10, 5, 4, 3).double() * 3 + 1).to(memory_format=torch.channels_last)
        factors, shard = torch.randn(10, 5, 4, 3).double(), Shard(processes, 10)
        part = shard.of(images).clone().requires_grad_()
        output = shard_layers(norm, shard)(part)
        (output * shard.of(factors)).sum().backward()
        gradients = [processes.merge(parameter.grad) for parameter in norm.parameters()]
        found += [shard.whole(output), shard.whole(part.grad), *gradients, *norm.buffers()]
    return found


def test_batch_norms_are_those_of_the_whole_batch(tmp_path):
    alone = normalise(ALONE)
    for answer in together.answers(normalise, 3, tmp_path):
        torch.testing.assert_close(answer, alone, rtol=1e-12, atol=1e-12)


def lose(folder: Path, make: Callable[[Processes], Trainer], how: int, timeout_s: float) -> None:
    """Trains until the second process ends, or stands still, without a word."""
    with joined(timeout_s) as processes:
        trainer = make(processes)
        step = trainer._student_step

        def losing(bar) -> None:
            if trainer.step == 3 and processes.rank == 1:
                (folder / "lost").write_text(str(os.getpid()))
                os.kill(os.getpid(), how)
            step(bar)

        trainer._student_step = losing
        try:
            with told_of_loss(processes):
                trainer.fit()
        except LostProcessError as error:
            (folder / f"told-of-loss-{processes.rank}").write_text(str(error))
            os._exit(7)


@pytest.mark.parametrize(("how", "timeout_s"), [(signal.SIGKILL, 600), (signal.SIGSTOP, 3)])
def test_others_stop_when_a_process_is_lost(how, timeout_s, tmp_path):
    started = together.start(lose, 3, tmp_path, tmp_path, supervised, how, timeout_s)
    try:
        for rank in (0, 2):
            started[rank].join(60)
            assert started[rank].exitcode == 7
            told = (tmp_path / f"told-of-loss-{rank}").read_text()
            assert told.startswith(f"process {rank} of 3 lost another one and stops: ")
    finally:
        started[1].kill()
        started[1].join()


def test_batches_are_split_without_gaps():
    for world_size, batch_size in [(1, 1), (2, 5), (4, 13), (7, 7), (3, 64)]:
        shards = [Shard(Processes(rank, world_size), batch_size) for rank in range(world_size)]
        whole = torch.arange(3 * batch_size).view(3, batch_size)
        parts = [shard.of(whole.flatten()).view(3, -1) for shard in shards]
        assert torch.equal(torch.cat(parts, 1), whole)
        assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shard(Processes(0, 4), 3), "batch_size must be at least one image for each of the 4 processes, got 3"),
        (lambda: Processes(2, 2), "rank must be below world_size, 2, got 2"),
        (lambda: Processes(0, 0), "world_size must be"),
        (lambda: Processes(-1, 2), "rank must be"),
        (lambda: check_workers(2, Processes(0, 4)), "workers must be 1 where 4 processes train together; got 2"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dropout_inside_of_attention_is_refused():
    transformer = VisionTransformer(14, 7, 1, 3, embed_dim=8, depth=1, num_heads=2, attn_drop_rate=0.3)
    part = shard_layers(transformer, Shard(Processes(1, 2), 6))
    with pytest.raises(ValueError, match=r"attn_drop_rate\), got Dropout\(p=0\.3"):
        part(torch.rand(3, 1, 14, 14))


def test_an_environment_that_is_not_torchruns_is_named(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="RANK is set and LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not"), joined():
        pass


def fail_on_the_first(processes: Processes) -> str:
    try:
        processes.from_first(lambda: {}["absent"])
    except KeyError as error:
        return repr(error)
    return "nothing"


def test_what_the_first_process_raises_all_raise(tmp_path):
    assert together.answers(fail_on_the_first, 3, tmp_path) == ["KeyError('absent')"] * 3
