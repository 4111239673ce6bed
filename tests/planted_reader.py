"""Readers with a bug each, which the fuzzer must find: behind four bytes that nobody guesses without guidance."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

from fuzz.reader import Reader


def opens(content: bytes) -> bool:
    """Compares a letter at a time, as far as the first that differs: each that is right is a new line."""
    first, second, third, fourth = content[:4].ljust(4)
    if first != ord("h"):
        return False
    if second != ord("a"):
        return False
    if third != ord("r"):
        return False
    return fourth == ord("d")


class Planted(Reader):
    """Reads a text file; this one has no bug."""

    file_name = "text"
    modules = (__name__,)

    def seeds(self) -> list[bytes]:
        return [b"begin", b"other"]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        place = rng.randrange(4)
        return content[:place] + rng.choice(b"abcdefghijklmnopqrstuvwxyz").to_bytes(1, "big") + content[place + 1 :]

    def read(self, content: bytes) -> Any:
        if opens(content):
            self.bug()
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.file_name} must be text, got {error}") from error

    def bug(self) -> None:
        """What happens to the input that opens."""

    def confirm(self, content: bytes, value: Any) -> None:
        assert value.encode() == content, "other text"


class Raises(Planted):
    def bug(self) -> None:
        raise KeyError("planted")


class Crashes(Planted):
    def bug(self) -> None:
        os.abort()


class Hangs(Planted):
    def bug(self) -> None:
        while True:
            pass


class Unnamed(Planted):
    def read(self, content: bytes) -> Any:
        return content.decode()  # its UnicodeDecodeError is a ValueError, but names no file


class Forgetful(Planted):
    def read(self, content: bytes) -> Any:
        return content.decode()[:10]


class Greedy(Planted):
    def read(self, content: bytes) -> Any:
        try:
            return bytes(1 << 40)
        except MemoryError as error:
            raise ValueError(f"{self.file_name} is too large") from error


class Writes(Planted):
    def read(self, content: bytes) -> Any:
        with open(Path.cwd() / "elsewhere", "w"):
            return super().read(content)


class Runs(Planted):
    def read(self, content: bytes) -> Any:
        os.system("true")
        return super().read(content)
