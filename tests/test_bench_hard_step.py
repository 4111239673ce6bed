"""All ways of the step take the same step, and one command compares them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from bench.hard_step import SIZES, WAYS, Training, main


@pytest.fixture(autouse=True)
def _default_dtype() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("size", [SIZES[0], SIZES[2]])
def test_all_ways_take_the_same_steps(size):
    """In float64, up to the first step on reused images, which the plain way does not take."""
    torch.set_default_dtype(torch.float64)
    size = replace(size, batch=4)
    images = torch.rand(8 * size.batch, *size.shape)
    plain, *others = (Training(size, way, images) for way in WAYS)
    start = _parameters(plain)
    plain()
    expected = _parameters(plain)
    for other in others:
        other()
        for begin, want, found in zip(start, expected, _parameters(other), strict=True):
            assert (found - want).norm() < 1e-4 * (want - begin).norm()


def _parameters(training: Training) -> list[torch.Tensor]:
    parts = (training.student, training.augmentor)
    return [value.detach().clone() for part in parts for value in part.parameters()]


def test_one_command_prints_the_comparison(capsys, tmp_path):
    threads = torch.get_num_threads()
    try:
        assert (
            main(
                [
                    "--quick",
                    "--no-compile",
                    "--threads",
                    "1",
                    "--filter",
                    "28x28",
                    "--json",
                    str(tmp_path / "rows.json"),
                ]
            )
            == 0
        )
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["way"] for row in rows] == [way.name for way in WAYS]
    assert all(f"| {row['way']} |" in printed for row in rows)
    assert all(row["images_per_second"] > 0 and row["peak_mib"] > 0 for row in rows)
    assert rows[0]["speedup"] == 1
