"""The benchmark runs, compares the right things and reports in full."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch

from bench.__main__ import main
from bench.cases import all_cases
from bench.memory import peak_bytes
from bench.timing import time_alternating


@pytest.mark.parametrize(
    "case", [c for c in all_cases() if "64x3" not in c.name and "32000" not in c.name], ids=lambda c: c.name
)
def test_every_case_compares_equal_results(case):
    ours = case.ours(*case.inputs)
    torch.testing.assert_close(ours, case.eager(*case.inputs), rtol=1e-4, atol=1e-3)


def test_peak_memory_is_that_of_the_worst_moment(monkeypatch, capsys):
    def call():
        for _ in range(3):
            torch.empty(1 << 20)
        return torch.empty(1 << 18)

    assert peak_bytes(call) == 1 << 22
    monkeypatch.setattr(sys, "argv", ["bench", "--memory", "--no-compile", "--filter", "128x64->10000 all"])
    assert main() == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert float(row[4]) < float(row[5])


def test_timings_are_medians_of_alternating_rounds():
    order = []

    def call(name: str, seconds: float):
        order.append(name)
        time.sleep(seconds)

    timings = time_alternating(
        {"slow": lambda: call("slow", 0.02), "fast": lambda: call("fast", 0.002)}, rounds=5, min_round_seconds=0.001
    )
    assert order[4:8] == ["slow", "fast", "slow", "fast"]
    assert timings["slow"].median_ms > timings["fast"].median_ms >= 2


def test_one_command_writes_rows_and_header(tmp_path, monkeypatch, capsys):
    target = tmp_path / "bench.json"
    monkeypatch.setattr(
        sys,
        "argv",
        ["bench", "--filter", "512x10", "--rounds", "3", "--no-compile", "--threads", "1", "--json", str(target)],
    )
    threads = torch.get_num_threads()
    try:
        assert main() == 0
    finally:
        torch.set_num_threads(threads)
    content = json.loads(target.read_text())
    assert {row["implementation"] for row in content["rows"]} == {"hardfast", "eager"}
    assert all(row["median_ms"] > 0 for row in content["rows"])
    assert content["header"]["threads"] == 1
    assert "kl_disagreement 512x10" in capsys.readouterr().out
