"""A network that several processes divide among them: what one process comes to, and who holds what."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import timm
import together
import torch
from safetensors.torch import load_file
from test_distributed import CONFIG, Net, hard, images, linear, lose, train
from torch import nn
from torch.distributed.tensor import DTensor

from hardfast.augment import AffineAugmentor, ColorAugmentor, SequentialAugmentor, ThinPlateAugmentor
from hardfast.distill import AugmentorObjective, Execution, FixedRatio, Thresholds, Trainer, TrainerConfig
from hardfast.distill.checkpoint import CheckpointPolicy, read_checkpoint
from hardfast.distill.finite_steps import FiniteSteps
from hardfast.distill.fully_sharded import FullySharded
from hardfast.distill.processes import ALONE, Processes
from hardfast.distill.run_dir import MethodDir
from hardfast.interruption import Interrupted

SHARDED = Execution(fully_shard=True)


def supervised(processes: Processes) -> Trainer:
    config = replace(CONFIG, steps=8, execution=SHARDED)
    return Trainer(Net(0), images(41, 0), images(17, 1), config, processes=processes, seed=3)


def thresholds(processes: Processes, *, fully_shard: bool = True, steps: int = 14, **options) -> Trainer:
    """Both phases, the average of the weights, and channels last."""
    augmentor = SequentialAugmentor(AffineAugmentor(components=2), ColorAugmentor(in_channels=3))
    execution = Execution(channels_last=True, fully_shard=fully_shard)
    config = replace(CONFIG, steps=steps, log_every=2, ema_decay=0.9, weight_decay=0.1, execution=execution)
    options = {"alternation": Thresholds(0.1, 0.12, max_augmentor_steps=4)} | options
    return hard(processes, augmentor, config, **options)


def non_saturating(processes: Processes) -> Trainer:
    """13 images are no whole shares."""
    objective = AugmentorObjective(form="non_saturating", teacher_weight=0.5)
    config = replace(CONFIG, steps=8, batch_size=13, augmentor_objective=objective, execution=SHARDED)
    return hard(processes, ThinPlateAugmentor(), replace(config, reuse_augmented=False), alternation=FixedRatio(2))


def half_precision(processes: Processes) -> Trainer:
    config = replace(CONFIG, steps=4, execution=replace(SHARDED, precision="bfloat16"))
    return hard(processes, AffineAugmentor(), config, alternation=FixedRatio(2))


def compiled(processes: Processes) -> Trainer:
    """A vision transformer, by PyTorch's quickest compiler."""
    torch.manual_seed(0)
    size = {"img_size": 10, "patch_size": 5, "embed_dim": 16, "depth": 2, "num_heads": 2}
    student = timm.create_model("vit_tiny_patch16_224", **size, num_classes=4)
    config = replace(CONFIG, steps=4, batch_size=8, execution=replace(SHARDED, compile=True))
    options = {"alternation": FixedRatio(2), "teacher": linear(5), "augmentor": AffineAugmentor(), "seed": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
        return Trainer(student, images(40, 0), images(17, 1), config, processes=processes, **options)


#: Three processes do not divide eight channels evenly.
CASES: dict[int, list[Callable[[Processes], Trainer]]] = {
    2: [supervised, thresholds, non_saturating, half_precision, compiled],
    3: [non_saturating],
}


def train_all(processes: Processes, world_size: int) -> dict[str, tuple]:
    return {make.__name__: train(processes, make) for make in CASES[world_size]}


@pytest.fixture(scope="module")
def alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield train_all(ALONE, 2)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CASES)
def answers(request, tmp_path_factory):
    """What each of several processes comes to, by rank."""
    return together.answers(train_all, request.param, tmp_path_factory.mktemp("together"), request.param)


