"""Labelled image files, decoded when they are asked for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from hardfast.data.image_set import ImageSet
from hardfast.ops import _checks

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")  # whatever the suffix; of others, Pillow runs a program to read EPS
_RUN_LENGTHS = (BmpImageFile.COMPRESSIONS["RLE8"], BmpImageFile.COMPRESSIONS["RLE4"])
_MAX_PIXELS = 1 << 26  # a header may claim more than memory holds


class UnreadableImageError(ValueError):
    """A file is no whole image; the message names it."""


class EncodedImages:
    """Encoded images as an :class:`~hardfast.data.ImageSet`: RGB, the shorter side resized, the middle cut out.

    Subclasses say where each image is.

    Args:
        labels: ``[N]``, int64 on the CPU.
        size: side of the images in pixels, >= 1.
        resize: what the shorter side is resized to before the cut, in pixels, >= ``size``; ``size`` if None.
        threads: that decode at a time, >= 1.
    """

    def __init__(self, labels: Tensor, size: int, *, resize: int | None = None, threads: int = 4) -> None:
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
            raise TypeError(f"labels must be an int64 tensor, got {getattr(labels, 'dtype', type(labels).__name__)}")
        _checks.integer("size", size, 1)
        _checks.integer("threads", threads, 1)
        if resize is not None:
            _checks.integer("resize", resize, size)
        self.labels, self.size, self.threads = labels, size, threads
        self._resize = resize or size
        self._transform = v2.Compose(
            [
                v2.Resize(self._resize, InterpolationMode.BICUBIC),
                v2.CenterCrop(size),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: Tensor) -> Tensor:
        """Images ``[n, 3, size, size]``, float32 in [0, 1] on the CPU, of the numbers ``index``, ``[n]``, int64."""
        if not isinstance(index, Tensor) or index.dtype != torch.int64 or index.dim() != 1:
            raise TypeError(f"index must be an int64 tensor [n], got {index!r}")
        numbers = index.tolist()
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(self):
            raise ValueError(f"index must be in [0, {len(self)}), got {min(numbers)} .. {max(numbers)}")
        images = torch.empty(len(numbers), 3, self.size, self.size)

        def decode(place: int) -> None:
            images[place] = self._decode(numbers[place])

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(decode, range(len(numbers))))
        return images

    def name(self, number: int) -> str:
        """Where an image is, for messages."""
        raise NotImplementedError

    def encoded(self, number: int) -> bytes:
        """The file of an image. In memory, since of one on disk Pillow would ask for as much as a chunk claims."""
        raise NotImplementedError

    def _decode(self, number: int) -> Tensor:
        try:
            with Image.open(io.BytesIO(self.encoded(number)), formats=_FORMATS) as image:
                shorter, longer = sorted(image.size)
                if max(shorter * longer, self._resize**2 * longer / max(1, shorter)) > _MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels, more than {_MAX_PIXELS}, or too narrow")
                if image.format == "BMP" and image.info.get("compression") in _RUN_LENGTHS:
                    raise ValueError("a BMP of run lengths, of which a few bytes may claim seconds of Pillow's time")
                return self._transform(_eight_bits(image).convert("RGB"))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"image file {self.name(number)} is gone") from error
        except MemoryError:
            raise
        except Exception as error:  # Pillow may raise anything for a damaged file
            raise UnreadableImageError(f"{self.name(number)} must be a whole image file, got: {error}") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """The upper eight bits of a grey PNG of sixteen, which Pillow's conversion to RGB would clip."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


class ImageFiles(EncodedImages):
    """An :class:`~hardfast.data.ImageSet` of files: RGB, the shorter side resized (bicubic), the middle cut out.

    Args:
        paths: of the ``N`` files.
        labels: ``[N]``, int64 on the CPU.
        size: side of the images in pixels, >= 1.
        resize: what the shorter side is resized to before the cut, in pixels, >= ``size``; ``size`` if None.
        threads: that decode at a time, >= 1.

    Memory: the paths and labels; images only while they are loaded.

    Errors: ``TypeError`` and ``ValueError`` name the argument. Loading raises ``FileNotFoundError`` or
    ``UnreadableImageError`` that names the file that is gone or is no whole image.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        labels: Tensor,
        size: int,
        *,
        resize: int | None = None,
        threads: int = 4,
    ) -> None:
        super().__init__(labels, size, resize=resize, threads=threads)
        if labels.shape != (len(paths),):
            raise ValueError(f"labels must have shape [{len(paths)}], one a path, got {list(labels.shape)}")
        self.paths = tuple(paths)

    def name(self, number: int) -> str:
        """The path of an image."""
        return str(self.paths[number])

    def encoded(self, number: int) -> bytes:
        """The content of an image's file."""
        return Path(self.paths[number]).read_bytes()


class JoinedImages:
    """Several image sets one after the other, as one.

    Args:
        parts: at least one, with images of one shape.
    """

    def __init__(self, parts: Sequence[ImageSet]) -> None:
        if not parts:
            raise ValueError("parts must be at least one image set, got none")
        self.parts = tuple(parts)
        self.labels = torch.cat([part.labels.cpu() for part in parts])
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: Tensor) -> Tensor:
        """Images of the numbers ``index``, ``[n]``, int64."""
        index = index.cpu()
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(f"index must be in [0, {len(self)}), got {int(index.min())} .. {int(index.max())}")
        owner = torch.searchsorted(self._ends, index, right=True)
        places, loaded = [], []
        for number, part in enumerate(self.parts):
            mine = (owner == number).nonzero()[:, 0]
            if len(mine) or (not len(index) and number == 0):
                places.append(mine)
                loaded.append(part.load(index[mine] - (int(self._ends[number]) - len(part))))
        return torch.cat(loaded)[torch.cat(places).argsort().to(loaded[0].device)]


class ChosenImages:
    """Some images of a set.

    Args:
        images: the set.
        index: ``[N]``, int64 on the CPU: their numbers in it.
    """

    def __init__(self, images: ImageSet, index: Tensor) -> None:
        self.images, self.index = images, index
        self.labels = images.labels.cpu()[index]

    def __len__(self) -> int:
        return len(self.index)

    def load(self, index: Tensor) -> Tensor:
        """Images of the numbers ``index``, ``[n]``, int64, among the chosen ones."""
        return self.images.load(self.index[index.cpu()])


def list_images(folder: Path, source: str) -> list[Path]:
    """The image files of a folder, in the order of their names.

    Raises:
        FileNotFoundError: the folder is missing or has none; the message says where to get them.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not paths:
        state = "has no image files" if folder.is_dir() else "is missing"
        raise FileNotFoundError(f"folder {folder} {state}; get it from {source}")
    return paths
