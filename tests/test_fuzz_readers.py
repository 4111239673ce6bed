"""Damaged files are refused by name or read rightly, and the fuzzer that says so can find a bug.

Here each reader gets some of them; ``make fuzz`` gives it 100,000, and lets those that reach new lines lead it.
"""

from __future__ import annotations

import faulthandler
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import planted_reader
import pytest
from fuzz.reader import MEMORY, READERS, bounded_memory, make_reader

TESTS = Path(__file__).parent
INPUTS = dict.fromkeys(("image", "shard", "shard-index", "webdataset"), 400)
OTHERS = 1000  # inputs of each of the other readers
SECONDS = 300.0  # for all of one reader's, far above what the slowest take

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's and NumPy's, of damaged files


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def in_memory():
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_refused_or_read_rightly(in_memory, name):
    reader = make_reader(name, in_memory)
    seeds = reader.seeds()
    assert all(reader.check(content) for content in seeds)
    accepted = 0
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    with bounded_memory():
        for number in range(INPUTS.get(name, OTHERS)):
            rng = random.Random(number)
            content = rng.choice(seeds)
            for _ in range(rng.choice((1, 1, 2, 3))):
                content = reader.mutated(content, rng)
            try:
                accepted += reader.check(content)
            except Exception as error:
                raise AssertionError(f"input {number}: {content[:300]!r}") from error
    assert accepted > INPUTS.get(name, OTHERS) / 100  # damage that is always seen at once tests little


@pytest.mark.parametrize(
    ("reader", "content", "message"),
    [
        (planted_reader.Raises, b"hard", "planted"),
        (planted_reader.Unnamed, b"\xff", "must name the file"),
        (planted_reader.Forgetful, b"a longer text", "other text"),
        (planted_reader.Greedy, b"", "too much memory"),
        (planted_reader.Writes, b"", r"elsewhere'\) for writing"),
        (planted_reader.Runs, b"", r"os\.system"),
    ],
)
def test_a_check_fails(tmp_path, reader, content, message):
    (tmp_path / "mine").mkdir()
    with bounded_memory(), pytest.raises((AssertionError, KeyError), match=message):
        reader(tmp_path / "mine").check(content)


def test_a_check_passes(tmp_path):
    assert planted_reader.Planted(tmp_path).check(b"hard text")
    assert not planted_reader.Planted(tmp_path).check(b"hard \xff")


def fuzz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fuzz", "--folder", str(folder), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_fuzzer_finds_planted_bugs_and_reproduces_them(tmp_path):
    pytest.importorskip("atheris", reason="atheris is made for Linux on x86-64 and Python 3.11 to 3.13")
    names = [f"planted_reader:{name}" for name in ("Planted", "Raises", "Crashes", "Hangs")]
    done = fuzz(tmp_path, "--inputs", "10000", "--seconds", "1", "--readers", *names)
    assert done.returncode == 1, done.stdout + done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines() if line.startswith("planted")}
    assert rows[names[0]][1:5] == ["10000", *rows[names[0]][2:4], "0"]
    assert int(rows[names[0]][2]) > 0 < int(rows[names[0]][3])
    assert rows[names[1]][4] != "0"
    for name in names[2:]:
        assert "ended" in rows[name], done.stdout
    for name in names[1:]:
        (failure,) = [line.split()[-1] for line in done.stdout.splitlines() if f"--reproduce {tmp_path / name}" in line]
        assert Path(failure).read_bytes()[:4] == b"hard"
    assert not list((tmp_path / names[0]).glob("failure-*"))
    failure = next((tmp_path / names[1]).glob("failure-*[0-9a-f]"))
    again = fuzz(tmp_path, "--reproduce", str(failure))
    assert again.returncode == 1
    assert "KeyError: 'planted'" in again.stderr
    assert "KeyError: 'planted'" in failure.with_suffix(".txt").read_text()
