"""``hardfast generate``: what it prints, what it leaves on disk, and its exit status."""

from __future__ import annotations

import dataclasses
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from fake_maker import FakeMaker, tree

from hardfast.cli import main
from hardfast.diffusion.image_store import load_generated
from hardfast.recipes import RECIPES


@dataclass(frozen=True)
class Search:
    """How it is searched.

    Args:
        rate: of learning.
    """

    rate: float = 0.1


@dataclass(frozen=True)
class FakeRecipe:
    """Images of nothing.

    Args:
        group_size: images a batch.
        search: the search.
    """

    name: ClassVar[str] = "fake"
    made: ClassVar[list] = []
    before: ClassVar[object] = None

    group_size: int = 4
    search: Search = Search()

    def resolved(self):
        if self.search.rate < 0:
            raise ValueError(f"search.rate must be >= 0; got {self.search.rate}")
        return self

    def values(self, *without: str):
        return {"group_size": self.group_size, "search.rate": self.search.rate}

    def maker(self, cache: Path, progress: bool):
        self.made.append((self, cache, progress))
        maker = FakeMaker()
        if self.before is not None:
            original = maker.make
            maker.make = lambda numbers: (self.before(numbers), original(numbers))[1]
        return maker


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "fake", FakeRecipe())
    monkeypatch.setattr(FakeRecipe, "made", [])
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return FakeRecipe


def test_generates(fake, capsys):
    assert main(["generate", "fake", "--count", "14", "--search.rate", "0.5"]) == 0
    ((recipe, cache, progress),) = fake.made
    assert dataclasses.asdict(recipe) == {"group_size": 4, "search": {"rate": 0.5}}
    assert (cache, progress) == (Path("runs/cache"), True)
    printed = capsys.readouterr()
    path = Path("generated/fake")
    assert str(path / "contact_sheet.html") in printed.out
    assert "14/14" in printed.err
    loaded = load_generated(path)
    assert f"kept {len(loaded.candidates)}" in " ".join(printed.out.split())
    for text in ("images per second", "made in this run", "dropped: teacher", "dropped: not finite"):
        assert text in printed.out
    assert (path / "images" / "circle" / "00000002.png").exists()

    assert main(["generate", "fake", "--count", "14", "--search.rate", "0.5"]) == 0
    assert "done before" in capsys.readouterr().out


def test_options(fake, tmp_path):
    out = tmp_path / "elsewhere"
    options = ["--group-size", "2", "--format", "webdataset", "--out", str(out), "--cache", "models"]
    assert main(["generate", "fake", "--count", "4", *options]) == 0
    ((recipe, cache, _),) = fake.made
    assert (recipe.group_size, cache) == (2, Path("models"))
    assert sorted(p.name for p in (out / "images").iterdir()) == ["images-000000.tar", "images-000001.tar"]
    assert not Path("generated").exists()


def test_processes_of_torchrun(fake, monkeypatch, tmp_path, capsys):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert main(["generate", "fake", "--count", "14", "--out", str(whole)]) == 0
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert main(["generate", "fake", "--count", "14", "--out", str(shared)]) == 0
        printed = capsys.readouterr()
        assert bool(printed.out) == bool(printed.err) == (rank == "0")
    assert tree(shared) == tree(whole)
    monkeypatch.setenv("RANK", "first")
    assert main(["generate", "fake", "--count", "14", "--out", str(shared)]) == 1
    assert "RANK must be a whole number, got 'first'" in capsys.readouterr().err


def test_interrupted_and_continued(fake, monkeypatch, capsys, tmp_path):
    def interrupt(numbers):
        if numbers[0] == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(fake, "before", staticmethod(interrupt))
    assert main(["generate", "fake", "--count", "14"]) == 130
    assert "the same command continues it" in capsys.readouterr().err
    monkeypatch.setattr(fake, "before", None)
    assert main(["generate", "fake", "--count", "14"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "made in this run 6 done before 8" in printed
    assert main(["generate", "fake", "--count", "14", "--out", str(tmp_path / "whole")]) == 0
    assert tree(Path("generated/fake")) == tree(tmp_path / "whole")


def test_damage_is_reported(fake, capsys):
    assert main(["generate", "fake", "--count", "8", "--format", "webdataset"]) == 0
    (Path("generated/fake/images/images-000001.tar")).write_bytes(b"")
    capsys.readouterr()
    assert main(["generate", "fake", "--count", "8", "--format", "webdataset"]) == 0
    printed = capsys.readouterr()
    assert "images-000001.tar of group 1 is broken" in printed.out + printed.err
    assert "damaged groups made again 1" in " ".join(printed.out.split())


def test_out_of_memory_keeps_its_message(fake, monkeypatch, capsys):
    def run_out(numbers):
        raise torch.OutOfMemoryError("try memory='recursive'")

    monkeypatch.setattr(fake, "before", staticmethod(run_out))
    assert main(["generate", "fake", "--count", "4"]) == 1
    assert "try memory='recursive'" in capsys.readouterr().err


def test_other_settings_are_refused_before_anything_is_made(fake, capsys):
    assert main(["generate", "fake", "--count", "4"]) == 0
    for options, message in (
        (["--count", "4", "--search.rate", "0.7"], "fields.search.rate 0.1, and this run has 0.7"),
        (["--count", "3"], "count must be at least the 4"),
        (["--count", "4", "--format", "webdataset"], "format 'folder', and this run has 'webdataset'"),
        (["--count", "0"], "count must be an integer of at least 1, got 0"),
        (["--count", "4", "--search.rate", "-1"], "search.rate must be >= 0; got -1.0"),
    ):
        assert main(["generate", "fake", *options]) == 1
        assert message in capsys.readouterr().err
    assert len(fake.made) == 1


def test_missing_files_are_named(fake, monkeypatch, capsys):
    def missing(self, cache, progress):
        raise FileNotFoundError("weights.safetensors is missing; get it from there")

    monkeypatch.setattr(fake, "maker", missing)
    assert main(["generate", "fake", "--count", "4"]) == 1
    assert capsys.readouterr().err == "hardfast: weights.safetensors is missing; get it from there\n"
    assert not Path("generated").exists()


def test_help_and_wrong_arguments(fake, capsys):
    assert main(["generate", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "fake" in printed
    assert "hard-digits" not in printed
    assert main(["generate", "fake", "--help"]) == 0
    printed = capsys.readouterr().out
    for text in ("--count", "--out", "--format", "--cache", "--search.rate", "--group-size"):
        assert text in printed
    for arguments, message in (
        ([], ""),
        (["nonsense"], "unknown recipe 'nonsense'; choose one of: "),
        (["hard-digits", "--count", "4"], "hard-digits has no generator; recipes that have one: "),
        (["fake", "--count", "4", "--nonsense", "1"], "unknown option '--nonsense'"),
        (["fake", "--count", "4", "--format", "zip"], "format"),
        (["fake"], "count"),
    ):
        assert main(["generate", *arguments]) == 2
        assert message in capsys.readouterr().err