def test_the_division_does_not_show_in_what_is_learned(alone, answers):
    for rank, answer in enumerate(answers):
        for name, (theirs, their_turns, their_summary) in answer.items():
            tensors, turns, summary = alone[name]
            assert their_turns == answers[0][name][1]  # all of one mind, to the last digit
            assert [phase for phase, _ in their_turns] == [phase for phase, _ in turns]
            assert their_summary == summary
            assert list(theirs) == list(tensors)
            rounding = {"rtol": 2e-2, "atol": 2e-3} if name == "half_precision" else {"rtol": 2e-5, "atol": 2e-6}
            for key, value in theirs.items():
                assert type(value) is torch.Tensor
                assert torch.equal(value, answers[0][name][0][key]), (rank, name, key)
                torch.testing.assert_close(
                    value, tensors[key], **rounding, msg=lambda text, k=(name, key): f"{k}: {text}"
                )


def test_both_phases_take_turns(alone):
    phases = [phase for phase, _ in alone["thresholds"][1]]
    assert sum(a != b for a, b in itertools.pairwise(phases)) > 4


def holdings(processes: Processes) -> dict[str, tuple[int, int]]:
    """In the middle of a training, numbers that this process has of each kind, and how many there are."""
    trainer, found = thresholds(processes, steps=3), {}
    learner, step = trainer._learner, trainer._student_step

    def watched(bar) -> None:
        step(bar)
        gradients = [parameter.grad for parameter in learner.network.parameters() if parameter.grad is not None]
        moments = [value for state in learner.optimizer.state.values() for value in state.values() if value.dim()]
        kinds = {
            "weights": list(learner._held.parameters()),
            "gradients": [value.grad for value in learner._held.parameters() if value.grad is not None],
            "moments": moments,
            "average": list(learner._average.module.parameters()),
        }
        for kind, tensors in kinds.items():
            assert all(isinstance(tensor, DTensor) for tensor in tensors), kind
            found[kind] = (sum(t.to_local().numel() for t in tensors), sum(t.numel() for t in tensors))
        plain = itertools.chain(trainer.model.parameters(), trainer.trained.parameters(), gradients)
        found["plain"] = (sum(tensor.untyped_storage().nbytes() for tensor in plain), 0)

    trainer._student_step = watched
    trainer.fit()
    return found


def test_each_process_holds_its_share_alone(tmp_path):
    both = together.answers(holdings, 2, tmp_path)
    for kind in ("weights", "gradients", "moments", "average"):
        (first, all_of_it), (second, _) = (answer[kind] for answer in both)
        assert first + second == all_of_it > 700, kind
        assert 0.4 < first / all_of_it < 0.6, kind
    assert [answer["plain"] for answer in both] == [(0, 0)] * 2


def train_part(processes: Processes, path: Path, fully_shard: bool, last: int | None) -> dict[str, torch.Tensor] | None:
    """Goes on from the last checkpoint, to the end or until it is stopped after a step: then there is no answer."""
    directory = MethodDir(path, CheckpointPolicy("2"), processes)
    trainer = thresholds(processes, fully_shard=fully_shard, directory=directory)
    trainer.resume()
    step = trainer._student_step

    def stopping(bar) -> None:
        step(bar)
        if trainer.step == last and processes.first:
            os.kill(os.getpid(), signal.SIGTERM)

    trainer._student_step = stopping
    try:
        trainer.fit()
    except Interrupted:
        return None
    return {**trainer.model.state_dict(), **{f"average.{k}": v for k, v in trainer.trained.state_dict().items()}}


def parts_of_a_training(processes: Processes, path: Path, parts: list[tuple[bool, int | None]]) -> list:
    return [train_part(processes, path, *part) for part in parts]


