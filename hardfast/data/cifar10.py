"""CIFAR-10 from its binary or its Python version, as they are published."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardfast.data.array_images import require_file
from hardfast.data.splits import LabelledImages, Splits

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html (the binary or the Python version, unpacked)"

_SIDE, _CHANNELS = 32, 3
_BYTES = _CHANNELS * _SIDE * _SIDE
_BATCHES = 5


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the protocols of Python 2."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes as {encoding} are not part of CIFAR-10")
    return text.encode("latin1")


class _Dtype:
    """The name of a dtype. Byte order and alignment, which come later, are nothing to single bytes."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """What a pickled array consists of. NumPy's own classes trust it: crafted files crash them, or get any memory."""

    def __init__(self, *_: Any) -> None:
        self._state: Any = None

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def pixels(self) -> np.ndarray:
        _, shape, dtype, by_columns, content = self._state
        if dtype.name != "u1" or len(shape) != 2 or shape[1] != _BYTES:
            raise ValueError(f"data must be uint8 [N, {_BYTES}], got {dtype.name} {list(shape)}")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


# All that a pickled array of bytes refers to, under the names that Python and NumPy have had for it.
_PICKLED = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): None,  # only an argument of the next
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
}


def load_cifar10(root: str | Path, *, split_seed: int = 0, validation_size: int = 5000) -> Splits:
    """Loads CIFAR-10 from its files; nothing is downloaded, and no code that a file might hold is run.

    Args:
        root: ``cifar-10-batches-bin`` (the binary version) or ``cifar-10-batches-py`` (the Python version, which
            torchvision downloads), or the folder that holds one of them; where there are both, the binary one is read.
        split_seed: seed of the random choice of validation images.
        validation_size: training images that are held out, >= 1 and less than there are.

    Returns:
        Images ``[N, 3, 32, 32]``, float32 in [0, 1], neither normalised nor augmented.

    Memory: 740 MB for the 60,000 images.

    Raises:
        FileNotFoundError: a file is missing; the message names it and says where to get it.
        ValueError: a file is damaged, or ``validation_size`` leaves nothing to train on.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    folder, suffix, read = _version(Path(root))
    batches = [read(folder / f"data_batch_{number}{suffix}") for number in range(1, _BATCHES + 1)]
    train_images, train_labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    test_images, test_labels = read(folder / f"test_batch{suffix}")
    if not 0 < validation_size < len(train_labels):
        raise ValueError(
            f"validation_size must be at least 1 and less than the {len(train_labels)} training images, "
            f"got {validation_size}"
        )
    order = torch.randperm(len(train_labels), generator=torch.Generator().manual_seed(split_seed))
    held_out, kept = order[:validation_size], order[validation_size:]
    return Splits(
        _labelled(train_images[kept], train_labels[kept]),
        _labelled(train_images[held_out], train_labels[held_out]),
        _labelled(test_images, test_labels),
    )


def _labelled(pixels: Tensor, labels: Tensor) -> LabelledImages:
    return LabelledImages(pixels.float().div_(255), labels)


def _version(root: Path) -> tuple[Path, str, Callable[[Path], tuple[Tensor, Tensor]]]:
    """The folder of the files, how their names end and what reads one."""
    for suffix, read in ((".bin", _read_binary), ("", _read_python)):
        for folder in (root, root / ("cifar-10-batches-bin" if suffix else "cifar-10-batches-py")):
            if (folder / f"data_batch_1{suffix}").is_file():
                return folder, suffix, read
    raise FileNotFoundError(
        f"CIFAR-10's files are missing: looked for data_batch_1.bin in {root} and {root / 'cifar-10-batches-bin'}, and "
        f"for data_batch_1 in {root} and {root / 'cifar-10-batches-py'}; get them from {SOURCE}"
    )


def _read_binary(path: Path) -> tuple[Tensor, Tensor]:
    """Records of one byte for the label and 3,072 for the image, by channel, row and column."""
    require_file(path, SOURCE)
    content = np.fromfile(path, dtype=np.uint8)
    if len(content) == 0 or len(content) % (1 + _BYTES):
        raise ValueError(f"{path} must hold records of {1 + _BYTES} bytes, at least one, got {len(content)} bytes")
    records = content.reshape(-1, 1 + _BYTES)
    return _checked(path, records[:, 1:], records[:, 0])


def _read_python(path: Path) -> tuple[Tensor, Tensor]:
    require_file(path, SOURCE)
    try:
        content = path.read_bytes()
        _check_claims(content)
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        by_name = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        if not isinstance(by_name["data"], _Array):
            raise TypeError(f"data must be an array, got {type(by_name['data']).__name__}")
        pixels, labels = by_name["data"].pixels(), by_name["labels"]
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{path} must be a whole batch of CIFAR-10's Python version, got: {error!r}") from error
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise ValueError(f"labels of {path} must be a list of whole numbers")
    if len(labels) != len(pixels) or not labels:
        raise ValueError(f"labels of {path} must be {len(pixels)}, one an image and at least one, got {len(labels)}")
    return _checked(path, pixels, np.array(labels))


def _check_claims(content: bytes) -> None:
    """Refuses numbers of the memo and lengths beyond the file: Python's unpickler would take memory for all of them."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"{opcode.name} {argument} of {len(content)} bytes")


class _BatchUnpickler(pickle.Unpickler):
    """Makes numbers, text, containers of them and :class:`_Array`, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PICKLED:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of CIFAR-10")
        return _PICKLED[module, name]


def _checked(path: Path, pixels: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    if labels.min() < 0 or labels.max() >= len(CLASS_NAMES):
        raise ValueError(f"{path} must hold labels 0 to 9, got {labels.min()} to {labels.max()}")
    images = torch.from_numpy(pixels.reshape(-1, _CHANNELS, _SIDE, _SIDE).copy())
    return images, torch.from_numpy(labels.astype(np.int64))
