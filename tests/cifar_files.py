"""Writes small data sets in the formats in which CIFAR-10 and its shifted test sets are published."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

PARTS = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def batches(count: int = 4) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pixels ``[count, 3072]`` by channel, row and column, and labels, of each part."""
    generator = np.random.default_rng(3)
    return {
        name: (generator.integers(0, 256, (count, 3072), dtype=np.uint8), generator.integers(0, 10, count))
        for name in PARTS
    }


def python_batch(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    """What Python 2 wrote: protocol 2, text as bytes, and NumPy's names of that time."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    data = pixels.tobytes()
    shape = b"K" + bytes([len(pixels)]) + b"M" + struct.pack("<H", pixels.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNNJ" + b"\xff" * 4 + b"J"
    dtype += b"\xff" * 4 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01" + shape
    array += dtype + b"\x89T" + struct.pack("<I", len(data)) + data + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([int(label)]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"labels") + numbers + text(b"data") + array + b"u."


def write_cifar10(folder: Path, *, binary: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    folder.mkdir(parents=True, exist_ok=True)
    content = batches()
    for name, (pixels, labels) in content.items():
        if binary:
            records = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(records.tobytes())
        else:
            (folder / name).write_bytes(python_batch(pixels, labels))
    return content


def write_cifar10_c(folder: Path, corruptions: tuple[str, ...], each: int = 3) -> np.ndarray:
    """Images ``[5 * each, 32, 32, 3]`` a corruption; pixels tell severity and corruption."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.tile(np.arange(each, dtype=np.uint8), 5)
    for number, corruption in enumerate(corruptions):
        values = (10 * np.repeat(np.arange(1, 6), each) + number).astype(np.uint8)
        np.save(folder / f"{corruption}.npy", np.broadcast_to(values[:, None, None, None], (5 * each, 32, 32, 3)))
    np.save(folder / "labels.npy", labels)
    return labels
