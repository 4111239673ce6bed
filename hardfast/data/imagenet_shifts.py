"""Test sets for networks trained on ImageNet: V2, -A, -R, -Sketch, -C and Stylized."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hardfast.data.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES, those_present
from hardfast.data.image_files import ImageFiles
from hardfast.data.imagenet import class_folder_files, image_files, imagenet_classes, wnid_label
from hardfast.ops import _checks

_SOURCE_V2 = "https://huggingface.co/datasets/vaishaal/ImageNetV2 (imagenetv2-{}.tar.gz, unpacked)"
_SOURCE_A = "https://github.com/hendrycks/natural-adv-examples (imagenet-a.tar, unpacked)"
_SOURCE_R = "https://github.com/hendrycks/imagenet-r (imagenet-r.tar, unpacked)"
_SOURCE_SKETCH = "https://github.com/HaohanWang/ImageNet-Sketch (unpacked)"
_SOURCE_C = "https://zenodo.org/records/2235448 (noise, blur, weather, digital and extra, unpacked into one folder)"
_SOURCE_STYLIZED = "https://github.com/rgeirhos/Stylized-ImageNet, which makes it from ImageNet"
_C_FOLDERS = ("imagenet-c", "ImageNet-C")


def load_imagenet_v2(
    root: str | Path,
    size: int,
    *,
    variant: Literal["matched-frequency", "threshold0.7", "top-images"] = "matched-frequency",
    resize: int | None = None,
    threads: int = 4,
) -> ImageFiles:
    """Loads the list of ImageNet-V2's files; the names of its folders are labels, 0 to 999.

    Args:
        root: ``imagenetv2-<variant>-format-val``, or the folder that holds it.
        size: side of the images in pixels.
        variant: which of the three test sets.
        resize: as for :class:`~hardfast.data.ImageFiles`.
        threads: that decode images at a time.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` a folder of another name.

    Source: Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, 2019.
    """
    _checks.one_of("variant", variant, ("matched-frequency", "threshold0.7", "top-images"))
    folder = _named(Path(root), f"imagenetv2-{variant}-format-val")
    return image_files(class_folder_files(folder, _numeric_label, _SOURCE_V2.format(variant)), size, resize, threads)


def load_imagenet_a(root: str | Path, size: int, *, resize: int | None = None, threads: int = 4) -> ImageFiles:
    """Loads the list of ImageNet-A's files, of 200 classes.

    Args:
        root: ``imagenet-a``, which holds a folder a class, or its parent.
        size: side of the images in pixels.
        resize: as for :class:`~hardfast.data.ImageFiles`.
        threads: that decode images at a time.

    Returns:
        Labels are ImageNet's 1,000 classes; the classes that occur are those to choose an answer from.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` a folder of another name.

    Source: Hendrycks et al., Natural Adversarial Examples, 2021.
    """
    return _by_wnid(_named(Path(root), "imagenet-a"), _SOURCE_A, size, resize, threads)


def load_imagenet_r(root: str | Path, size: int, *, resize: int | None = None, threads: int = 4) -> ImageFiles:
    """Loads the list of ImageNet-R's files, of 200 classes.

    Args:
        root: ``imagenet-r``, which holds a folder a class, or its parent.
        size: side of the images in pixels.
        resize: as for :class:`~hardfast.data.ImageFiles`.
        threads: that decode images at a time.

    Returns:
        Labels are ImageNet's 1,000 classes; the classes that occur are those to choose an answer from.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` a folder of another name.

    Source: Hendrycks et al., The Many Faces of Robustness, 2021.
    """
    return _by_wnid(_named(Path(root), "imagenet-r"), _SOURCE_R, size, resize, threads)


def load_imagenet_sketch(root: str | Path, size: int, *, resize: int | None = None, threads: int = 4) -> ImageFiles:
    """Loads the list of ImageNet-Sketch's files.

    Args:
        root: ``sketch``, which holds a folder a class, or its parent.
        size: side of the images in pixels.
        resize: as for :class:`~hardfast.data.ImageFiles`.
        threads: that decode images at a time.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` a folder of another name.

    Source: Wang et al., Learning Robust Global Representations by Penalizing Local Predictive Power, 2019.
    """
    folder = _named(Path(root), "sketch", "imagenet-sketch/sketch", "ImageNet-Sketch/sketch")
    return _by_wnid(folder, _SOURCE_SKETCH, size, resize, threads)


def load_imagenet_stylized(root: str | Path, size: int, *, resize: int | None = None, threads: int = 4) -> ImageFiles:
    """Loads the list of the validation files of Stylized-ImageNet.

    Args:
        root: ``stylized-imagenet``, which holds ``val/<wnid>/``, or its parent.
        size: side of the images in pixels.
        resize: as for :class:`~hardfast.data.ImageFiles`; the authors' code makes images of 224 px.
        threads: that decode images at a time.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` a folder of another name.

    Source: Geirhos et al., ImageNet-trained CNNs Are Biased Towards Texture, 2019.
    """
    folder = _named(Path(root), "stylized-imagenet", "imagenet-stylized", "Stylized-ImageNet", "imagenet_stylized")
    return _by_wnid(folder / "val", _SOURCE_STYLIZED, size, resize, threads)


def imagenet_c_corruptions(root: str | Path) -> tuple[str, ...]:
    """The corruptions of ImageNet-C that are there: those that the benchmark averages over first, then the extra ones.

    Args:
        root: as for :func:`load_imagenet_c`.

    Raises:
        FileNotFoundError: there is none; the message says where to get them.
    """
    return those_present(_named(Path(root), *_C_FOLDERS), CORRUPTIONS + EXTRA_CORRUPTIONS, source=_SOURCE_C)


def load_imagenet_c(
    root: str | Path, size: int, corruption: str, severity: int, *, resize: int | None = None, threads: int = 4
) -> ImageFiles:
    """Loads the list of the files of a corruption of ImageNet-C at one severity.

    Args:
        root: ``imagenet-c``, which holds ``<corruption>/<severity>/<wnid>/``, or its parent.
        size: side of the images in pixels.
        corruption: one of the 15 of the benchmark or the 4 extra ones.
        severity: 1 to 5.
        resize: as for :class:`~hardfast.data.ImageFiles`; the published images have 224 px.
        threads: that decode images at a time.

    Errors: ``FileNotFoundError`` names what is missing and where to get it; ``ValueError`` a folder of another name, or
    that there is no such corruption or severity.

    Source: Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
    2019.
    """
    _checks.one_of("corruption", corruption, CORRUPTIONS + EXTRA_CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {list(SEVERITIES)}, got {severity!r}")
    folder = _named(Path(root), *_C_FOLDERS) / corruption / str(severity)
    return _by_wnid(folder, _SOURCE_C, size, resize, threads)


def _by_wnid(folder: Path, source: str, size: int, resize: int | None, threads: int) -> ImageFiles:
    entries = class_folder_files(folder, wnid_label(imagenet_classes()[0]), source)
    return image_files(entries, size, resize, threads)


def _numeric_label(name: str) -> int:
    if not name.isdecimal() or int(name) >= 1000:
        raise ValueError(f"must be named 0 to 999, by the label, got {name!r}")
    return int(name)


def _named(root: Path, *names: str) -> Path:
    """The folder of one of these names: in ``root``, or ``root`` itself; the first where there is none.

    A folder of any other name is not taken: the sets look alike from within.
    """
    for name in names:
        if (root / name).is_dir():
            return root / name
    own_name = root.absolute().name
    return root if own_name in {Path(name).name for name in names} else root / names[0]
