"""CelebA: blond hair, which the training set ties to women."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.groups import GroupedImages
from hardfast.data.image_files import ImageFiles
from hardfast.ops import _checks

CLASS_NAMES = ("not blond", "blond")
GROUP_NAMES = ("not blond woman", "not blond man", "blond woman", "blond man")

_SOURCE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Align&Cropped Images, Anno and Eval)"
_TARGET, _SPURIOUS = "Blond_Hair", "Male"
_PARTS = ("train", "validation", "test")


def load_celeba(
    root: str | Path,
    size: int,
    *,
    resize: int | None = None,
    absent: Sequence[str] = ("blond man",),
    threads: int = 4,
) -> GroupedSplits:
    """Loads CelebA's own split, with hair colour as the class; nothing is downloaded.

    Args:
        root: folder with ``img_align_celeba/``, ``list_attr_celeba.txt`` and ``list_eval_partition.txt``, in itself, in
            ``celeba/``, or, as published, in ``Img/``, ``Anno/`` and ``Eval/``.
        size: side of the images in pixels.
        resize: as for :class:`~hardfast.data.ImageFiles`.
        absent: groups that are left out of the training part, of ``GROUP_NAMES``.
        threads: that decode images at a time.

    Returns:
        The groups of each part are those of ``GROUP_NAMES``; labels are 1 for blond hair.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` what is damaged.

    Source: Liu et al., Deep Learning Face Attributes in the Wild, 2015; the groups: Sagawa et al., Distributionally
    Robust Neural Networks, 2020.
    """
    for name in absent:
        _checks.one_of("absent", name, GROUP_NAMES)
    root = Path(root)
    attributes_path = _find(root, "list_attr_celeba.txt", "Anno")
    partition_path = _find(root, "list_eval_partition.txt", "Eval")
    folder = _find(root, "img_align_celeba", "Img")
    names, blond, male = _read_attributes(attributes_path)
    part_of = _read_partition(partition_path, names)
    present = {path.name for path in folder.iterdir()}
    missing = [name for name in names if name not in present]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} images that {attributes_path} lists are missing, the first {folder / missing[0]}; "
            f"get them from {_SOURCE}"
        )
    groups = 2 * blond + male
    seen = torch.ones(len(names), dtype=torch.bool)
    for name in absent:
        seen &= groups != GROUP_NAMES.index(name)
    parts = []
    for number, part in enumerate(_PARTS):
        index = ((part_of == number) & (seen | (number > 0))).nonzero()[:, 0]
        if not len(index):
            raise ValueError(f"{partition_path} must leave images in every part, got none for {part}")
        paths = [folder / names[i] for i in index.tolist()]
        images = ImageFiles(paths, blond[index], size, resize=resize, threads=threads)
        parts.append(GroupedImages(images, groups[index], GROUP_NAMES))
    train, validation, test = parts
    return GroupedSplits(train, validation, test, CLASS_NAMES)


def _find(root: Path, name: str, published_folder: str) -> Path:
    candidates = [root / name, root / "celeba" / name, root / published_folder / name]
    for path in candidates:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"CelebA's {name} is missing: looked for {', '.join(str(path) for path in candidates)}; get it from {_SOURCE}"
    )


def _read_attributes(path: Path) -> tuple[list[str], Tensor, Tensor]:
    """File names, and whether the hair is blond and the person male, 0 or 1 ``[N]``.

    The first line is the number of images, the second names the attributes; then a line an image: its file and +1 or -1
    for each attribute.
    """
    count, header, *rows = path.read_text().splitlines() or ["", ""]
    attributes = header.split()
    if not {_TARGET, _SPURIOUS} <= set(attributes):
        raise ValueError(f"{path} must name {_TARGET} and {_SPURIOUS} in its second line, got {header[:80]!r}")
    entries = [row.split() for row in rows]
    if count.strip() != str(len(entries)):
        raise ValueError(f"{path} must have as many rows as its first line says, {count!r}, got {len(entries)}")
    columns = [1 + attributes.index(name) for name in (_TARGET, _SPURIOUS)]
    for number, entry in enumerate(entries, 3):
        if len(entry) != 1 + len(attributes) or not {entry[column] for column in columns} <= {"1", "-1"}:
            raise ValueError(f"{path} must have a file name and {len(attributes)} times 1 or -1 in line {number}")
    blond, male = (torch.tensor([int(entry[column] == "1") for entry in entries]) for column in columns)
    return [entry[0] for entry in entries], blond, male


def _read_partition(path: Path, names: list[str]) -> Tensor:
    """The part of each image: 0 for training, 1 for validation, 2 for test."""
    entries = [line.split() for line in path.read_text().splitlines()]
    for number, entry in enumerate(entries, 1):
        if len(entry) != 2 or entry[1] not in ("0", "1", "2"):
            raise ValueError(f"{path} must have a file name and 0, 1 or 2 in line {number}, got {' '.join(entry)!r}")
    parts = {name: int(part) for name, part in entries}
    unknown = next((name for name in names if name not in parts), None)
    if unknown is not None:
        raise ValueError(f"{path} must list every image, got no line for {unknown}")
    return torch.tensor([parts[name] for name in names])
