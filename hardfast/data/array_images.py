"""Labelled images of 8-bit arrays, which may lie in a file of any size."""

from __future__ import annotations

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
        return np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path} must be a whole .npy file of numbers, got: {error}") from error


def read_npz(path: Path, names: tuple[str, ...], source: str) -> list[np.ndarray]:
    """Reads some arrays of numbers of an archive, as :func:`read_npy` does."""
    require_file(path, source)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (EOFError, KeyError, OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} must be a whole .npz file with the arrays {', '.join(names)}, got: {error}"
        ) from error


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
