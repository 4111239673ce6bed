"""The benchmark runs, compares the right things and reports in full."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import measure, packages, row_cases, warp_cases
from bench.case import OURS, Case, Floors
from bench.cases import all_cases, suite_cases
from bench.command import is_wanted, line_of, run
from bench.machine import describe
from bench.measure import Options, Row, missed_floors
from bench.memory import peak_bytes
from bench.results import Result
from bench.roofline import Rates
from bench.timing import time_alternating
from hardfast.cli import main

ROOT = Path(__file__).resolve().parents[1]
TINY = (3, 3, 11, 14)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    packages.set_threads(threads)


def tiny_warps() -> list[Case]:
    cases = [
        warp_cases.warp_case(kind, TINY, name, memory_format=memory_format)
        for kind in (warp_cases.AFFINE, *warp_cases.OTHERS)
        for name in ("forward", "all")
        for memory_format in warp_cases.MEMORY_FORMATS
    ]
    cases += [
        warp_cases.warp_case(warp_cases.sampled(kind, label, **rule), TINY, "forward")
        for kind in (warp_cases.AFFINE, warp_cases.DENSE_FLOW)
        for label, rule in warp_cases.RULES.items()
    ]
    return [*cases, warp_cases.warp_case(warp_cases.AFFINE, (4, 1, 9, 8), "forward")]


def tiny_rows() -> list[Case]:
    ops = ("kl_disagreement", "confidence_disagreement", "distillation_loss")
    cases = [row_cases.row_case(op, 7, 13, name) for op in ops for name in row_cases.SIDES]
    cases += [row_cases.linear_case(5, 4, 17, name) for name in row_cases.HEADS]
    return cases + [row_cases.guided_step_case((2, 3, 4, 5), name) for name in ("forward", "all")]


def outputs(case: Case, name: str) -> list[torch.Tensor]:
    result = case.runners([name])[name]()
    if isinstance(result, list):  # of OpenCV: an array an image
        images = torch.from_numpy(np.stack(result))
        return [images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)]
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("case", tiny_warps() + tiny_rows(), ids=lambda case: case.name)
def test_peers_compute_what_we_compute(case):
    """Pixels of all, and the gradient to the image; that to the map is in each library's own units."""
    ours = outputs(case, OURS)
    for name in case.implementations:
        if "compiled" in name or (name == "kornia" and case.op == "thin_plate_warp"):
            continue
        theirs = outputs(case, name)
        same_units = name == "eager"
        for mine, other in zip(ours if same_units else ours[:1], theirs if same_units else theirs[:1], strict=True):
            torch.testing.assert_close(other, mine, rtol=1e-4, atol=2e-4)


def test_every_peer_is_among_what_is_compared():
    names = {name for case in suite_cases("ops", "cpu") for name in case.implementations}
    assert names == {OURS, "eager", "compiled", "kornia", "kornia compiled", "torchvision", "OpenCV"}
    gpu = {name for case in suite_cases("ops", "cuda") for name in case.implementations}
    assert gpu == names - {"OpenCV"} | {"triton-augment", "Liger"}


def test_kornia_has_another_spline_through_the_same_points():
    """So its pixels are not compared, but the work is alike: it moves the points where ours does."""
    case = next(case for case in tiny_warps() if case.op == "thin_plate_warp")
    near = (outputs(case, "kornia")[0] - outputs(case, OURS)[0]).abs()
    assert near.mean() < 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_dtypes_are_compared_on_the_right_pixels(dtype):
    case = warp_cases.warp_case(warp_cases.AFFINE, (2, 3, 40, 50), "forward", dtype=dtype)
    torch.testing.assert_close(outputs(case, "eager")[0], outputs(case, OURS)[0], rtol=0.02, atol=0.02)


def test_cases_have_names_of_their_own_and_floors_on_what_is_measured():
    for device in ("cpu", "cuda"):
        cases = all_cases(device)
        assert len({case.name for case in cases}) == len(cases)
        for case in cases:
            assert set(case.floors.speed) | set(case.floors.memory) <= set(case.implementations) | {"Liger"}
            assert case.device == device


