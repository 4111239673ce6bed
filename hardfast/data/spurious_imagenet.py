"""Spurious ImageNet: images that show what goes with a class, such as a feeder, but not the class."""

from __future__ import annotations

from pathlib import Path

import torch

from hardfast.data import imagenet
from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.groups import GroupedImages
from hardfast.data.image_files import ImageFiles, JoinedImages, list_images

GROUP_NAMES = ("class", "spurious feature alone")

_SOURCE = "https://github.com/YanNeu/spurious_imagenet (images_100_classes.zip, see setup_download.sh)"


def load_spurious_imagenet(
    root: str | Path,
    imagenet_root: str | Path,
    size: int,
    *,
    resize: int | None = None,
    validation_per_class: int = 10,
    split_seed: int = 0,
    threads: int = 4,
) -> GroupedSplits:
    """Loads ImageNet for training and, of the classes of Spurious ImageNet, what its score needs; downloads nothing.

    Args:
        root: ``images`` of the published archive, with a folder a class, or its parent. As in the authors' code the
            number of the class is the third part of a folder's name between underscores.
        imagenet_root: folder with ``train/<wnid>/`` and ``val/<wnid>/``.
        size: side of the images in pixels.
        resize: what the shorter side of ImageNet's images is resized to first, >= ``size``; ``size`` if None. The
            spurious images are resized to ``size``, as in the authors' code.
        validation_per_class: training images of every class that are held out, >= 1.
        split_seed: seed of that choice.
        threads: that decode images at a time.

    Returns:
        Labels are ImageNet's 1,000 classes. ``test`` has the validation images of the classes of Spurious ImageNet, in
        group 0, and the spurious images, labelled by the class they must not be taken for, in group 1.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` a folder of another name.

    Source: Neuhaus et al., Spurious Features Everywhere: Large-Scale Detection of Harmful Spurious Features in
    ImageNet, 2023.
    """
    wnids, class_names = imagenet.imagenet_classes()
    imagenet_root = Path(imagenet_root)
    kept, held_out = imagenet.training_files(imagenet_root / "train", wnids, validation_per_class, split_seed)
    shown, spurious = _test_files(Path(root), imagenet_root / "val", wnids)

    def files(entries: imagenet.Entries, resize: int | None) -> ImageFiles:
        return imagenet.image_files(entries, size, resize, threads)

    def one_group(images: ImageFiles) -> GroupedImages:
        return GroupedImages(images, torch.zeros(len(images), dtype=torch.int64), GROUP_NAMES)

    test = JoinedImages([files(shown, resize), files(spurious, None)])
    groups = torch.tensor([0] * len(shown) + [1] * len(spurious))
    return GroupedSplits(
        one_group(files(kept, resize)),
        one_group(files(held_out, resize)),
        GroupedImages(test, groups, GROUP_NAMES),
        class_names,
    )


def _test_files(root: Path, validation: Path, wnids: tuple[str, ...]) -> tuple[imagenet.Entries, imagenet.Entries]:
    """Validation images of the classes with spurious images, and these."""
    root = root / "images" if (root / "images").is_dir() else root
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not folders:
        raise FileNotFoundError(f"folder {root} is missing or has no class folders; get it from {_SOURCE}")
    spurious = [(file, _class_of(folder, len(wnids))) for folder in folders for file in list_images(folder, _SOURCE)]
    shown = []
    for label in sorted({label for _, label in spurious}):
        shown += [(file, label) for file in list_images(validation / wnids[label], imagenet.SOURCE)]
    return shown, spurious


def _class_of(folder: Path, classes: int) -> int:
    parts = folder.name.split("_")
    if len(parts) < 4 or not parts[2].isdecimal() or int(parts[2]) >= classes:
        raise ValueError(
            f"folders of {folder.parent} must be named with the class, 0 .. {classes - 1}, as the third of at least "
            f"four parts between underscores, got {folder.name!r}"
        )
    return int(parts[2])
