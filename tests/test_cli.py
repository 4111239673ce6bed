"""The command line: what it prints, what it leaves on disk, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hardfast.cli import main
from hardfast.distill.run_dir import ResultRow, RunDir
from hardfast.recipes import RECIPES, HardDigits, get_recipe, hard_experiment


class FakeRun:
    """Stands in for the training: records what it was asked for and writes what ``write`` writes."""

    def __init__(self, write) -> None:
        self.write = write
        self.recipe: HardDigits | None = None

    def __call__(self, recipe, run_dir: RunDir, cache: Path, progress: bool = True) -> list[ResultRow]:
        self.recipe = recipe
        return self.write(run_dir)


def write_results(run_dir: RunDir) -> list[ResultRow]:
    values = {"teacher": 0.93, "distillation": 0.2, "hard": 0.9}
    rows = [ResultRow("hard-digits", name, "shifted", "accuracy", [value]) for name, value in values.items()]
    run_dir.write_results(rows, 1.0)
    return rows


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)

    def install(write=write_results) -> FakeRun:
        fake = FakeRun(write)
        monkeypatch.setattr(hard_experiment, "run", fake)
        return fake

    return install


def test_train_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", "hard-digits", "--smoke", "--seeds", "1", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "random augmentor" in printed
    assert str(out / "results.json") in printed
    assert str(out / "report.html") in printed
    assert "This run is incomplete" not in (out / "report.html").read_text()
    results = json.loads((out / "results.json").read_text())
    assert {row["method"] for row in results["rows"]} == {"teacher", *get_recipe("hard-digits").methods}


def test_train_overrides(fake_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = fake_run()
    overrides = ["--seeds", "1", "--steps", "500", "--augmentor.family", "translation"]
    assert main(["train", "hard-digits", *overrides]) == 0
    recipe = fake.recipe
    assert isinstance(recipe, HardDigits)
    assert (recipe.seeds, recipe.steps, recipe.augmentor.family) == (1, 500, "translation")
    assert recipe.batch_size == HardDigits().batch_size
    (run,) = Path("runs/hard-digits").iterdir()
    printed = capsys.readouterr().out
    assert str(run / "results.json") in printed
    assert str(run / "report.html") in printed
    assert printed.index("HARD") < printed.index("results.json")
    assert "95.9" in printed


def test_train_interrupted(fake_run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(run_dir: RunDir) -> list[ResultRow]:
        run_dir.method("teacher", 0).log(1, note="started")
        raise KeyboardInterrupt

    fake_run(interrupt)
    assert main(["train", "hard-digits", "--out", "run"]) == 130
    captured = capsys.readouterr()
    assert "interrupted after" in captured.err
    assert "no results yet" in captured.out
    assert "results.json is missing" in (tmp_path / "run" / "report.html").read_text()


def test_train_interrupted_before_anything(fake_run, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(run_dir: RunDir) -> list[ResultRow]:
        raise KeyboardInterrupt

    fake_run(interrupt)
    assert main(["train", "hard-digits", "--out", "run"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not Path("run").exists()


@pytest.mark.parametrize("error", [FileNotFoundError("MNIST is missing; get it"), ValueError("device must be 'cpu'")])
def test_train_error_is_one_line(fake_run, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(run_dir: RunDir) -> list[ResultRow]:
        raise error

    fake_run(fail)
    assert main(["train", "hard-digits", "--out", "run"]) == 1
    assert capsys.readouterr().err == f"hardfast: {error}\n"
    assert not Path("run").exists()


def test_train_value_error_in_training_keeps_traceback(fake_run) -> None:
    def fail(run_dir: RunDir) -> list[ResultRow]:
        run_dir.method("teacher", 0).log(1, note="started")
        raise ValueError("a defect")

    fake_run(fail)
    with pytest.raises(ValueError, match="a defect"):
        main(["train", "hard-digits", "--out", "run"])


def test_train_bad_values(fake_run, capsys: pytest.CaptureFixture[str]) -> None:
    fake = fake_run()
    assert main(["train", "hard-digits", "--seeds", "0"]) == 1
    assert "seeds must be >= 1" in capsys.readouterr().err
    assert main(["train", "hard-digits", "--steps", "many"]) == 2
    assert "--steps" in capsys.readouterr().err
    Path("occupied").mkdir()
    Path("occupied/file").touch()
    assert main(["train", "hard-digits", "--out", "occupied"]) == 1
    assert "occupied is not empty" in capsys.readouterr().err
    assert fake.recipe is None
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "listed"),
    [
        (["tarin"], "unknown command 'tarin'", ["train", "report", "info"]),
        (["train", "hard-digit"], "unknown recipe 'hard-digit'", list(RECIPES)),
        (
            ["train", "hard-digits", "--stpes", "3"],
            "unknown option '--stpes'",
            ["--steps", "--augmentor.family", "--out"],
        ),
        (["train", "hard-digits", "surplus"], "unknown argument 'surplus'", ["--steps", "--out"]),
        (["report", "run", "--format", "pdf"], "unknown option '--format'", ["RUN", "--help"]),
        (["info", "--jsno"], "unknown option '--jsno'", ["--json", "--help"]),
    ],
)
def test_unknown_names_list_the_valid_ones(
    fake_run, arguments: list[str], message: str, listed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    fake = fake_run()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"hardfast: {message}")
    assert all(name in captured.err for name in listed)
    assert fake.recipe is None


def test_listed_options_are_those_of_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "hard-digits", "--unknown"]) == 2
    listed = capsys.readouterr().err.partition("it takes: ")[2].strip().split(", ")
    assert main(["train", "hard-digits", "--help"]) == 0
    shown = capsys.readouterr().out
    assert len(listed) > 20
    assert [option for option in listed if option not in shown] == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_help(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert recipe in capsys.readouterr().out
    assert main(["train", recipe, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--steps" in shown
    assert "--out" in shown


def test_missing_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out
    assert main(["train"]) == 2
    assert "hard-digits" in capsys.readouterr().out
    assert main(["report"]) == 2


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_results(RunDir(tmp_path))
    assert main(["report", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "HARD" in printed
    assert str(tmp_path / "report.html") in printed
    assert (tmp_path / "report.html").exists()


def test_report_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "absent")]) == 1
    assert "absent is not a directory" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"hardfast: cannot read {tmp_path / 'results.json'}")
    assert len(error.splitlines()) == 1


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    import hardfast

    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["hardfast"] == hardfast.__version__
    assert facts["torch"] == torch.__version__
    assert set(facts["libraries"]) == {"_ops_cpu", "_ops_cuda", "_native"}
    assert facts["ops"] == hardfast.backends()
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    assert all(f"  {name}" in printed for name in [*facts["libraries"], *facts["ops"]])


def test_info_says_why_a_library_is_absent(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from hardfast.ops import _library

    monkeypatch.setitem(_library.load_errors, "_ops_cpu", "undefined symbol: xyz")
    monkeypatch.setitem(sys.modules, "hardfast._native", None)
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["libraries"]["_ops_cpu"] == "undefined symbol: xyz"
    assert "hardfast._native" in facts["libraries"]["_native"]
    assert "undefined symbol: xyz" in facts["ops"]["affine_warp"]["cpu"]


def test_help_needs_no_heavy_import() -> None:
    script = """
import sys
from hardfast.cli import main
status = main(["--help"])
print("heavy:", sorted({"torch", "matplotlib", "numpy"} & set(sys.modules)))
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "report" in done.stdout
    assert "heavy: []" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["train", "hard-digits", "--help"], ["train"]], ids=" ".join)
def test_output_that_nobody_reads_is_no_error_of_its_own(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "hardfast", *arguments]
    done = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""


def test_module_runs_as_a_program_and_lists_recipes_without_the_libraries_of_their_models() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "hardfast.cli", "train", "nonsense"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    imported = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    said = [line for line in done.stderr.splitlines() if line not in imported]
    assert said == [f"hardfast: unknown recipe 'nonsense'; choose one of: {', '.join(RECIPES)}"]
    names = {line.rpartition("|")[2].strip() for line in imported}
    assert "hardfast.recipes" in names
    assert not {"diffusers", "transformers"} & names
