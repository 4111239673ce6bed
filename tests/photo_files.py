"""Writes small data sets in the formats in which CelebA, SpuCo Birds, ImageNet and Spurious ImageNet are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

ATTRIBUTES = ("5_o_Clock_Shadow", "Blond_Hair", "Chubby", "Male", "Young")


def write_image(path: Path, value: int, width: int = 13, height: int = 16) -> None:
    """All of one grey, which JPEG stores exactly."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), value, dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=100)


def write_celeba(root: Path, people: list[tuple[int, int, int]], folders=("", "", "")) -> None:
    """People are (part 0 to 2, blond 0 or 1, male 0 or 1); image ``i`` has the grey ``i + 1``."""
    images, annotations, evaluation = (root / folder for folder in folders)
    for folder in (annotations, evaluation):
        folder.mkdir(parents=True, exist_ok=True)
    rows, parts = [], []
    for i, (part, blond, male) in enumerate(people):
        name = f"{i + 1:06d}.jpg"
        write_image(images / "img_align_celeba" / name, i + 1)
        values = (-1, 2 * blond - 1, 1, 2 * male - 1, 1)
        rows.append(name + " " + " ".join(f"{value:2d}" for value in values))
        parts.append(f"{name} {part}")
    header = [str(len(people)), " ".join(ATTRIBUTES) + " "]
    (annotations / "list_attr_celeba.txt").write_text("\n".join(header + rows) + "\n")
    (evaluation / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")


def write_spuco_birds(root: Path, train: tuple[int, int], other: tuple[int, int]) -> None:
    """Image counts are (majority, minority); the grey tells class and background."""
    for part in ("train", "val", "test"):
        majority, minority = train if part == "train" else other
        for label, bird in enumerate(("landbirds", "waterbirds")):
            for background, place in enumerate(("land", "water")):
                for i in range(majority if label == background else minority):
                    value = 100 * label + 50 * background + i
                    write_image(root / "spuco_birds" / part / bird / place / f"{bird}_{i}.jpg", value)


def write_spurious_imagenet(root: Path, classes: dict[int, str], train: int, validation: int, spurious: int) -> None:
    """Classes are label -> WordNet number; the grey is label % 100 for images of the class, more for others."""
    for label, wnid in classes.items():
        for i in range(train):
            write_image(root / "imagenet" / "train" / wnid / f"{wnid}_{i}.JPEG", label % 100, 20, 17)
        for i in range(validation):
            write_image(
                root / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{label:05d}{i:03d}.JPEG", label % 100, 20, 17
            )
        for i in range(spurious):
            folder = root / "spurious_imagenet" / "images" / f"spurious_class_{label}_component_{3 + label}"
            write_image(folder / f"{i:016x}.jpg", 100 + label % 100)
    (root / "spurious_imagenet" / "images" / "timestamp.txt").write_text("1670000000\n")
