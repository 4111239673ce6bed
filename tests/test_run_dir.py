"""Run directories: formats on disk, and what survives a full disk, a kill or a slip of the user."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hardfast.distill.atomic import atomic_write
from hardfast.distill.checkpoint import read_checkpoint
from hardfast.distill.run_dir import MethodDir, ResultRow, RunDir


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run_limited(script: str, directory: Path, limit: int = 4096) -> subprocess.CompletedProcess[str]:
    """Run a script whose files may not grow beyond ``limit`` bytes: a full disk that needs no root."""
    header = f"""
        import resource
        from pathlib import Path
        import numpy as np
        import torch
        from hardfast.distill.atomic import atomic_write
        from hardfast.distill.checkpoint import write_checkpoint
        from hardfast.distill.run_dir import MethodDir
        directory = Path({str(directory)!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    """
    code = textwrap.dedent(header) + textwrap.dedent(script)
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)


def test_atomic_write_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert atomic_write(path, lambda file: file.write(b"one") and None) == path
    atomic_write(path, lambda file: file.write(b"two") and None)
    assert path.read_bytes() == b"two"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_atomic_write_interrupted(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"previous")

    def write(file) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        atomic_write(path, write)
    assert path.read_bytes() == b"previous"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_atomic_write_names_cause(tmp_path: Path) -> None:
    def full(file) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device.*nothing was written.*free some space") as caught:
        atomic_write(tmp_path / "new", full)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path / "new") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="check that the directory exists"):
        atomic_write(tmp_path / "absent" / "file", lambda file: None)


@pytest.mark.parametrize(
    ("save", "name"),
    [
        ("method.save_weights('best', torch.nn.Linear(size, size))", "best.safetensors"),
        ("write_checkpoint(directory / 'step.pt', {'tensor': torch.zeros(size, size)})", "step.pt"),
        ("method.save_arrays('snapshots', clean=np.random.rand(size, size))", "snapshots.npz"),
    ],
)
def test_previous_survives_full_disk(tmp_path: Path, save: str, name: str) -> None:
    script = f"""
        method = MethodDir(directory)
        size = 4
        {save}
        before = (directory / {name!r}).read_bytes()
        size = 400
        try:
            {save}
        except OSError as error:
            print(error)
        assert (directory / {name!r}).read_bytes() == before
        print(sorted(path.name for path in directory.iterdir()))
    """
    done = run_limited(script, tmp_path)
    assert done.returncode == 0, done.stderr
    message, listing = done.stdout.strip().splitlines()
    assert str(tmp_path / name) in message
    assert "File too large" in message
    assert "the previous version is kept" in message
    assert "choose another directory" in message
    assert listing == str([name])


def test_log_full_disk_keeps_complete_lines(tmp_path: Path) -> None:
    script = """
        method = MethodDir(directory)
        try:
            for step in range(10_000):
                method.log(step, note="x" * 100)
        except OSError as error:
            print(error)
    """
    done = run_limited(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search("cannot write .*metrics.jsonl: File too large", done.stdout)
    with MethodDir(tmp_path) as method:
        method.log(99, note="after")
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [*range(len(lines) - 1), 99]
    assert len(lines) > 20


def test_log_jsonl_and_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with MethodDir(tmp_path) as method:
        method.log(1, phase="student", student_loss=0.5)
        method.log(2, phase="augmentor", augmentor_loss=np.float32(0.25), student_loss=torch.tensor(2.0))
        flushed = read_lines(tmp_path / "metrics.jsonl")
        method.log(3, student_loss=float("nan"))
    assert flushed[1] == {"step": 2, "phase": "augmentor", "augmentor_loss": 0.25, "student_loss": 2.0}
    assert read_lines(tmp_path / "metrics.jsonl")[2] == {"step": 3, "student_loss": None}
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Tags()["scalars"] == ["student_loss", "augmentor_loss"]
    assert [(event.step, event.value) for event in events.Scalars("student_loss")][:2] == [(1, 0.5), (2, 2.0)]


def test_log_rejects_other_values(tmp_path: Path) -> None:
    with (
        MethodDir(tmp_path) as method,
        pytest.raises(TypeError, match="losses must be a number or text; got list"),
    ):
        method.log(1, losses=[1.0, 2.0])
    assert not (tmp_path / "metrics.jsonl").exists()


def test_log_drops_line_cut_by_a_kill(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "stu')
    with MethodDir(tmp_path) as method:
        method.log(3, note="resumed")
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [1, 3]


def test_weights_state_arrays_round_trip(tmp_path: Path) -> None:
    method = MethodDir(tmp_path)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    loaded = load_file(method.save_weights("last", module))
    assert loaded.keys() == module.state_dict().keys()
    assert all(torch.equal(loaded[key], value) for key, value in module.state_dict().items())

    optimiser = torch.optim.Adam(module.parameters())
    module(torch.randn(5, 3)).sum().backward()
    optimiser.step()
    saved = {"optimiser": optimiser.state_dict(), "step": 7, "rng": torch.get_rng_state()}
    state = read_checkpoint(method.checkpoints(0, 9).save(7, saved))
    assert state["step"] == 7
    assert torch.equal(state["optimiser"]["state"][0]["exp_avg"], optimiser.state[module[0].weight]["exp_avg"])

    path = method.save_arrays("shift_accuracy", dx_px=np.arange(3), accuracy=np.array([0.5, 1.0, 0.0]))
    assert path == tmp_path / "shift_accuracy.npz"
    with np.load(path) as arrays:
        assert arrays["dx_px"].tolist() == [0, 1, 2]
        assert arrays["accuracy"].tolist() == [0.5, 1.0, 0.0]


def test_arrays_of_objects_rejected(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="names must be an array of numbers or text; got dtype object"):
        MethodDir(tmp_path).save_arrays("x", names=np.array([{}, []], dtype=object))


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "with space"])
def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(ValueError, match="method must be a file name"):
        run.method(name, 0)
    with pytest.raises(ValueError, match="recipe must be a file name"):
        RunDir.create(name, tmp_path / "out")
    with pytest.raises(ValueError, match="name must be a file name"):
        MethodDir(tmp_path).save_arrays(name, x=np.zeros(1))


def test_method_directories(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    assert run.method("hard", 2).path == tmp_path / "run" / "hard" / "seed-2"
    assert (tmp_path / "run" / "hard" / "seed-2").is_dir()
    with pytest.raises(ValueError, match="seed must be >= 0; got -1"):
        run.method("hard", -1)


def test_create_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [RunDir.create("hard-digits", None).path for _ in range(3)]
    assert len(set(paths)) == 3
    for path in paths:
        assert path.parent == Path("runs/hard-digits")
        assert re.fullmatch(r"\d{8}-\d{6}(-\d)?", path.name)


def test_create_out(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert RunDir.create("hard-digits", out).path == out
    assert RunDir.create("hard-digits", out).path == out
    (out / "something").touch()
    with pytest.raises(FileExistsError, match="not empty; give a directory that is new or empty"):
        RunDir.create("hard-digits", out)
    with pytest.raises(NotADirectoryError, match="is a file"):
        RunDir.create("hard-digits", out / "something")


def test_write_config(tmp_path: Path) -> None:
    config = {"recipe": "x", "fields": {"steps": {"value": (1, np.int64(2)), "provenance": "our choice"}}}
    RunDir(tmp_path).write_config(config)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["fields"]["steps"] == {"value": [1, 2], "provenance": "our choice"}


def test_write_results(tmp_path: Path) -> None:
    rows = [
        ResultRow("hard-digits", "hard", "shifted", "accuracy", [0.5, 0.75, 1.0]),
        ResultRow("hard-digits", "teacher", "shifted", "accuracy", [0.9], 0.9067, "arXiv"),
    ]
    RunDir(tmp_path).write_results(rows, 12.5)
    results = json.loads((tmp_path / "results.json").read_text())
    first, second = results["rows"]
    assert first == {
        "recipe": "hard-digits",
        "method": "hard",
        "split": "shifted",
        "metric": "accuracy",
        "mean": 0.75,
        "std": 0.25,
        "seeds": [0.5, 0.75, 1.0],
        "published": None,
        "source": None,
    }
    assert (second["std"], second["published"], second["source"]) == (0.0, 0.9067, "arXiv")
    header = results["header"]
    assert {"commit", "versions", "machine", "threads", "command", "seconds", "date"} <= header.keys()
    assert header["seconds"] == 12.5
    assert header["versions"]["torch"] == torch.__version__
    assert header["threads"] == torch.get_num_threads()


def test_commit_is_of_this_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hardfast.distill import run_header

    repository = tmp_path / "repository"
    repository.mkdir()
    module = repository / "run_header.py"
    module.write_text("x = 1\n")
    monkeypatch.setattr(run_header, "__file__", str(module))
    assert run_header._git_commit() == (None, None)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(repository), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init")
    git("commit", "--allow-empty", "-m", "other project")
    assert run_header._git_commit() == (None, None)
    git("add", ".")
    git("commit", "-m", "source")
    assert run_header._git_commit() == (git("rev-parse", "HEAD"), False)
    module.write_text("x = 2\n")
    assert run_header._git_commit() == (git("rev-parse", "HEAD"), True)


def test_empty_row_rejected() -> None:
    with pytest.raises(ValueError, match="seeds must hold one value per seed"):
        ResultRow("r", "m", "s", "accuracy", [])


def test_published_row_without_seeds() -> None:
    row = ResultRow("r", "orbit", "shifted", "accuracy", [], 0.965, "earlier code").to_json()
    assert (row["mean"], row["std"], row["seeds"], row["published"]) == (None, None, [], 0.965)


def test_a_run_goes_on_with_a_field_that_it_did_not_know(tmp_path):
    """At the recipe's own value; another one would change it on the way."""
    fields = {"steps": {"value": 5, "provenance": "overridden"}}
    RunDir(tmp_path).write_config({"recipe": "r", "fields": fields})
    later = {"recipe": "r", "fields": fields | {"precision": {"value": "float32", "provenance": "our choice"}}}
    RunDir(tmp_path).check_config(later)
    later["fields"]["precision"] = {"value": "bfloat16", "provenance": "overridden"}
    with pytest.raises(ValueError, match="was begun with precision None, and this run has 'bfloat16'"):
        RunDir(tmp_path).check_config(later)
