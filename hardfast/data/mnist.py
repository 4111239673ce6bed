"""MNIST and MNIST-C, from the files as they are published."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.mnist import read_image_file, read_label_file

from hardfast.data.array_images import ArrayImages, image_array, label_array, read_npy
from hardfast.data.corruptions import MNIST_CORRUPTIONS, those_present
from hardfast.data.splits import LabelledImages, Splits
from hardfast.ops import _checks

_MNIST_SOURCE = "python -c \"import torchvision; torchvision.datasets.MNIST('data', download=True)\""
_MNIST_C_SOURCE = "https://zenodo.org/records/3239543 (mnist_c.zip, unpacked)"
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


def mnist_c_corruptions(root: str | Path) -> tuple[str, ...]:
    """The corruptions of MNIST-C that are there; ``identity``, which is MNIST itself, comes last.

    Args:
        root: as for :func:`load_mnist_c`.

    Raises:
        FileNotFoundError: there is none; the message says where to get them.
    """
    folder = next((path for path in _mnist_c_folders(Path(root)) if path.is_dir()), Path(root))
    return those_present(folder, (*MNIST_CORRUPTIONS, "identity"), source=_MNIST_C_SOURCE)


def load_mnist_c(root: str | Path, corruption: str, split: str = "test") -> LabelledImages:
    """Loads a corruption of MNIST-C.

    Args:
        root: the folder ``mnist_c`` of the published archive, which holds a folder a corruption, or its parent.
        corruption: one of the 15 of the benchmark, such as ``"translate"``, or ``"identity"``.
        split: ``"test"`` or ``"train"``.

    Returns:
        Images ``[N, 1, 28, 28]``, float32 in [0, 1].

    Raises:
        FileNotFoundError: a file is missing; the message names it and says where to get it.
        ValueError: a file is not what MNIST-C has there, or there is no such corruption or split.

    Source: Mu and Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision, 2019.
    """
    _checks.one_of("corruption", corruption, (*MNIST_CORRUPTIONS, "identity"))
    _checks.one_of("split", split, ("train", "test"))
    folder = next((path for path in _mnist_c_folders(Path(root)) if (path / corruption).is_dir()), Path(root))
    images_path, labels_path = (folder / corruption / f"{split}_{kind}.npy" for kind in ("images", "labels"))
    pixels = image_array(read_npy(images_path, _MNIST_C_SOURCE), images_path, 28, 28, 1)
    labels = label_array(read_npy(labels_path, _MNIST_C_SOURCE), labels_path, len(pixels), 10)
    return ArrayImages(pixels, labels).in_memory()


def _mnist_c_folders(root: Path) -> tuple[Path, Path]:
    return root / "mnist_c", root


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
        zlib.error,
    ) as error:
        raise ValueError(f"{path} is not a whole IDX file of MNIST: {error or type(error).__name__}") from error


def _labelled(images: Tensor, labels: Tensor, images_path: Path, labels_path: Path) -> LabelledImages:
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(
            f"{images_path} and {labels_path} must be as long, at least one; got {len(images)} and {len(labels)}"
        )
    if labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{labels_path} must hold labels 0 to 9; got {int(labels.min())} to {int(labels.max())}")
    return LabelledImages(images.unsqueeze(1).float() / 255, labels)
