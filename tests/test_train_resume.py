"""``hardfast train`` stopped in every way there is, and continued: in the end all is as if it had not been."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import together
import train_elsewhere
from kill_and_resume import differences

from hardfast import report_command
from hardfast.cli import main
from hardfast.distill.open_run import held
from hardfast.distill.run_dir import UNFINISHED, RunDir
from hardfast.distill.trainer import Trainer

#: Six steps of a teacher and twelve of each of two students, with a checkpoint after every third.
RECIPE = ["hard-digits", "--smoke", "--seeds", "1", "--methods", "student", "hard", "--ema-decay", "0.9"]
OPTIONS = ["--checkpoint-every", "3"]
STEPS = 6 + 12 + 12


@pytest.fixture(scope="module", autouse=True)
def _quick_reports():
    """Reports take longer than all these trainings, and nothing here depends on them."""

    def build(path: Path) -> Path:
        (path / "report.html").touch()
        return path / "report.html"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_command, "build_report", build)
        yield


def train(out: Path, *more: str, recipe: list[str] = RECIPE) -> int:
    return main(["train", *recipe, *OPTIONS, "--out", str(out), *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped, and how long it took."""
    out = tmp_path_factory.mktemp("whole") / "run"
    start = time.perf_counter()
    assert train(out) == 0
    return out, time.perf_counter() - start


@pytest.fixture(scope="module")
def processes():
    return together.quick_processes()


@pytest.fixture
def elsewhere(processes, tmp_path):
    """Trains in another process; gives its exit status and what it printed."""

    def run(*arguments: str, prepare=None) -> tuple[int, str]:
        told = tmp_path / "told.txt"
        process = processes.Process(target=train_elsewhere.train, args=(list(arguments), told, prepare))
        process.start()
        process.join()
        return process.exitcode, told.read_text()

    return run


def act_before(monkeypatch, step: int | None, act=None) -> list[int]:
    """Does something before a student step of a run, its trainings' steps counted from 1; gives the steps taken."""
    taken: list[int] = []
    original = Trainer._student_step

    def watched(self, bar) -> None:
        taken.append(self.step)
        if len(taken) == step:
            act()
        original(self, bar)

    monkeypatch.setattr(Trainer, "_student_step", watched)
    return taken


def test_kills_at_random_moments(whole, tmp_path, processes):
    out, seconds = whole
    moments = random.Random(5)
    for kill in range(3):
        arguments = [*RECIPE, *OPTIONS, "--out", str(tmp_path / "run")]
        process = processes.Process(target=train_elsewhere.train, args=(arguments, tmp_path / "told.txt"))
        process.start()
        # Another process does not know yet what this one has warmed up.
        process.join(0.3 + moments.uniform(0.2, 0.6) * seconds)
        if process.exitcode is not None:
            assert kill > 0
            break
        process.kill()
        process.join()
    assert train(tmp_path / "run") == 0
    assert differences(out, tmp_path / "run") == []


@pytest.mark.parametrize(
    ("signum", "status", "step", "left"),
    [(signal.SIGINT, 130, 4, STEPS - 4), (signal.SIGTERM, 143, 18, STEPS - 18)],
)
def test_asked_to_stop_it_saves_the_step_at_hand(whole, tmp_path, monkeypatch, capsys, signum, status, step, left):
    with monkeypatch.context() as patch:
        act_before(patch, step, lambda: signal.raise_signal(signum))
        assert train(tmp_path / "run") == status
    captured = capsys.readouterr()
    assert "saving what was learned; Ctrl-C again stops at once" in captured.err
    assert f"--resume {tmp_path / 'run'}" in captured.err
    assert (tmp_path / "run" / "report.html").exists() == (signum == signal.SIGINT)
    taken = act_before(monkeypatch, None)
    assert train(tmp_path / "run") == 0
    assert "continuing" in capsys.readouterr().out
    assert len(taken) == left
    assert differences(whole[0], tmp_path / "run") == []


def test_a_finished_run_is_read_back(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "run")

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "fit", never)
    assert train(tmp_path / "run") == 0
    assert differences(whole[0], tmp_path / "run") == []


