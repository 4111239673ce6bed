"""What a fuzzed reader is, and what may become of an input."""

from __future__ import annotations

import ast
import os
import random
import resource
import sys
import tempfile
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

#: Where each reader is defined; another one is named ``module:class``.
READERS = {
    "idx": "fuzz.published:Idx",
    "npy": "fuzz.published:Npy",
    "npz": "fuzz.published:Npz",
    "cifar10-binary": "fuzz.published:Cifar10Binary",
    "cifar10-python": "fuzz.published:Cifar10Python",
    "image": "fuzz.published:Photo",
    "webdataset": "fuzz.shards:Webdataset",
    "shard-index": "fuzz.shards:ShardIndex",
    "weights": "fuzz.ours:Weights",
    "checkpoint": "fuzz.ours:Checkpoint",
    "shard": "fuzz.ours:Shard",
    "record": "fuzz.ours:Record",
    "settings": "fuzz.ours:GenerationSettings",
}
#: What is counted of the inputs, in the order of the array that tells it, also of a process that crashed.
COUNTS = ("accepted", "refused", "failed")
#: Where files are written without a disk, if there is such a place.
MEMORY = next((path for path in (Path("/dev/shm"),) if path.is_dir()), None)
#: Memory that reading an input of some kB may take beyond what the process has.
MEMORY_BYTES = 1 << 30


class Reader(ABC):
    """A reader of the library under test. Every input must be refused in the stated way, or be read rightly.

    Args:
        folder: of its own; what the library writes elsewhere is a failure.
    """

    #: What the library raises for a damaged file; the message must have ``file_name`` in it.
    refusal: ClassVar[type[Exception]] = ValueError
    file_name: ClassVar[str]
    #: Whether PyTorch may be asked for the memory that a file claims, and refuse it.
    may_ask_pytorch: ClassVar[bool] = False
    #: Whose functions tell the fuzzer which of their lines an input reaches.
    modules: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Small valid files."""

    @abstractmethod
    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        """A file damaged by someone who knows the format; ``content`` may already be damaged in any way."""

    @abstractmethod
    def read(self, content: bytes) -> Any:
        """Writes the file and lets the library read it."""

    @abstractmethod
    def confirm(self, content: bytes, value: Any) -> None:
        """Raises AssertionError if what was read is not what an independent reading of the file gives."""

    def check(self, content: bytes) -> bool:
        """Whether a file is accepted; any exception that leaves this is a failure."""
        with _watching(self.folder) as forbidden:
            try:
                value, accepted = self.read(content), True
            except self.refusal as error:  # not kept: its traceback would keep what was read alive
                self._confirm_refusal(error)
                value, accepted = None, False
        assert not forbidden, f"reading did what no reader may do: {forbidden}"
        if accepted:
            self.confirm(content, value)
        return accepted

    def _confirm_refusal(self, error: Exception) -> None:
        assert self.file_name in str(error), f"the refusal must name the file, got {error!r}"
        for cause in _causes(error):
            too_much = _is_allocators(cause) and (isinstance(cause, MemoryError) or not self.may_ask_pytorch)
            assert not too_much, f"a small file made the reader ask for too much memory: {cause!r}"


def make_reader(name: str, folder: Path) -> Reader:
    """The reader of a name in ``READERS``, or of ``module:class``."""
    module, _, attribute = READERS.get(name, name).partition(":")
    return getattr(import_module(module), attribute)(folder)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Makes a larger allocation than ``MEMORY_BYTES`` fail, on Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_allocators(error: BaseException) -> bool:
    """Whether memory was asked for in vain. Python's parser also says so of what nests too deeply."""
    if isinstance(error, MemoryError):
        places = traceback.extract_tb(error.__traceback__)
        return not places or places[-1].filename != ast.__file__
    return "DefaultCPUAllocator" in str(error)


_RUNS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_watched: Path | None = None
_forbidden: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes what runs something, or changes files outside the watched folder, of all that Python reports."""
    if _watched is None:
        return
    if event in _RUNS:
        _forbidden.append(f"{event}{arguments}")
    elif event == "open":
        path, _, flags = arguments
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not _inside(path):
            _forbidden.append(f"open({path!r}) for writing")
    elif event in _CHANGES and not _inside(arguments[0]):
        _forbidden.append(f"{event}{arguments}")


def _inside(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and Path(path).resolve().is_relative_to(_watched or "/")


@contextmanager
def _watching(folder: Path) -> Iterator[list[str]]:
    """Gives the list of forbidden deeds. Temporary files are made in the folder, and no bytecode is kept."""
    global _watched
    if not _installed:
        sys.addaudithook(_audit)  # for good: there is no way to take one away
        _installed.append(True)
    before = tempfile.tempdir, sys.dont_write_bytecode
    tempfile.tempdir, sys.dont_write_bytecode = str(folder), True
    _forbidden.clear()
    _watched = folder.resolve()
    try:
        yield _forbidden
    finally:
        _watched = None
        tempfile.tempdir, sys.dont_write_bytecode = before


_installed: list[bool] = []
