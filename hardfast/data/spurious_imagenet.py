"""Spurious ImageNet: images that show what goes with a class, such as a feeder, but not the class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.groups import GroupedImages
from hardfast.data.image_files import ImageFiles, JoinedImages, list_images
from hardfast.ops import _checks

GROUP_NAMES = ("class", "spurious feature alone")

_SOURCE = "https://github.com/YanNeu/spurious_imagenet (images_100_classes.zip, see setup_download.sh)"
_IMAGENET_SOURCE = "https://image-net.org/download.php (ILSVRC2012, unpacked into a folder a class)"


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
    _checks.integer("validation_per_class", validation_per_class, 1)
    wnids, class_names = imagenet_classes()
    imagenet_root = Path(imagenet_root)
    kept, held_out = _train_files(imagenet_root / "train", wnids, validation_per_class, split_seed)
    shown, spurious = _test_files(Path(root), imagenet_root / "val", wnids)

    def files(entries: list[tuple[Path, int]], resize: int | None) -> ImageFiles:
        labels = torch.tensor([label for _, label in entries], dtype=torch.int64)
        return ImageFiles([path for path, _ in entries], labels, size, resize=resize, threads=threads)

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


def _train_files(
    folder: Path, wnids: tuple[str, ...], held_out_count: int, seed: int
) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not classes:
        raise FileNotFoundError(f"folder {folder} is missing or has no class folders; get it from {_IMAGENET_SOURCE}")
    generator = torch.Generator().manual_seed(seed)
    kept: list[tuple[Path, int]] = []
    held_out: list[tuple[Path, int]] = []
    for path in classes:
        if path.name not in wnids:
            raise ValueError(f"folders of {folder} must be named by ImageNet's WordNet numbers, got {path.name!r}")
        files = list_images(path, _IMAGENET_SOURCE)
        if len(files) <= held_out_count:
            raise ValueError(f"validation_per_class must be less than the {len(files)} images of {path}")
        order = torch.randperm(len(files), generator=generator).tolist()
        label = wnids.index(path.name)
        held_out += [(files[i], label) for i in sorted(order[:held_out_count])]
        kept += [(files[i], label) for i in sorted(order[held_out_count:])]
    return kept, held_out


def _test_files(
    root: Path, validation: Path, wnids: tuple[str, ...]
) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Validation images of the classes with spurious images, and these."""
    root = root / "images" if (root / "images").is_dir() else root
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if not folders:
        raise FileNotFoundError(f"folder {root} is missing or has no class folders; get it from {_SOURCE}")
    spurious = [(file, _class_of(folder, len(wnids))) for folder in folders for file in list_images(folder, _SOURCE)]
    shown = []
    for label in sorted({label for _, label in spurious}):
        shown += [(file, label) for file in list_images(validation / wnids[label], _IMAGENET_SOURCE)]
    return shown, spurious


def _class_of(folder: Path, classes: int) -> int:
    parts = folder.name.split("_")
    if len(parts) < 4 or not parts[2].isdecimal() or int(parts[2]) >= classes:
        raise ValueError(
            f"folders of {folder.parent} must be named with the class, 0 .. {classes - 1}, as the third of at least "
            f"four parts between underscores, got {folder.name!r}"
        )
    return int(parts[2])
