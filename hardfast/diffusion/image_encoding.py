"""Images as bytes, the same ones whenever they are made: PNG files, and tar archives of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["from_png", "from_shard", "to_png", "to_shard"]

_MAX_PIXELS = 1 << 24  # a header may claim more than memory holds


def to_png(image: Tensor) -> bytes:
    """An image ``[C, H, W]`` with C 1 or 3, nominally in [0, 1], in eight bits; NaN is black."""
    pixels = (image.float().nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def from_png(content: bytes) -> Tensor:
    """The image ``[C, H, W]``, float32 in [0, 1].

    Raises:
        ValueError: it is no whole PNG file as :func:`to_png` makes them.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            if image.mode not in ("L", "RGB") or image.width * image.height > _MAX_PIXELS:
                raise ValueError(f"an image of mode {image.mode} and {image.width} x {image.height} pixels")
            pixels = np.array(image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow may raise anything for a damaged file
        raise ValueError(f"no whole PNG file of 8-bit grey or RGB: {error}") from error
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def to_shard(files: Mapping[str, bytes]) -> bytes:
    """A tar archive whose bytes depend on the files alone: a TarInfo of its own has no time and no owner."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def from_shard(content: bytes) -> dict[str, bytes]:
    """The files of an archive.

    Raises:
        ValueError: it is no whole archive of plain files as :func:`to_shard` makes them.
    """
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for item in archive:
                if not item.isreg() or item.issparse() or item.size > len(content) or item.name in files:
                    raise ValueError(f"{item.name!r} is no plain file of its own")
                files[item.name] = archive.extractfile(item).read()  # type: ignore[union-attr]
    except MemoryError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        raise ValueError(f"no whole archive of files: {error}") from error
    return files
