"""The packages that hardfast is measured beside, and what to do where one is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import NamedTuple


class Package(NamedTuple):
    """What is imported, and how it is installed."""

    module: str
    install: str


#: By the first word of an implementation's name; PyTorch's own are not packages apart.
PACKAGES = {
    "kornia": Package("kornia", "pip install kornia"),
    "torchvision": Package("torchvision", "pip install torchvision"),
    "OpenCV": Package("cv2", "pip install opencv-python-headless"),
    "diffusers": Package("diffusers", "pip install diffusers"),
    "triton-augment": Package("triton_augment", "pip install triton-augment"),
    "Liger": Package("liger_kernel", "pip install liger-kernel"),
}


def package_of(implementation: str) -> str | None:
    """The package that an implementation needs beside PyTorch."""
    name = implementation.split(" ")[0]
    return name if name in PACKAGES else None


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(PACKAGES[name].module) is not None


def missing_lines(implementations: Iterable[str]) -> list[str]:
    """One line for each package that is not there."""
    names = dict.fromkeys(name for name in map(package_of, implementations) if name is not None)
    absent = [name for name in names if not is_installed(name)]
    return [f"{name} is not installed and left out: {PACKAGES[name].install}" for name in absent]


def set_threads(threads: int) -> None:
    """The same number for PyTorch and for OpenCV, which has threads of its own."""
    import torch

    torch.set_num_threads(threads)
    if is_installed("OpenCV"):
        import cv2

        cv2.setNumThreads(threads)