def test_the_checkpoint_before_a_damaged_one_is_used(whole, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        act_before(patch, 6 + 11, lambda: signal.raise_signal(signal.SIGTERM))
        assert train(tmp_path / "run") == 143
    first, second = sorted((tmp_path / "run" / "student" / "seed-0" / "checkpoints").iterdir())
    assert (first.name, second.name) == ("step-000000009.pt", "step-000000011.pt")
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 16
    second.write_bytes(content)
    capsys.readouterr()
    assert train(tmp_path / "run") == 0
    told = capsys.readouterr().err
    assert f"{second} is damaged" in told
    assert "step-000000009.pt is used instead" in told
    assert differences(whole[0], tmp_path / "run") == []


def test_a_full_disk_leaves_the_checkpoints_before_it(whole, tmp_path, elsewhere):
    out = tmp_path / "run"
    arguments = [*RECIPE, *OPTIONS, "--out", str(out)]
    status, told = elsewhere(*arguments, prepare=partial(train_elsewhere.fill_disk_after, 4))
    assert status == 1
    assert "cannot write" in told
    assert "File too large" in told
    assert "ulimit -f" in told
    assert f"what is in {out} is whole; the same command continues it" in told
    assert "Traceback" not in told
    assert (out / "student" / "seed-0" / "checkpoints" / "step-000000006.pt").exists()
    assert train(out) == 0
    assert differences(whole[0], out) == []


def test_too_little_memory_names_the_option(tmp_path, elsewhere):
    out = tmp_path / "run"
    options = ["--out", str(out), "--teacher.batch-size", "500000"]
    recipe = [option for option in RECIPE if option != "--smoke"]
    status, told = elsewhere(*recipe, *options, prepare=partial(train_elsewhere.leave_memory, 900))
    assert status == 1
    assert "Try in this order: a batch_size below 500000 (--batch-size, or --teacher.batch-size" in told
    assert "Traceback" not in told


def test_steps_that_are_not_finite_stop_the_run(tmp_path, capsys):
    assert train(tmp_path / "run", "--learning-rate", "1e38") == 1
    told = capsys.readouterr().err
    assert "the network had a loss or gradients that are not finite in" in told
    assert "Lower the learning rate" in told
    assert "with other settings, take another --out" in told


def test_a_step_that_is_not_finite_is_counted(tmp_path, monkeypatch):
    load, taken = Trainer._load, []

    def loaded(self, images, index):
        taken.append(index)
        return load(self, images, index) * (math.nan if len(taken) == 9 else 1.0)

    monkeypatch.setattr(Trainer, "_load", loaded)
    assert train(tmp_path / "run") == 0
    lines = [json.loads(line) for line in (tmp_path / "run/student/seed-0/metrics.jsonl").read_text().splitlines()]
    assert {line["skipped_steps"] for line in lines if "skipped_steps" in line} == {1}
    assert lines[-1]["validation_accuracy"] > 0


def test_other_settings_are_refused(whole, capsys):
    out = whole[0]
    assert train(out, "--learning-rate", "0.5") == 1
    assert f"{out} was begun with learning_rate 0.003, and this run has 0.5" in capsys.readouterr().err
    assert train(out, "--resume", "never") == 1
    assert "is not empty" in capsys.readouterr().err
    assert main(["train", *RECIPE, "--resume", str(out.parent)]) == 1
    assert "it has no config.json" in capsys.readouterr().err
    assert train(out, "--checkpoint-every", "often") == 1
    assert "checkpoint_every must be a time" in capsys.readouterr().err


def test_a_directory_that_another_process_has_begun_is_left_to_it(tmp_path, capsys):
    out = RunDir(tmp_path / "run")
    with held(out):
        assert train(out.path) == 1
        assert capsys.readouterr().err.count("is being written by another process") == 1
        assert [path.name for path in out.path.iterdir()] == [UNFINISHED]


def test_without_out_the_same_command_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        act_before(patch, 3, lambda: signal.raise_signal(signal.SIGTERM))
        assert main(["train", *RECIPE]) == 143
    (run,) = Path("runs/hard-digits").iterdir()
    assert main(["train", *RECIPE]) == 0
    assert f"continuing {run}" in capsys.readouterr().out
    assert list(Path("runs/hard-digits").iterdir()) == [run]
