"""The end-to-end cases take the same steps and the same gradients in every implementation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from bench import distillation_step, step_cases
from bench.case import OURS
from bench.command import run
from bench.hard_step import SIZES
from bench.measure import Options, chosen
from hardfast.distill import Execution

TINY = replace(SIZES[0], batch=4)


@pytest.fixture(autouse=True)
def _default_dtype() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


def student_after_steps(monkeypatch, execution: Execution | None) -> list[torch.Tensor]:
    networks = []
    make = distillation_step.network_of
    monkeypatch.setattr(distillation_step, "network_of", lambda *args: networks.append(make(*args)) or networks[-1])
    step = distillation_step.distillation_step(TINY, execution)
    start = [value.detach().clone() for value in networks[1].parameters()]
    for _ in range(3):
        step()
    return [value.detach() - begin for value, begin in zip(networks[1].parameters(), start, strict=True)]


def test_distillation_moves_the_student_alike(monkeypatch):
    torch.set_default_dtype(torch.float64)
    plain = student_after_steps(monkeypatch, None)
    for execution in (Execution(), Execution(channels_last=True, fold_teacher=True)):
        for moved, expected in zip(student_after_steps(monkeypatch, execution), plain, strict=True):
            assert expected.norm() > 0
            assert (moved - expected).norm() < 1e-4 * expected.norm()


def test_sampling_chains_have_one_gradient():
    case = step_cases.chain_case(2, 8, 3)
    runners = case.runners([name for name in case.implementations if name != "compiled"])
    expected = runners["eager"]()
    assert expected.norm() > 0
    for runner in runners.values():
        torch.testing.assert_close(runner(), expected, rtol=1e-3, atol=1e-6)


def test_searches_find_the_same_images():
    case = step_cases.config_case(2, 8, 3, cutouts=4)
    runners = case.runners([name for name in case.implementations if name != "compiled"])
    expected = runners["eager"]()
    for runner in runners.values():
        torch.testing.assert_close(runner(), expected, rtol=1e-4, atol=1e-3)


def test_every_step_has_its_peers():
    by_size = {case.size: set(case.implementations) for case in step_cases.step_cases("cpu")}
    assert by_size == {"28x28": {OURS, "eager"}, "3x64x64": {OURS, f"{OURS} compiled", "eager", "compiled"}}
    for case in step_cases.diffusion_cases("cpu"):
        assert {OURS, "eager", "compiled", "diffusers checkpointing"} <= set(chosen(case, Options(slow=True)))
        assert "compiled" not in chosen(case, Options())


def test_one_command_measures_steps_and_leaves_out_what_cannot_run(monkeypatch, capsys, tmp_path):
    threads = torch.get_num_threads()
    chain = step_cases.chain_case(1, 8, 2)
    broken = replace(chain, implementations=dict(chain.implementations) | {"eager": lambda inputs: 1 / 0})
    cases = [step_cases.hard_step_case(TINY), broken]
    monkeypatch.setattr("bench.command.all_cases", lambda device: cases)
    monkeypatch.setattr("bench.machine.rates", lambda *_: pytest.fail("steps have no roofline"))
    try:
        assert run(rounds=2, compile=False, threads=1) == 0
        printed = capsys.readouterr().out
        assert "hard_step 28x28 step" in printed
        assert "sampling_gradient 1x3x8x8 2 steps all: eager fails and is left out: division by zero" in printed
        monkeypatch.setattr("bench.packages.is_installed", lambda name: False)
        assert run(rounds=2, compile=False, threads=1, memory=False) == 0
        printed = capsys.readouterr().out
        assert "diffusers is not installed and left out: pip install diffusers" in printed
        assert "sampling_gradient" not in printed
    finally:
        torch.set_num_threads(threads)
