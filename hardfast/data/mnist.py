"""MNIST and the translate part of MNIST-C, from the files as they are published."""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from hardfast.data.splits import LabelledImages, Splits

_MNIST_SOURCE = "python -c \"import torchvision; torchvision.datasets.MNIST('data', download=True)\""
_MNIST_C_SOURCE = "https://zenodo.org/records/3239543 (mnist_c.zip)"
_FOLDERS = ("", "raw", "MNIST/raw")
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def load_mnist(root: str | Path, *, split_seed: int = 0, validation_fraction: float = 0.1) -> Splits:
    """Loads MNIST from its four IDX files; nothing is downloaded.

    Args:
        root: folder with the files, plain or ``.gz``, in itself, in ``raw/`` or, as torchvision has it, in
            ``MNIST/raw/``.
        split_seed: seed of the random choice of validation images.
        validation_fraction: part of the training images that is held out, in (0, 1).

    Returns:
        Images ``[N, 1, 28, 28]``, float32 in [0, 1], neither normalised nor augmented.

    Raises:
        FileNotFoundError: a file is missing; the message names it and says where to get it.
        ValueError: a file is damaged or the files do not fit together.

    Source: LeCun, Cortes and Burges, The MNIST Database of Handwritten Digits, 1998.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction must be in (0, 1); got {validation_fraction}")
    train, test = (_load_idx(Path(root), *_FILES[split]) for split in ("train", "test"))
    held_out = round(len(train) * validation_fraction)
    if not 0 < held_out < len(train):
        raise ValueError(
            f"validation_fraction must leave training and validation images; {validation_fraction} of {len(train)} "
            f"holds out {held_out}"
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(split_seed))
    return Splits(train[order[held_out:]], train[order[:held_out]], test)


def load_mnist_c_translate(root: str | Path, split: str = "test") -> LabelledImages:
    """Loads the shifted digits of MNIST-C.

    Args:
        root: the folder ``mnist_c`` of the published archive, which holds ``translate/``, or its parent.
        split: ``"test"`` or ``"train"``.

    Returns:
        Images ``[N, 1, 28, 28]``, float32 in [0, 1].

    Raises:
        FileNotFoundError: a file is missing; the message names it and says where to get it.
        ValueError: a file is not what MNIST-C has there.

    Source: Mu and Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision, 2019.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test'; got {split!r}")
    folder = next((path for path in (Path(root), Path(root) / "mnist_c") if (path / "translate").is_dir()), Path(root))
    images_path, labels_path = (folder / "translate" / f"{split}_{kind}.npy" for kind in ("images", "labels"))
    images, labels = _load_npy(images_path), _load_npy(labels_path)
    if images.ndim != 4 or images.shape[1:] != (28, 28, 1) or images.dtype != np.uint8:
        raise ValueError(f"{images_path} must be uint8 [N, 28, 28, 1]; got {images.dtype} {list(images.shape)}")
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{labels_path} must be whole numbers [N]; got {labels.dtype} {list(labels.shape)}")
    labels = labels.astype(np.int64)
    return _labelled(torch.from_numpy(images[..., 0]), torch.from_numpy(labels), images_path, labels_path)


def _load_idx(root: Path, images_name: str, labels_name: str) -> LabelledImages:
    images_path, labels_path = _find(root, images_name), _find(root, labels_name)
    images, labels = _read_idx(images_path, read_image_file), _read_idx(labels_path, read_label_file)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{images_path} must hold 28x28 images; got {list(images.shape)}")
    return _labelled(images, labels, images_path, labels_path)


def _find(root: Path, name: str) -> Path:
    candidates = [root / folder / (name + suffix) for folder in _FOLDERS for suffix in ("", ".gz")]
    for path in candidates:
        if path.is_file():
            return path
    expected = root / _FOLDERS[-1] / name
    raise FileNotFoundError(
        f"MNIST file {expected} is missing (also looked for it with .gz, and in {root / 'raw'} and {root}); "
        f"fetch it once, for example by: {_MNIST_SOURCE}, or copy the four IDX files there"
    )


def _read_idx(path: Path, read: Callable[[str], Tensor]) -> Tensor:
    """Reads by torchvision, which takes plain files only."""
    try:
        if path.suffix != ".gz":
            return read(str(path))
        with tempfile.NamedTemporaryFile() as plain:
            plain.write(gzip.decompress(path.read_bytes()))
            plain.flush()
            return read(plain.name)
    except (
        AssertionError,
        EOFError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
        gzip.BadGzipFile,
    ) as error:
        raise ValueError(f"{path} is not a whole IDX file of MNIST: {error or type(error).__name__}") from error


def _load_npy(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"MNIST-C file {path} is missing; get it from {_MNIST_C_SOURCE} and unpack it there")
    try:
        # Without pickle a file can hold numbers only: loading it runs no code.
        return np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a whole .npy file of numbers: {error}") from error


def _labelled(images: Tensor, labels: Tensor, images_path: Path, labels_path: Path) -> LabelledImages:
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{images_path} and {labels_path} must be as long, at least one; got {len(images)} and {len(labels)}"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{labels_path} must hold labels 0 to 9; got {int(labels.min())} to {int(labels.max())}")
    return LabelledImages(images.unsqueeze(1).float() / 255, labels)
