"""ImageNet as it is unpacked, a folder for each class, named by its WordNet number; or in shards of webdataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from hardfast.data.image_files import ChosenImages, ImageFiles, list_images
from hardfast.data.image_set import ImageSet
from hardfast.data.shards import ShardedImages, list_shards
from hardfast.ops import _checks

SOURCE = "https://image-net.org/download.php (ILSVRC2012, unpacked into a folder a class)"

CLASSES = 1000

#: Files with their labels.
Entries = list[tuple[Path, int]]


class ImageNetSplits(NamedTuple):
    """The parts of ImageNet; the labels of all are its 1,000 classes, also where folders of some are absent.

    Args:
        train: for training.
        validation: the images of ``train/`` that are held out.
        test: the images of ``val/``, whose published labels make it the usual test set.
        class_names: of the labels, in their order.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]


def load_imagenet(
    root: str | Path,
    size: int,
    *,
    resize: int | None = None,
    validation_per_class: int = 10,
    split_seed: int = 0,
    threads: int = 4,
) -> ImageNetSplits:
    """Loads the lists of ImageNet's files, which are decoded when they are asked for; nothing is downloaded.

    Args:
        root: folder with ``train/<wnid>/`` and ``val/<wnid>/``; folders of some of the classes are enough. Either can
            hold shards of webdataset, ``*.tar``, in place of folders.
        size: side of the images in pixels.
        resize: as for :class:`~hardfast.data.ImageFiles`.
        validation_per_class: training images of every class that are held out, >= 1.
        split_seed: seed of that choice.
        threads: that decode images at a time.

    Returns:
        Images ``[N, 3, size, size]``, float32 in [0, 1], neither normalised nor augmented.

    Memory: the paths and labels.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` a folder of another name.

    Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, 2015.
    """
    wnids, class_names = imagenet_classes()
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    if shards := list_shards(Path(root) / "train"):
        images = _sharded(shards, size, resize, threads)
        train, validation = _hold_out(images, validation_per_class, split_seed)
    else:
        parts = training_files(Path(root) / "train", wnids, validation_per_class, split_seed)
        train, validation = (image_files(entries, size, resize, threads) for entries in parts)
    if shards := list_shards(Path(root) / "val"):
        test = _sharded(shards, size, resize, threads)
    else:
        entries = class_folder_files(Path(root) / "val", wnid_label(wnids), SOURCE)
        test = image_files(entries, size, resize, threads)
    return ImageNetSplits(train, validation, test, class_names)


def _sharded(shards: list[Path], size: int, resize: int | None, threads: int) -> ShardedImages:
    images = ShardedImages(shards, size, resize=resize, threads=threads)
    if int(images.labels.max()) >= CLASSES:
        raise ValueError(
            f"labels of the shards in {shards[0].parent} must be in [0, {CLASSES}), got {int(images.labels.max())}"
        )
    return images


def _hold_out(images: ShardedImages, held_out_count: int, seed: int) -> tuple[ChosenImages, ChosenImages]:
    """The training images without, and with nothing but, those that are held out of each class."""
    _checks.integer("validation_per_class", held_out_count, 1)
    generator = torch.Generator().manual_seed(seed)
    held_out = torch.zeros(len(images), dtype=torch.bool)
    for label in images.labels.unique():
        places = (images.labels == label).nonzero()[:, 0]
        if len(places) <= held_out_count:
            raise ValueError(f"validation_per_class must be less than the {len(places)} images of class {int(label)}")
        held_out[places[torch.randperm(len(places), generator=generator)[:held_out_count]]] = True
    return ChosenImages(images, (~held_out).nonzero()[:, 0]), ChosenImages(images, held_out.nonzero()[:, 0])


def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The WordNet numbers of ImageNet's 1,000 classes in the order of their labels, and a name for each.

    Where two classes have the same name, what WordNet says of each is added.
    """
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(label).split(",")[0] for label in range(info.num_classes())]
    shared = Counter(names)
    for label, name in enumerate(names):
        if shared[name] > 1:
            names[label] = f"{name} ({info.index_to_description(label, detailed=True).split(': ', 1)[1]})"
    return tuple(info.label_names()), tuple(names)


def training_files(folder: Path, wnids: tuple[str, ...], held_out_count: int, seed: int) -> tuple[Entries, Entries]:
    """The training files of the classes that are there, and those that are held out of each class."""
    _checks.integer("validation_per_class", held_out_count, 1)
    generator = torch.Generator().manual_seed(seed)
    kept: Entries = []
    held_out: Entries = []
    for path, label in class_folders(folder, wnid_label(wnids), SOURCE):
        files = list_images(path, SOURCE)
        if len(files) <= held_out_count:
            raise ValueError(f"validation_per_class must be less than the {len(files)} images of {path}")
        order = torch.randperm(len(files), generator=generator).tolist()
        held_out += [(files[i], label) for i in sorted(order[:held_out_count])]
        kept += [(files[i], label) for i in sorted(order[held_out_count:])]
    return kept, held_out


def wnid_label(wnids: Iterable[str]) -> Callable[[str], int]:
    """What gives the label of a folder that is named by a WordNet number."""
    labels = {wnid: label for label, wnid in enumerate(wnids)}

    def label_of(name: str) -> int:
        if name not in labels:
            raise ValueError(f"must be named by ImageNet's WordNet numbers, got {name!r}")
        return labels[name]

    return label_of


def class_folders(folder: Path, label_of: Callable[[str], int], source: str) -> list[tuple[Path, int]]:
    """The folders of the classes that are there, by name, and the label of each.

    Raises:
        FileNotFoundError: there is none; the message says where to get them.
        ValueError: the name of a folder is not that of a class.
    """
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not classes:
        raise FileNotFoundError(f"folder {folder} is missing or has no class folders; get it from {source}")
    try:
        return [(path, label_of(path.name)) for path in classes]
    except ValueError as error:
        raise ValueError(f"folders of {folder} {error}") from error


def class_folder_files(folder: Path, label_of: Callable[[str], int], source: str) -> Entries:
    """The image files of all class folders."""
    return [
        (file, label) for path, label in class_folders(folder, label_of, source) for file in list_images(path, source)
    ]


def image_files(entries: Entries, size: int, resize: int | None, threads: int) -> ImageFiles:
    """The files as an image set."""
    labels = torch.tensor([label for _, label in entries], dtype=torch.int64)
    return ImageFiles([path for path, _ in entries], labels, size, resize=resize, threads=threads)