def test_a_training_goes_on_divided_or_whole_from_the_same_files(tmp_path):
    together.answers(parts_of_a_training, 2, tmp_path, tmp_path / "one go", [(True, None)])
    wanted = together.answers(parts_of_a_training, 2, tmp_path, tmp_path / "again", [(True, 6), (True, None)])
    assert wanted[0][0] is None
    whole, again = (load_file(tmp_path / name / "last.safetensors") for name in ("one go", "again"))
    for name, value in whole.items():
        assert torch.equal(again[name], value), name

    path = tmp_path / "mixed"
    assert train_part(ALONE, path, False, 4) is None
    begun = read_checkpoint(max((path / "checkpoints").iterdir()))
    together.answers(parts_of_a_training, 2, tmp_path, path, [(True, 6), (False, 8), (True, 10)])
    left = read_checkpoint(max((path / "checkpoints").iterdir()))
    assert left["trainer"]["step"] == 10
    assert list(left["trainer"]) == list(begun["trainer"])
    for name in ("model", "optimizer", "ema", "finite"):
        assert layout(left["trainer"][name]) == layout(begun["trainer"][name])
    found = train_part(ALONE, path, False, None)
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=2e-6, msg=name)
    assert len((path / "metrics.jsonl").read_text().splitlines()) == len(
        (tmp_path / "one go" / "metrics.jsonl").read_text().splitlines()
    )


def layout(state: object) -> object:
    """A state without its numbers."""
    if isinstance(state, dict):
        return {name: layout(value) for name, value in state.items()}
    if isinstance(state, torch.Tensor):
        return type(state), state.shape, state.dtype
    return type(state)


def skip(processes: Processes) -> list:
    """Steps with gradients of which one number, in the last process's part, is what it is; and what is counted."""
    torch.manual_seed(1)
    divided = FullySharded(nn.Linear(3, 5), processes)
    parameters = list(divided.parts.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.1, fused=True)
    finite, found = FiniteSteps(optimizer, divided.parts, 9, processes), []
    for number in (1.0, torch.nan, torch.inf, 3e38, 2.0):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        if processes.rank == processes.world_size - 1:
            parameters[0].grad.to_local()[0, 0] = number
        before = [parameter.to_local().clone() for parameter in parameters]
        finite.judge(torch.tensor(1.0))
        optimizer.step()
        after = [parameter.to_local() for parameter in parameters]
        found.append(all(map(torch.equal, before, after)))
    return [found, finite.skipped("student", 5)]


def test_all_processes_skip_what_is_not_finite_in_one(tmp_path):
    assert together.answers(skip, 2, tmp_path) == [[[False, True, True, True, False], 3]] * 2


class Tied(nn.Module):
    """Two blocks with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4)])
        self.blocks[1].weight = self.blocks[0].weight

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            values = block(values).tanh()
        return values


def gradients_of_tied(processes: Processes) -> list[torch.Tensor]:
    torch.manual_seed(2)
    network, values = Tied(), torch.randn(6, 4)
    if processes.alone:
        network(values).square().mean().backward()
        return [parameter.grad for parameter in network.parameters()]
    divided = FullySharded(network, processes)
    divided.parts(values).square().mean().backward()
    return [parameter.grad.full_tensor() for parameter in divided.parts.parameters()]


def test_blocks_may_share_weights(tmp_path):
    alone = gradients_of_tied(ALONE)
    for answer in together.answers(gradients_of_tied, 2, tmp_path):
        torch.testing.assert_close(answer, alone)


def refuse(processes: Processes) -> str:
    network = nn.Linear(2, 2)
    network.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="scalar") as caught:
        FullySharded(network, processes)
    return str(caught.value)


def test_parameters_without_dimensions_are_named(tmp_path):
    assert all("scale" in message for message in together.answers(refuse, 2, tmp_path))


def test_others_stop_when_a_process_is_lost(tmp_path):
    first, second = together.start(lose, 2, tmp_path, tmp_path, supervised, signal.SIGKILL, 60)
    first.join(60)
    second.join()
    assert first.exitcode == 7, (tmp_path / "told-0.txt").read_text()
    assert re.match("process 0 of 2 lost another one and stops: ", (tmp_path / "told-of-loss-0").read_text())


def test_one_process_has_nothing_to_divide():
    found = {}
    for fully_shard in (False, True):
        config = TrainerConfig(3, 8, ema_decay=0.5, execution=Execution(fully_shard=fully_shard))
        trainer = Trainer(Net(0), images(41, 0), images(17, 1), config, seed=3)
        trainer.fit()
        found[fully_shard] = trainer.trained.state_dict()
    assert all(map(torch.equal, found[False].values(), found[True].values()))
