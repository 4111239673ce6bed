"""Test sets for networks trained on CIFAR-10: CIFAR-10.1, CIFAR-10.2 and CIFAR-10-C."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hardfast.data.array_images import ArrayImages, image_array, label_array, read_npy, read_npz
from hardfast.data.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, those_present
from hardfast.data.splits import LabelledImages
from hardfast.ops import _checks

_SOURCE_1 = "https://github.com/modestyachts/CIFAR-10.1 (datasets/)"
_SOURCE_2 = "https://github.com/modestyachts/cifar-10.2"
_SOURCE_C = "https://zenodo.org/records/2535967 (CIFAR-10-C.tar, unpacked)"
_CLASSES = 10
_PIXELS = (32, 32, 3)


def load_cifar10_1(root: str | Path, version: Literal["v4", "v6"] = "v6") -> LabelledImages:
    """Loads CIFAR-10.1.

    Args:
        root: folder with ``cifar10.1_v6_data.npy`` and ``cifar10.1_v6_labels.npy`` in itself, in ``datasets/``, in
            ``CIFAR-10.1/`` or in ``CIFAR-10.1/datasets/``.
        version: ``"v6"``, 2,000 images with the classes balanced, or ``"v4"``, 2,021 images.

    Returns:
        Images ``[N, 3, 32, 32]``, float32 in [0, 1].

    Raises:
        FileNotFoundError: a file is missing; the message names it and says where to get it.
        ValueError: a file is damaged.

    Source: Recht et al., Do CIFAR-10 Classifiers Generalize to CIFAR-10?, 2018.
    """
    _checks.one_of("version", version, ("v4", "v6"))
    name = f"cifar10.1_{version}_data.npy"
    folder = _folder_with(name, Path(root), ("", "datasets", "CIFAR-10.1", "CIFAR-10.1/datasets"))
    images_path, labels_path = folder / name, folder / f"cifar10.1_{version}_labels.npy"
    pixels = image_array(read_npy(images_path, _SOURCE_1), images_path, *_PIXELS)
    labels = label_array(read_npy(labels_path, _SOURCE_1), labels_path, len(pixels), _CLASSES)
    return ArrayImages(pixels, labels).in_memory()


def load_cifar10_2(root: str | Path, split: Literal["train", "test"] = "test") -> LabelledImages:
    """Loads CIFAR-10.2.

    Args:
        root: folder with ``cifar102_test.npz`` and ``cifar102_train.npz`` in itself or in ``CIFAR-10.2/`` or
            ``cifar-10.2/``. (An older revision has them as ``.npy`` files, which would have to be unpickled.)
        split: ``"test"``, 2,000 images, or ``"train"``, 10,000.

    Returns:
        Images ``[N, 3, 32, 32]``, float32 in [0, 1].

    Raises:
        FileNotFoundError: the file is missing; the message names it and says where to get it.
        ValueError: the file is damaged.

    Source: Lu et al., Harder or Different? A Closer Look at Distribution Shift in Dataset Reproduction, 2020.
    """
    _checks.one_of("split", split, ("train", "test"))
    name = f"cifar102_{split}.npz"
    path = _folder_with(name, Path(root), ("", "CIFAR-10.2", "cifar-10.2")) / name
    pixels, labels = read_npz(path, ("images", "labels"), _SOURCE_2)
    checked = image_array(pixels, path, *_PIXELS)
    return ArrayImages(checked, label_array(labels, path, len(checked), _CLASSES)).in_memory()


def cifar10_c_corruptions(root: str | Path) -> tuple[str, ...]:
    """The corruptions of CIFAR-10-C that are there: those that the benchmark averages over first, then the extra ones.

    Args:
        root: as for :func:`load_cifar10_c`.

    Raises:
        FileNotFoundError: there is none; the message says where to get them.
    """
    return those_present(_folder_of_c(Path(root)), CORRUPTIONS + EXTRA_CORRUPTIONS, ".npy", source=_SOURCE_C)


def load_cifar10_c(root: str | Path, corruption: str, severity: int | None = None) -> ArrayImages:
    """Opens a corruption of CIFAR-10-C.

    Args:
        root: the folder ``CIFAR-10-C`` of the published archive, or its parent.
        corruption: one of the 15 of the benchmark or the 4 extra ones.
        severity: 1 to 5; None for all five, one after the other.

    Returns:
        Images ``[N, 3, 32, 32]`` of the test set of CIFAR-10, in its order for each severity.

    Memory: that of the images being loaded; the file is mapped into memory, not read.

    Raises:
        FileNotFoundError: a file is missing; the message names it and says where to get it.
        ValueError: a file is damaged, or there is no such corruption or severity.

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    2019.
    """
    _checks.one_of("corruption", corruption, CORRUPTIONS + EXTRA_CORRUPTIONS)
    if severity is not None and severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {list(SEVERITIES)}, or None for all, got {severity!r}")
    folder = _folder_of_c(Path(root))
    images_path, labels_path = folder / f"{corruption}.npy", folder / "labels.npy"
    pixels = image_array(read_npy(images_path, _SOURCE_C, "r"), images_path, *_PIXELS)
    if len(pixels) % len(SEVERITIES):
        raise ValueError(f"{images_path} must hold as many images of each of 5 severities, got {len(pixels)} images")
    labels = label_array(read_npy(labels_path, _SOURCE_C), labels_path, len(pixels), _CLASSES)
    if severity is None:
        return ArrayImages(pixels, labels)
    count = len(pixels) // len(SEVERITIES)
    part = slice((severity - 1) * count, severity * count)
    return ArrayImages(pixels[part], labels[part].clone())


def _folder_of_c(root: Path) -> Path:
    return _folder_with("labels.npy", root, ("CIFAR-10-C", ""))


def _folder_with(name: str, root: Path, folders: tuple[str, ...]) -> Path:
    """The first of the folders that has the file, or else the first of all, of which the caller says what it lacks."""
    return next((root / folder for folder in folders if (root / folder / name).is_file()), root / folders[0])
