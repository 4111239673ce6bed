"""Which directory a run goes to, and that one process writes there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hardfast.distill.checkpoint import CheckpointPolicy
from hardfast.distill.open_run import held, open_run
from hardfast.distill.run_dir import RunDir


def config(steps: int = 5, workers: int = 1, recipe: str = "x", **more: object) -> dict:
    values = {"steps": steps, "workers": workers, "sizes": (1, 2), **more}
    return {"recipe": recipe, "fields": {name: {"value": value} for name, value in values.items()}}


def opened(out: str | None = None, resume: str = "auto", **changes) -> Path:
    return open_run(config(**changes), None if out is None else Path(out), resume, CheckpointPolicy("7", 3)).path


class KilledError(Exception):
    pass


def begun(**changes) -> Path:
    """A run that was killed after it had begun."""
    run_dir = open_run(config(**changes), None, "never", CheckpointPolicy())
    run_dir.write_config(config(**changes))
    with pytest.raises(KilledError), held(run_dir):
        raise KilledError
    return run_dir.path


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_auto_continues_the_last_unfinished_run_of_the_same_settings():
    first, second = begun(), begun()
    begun(steps=6)
    assert len({first, second}) == 2
    assert opened() == second
    assert opened(workers=4) == opened(**{"execution.fully_shard": True}) == second
    assert opened(resume="never") not in (first, second)
    with held(RunDir(second)):
        pass
    assert opened() == first
    with held(RunDir(first)):
        pass
    assert opened() not in (first, second)
    assert opened(recipe="y").parent == Path("runs/y")


def test_a_run_that_is_being_written_is_left_alone():
    run = begun()
    code = (
        "import sys, time; from pathlib import Path; from hardfast.distill.open_run import held\n"
        "from hardfast.distill.run_dir import RunDir\n"
        f"with held(RunDir(Path({str(run)!r}))): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        assert opened() != run
        with pytest.raises(BlockingIOError, match="is being written by another process"), held(RunDir(run)):
            pass
        process.kill()
    assert opened() == run


def test_out_continues_the_run_that_is_there_and_takes_no_other():
    run = begun()
    assert opened(str(run)) == run
    with pytest.raises(FileExistsError, match="not empty"):
        opened(str(run), "never")
    with pytest.raises(ValueError, match=r"was begun with steps 5, and this run has 6; .*--out"):
        opened(str(run), steps=6)
    with pytest.raises(ValueError, match="was begun with recipe 'x', and this run has 'y'"):
        opened(str(run), recipe="y")
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        opened(str(run))
    Path("other").mkdir()
    Path("other/file").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        opened("other")


def test_killed_before_it_wrote_anything_is_as_new():
    with pytest.raises(KilledError), held(RunDir(Path("run"))):
        raise KilledError
    assert opened("run") == opened("run", "never") == Path("run")


def test_a_directory_to_resume_must_hold_a_run():
    run = begun()
    assert opened(resume=str(run)) == opened(str(run), resume=str(run)) == run
    with pytest.raises(FileNotFoundError, match=r"absent must be the directory of a run, auto or never"):
        opened(resume="absent")
    with pytest.raises(ValueError, match="give either --out or the directory of --resume"):
        opened("elsewhere", resume=str(run))


def test_what_a_killed_process_left_half_written_is_removed():
    run = RunDir(begun())
    directory = run.method("hard", 0)
    (directory.path / ".last.safetensors.0a1b2c3d.tmp").touch()
    directory.log(1, loss=1.0)
    directory.close()
    with held(run):
        assert [name for name in os.listdir(directory.path) if name.startswith(".")] == []
    assert (directory.path / "metrics.jsonl").exists()


def test_the_policy_reaches_the_methods():
    run = open_run(config(), Path("run"), "auto", CheckpointPolicy("7", 3))
    assert run.method("hard", 0).checkpoints(0, 9).policy == CheckpointPolicy("7", 3)
