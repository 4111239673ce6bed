"""Damage to files: to their bytes, to numbers in them, and to JSON."""

from __future__ import annotations

import copy
import json
import random
import struct
from typing import Any

#: Counts, sizes and offsets around what overflows, or what no computer has.
INTEGERS = (
    -(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 7, 8, 27, 28, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1,
    2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30,
)  # fmt: skip
_OTHERS: tuple[Any, ...] = (
    None, True, False, "", "x", "0", "../x", "/dev/zero", "a\x00b", "\ud800", 0.5, -0.0, 1e308, float("nan"),
    float("inf"), [], {}, [0], {"x": 0}, "F64", "I8", "BOOL", "webdataset", "folder",
)  # fmt: skip
_FORMATS = ("B", "<H", ">H", "<I", ">I", "<Q", ">Q")


def integer(rng: random.Random) -> int:
    """One that is likely to break something."""
    return rng.choice(INTEGERS) if rng.random() < 0.7 else rng.randrange(100)


def packed(rng: random.Random, form: str) -> bytes:
    """Such an integer in a format of struct, wrapped around where it is too large."""
    return struct.pack(form, integer(rng) % (1 << (8 * struct.calcsize(form))))


def edited(content: bytes, rng: random.Random, edits: int = 3) -> bytes:
    """One to some changes of bytes: flips, numbers, cuts, copies, insertions, deletions."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, edits)):
        start = rng.randrange(len(changed) + 1)
        # Headers are short and matter most.
        start = min(start, rng.randrange(1, 129)) if rng.random() < 0.5 else start
        length = rng.choice((1, 2, 4, 8, 16, rng.randrange(1, 600)))
        kind = rng.randrange(7)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[start : start + 1] = bytes([rng.randrange(256)])
        elif kind == 2:
            number = packed(rng, rng.choice(_FORMATS))
            changed[start : start + len(number)] = number
        elif kind == 3:
            del changed[start : start + length]
        elif kind == 4:
            changed[start:start] = rng.randbytes(length) if rng.random() < 0.5 else bytes(length)
        elif kind == 5:
            source = rng.randrange(len(changed) + 1)
            changed[start : start + length] = changed[source : source + length]
        else:
            del changed[rng.randrange(len(changed) + 1) :]
    return bytes(changed)


def replaced(content: bytes, rng: random.Random, tokens: tuple[bytes, ...]) -> bytes:
    """One token that is there becomes another, or another is put in somewhere."""
    present = [token for token in tokens if token and token in content]
    new = rng.choice(tokens)
    if present and rng.random() < 0.8:
        return content.replace(rng.choice(present), new, rng.choice((1, 1, -1)))
    start = rng.randrange(len(content) + 1)
    return content[:start] + new + content[start:]


def edited_json(value: Any, rng: random.Random) -> Any:
    """A value of JSON of which one part, at any depth, is replaced, removed, doubled or renamed."""
    places = list(_places(value))
    if not places:
        return _other(rng, value)
    container, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice(("x", "../x", "", key + "x"))] = container.pop(key)
    elif kind == 2 and isinstance(container, list):
        container.insert(key, container[key])
    elif kind == 3:
        other, name = rng.choice(places)
        container[key] = copy.deepcopy(other[name])
    else:
        container[key] = _other(rng, container[key])
    return value


def json_bytes(value: Any, rng: random.Random) -> bytes:
    """As JSON; now and then with what nests too deeply."""
    text = json.dumps(value)
    if rng.random() < 0.02:
        depth = rng.choice((100, 3000, 60_000))
        text = text.replace(rng.choice(("null", "0", '"', "{", "[")), "[" * depth, 1)
    return text.encode()


def parsed_json(content: bytes, instead: bytes) -> Any:
    """The value of a file, or that of another one where it is no JSON, or nests too deeply to be walked through."""
    try:
        value = json.loads(content)
        list(_places(value))
    except (ValueError, RecursionError):
        return json.loads(instead)
    return value


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


def _other(rng: random.Random, value: Any) -> Any:
    if isinstance(value, int) and rng.random() < 0.7:
        return integer(rng)
    return integer(rng) if rng.random() < 0.3 else rng.choice(_OTHERS)
