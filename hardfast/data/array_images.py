"""Labelled images of 8-bit arrays, which may lie in a file of any size."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hardfast.data.splits import LabelledImages


class ArrayImages:
    """An :class:`~hardfast.data.ImageSet` of a uint8 array; a memory-mapped one is read as far as it is asked for.

    Args:
        pixels: ``[N, H, W, C]``, uint8.
        labels: ``[N]``, int64 on the CPU.

    Memory: the labels, and of a memory-mapped array only the images that are being loaded.

    Errors: ``ValueError`` names the argument.
    """

    def __init__(self, pixels: np.ndarray, labels: Tensor) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise ValueError(f"pixels must be uint8 [N, H, W, C], got {pixels.dtype} {list(pixels.shape)}")
        if labels.dtype != torch.int64 or labels.shape != (len(pixels),):
            raise ValueError(f"labels must be int64 [{len(pixels)}], got {labels.dtype} {list(labels.shape)}")
        self._pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: Tensor) -> Tensor:
        """Images ``[n, C, H, W]``, float32 in [0, 1] on the CPU, of the numbers ``index``, ``[n]``, int64."""
        chosen = torch.from_numpy(self._pixels[index.cpu().numpy()])
        return chosen.permute(0, 3, 1, 2).contiguous().float() / 255

    def in_memory(self) -> LabelledImages:
        """All of them as float32."""
        return LabelledImages(self.load(torch.arange(len(self))), self.labels)


def read_npy(path: Path, source: str, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    """Reads an array of numbers; a file that would need pickle is refused.

    Raises:
        FileNotFoundError: the file is missing; the message says where to get it.
        ValueError: it is damaged.
    """
    require_file(path, source)
    try:
        mapped = _mapped(path)
    except Exception as error:  # a damaged header may raise anything
        raise ValueError(f"{path} must be a whole .npy file of numbers, got: {error!r}") from error
    return np.array(mapped) if mmap_mode is None else mapped


def read_npz(path: Path, names: tuple[str, ...], source: str) -> list[np.ndarray]:
    """Reads some arrays of numbers of an archive, as :func:`read_npy` does."""
    require_file(path, source)
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:  # a file would be asked for what sizes claim
            return [_unpacked(archive.read(f"{name}.npy")) for name in names]
    except Exception as error:  # a damaged archive may raise anything
        raise ValueError(
            f"{path} must be a whole .npz file with the arrays {', '.join(names)}, got: {error!r}"
        ) from error


def _unpacked(content: bytes) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        file.write(content)
        file.flush()
        return np.array(_mapped(Path(file.name)))


def _mapped(path: Path) -> np.ndarray:
    """The array of a file. Mapped into memory, since a header that lies would otherwise be given all that it claims."""
    with open(path, "rb") as file:
        start = file.read(12)
    if start[6:7] in (b"\x02", b"\x03") and int.from_bytes(start[8:], "little") > path.stat().st_size:
        raise ValueError("a header longer than the file")  # NumPy makes room for it before it reads it
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise ValueError("an archive of several arrays")
    if array.dtype.kind not in "biufc":  # of what has no size, a file of some bytes may claim any number
        raise ValueError(f"dtype {array.dtype}")
    return array


def require_file(path: Path, source: str) -> None:
    """Raises ``FileNotFoundError`` that says where to get the file, if it is missing."""
    if not path.is_file():
        raise FileNotFoundError(f"file {path} is missing; get it from {source}")


def image_array(pixels: np.ndarray, path: Path, height: int, width: int, channels: int) -> np.ndarray:
    """Checks that pixels read from ``path`` are uint8 ``[N, height, width, channels]``."""
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (height, width, channels):
        raise ValueError(
            f"{path} must be uint8 [N, {height}, {width}, {channels}], got {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels


def label_array(labels: np.ndarray, path: Path, count: int, classes: int) -> Tensor:
    """Checks that labels read from ``path`` are ``count`` whole numbers below ``classes``, and gives them as int64."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path} must be whole numbers [N], got {labels.dtype} {list(labels.shape)}")
    if len(labels) != count or count == 0:
        raise ValueError(f"{path} must hold a label for every image, at least one; got {len(labels)} for {count}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(f"{path} must hold labels 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    return torch.from_numpy(labels.astype(np.int64))
