"""Steps that are not finite leave no trace but their count."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from hardfast.distill.finite_steps import FiniteSteps
from hardfast.distill.step import supervised_step

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def images(step: int) -> torch.Tensor:
    return torch.randn(6, 2, 2, 2, generator=torch.Generator().manual_seed(step))


def trained(
    bad: dict[int, float], steps: list[int], most: int = 9
) -> tuple[nn.Module, torch.optim.Optimizer, FiniteSteps]:
    torch.manual_seed(3)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    finite = FiniteSteps(optimizer, model, most)
    for step in steps:
        batch = images(step)
        if step in bad:
            batch[2, 0, 1, 1] = bad[step]
        supervised_step(model, batch, LABELS, optimizer, finite=finite)
    return model, optimizer, finite


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [*(parameter.detach() for parameter in model.parameters()), *model.buffers(), *moments]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_skipped_step_is_as_if_it_had_not_been(value):
    """Bitwise, in weights, statistics, moments and their counts; 3e38 overflows in the variance alone."""
    model, optimizer, finite = trained({2: value, 5: value}, list(range(8)))
    other, its_optimizer, none = trained({}, [0, 1, 3, 4, 6, 7])
    for found, wanted in zip(everything(model, optimizer), everything(other, its_optimizer), strict=True):
        assert torch.equal(found, wanted)
    assert (finite.skipped("student", 8), none.skipped("student", 8)) == (2, 0)


def test_finite_steps_are_taken_as_without():
    watched, optimizer, _ = trained({}, list(range(6)))
    torch.manual_seed(3)
    plain = network()
    its_optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1, fused=True)
    for step in range(6):
        supervised_step(plain, images(step), LABELS, its_optimizer)
    for found, wanted in zip(everything(watched, optimizer), everything(plain, its_optimizer), strict=True):
        assert torch.equal(found, wanted)


class _Loud(nn.Module):
    """A loss that is infinite while every gradient is finite."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(1) @ self.weight

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(8, 3))


def test_an_infinite_loss_with_finite_gradients_is_skipped():
    model = _Loud()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    finite = FiniteSteps(optimizer, model, 5)
    model.weight.grad = torch.ones_like(model.weight)
    finite.judge(torch.tensor(math.inf))
    optimizer.step()
    assert model.weight.count_nonzero() == 0
    finite.judge(torch.tensor(1.0))
    optimizer.step()
    assert model.weight.count_nonzero() == 24


@pytest.mark.parametrize("most", [3, 4])
def test_too_many_in_a_row_raise_even_if_they_are_over(most):
    bad = dict.fromkeys((1, 4, 5, 6, 9), math.nan)
    _, _, finite = trained(bad, list(range(12)), most)
    if most == 4:
        assert finite.skipped("student", 12) == 5
        return
    with pytest.raises(FloatingPointError, match=r"the student had .* 3 steps in a row, up to step 12.*learning rate"):
        finite.skipped("student", 12)


def test_infinite_constants_do_no_harm():
    model = _Loud()
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    finite = FiniteSteps(optimizer, model, 5)
    supervised_step(model, images(0), LABELS, optimizer, finite=finite)
    assert finite.skipped("student", 1) == 0
    assert model.weight.count_nonzero() == 24


def test_counts_go_on_from_a_state():
    _, _, finite = trained({0: math.nan, 6: math.nan, 7: math.nan}, list(range(8)), 4)
    state = copy.deepcopy(finite.state_dict())
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    other = FiniteSteps(optimizer, model, 4)
    other.load_state_dict(state)
    for step in range(2):
        supervised_step(model, images(step) * math.nan, LABELS, optimizer, finite=other)
    with pytest.raises(FloatingPointError, match="4 steps in a row"):
        other.skipped("student", 10)


def test_nothing_is_read_from_the_device():
    """On meta tensors, whose values cannot be read."""
    with torch.device("meta"):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), fused=False)
        optimizer.defaults["fused"] = True
        finite = FiniteSteps(optimizer, model, 3)
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        finite.judge(torch.empty(()))


def test_an_optimizer_that_cannot_skip_is_refused():
    model = network()
    with pytest.raises(ValueError, match="optimizer must be made with fused=True"):
        FiniteSteps(torch.optim.SGD(model.parameters(), lr=0.1), model, 3)
