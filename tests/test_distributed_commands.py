"""``hardfast train``, ``eval`` and ``generate`` under torchrun."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import together
import torch
from safetensors.torch import load_file

from hardfast.cli import main

HARD = ["hard-digits", "--smoke", "--seeds", "1", "--methods", "student", "hard", "--threads", "1"]
CONFIG = [
    *("config-digits", "--smoke", "--seeds", "1", "--methods", "config", "--threads", "1"),
    *("--generator.group-size", "5", "--rounds", "1"),
]


def command(*arguments: str) -> None:
    sys.exit(main(list(arguments)))


def run_together(world_size: int, folder: Path, *arguments: object) -> list[str]:
    """What each of the processes of a command prints, all of which come to a good end."""
    folder.mkdir(exist_ok=True)
    started = together.start(command, world_size, folder, *map(str, arguments))
    for process in started:
        process.join()
    told = [(folder / f"told-{rank}.txt").read_text() for rank in range(world_size)]
    assert [process.exitcode for process in started] == [0] * world_size, told
    return told


def rows(run: Path) -> list[dict]:
    return json.loads((run / "results.json").read_text())["rows"]


def lines(run: Path, method: str) -> list[dict]:
    found = [json.loads(line) for line in (run / method / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    untold = ("images_per_second", "candidates_per_second")
    return [{name: value for name, value in line.items() if name not in untold} for line in found]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def _alone_here():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def check_alike(run: Path, other: Path, *methods: str) -> None:
    """Equal results, equal weights up to rounding, and the same files."""
    assert rows(run) == rows(other)
    for method in methods:
        assert len(lines(run, method)) == len(lines(other, method)) > 1
        for name, value in load_file(other / method / "seed-0" / "last.safetensors").items():
            # Adam moves a weight whose gradient is next to nothing by what rounding made of it.
            change = (load_file(run / method / "seed-0" / "last.safetensors")[name] - value).abs().float()
            assert change.mean() < 2e-6, (method, name)
            assert change.max() < 1e-3, (method, name)
    found, expected = ({name for name in files(path) if "tensorboard" not in name} for path in (run, other))
    assert found == expected


def test_train_and_eval_of_hard(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", *HARD, "--out", str(one)]) == 0
    told = run_together(2, tmp_path / "train", "train", *HARD, "--out", two)
    assert "HARD" in told[0]
    assert "hard-digits" not in told[1]  # one process tells
    check_alike(two, one, "teacher", "student", "hard")

    shutil.rmtree(two / "hard")  # the same run goes on with the student divided between the processes
    run_together(2, tmp_path / "divided", "train", *HARD, "--out", two, "--execution.fully-shard")
    assert json.loads((two / "config.json").read_text())["fields"]["execution.fully_shard"]["value"]
    check_alike(two, one, "hard")

    assert main(["eval", str(one)]) == 0
    alone = json.loads((one / "evaluation.json").read_text())["rows"]
    for path in (one / "evaluation.json", one / "evaluation.html"):
        path.unlink()
    run_together(4, tmp_path / "eval", "eval", one)
    assert json.loads((one / "evaluation.json").read_text())["rows"] == alone


def test_config_generates_with_all_processes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", *CONFIG, "--out", str(one)]) == 0
    run_together(2, tmp_path / "train", "train", *CONFIG, "--out", two)
    assert [row["method"] for row in rows(two)] == [row["method"] for row in rows(one)]
    assert len(lines(two, "config")) == len(lines(one, "config")) > 1
    candidates = [sorted(path.name for path in (run / "config/seed-0/round-0").rglob("*")) for run in (one, two)]
    assert candidates[0] == candidates[1]


def test_generate_gives_the_same_files(tmp_path):
    options = [*CONFIG, "--generator.min-teacher-confidence", "0", "--count", "18", "--cache"]
    alone = tmp_path / "alone"
    assert main(["generate", *options, str(tmp_path / "cache"), "--out", str(alone)]) == 0
    for world_size in (2, 4):
        out = tmp_path / f"by-{world_size}"
        run_together(
            world_size, tmp_path / f"told-{world_size}", "generate", *options, tmp_path / "cache", "--out", out
        )
        assert files(out) == files(alone)
    assert len(list(alone.rglob("*.png"))) > 3


def test_sigterm_stops_all_and_the_same_command_continues(tmp_path):
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = [*HARD, "--steps", "400", "--checkpoint-every", "20", "--out"]
    started = together.start(command, 2, tmp_path, "train", *options, str(run))
    together.wait_until((run / "hard" / "seed-0" / "metrics.jsonl").exists)
    os.kill(started[1].pid, signal.SIGTERM)
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [143, 143], (tmp_path / "told-0.txt").read_text()
    assert not (run / "hard" / "seed-0" / "tested.json").exists()
    run_together(2, tmp_path / "again", "train", *options, run)
    run_together(2, tmp_path / "in one go", "train", *options, whole)
    assert rows(run) == rows(whole)
    assert lines(run, "hard") == lines(whole, "hard")
    for name, value in load_file(whole / "hard" / "seed-0" / "last.safetensors").items():
        assert torch.equal(load_file(run / "hard" / "seed-0" / "last.safetensors")[name], value), name


def test_wrong_settings_end_every_process(tmp_path):
    arguments = ["train", *HARD, "--no-smoke", "--workers", "2", "--out", str(tmp_path / "run")]
    started = together.start(command, 2, tmp_path, *arguments)
    for rank, process in enumerate(started):
        process.join(60)
        assert process.exitcode == 1
        assert (
            "workers must be 1 where 2 processes train together; got 2" in (tmp_path / f"told-{rank}.txt").read_text()
        )
