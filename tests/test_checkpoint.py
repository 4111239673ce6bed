"""Checkpoints: whole or refused, the last few kept, and due when the policy says so."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
import torch

from hardfast.distill.checkpoint import (
    BrokenCheckpointError,
    CheckpointPolicy,
    Checkpoints,
    read_checkpoint,
    write_checkpoint,
)

STATE = {"weights": torch.arange(2000.0), "step": 3, "nested": [{"lr": 0.1, "name": "x"}, (1, None)]}


def checkpoints(folder: Path, every: str = "10", keep: int = 2, first: int = 0, last: int = 100) -> Checkpoints:
    return Checkpoints(folder, CheckpointPolicy(every, keep), first, last)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    state = read_checkpoint(write_checkpoint(tmp_path / "a.pt", STATE))
    assert torch.equal(state.pop("weights"), STATE["weights"])
    assert state == {name: value for name, value in STATE.items() if name != "weights"}
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "absent.pt")


@pytest.mark.parametrize("offset", [0, 10, 50, 93, 94, 200, 4000, -1])
def test_a_changed_bit_is_detected_and_named(tmp_path, offset):
    path = write_checkpoint(tmp_path / "a.pt", STATE)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenCheckpointError, match=r"a\.pt is damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 5, 93, 94, 1000, -1])
def test_a_file_cut_short_is_detected(tmp_path, length):
    path = write_checkpoint(tmp_path / "a.pt", STATE)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BrokenCheckpointError, match=r"a\.pt is damaged"):
        read_checkpoint(path)


def test_one_that_cannot_be_read_now_stays(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, CheckpointPolicy("1"), 0, 100)
    checkpoints.save(7, STATE)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(PermissionError, match=r"step-000000007\.pt"):
            checkpoints.load()
    assert checkpoints.load().path == tmp_path / "step-000000007.pt"


class _Opens:
    def __reduce__(self):
        return open, ("was-run", "w")


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    """Neither in a foreign file nor in one with the right checksum."""
    monkeypatch.chdir(tmp_path)
    Path("pickle.pt").write_bytes(pickle.dumps(_Opens()))
    torch.save({"x": _Opens()}, "torch.pt")
    for name in ("pickle.pt", "torch.pt"):
        with pytest.raises(BrokenCheckpointError, match="does not begin as one does"):
            read_checkpoint(Path(name))
    write_checkpoint(Path("signed.pt"), {"x": _Opens()})
    with pytest.raises(BrokenCheckpointError, match="holds what is no state"):
        read_checkpoint(Path("signed.pt"))
    assert not Path("was-run").exists()


def test_the_last_ones_are_kept_of_each_training(tmp_path):
    earlier = checkpoints(tmp_path, last=20)
    for step in (10, 20):
        earlier.save(step, STATE)
    later = checkpoints(tmp_path, first=20)
    assert later.load().state is None
    for step in (30, 40, 50):
        later.save(step, {"step": step})
    assert names(tmp_path) == [f"step-0000000{step}.pt" for step in (10, 20, 40, 50)]
    assert later.load().state == {"step": 50}
    assert earlier.load().path == tmp_path / "step-000000020.pt"
    later.keep(1)
    assert names(tmp_path) == [f"step-0000000{step}.pt" for step in (10, 20, 50)]


def test_the_one_before_a_damaged_one_is_used_and_kept(tmp_path):
    mine = checkpoints(tmp_path)
    for step in (10, 20):
        mine.save(step, {"step": step})
    (tmp_path / "step-000000020.pt").write_bytes(b"hardfast checkpoint")
    loaded = checkpoints(tmp_path, keep=1).load()
    assert loaded.state == {"step": 10}
    (sentence,) = loaded.broken
    assert "step-000000020.pt is damaged" in sentence
    # Were the damaged one still there, it would now be the last one, and the new one be removed.
    checkpoints(tmp_path, keep=1).save(15, {"step": 15})
    assert names(tmp_path) == ["step-000000015.pt"]


def test_all_may_be_damaged(tmp_path):
    for step in (10, 20):
        checkpoints(tmp_path).save(step, STATE)
        (tmp_path / f"step-0000000{step}.pt").write_bytes(b"")
    loaded = checkpoints(tmp_path).load()
    assert (loaded.path, loaded.state, len(loaded.broken)) == (None, None, 2)


def test_due_by_steps_and_by_time(tmp_path, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    by_steps, by_time = checkpoints(tmp_path, "7", first=5), checkpoints(tmp_path, "1.5min", first=5)
    assert next(step for step in range(6, 30) if by_steps.due(step)) == 12
    by_steps.save(13, {"step": 13})
    assert not by_steps.due(19)
    assert by_steps.due(20)
    assert not by_time.due(99)
    now += 89
    assert not by_time.due(99)
    now += 1
    assert by_time.due(6)
    by_time.save(6, {})
    assert not by_time.due(99)


@pytest.mark.parametrize("every", ["", "0", "0s", "-3", "10 steps", "1h", "nan", "s", "1e3", "0.5"])
def test_bad_policies_raise(every):
    with pytest.raises(ValueError, match=r"checkpoint_every must be a time, such as 60s"):
        CheckpointPolicy(every)
    with pytest.raises(ValueError, match="keep_checkpoints"):
        CheckpointPolicy("60s", 0)
