"""SpuCo Birds: land and water birds, of which the training set shows most on their own background."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from hardfast.data.grouped_splits import GroupedSplits
from hardfast.data.groups import GroupedImages
from hardfast.data.image_files import ImageFiles, list_images
from hardfast.ops import _checks

CLASS_NAMES = ("landbird", "waterbird")
GROUP_NAMES = ("landbird on land", "landbird on water", "waterbird on land", "waterbird on water")

_SOURCE = "https://github.com/BigML-CS-UCLA/SpuCo (spuco.datasets.SpuCoBirds fetches and unpacks the archive)"
_FOLDERS = ("landbirds/land", "landbirds/water", "waterbirds/land", "waterbirds/water")


def load_spuco_birds(
    root: str | Path,
    size: int,
    *,
    resize: int | None = None,
    absent: Sequence[str] = ("landbird on water", "waterbird on land"),
    threads: int = 4,
) -> GroupedSplits:
    """Loads SpuCo Birds as SpuCo unpacks it; nothing is downloaded.

    Args:
        root: ``spuco_birds``, which holds ``{train,val,test}/{landbirds,waterbirds}/{land,water}/``, or its parent.
        size: side of the images in pixels.
        resize: as for :class:`~hardfast.data.ImageFiles`.
        absent: groups that are left out of the training part, of ``GROUP_NAMES``.
        threads: that decode images at a time.

    Returns:
        The groups of each part are those of ``GROUP_NAMES``; labels are 0 for land birds and 1 for water birds.

    Errors: ``FileNotFoundError`` names what is missing and where to get it.

    Source: Joshi et al., Towards Mitigating Spurious Correlations in the Wild: A Benchmark and a more Realistic
    Dataset, 2023.
    """
    for name in absent:
        _checks.one_of("absent", name, GROUP_NAMES)
    base = next((path for path in (Path(root), Path(root) / "spuco_birds") if (path / "train").is_dir()), Path(root))
    parts = []
    for part in ("train", "val", "test"):
        paths: list[Path] = []
        groups: list[int] = []
        for group, folder in enumerate(_FOLDERS):
            if part != "train" or GROUP_NAMES[group] not in absent:
                found = list_images(base / part / folder, _SOURCE)
                paths += found
                groups += [group] * len(found)
        group_of = torch.tensor(groups, dtype=torch.int64)
        images = ImageFiles(paths, group_of // 2, size, resize=resize, threads=threads)
        parts.append(GroupedImages(images, group_of, GROUP_NAMES))
    train, validation, test = parts
    return GroupedSplits(train, validation, test, CLASS_NAMES)
