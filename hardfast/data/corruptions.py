"""The corruptions by which the benchmarks of corrupted images are made."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

#: Of ImageNet-C and CIFAR-10-C, in the order of their paper: what the benchmark averages over.
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
#: Of the same sets, published for validation and not part of the average.
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = (1, 2, 3, 4, 5)

#: Of MNIST-C; ``identity``, which is MNIST itself, is published beside them.
MNIST_CORRUPTIONS = (
    "shot_noise",
    "impulse_noise",
    "glass_blur",
    "motion_blur",
    "shear",
    "scale",
    "rotate",
    "brightness",
    "translate",
    "stripe",
    "fog",
    "spatter",
    "dotted_line",
    "zigzag",
    "canny_edges",
)


def those_present(folder: Path, names: Iterable[str], suffix: str = "", *, source: str) -> tuple[str, ...]:
    """The corruptions whose file or folder is there, in the order of ``names``.

    Raises:
        FileNotFoundError: there is none; the message says what was expected and where to get it.
    """
    names = tuple(names)
    found = tuple(name for name in names if (folder / (name + suffix)).exists())
    if not found:
        raise FileNotFoundError(f"{folder} holds no corruption, such as {names[0]}{suffix}; get them from {source}")
    return found
