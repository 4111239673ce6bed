"""Images in shards of webdataset: tar files of ``KEY.jpg`` and ``KEY.cls``, read at any place."""

from __future__ import annotations

import io
import mmap
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
import torch

from hardfast.data.image_files import SUFFIXES, EncodedImages
from hardfast.distill.atomic import write_bytes

__all__ = ["ShardedImages", "list_shards"]

#: What the index of a folder of shards is kept in, beside them.
_INDEX = ".hardfast-index.npz"


class _Sample(NamedTuple):
    offset: int
    size: int
    label: int


class ShardedImages(EncodedImages):
    """An :class:`~hardfast.data.ImageSet` of shards, of which any image is read without those before it.

    For each key a shard has one image, whatever else, and its label as text in ``KEY.cls``, as
    ``webdataset.ShardWriter`` and ``hardfast generate --format webdataset`` write them. The shards are looked through
    once; where their images are is then kept in a file beside them, if it can be written, and looked for again when a
    shard changes.

    Args:
        shards: tar files that are not compressed, of one folder, in the order in which the images are numbered.
        size: side of the images in pixels, >= 1.
        resize: what the shorter side is resized to before the cut, in pixels, >= ``size``; ``size`` if None.
        threads: that decode, or look through shards, at a time, >= 1.

    Memory: 28 bytes an image; images only while they are loaded.

    Errors: ``ValueError`` names a shard that is not as described. Loading raises ``FileNotFoundError`` or
    ``UnreadableImageError`` that names the shard that is gone, or the image that is none.
    """

    def __init__(self, shards: Sequence[str | Path], size: int, *, resize: int | None = None, threads: int = 4) -> None:
        self.shards = tuple(Path(shard) for shard in shards)
        if not self.shards:
            raise ValueError("shards must be at least one tar file, got none")
        # By image: number of its shard, where in it, how long, label.
        self._index = _index(self.shards, threads)
        super().__init__(torch.from_numpy(self._index[3].copy()), size, resize=resize, threads=threads)

    def name(self, number: int) -> str:
        """The shard of an image, and where in it."""
        shard, offset = self._index[:2, number]
        return f"{self.shards[shard]} at byte {offset}"

    def encoded(self, number: int) -> bytes:
        """The bytes of an image."""
        shard, offset, size, _ = (int(value) for value in self._index[:, number])
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size)


def list_shards(folder: Path) -> list[Path]:
    """The tar files of a folder by name; none where it is no folder."""
    return sorted(folder.glob("*.tar")) if folder.is_dir() else []


def _index(shards: Sequence[Path], threads: int) -> np.ndarray:
    """``[4, N]``, int64: shard, offset, size and label of each image."""
    folder = shards[0].parent
    stats = [shard.stat() for shard in shards]
    names = np.array([shard.name for shard in shards])
    state = np.array([(stat.st_size, stat.st_mtime_ns) for stat in stats], dtype=np.int64)
    with suppress(Exception), np.load(folder / _INDEX, allow_pickle=False) as known:  # what is damaged is made again
        if np.array_equal(known["names"], names) and np.array_equal(known["state"], state):
            return _checked(known["samples"], state[:, 0])
    with ThreadPoolExecutor(threads) as pool:
        samples = list(pool.map(lambda shard: list(_samples(shard)), shards))
    counts = [len(found) for found in samples]
    rows = np.array([sample for found in samples for sample in found], dtype=np.int64).reshape(-1, 3)
    index = np.concatenate([np.repeat(np.arange(len(shards)), counts)[None], rows.T])
    if not index.shape[1]:
        raise ValueError(f"the shards of {folder} have no image with a label, KEY.jpg and KEY.cls")
    buffer = io.BytesIO()
    np.savez(buffer, names=names, state=state, samples=index)
    with suppress(OSError):
        write_bytes(folder / _INDEX, buffer.getvalue())
    return index


def _checked(index: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """An index of images that lie within their shards."""
    shard, offset, size, label = index
    within = (offset >= 0) & (size >= 0) & (offset <= sizes[shard]) & (size <= sizes[shard] - offset)
    if index.dtype != np.int64 or not len(label) or shard.min() < 0 or label.min() < 0 or not within.all():
        raise ValueError("no index of these shards")
    return index


def _samples(shard: Path) -> Iterator[_Sample]:
    """Where the images of a shard are, by their keys in the order of the files."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        # Mapped into memory: of a file, tarfile would ask for as much as a header claims.
        with (
            open(shard, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            tarfile.open(fileobj=cast(BinaryIO, mapped), mode="r:") as archive,
        ):
            size = len(mapped)
            for member in archive:
                if not member.isreg() or member.issparse():
                    continue
                if not 0 <= member.size <= size - member.offset_data:
                    raise ValueError(f"its file {member.name} is cut short")
                key, dot, suffix = _split(member.name)
                if f"{dot}{suffix.lower()}" in SUFFIXES:
                    if key in images:
                        raise ValueError(f"it has several images of the key {key}")
                    images[key] = member.offset_data, member.size
                elif suffix == "cls":
                    labels[key] = _label(archive, member)
            # tarfile takes a damaged header, or none, for the end; the real one is a block of zeros.
            if mapped[archive.offset : archive.offset + tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
                raise ValueError(f"it is damaged or cut short at byte {archive.offset}")
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive may raise anything
        raise ValueError(f"{shard} must be a tar file of webdataset, not compressed; {error}") from error
    if missing := images.keys() - labels.keys():
        raise ValueError(f"{shard} must have a file .cls for each image; {min(missing)} has none")
    return iter([_Sample(*place, labels[key]) for key, place in images.items()])


def _split(name: str) -> tuple[str, str, str]:
    """Key and suffix: webdataset parts a name at the first dot after the folder."""
    folder, slash, file = name.rpartition("/")
    key, dot, suffix = file.partition(".")
    return folder + slash + key, dot, suffix


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = archive.extractfile(member)
    text = file.read(32).strip() if file is not None else b""
    if not text.isdigit() or member.size > 32 or int(text) >= 2**31:
        raise ValueError(f"its file {member.name} must hold a label >= 0, got {text!r}")
    return int(text)