def test_floors_of_the_ops():
    """The table that the project promises, by name of the case."""
    floors = {case.name: case.floors for case in all_cases()}
    affine = "affine_warp 16x3x224x224"
    assert floors[f"{affine} forward"].speed == {"eager": 4.0, "OpenCV": 1.3}
    assert floors[f"{affine} forward channels_last"].speed == {"eager": 4.0, "OpenCV": 1.5}
    assert floors[f"{affine} forward bfloat16"].speed == {"eager": 3.0}
    assert floors[f"{affine} parameters"].speed == {"eager": 5.0}
    assert floors[f"{affine} all"].speed == {"eager": 4.0}
    assert floors["affine_warp 64x3x224x224 forward"].speed == {"eager": 3.0, "OpenCV": 0.9}
    for size, forward in (("256x3x32x32", 4.0), ("1024x1x28x28", 3.0)):
        assert floors[f"affine_warp {size} forward"].speed == {"eager": forward}
        assert floors[f"affine_warp {size} parameters"].speed == {"eager": 5.0}
    for kind in warp_cases.OTHERS:
        for name, least in (("forward", 2.5), ("parameters", 4.0)):
            speed = floors[f"{kind.op} 16x3x128x128{kind.label} {name}"].speed
            assert speed == {"eager": least, "kornia": 1.0, "kornia compiled": 1.0}
    assert floors["kl_disagreement 4096x1000 all"] == Floors({"compiled": 1.5}, roofline=0.5)
    assert floors["kl_disagreement 1024x32000 all"].speed == {"compiled": 1.2}
    assert (
        floors["kl_disagreement 256x1000 all"].speed == floors["kl_disagreement 512x10 all"].speed == {"compiled": 1.5}
    )
    for name in row_cases.HEADS:
        linear = floors[f"linear_kl_disagreement 1024x512->32000 {name}"]
        assert (linear.speed, linear.memory) == ({"compiled": 1.0}, {} if name == "all" else {"eager": 8.0})


def row(name: str, median_ms: float, peak: int | None = None, fraction: float | None = None) -> Row:
    return Row("op", "1x1", "all", "float32", "contiguous", "cpu", name, median_ms, 0.1, peak, fraction, 1)


def test_floors_are_held_to():
    case = Case("op", "1x1", "all", tuple, {}, floors=Floors({"eager": 2.0, "kornia": 1.0}, {"eager": 4.0}, 0.5))
    kept = [row(OURS, 1.0, 100, 0.6), row("eager", 2.1, 401), row("OpenCV", 0.1)]
    assert missed_floors(case, kept) == []
    assert "MISSED" not in line_of(case, kept, [])
    below = [row(OURS, 1.0, 100, 0.4), row("eager", 1.9, 399), row("kornia", 0.9)]
    assert missed_floors(case, below) == [
        "1.90x eager, floor 2.0x",
        "1/4.0 of the memory of eager, floor 1/4",
        "0.90x kornia, floor 1.0x",
        "40% of the roofline, floor 50%",
    ]
    assert line_of(case, below, missed_floors(case, below)).endswith("MISSED")


def test_peak_memory_is_that_of_the_worst_moment():
    def call():
        for _ in range(3):
            torch.empty(1 << 20)
        return torch.empty(1 << 18)

    assert peak_bytes(call) == 1 << 22


def test_timings_are_medians_of_rounds_in_alternating_order():
    order = []

    def call(name: str, seconds: float):
        order.append(name)
        time.sleep(seconds)

    calls = {"slow": lambda: call("slow", 0.02), "fast": lambda: call("fast", 0.002)}
    timings = time_alternating(calls, rounds=5, min_round_seconds=0.001)
    assert order[8:16] == ["slow", "slow", "fast", "fast", "fast", "fast", "slow", "slow"]  # one call more than timed
    assert len(order) == 8 + 4 * 5
    assert timings["slow"].median_ms > timings["fast"].median_ms >= 2
    order.clear()
    time_alternating(calls, rounds=100, min_round_seconds=0.001, max_seconds=0.1)
    assert 8 + 4 * 3 <= len(order) < 8 + 4 * 8


