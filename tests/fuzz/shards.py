"""Tar archives: their damage, and the readers of shards of webdataset."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fuzz.mutations import edited, integer
from fuzz.published import Npz, mutated_png
from fuzz.reader import Reader
from hardfast.data import ShardedImages

_NAMES = ("a.png", "a.cls", "b.jpg", "b.cls", "d/a.b.png", "a", "../x.png", "/tmp/x.cls", "", "x" * 200 + ".png")


def mutated_tar(content: bytes, rng: random.Random) -> bytes:
    """An archive of which an entry is changed, or its header, the checksum repaired."""
    entries = tar_entries(content)
    if rng.random() < 0.2 or not entries:
        return edited(content, rng)
    number = rng.randrange(len(entries))
    item, data = entries[number]
    kind = rng.randrange(6)
    if kind == 0:
        item.type = rng.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"\0", b"V"))
        item.linkname = rng.choice(("", item.name, entries[0][0].name, "../x", "/dev/zero"))
    elif kind == 1:
        item.name = rng.choice(("../x.png", "/tmp/x.png", "", "00000000.png", entries[-1][0].name, "x" * 200))
    elif kind == 2:
        entries.insert(number, rng.choice(entries)) if rng.random() < 0.5 else entries.pop(number)
    elif data[:4] == b"\x89PNG":
        entries[number] = (item, mutated_png(data, rng))
    else:
        entries[number] = (item, edited(data, rng))
    whole = bytearray(tar(entries))
    if rng.random() < 0.2:
        _resize(whole, 512 * rng.randrange(1 + len(whole) // 512), rng)
    return bytes(whole)


def tar_entries(content: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The plain files of an archive; none of one that is too damaged."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            plain = [item for item in archive if item.isreg() and not item.issparse() and item.size < 1 << 20]
            return [(item, archive.extractfile(item).read()) for item in plain]  # type: ignore[union-attr]
    except Exception:  # whatever a damaged archive raises
        return []


def tar(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for item, content in entries:
            item.size = len(content)
            archive.addfile(item, io.BytesIO(content))
    return buffer.getvalue()


def _resize(whole: bytearray, start: int, rng: random.Random) -> None:
    """Writes another size into the header at ``start``, and its checksum."""
    size = integer(rng)
    field = b"%011o\0" % size if 0 <= size < 8**11 else b"\x80" + (size % (1 << 64)).to_bytes(11, "big")
    whole[start + 124 : start + 136] = field
    whole[start + 148 : start + 156] = b" " * 8
    whole[start + 148 : start + 156] = b"%06o\0 " % sum(whole[start : start + 512])


class Webdataset(Reader):
    """Shards of images and their labels, as others write them."""

    modules = ("hardfast.data.shards", "hardfast.data.image_files", "tarfile", "PIL.PngImagePlugin")
    _size = 4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.file_name = str(folder)  # type: ignore[misc] # messages name the shard, or the folder of all of them

    def seeds(self) -> list[bytes]:
        random = np.random.default_rng(4)
        files = {}
        for number, label in enumerate((7, 0, 12)):
            buffer = io.BytesIO()
            Image.fromarray(random.integers(0, 256, (5, 4, 3), dtype=np.uint8)).save(buffer, "PNG")
            files |= {f"d/{number}.png": buffer.getvalue(), f"d/{number}.cls": b"%d" % label, f"d/{number}.json": b"{}"}
        return [tar([(tarfile.TarInfo(name), content) for name, content in files.items()])]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        return mutated_tar(content, rng)

    def read(self, content: bytes) -> ShardedImages:
        (self.folder / "s.tar").write_bytes(content)
        (self.folder / ".hardfast-index.npz").unlink(missing_ok=True)
        first, again = self._open(), self._open()
        assert torch.equal(first.labels, again.labels), "the index tells other labels than the shard"
        self.images = self._loaded(again)
        return first

    def _open(self) -> ShardedImages:
        return ShardedImages([self.folder / "s.tar"], self._size, threads=1)

    def _loaded(self, images: ShardedImages) -> Tensor:
        return images.load(torch.arange(len(images)))

    def confirm(self, content: bytes, value: ShardedImages) -> None:
        entries = tar_entries(content)
        labels = {item.name.removesuffix(".cls"): int(text) for item, text in entries if item.name.endswith(".cls")}
        pictures = [(item.name, data) for item, data in entries if item.name.lower().endswith((".png", ".jpg"))]
        assert len(pictures) == len(value)
        for (name, data), label, image in zip(pictures, value.labels.tolist(), self.images, strict=True):
            assert label == labels[_key(name)]
            with Image.open(io.BytesIO(data)) as picture:
                if picture.size == (self._size, self._size):
                    assert np.array_equal((image * 255).round().byte().permute(1, 2, 0), picture.convert("RGB"))


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


class ShardIndex(Webdataset):
    """The file beside the shards that says where their images are: made again where it is damaged."""

    modules = ("hardfast.data.shards", "numpy.lib._npyio_impl", "numpy.lib._format_impl", "zipfile")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.shard = super().seeds()[0]
        self.path = folder / ".hardfast-index.npz"
        (folder / "s.tar").write_bytes(self.shard)
        self.images = self._loaded(self._open())
        self.good = self.path.read_bytes()

    def seeds(self) -> list[bytes]:
        return [self.good]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        return Npz.mutated(self, content, rng)  # type: ignore[arg-type]

    def read(self, content: bytes) -> Tensor:
        self.path.write_bytes(content)
        return self._loaded(self._open())

    def confirm(self, content: bytes, value: Tensor) -> None:
        assert value.shape[1:] == (3, self._size, self._size)
