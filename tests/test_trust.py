"""What others wrote is read, never run: over the whole source, whatever is added to it later."""

from __future__ import annotations

import ast
import io
import tarfile
from functools import cache
from pathlib import Path

import pytest
import torch

import hardfast
from hardfast.cli import main
from hardfast.diffusion.image_encoding import from_shard
from hardfast.models import create_network

SOURCE = Path(hardfast.__file__).parent
#: Calls that run what they are given, or a shell, or unpack where an archive says, or reach the network.
NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads",
    "yaml.load", "joblib.load", "shelve.open", "torch.hub.load", "torch.hub.load_state_dict_from_url",
    "shutil.unpack_archive", "urllib.request.urlopen", "urlopen", "urlretrieve", "requests.get", "socket.socket",
    "tempfile.mktemp", "torch.jit.load",
}  # fmt: skip
#: What a call must say; without it, a file could run code.
MUST_SAY = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
STARTERS = {f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output")}
METHODS = {"extract", "extractall"}


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """File and line, name and node of each call in the library."""
    return [
        (f"{path.relative_to(SOURCE)}:{node.lineno}", ast.unparse(node.func), node)
        for path in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def says(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(word.value) for word in call.keywords if word.arg == name), None)


def test_nothing_is_run_unpacked_or_fetched():
    found = calls()
    assert len(found) > 1000
    assert [where for where, name, _ in found if name in NEVER or name.rpartition(".")[2] in METHODS] == []


def test_readers_say_that_they_take_no_code():
    readers = [(where, name, call) for where, name, call in calls() if name in MUST_SAY]
    assert {name for _, name, _ in readers} >= {"torch.load", "np.load"}
    assert [where for where, name, call in readers if says(call, MUST_SAY[name][0]) is not MUST_SAY[name][1]] == []


def test_programs_are_called_without_a_shell():
    started = [(where, call) for where, name, call in calls() if name in STARTERS]
    assert started
    for where, call in started:
        assert says(call, "shell") is None, where
        assert not isinstance(call.args[0], (ast.Constant, ast.JoinedStr)), f"{where} must start a list of arguments"


def test_what_may_be_fetched_comes_from_the_cache():
    """Of the hub and of torchvision, by the one argument that says so."""
    fetched = [
        (where, name, call) for where, name, call in calls() if name.endswith(("snapshot_download", "hf_hub_download"))
    ]
    assert fetched
    assert [where for where, _, call in fetched if says(call, "local_files_only") is not True] == []
    assert [where for where, _, call in calls() if says_download(call)] == []


def says_download(call: ast.Call) -> bool:
    return any(word.arg == "download" and ast.unparse(word.value) != "False" for word in call.keywords)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside"])
def test_a_shard_is_read_and_never_unpacked(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    assert from_shard(buffer.getvalue()) == {name: b"abc"}
    assert list(tmp_path.iterdir()) == []
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize("value", ["__import__('os').mkdir('run')", "$(mkdir run)"])
@pytest.mark.parametrize("option", ["--steps", "--student", "--teacher.weights"])
def test_options_are_values_and_nothing_else(tmp_path, monkeypatch, capsys, option, value):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "hard-digits", "--smoke", option, value, "--out", str(tmp_path / "out")]) in (1, 2)
    assert not (tmp_path / "run").exists()


class _Opens:
    def __reduce__(self):
        return open, ("was-run", "w")


def test_weights_of_others_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": _Opens()}, "weights.pth")
    with pytest.raises(ValueError, match=r"weights\.pth must hold"):
        create_network("resnet18.a1_in1k", (3, 32, 32), 10, weights="weights.pth")
    assert not Path("was-run").exists()