def test_one_command_writes_rows_and_machine(tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "kornia" else found(name))
    monkeypatch.setattr("bench.machine._COPY_MIB", 2)
    tiny = warp_cases.warp_case(warp_cases.AFFINE, TINY, "forward")
    others = [row_cases.row_case("kl_disagreement", 8, 10, name) for name in row_cases.SIDES]
    monkeypatch.setattr("bench.command.all_cases", lambda device: [tiny, *others])
    assert run("all", rounds=3, compile=False, threads=1, json=tmp_path / "kl.json") == 0
    assert {row.pass_name for row in Result.read(tmp_path / "kl.json").rows} == {"all"}
    assert "kornia" not in capsys.readouterr().out
    assert run("3x3x11x14", rounds=3, compile=False, threads=1, json=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "kornia is not installed and left out: pip install kornia" in printed
    assert tiny.name in printed
    (written,) = (path for path in tmp_path.iterdir() if path.name != "kl.json")
    content = json.loads(written.read_text())
    assert content["machine"]["threads"] == 1
    assert content["machine"]["versions"]["torch"] == torch.__version__
    assert content["rates"]["float32"]["bytes"] > 0
    assert [row["implementation"] for row in content["rows"]] == [OURS, "eager", "torchvision", "OpenCV"]
    for entry in content["rows"]:
        assert {"op", "case", "pass", "dtype", "memory_format", "device"} <= set(entry)
        assert entry["median_ms"] > 0
        assert entry["iqr_ms"] >= 0
        assert entry["roofline_fraction"] > 0
        assert (entry["peak_bytes"] is None) == (entry["implementation"] == "OpenCV")
    assert [dataclasses.asdict(row) for row in Result.read(written).rows]


def test_a_missed_floor_and_a_wrong_filter_are_errors(monkeypatch, capsys):
    slow = dataclasses.replace(row_cases.row_case("kl_disagreement", 8, 10), floors=Floors({"eager": 1e6}))
    monkeypatch.setattr("bench.command.all_cases", lambda device: [slow])
    monkeypatch.setattr("bench.command.machine.rates", lambda *_: Rates(1e9, 1e9))
    assert run(rounds=2, compile=False, threads=1, memory=False) == 1
    assert "MISSED kl_disagreement 8x10 all" in capsys.readouterr().out
    assert run("8x10 nothing") == 1
    assert "no case has" in capsys.readouterr().err


def test_the_command_line_has_it(monkeypatch, capsys):
    assert main(["bench", "--filter", "no such case"]) == 1
    assert "no case has 'no such case' in its name" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "hardfast.bench", None)
    monkeypatch.setitem(sys.modules, "hardfast.bench.command", None)
    assert main(["bench"]) == 1
    assert "python -m bench" in capsys.readouterr().err


def test_pytest_benchmark_runs_the_same_cases():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-disable"]
    chosen = ["bench/test_ops.py", "-k", "kl_disagreement and 512x10 and not compiled"]
    done = subprocess.run([*command, *chosen], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_filter_wants_all_words():
    case = row_cases.row_case("kl_disagreement", 8, 10)
    assert is_wanted(case, "")
    assert is_wanted(case, "all kl_dis")
    assert not is_wanted(case, "all warp")


def test_an_interrupted_run_keeps_what_it_has(monkeypatch, tmp_path, capsys):
    def interrupt(inputs):
        raise KeyboardInterrupt

    first = row_cases.row_case("kl_disagreement", 8, 10)
    second = dataclasses.replace(first, size="9x10", implementations={OURS: interrupt})
    monkeypatch.setattr("bench.command.all_cases", lambda device: [first, second])
    monkeypatch.setattr("bench.command.machine.rates", lambda *_: Rates(1e9, 1e9))
    assert run(rounds=2, compile=False, threads=1, json=tmp_path / "rows.json") == 130
    assert {row.case for row in Result.read(tmp_path / "rows.json").rows} == {"8x10"}
    assert run(rounds=1) == 2
    assert "--rounds must be at least 2" in capsys.readouterr().err


def test_a_target_that_cannot_be_written_is_an_error_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("bench.command.measure", None)  # a call would raise
    damaged, other = tmp_path / "damaged.json", tmp_path / "other.json"
    damaged.write_text("{bad")
    other.write_text('{"a": 1}')
    for path in (damaged, other):
        assert run(json=path) == 2
        assert f"{path} must be a file of results" in capsys.readouterr().err
    for path in (tmp_path / "folder" / "rows.json", tmp_path / "folder"):
        assert run(json=path) == 2
        assert f"--json must be a folder that there is, or a .json file in one, got {path}" in capsys.readouterr().err
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / Result(describe("cpu", 2), {}, []).file_name).write_text("{bad")
    assert run(json=folder) == 2
    assert "must be a file of results" in capsys.readouterr().err
    assert run(report=True, json=other) == 2
    assert "--report measures nothing" in capsys.readouterr().err


def test_no_gpu_is_an_error(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run(device="cuda") == 1
    assert "no GPU" in capsys.readouterr().err


def test_without_compilation_nothing_compiled_is_chosen():
    case = warp_cases.warp_case(warp_cases.AFFINE, TINY, "forward")
    assert {"compiled", "kornia compiled"} <= set(measure.chosen(case, Options()))
    assert not any("compiled" in name for name in measure.chosen(case, Options(compiled=False)))
