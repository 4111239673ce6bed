"""Writes small data sets in the formats in which MNIST and MNIST-C are published."""

import gzip
import struct

import numpy as np

FILES = {
    "train-images-idx3-ubyte": ("images", 30),
    "train-labels-idx1-ubyte": ("labels", 30),
    "t10k-images-idx3-ubyte": ("images", 10),
    "t10k-labels-idx1-ubyte": ("labels", 10),
}


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX format: magic 0x0000, type 0x08 (unsigned byte), number of dimensions, sizes big-endian, data."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        if kind == "images"
        else np.arange(count, dtype=np.uint8) % 10
        for name, (kind, count) in FILES.items()
    }


def write_mnist(folder, *, gz: bool) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    content = arrays()
    for name, array in content.items():
        data = idx_bytes(array)
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(data) if gz else data)
    return content


def write_mnist_c(folder, split="test", images=None, labels=None) -> tuple[np.ndarray, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(1).integers(0, 256, (12, 28, 28, 1), dtype=np.uint8) if images is None else images
    labels = np.arange(12) % 10 if labels is None else labels
    np.save(folder / f"{split}_images.npy", images)
    np.save(folder / f"{split}_labels.npy", labels)
    return images, labels
