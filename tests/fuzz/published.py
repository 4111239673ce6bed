"""The readers of data sets and photographs as others publish them."""

from __future__ import annotations

import ast
import gzip
import io
import pickle
import random
import re
import struct
import zipfile
import zlib
from typing import Any, ClassVar

import numpy as np
import torch
from cifar_files import PARTS, python_batch
from mnist_files import idx_bytes
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from fuzz.mutations import edited, integer, packed, replaced
from fuzz.reader import Reader
from hardfast.data import ImageFiles, Splits, load_cifar10, load_mnist
from hardfast.data.array_images import read_npy, read_npz
from hardfast.data.image_files import UnreadableImageError

_TRAIN, _TEST = 4, 1  # images of the small data sets
_PIXELS = np.random.default_rng(0).integers(0, 256, (_TRAIN, 28, 28), dtype=np.uint8)
_LABELS = np.array([3, 0, 9, 7], dtype=np.uint8)


def _in_order(splits: Splits, held_out: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All training images and labels as they were in the file, of seed 0."""
    images = torch.cat([splits.validation.images, splits.train.images])
    labels = torch.cat([splits.validation.labels, splits.train.labels])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    assert len(splits.validation) == held_out
    return images[order.argsort()], labels[order.argsort()]


class Idx(Reader):
    """MNIST's IDX files, plain and compressed, of which one is fuzzed: the training labels or the images."""

    file_name = "train-"
    modules = ("hardfast.data.mnist", "torchvision.datasets.mnist", "gzip")
    _good: ClassVar = {
        "train-images-idx3-ubyte": idx_bytes(_PIXELS),
        "train-labels-idx1-ubyte": idx_bytes(_LABELS),
        "t10k-images-idx3-ubyte": idx_bytes(_PIXELS[:_TEST]),
        "t10k-labels-idx1-ubyte": idx_bytes(_LABELS[:_TEST]),
    }

    def seeds(self) -> list[bytes]:
        plain = [self._good["train-images-idx3-ubyte"], self._good["train-labels-idx1-ubyte"]]
        return plain + [gzip.compress(content, mtime=0) for content in plain]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        if content[:2] == b"\x1f\x8b":
            if rng.random() < 0.5:
                return edited(content, rng)
            return gzip.compress(self.mutated(_unzipped(content), rng), rng.randrange(10), mtime=0)
        kind = rng.randrange(4)
        if kind == 0:
            return edited(content, rng)
        if kind == 3:  # other content under a true header
            start = 4 + 4 * min(3, content[3] if len(content) > 3 else 0)
            return content[:start] + bytes(rng.randrange(11) for _ in content[start:])
        header = bytearray(content[:16].ljust(16, b"\0"))
        place = rng.choice((2, 3, 4, 8, 12))
        header[place : place + (1 if place < 4 else 4)] = packed(rng, "B" if place < 4 else ">I")
        body = content[16:]
        if kind == 1:  # a header that is true, of other sides
            sides = [rng.choice((0, 1, 4, 27, 28)) for _ in range(3)]
            header[:] = struct.pack(">HBB3I", 0, 8, 3, *sides)
            body = rng.randbytes(int(np.prod(sides)))
        return bytes(header) + body

    def read(self, content: bytes) -> Splits:
        zipped = content[:2] == b"\x1f\x8b"
        name = "train-labels-idx1-ubyte" if self._is_labels(content) else "train-images-idx3-ubyte"
        folder = self.folder / (name + "-zipped" * zipped)
        if not folder.exists():
            folder.mkdir()
            for other in self._good.keys() - {name}:
                (folder / other).write_bytes(self._good[other])
        (folder / (name + ".gz" * zipped)).write_bytes(content)
        return load_mnist(folder, validation_fraction=0.25)

    def confirm(self, content: bytes, value: Splits) -> None:
        plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        images, labels = _PIXELS, _LABELS
        if self._is_labels(content):
            assert plain[:8] == struct.pack(">HBBI", 0, 8, 1, _TRAIN), "labels were read from what is no such file"
            labels = np.frombuffer(plain, np.uint8, offset=8)
        else:
            assert plain[:16] == struct.pack(">HBB3I", 0, 8, 3, _TRAIN, 28, 28), "images from what is no such file"
            images = np.frombuffer(plain, np.uint8, offset=16).reshape(-1, 28, 28)
        found_images, found_labels = _in_order(value, 1)
        assert np.array_equal((found_images * 255).numpy(), images[:, None])
        assert found_labels.tolist() == labels.tolist()

    @staticmethod
    def _is_labels(content: bytes) -> bool:
        return (_unzipped(content) if content[:2] == b"\x1f\x8b" else content)[3:4] == b"\x01"


def _unzipped(content: bytes) -> bytes:
    """What can be had of a gzip file, however damaged."""
    decompressor = zlib.decompressobj(31)
    try:
        return decompressor.decompress(content, 1 << 20)
    except zlib.error:
        return b""


_ARRAYS = (
    _PIXELS[..., None], _LABELS, np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((0, 3), np.float16), np.array(7, ">i2"), np.array([True, False]),
)  # fmt: skip
_DTYPES = ("|u1", "<i8", ">i2", "<f4", "<c16", "|b1", "|O", "<U3", "|S2", "<M8[s]", "|V5", "<f99", "<U999999999999")


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _npy_with_header(content: bytes, rng: random.Random) -> bytes:
    """A file of version 1, 2 or 3 with another shape, dtype or order, and now and then a length to match."""
    shape = tuple(integer(rng) if rng.random() < 0.5 else rng.randrange(5) for _ in range(rng.randrange(5)))
    descr: Any = rng.choice(_DTYPES) if rng.random() < 0.9 else [("x", rng.choice(_DTYPES)), ("y", "|u1", shape)]
    header = {"descr": descr, "fortran_order": rng.choice((False, True)), "shape": shape}
    if rng.random() < 0.1:
        header[rng.choice(("x", "shape", "descr"))] = rng.choice((None, -1, "x", [1], (1.5,), "9" * 5000, True))
    text = repr(header).encode() + b"\n"
    version = rng.choice((1, 1, 1, 2, 3, 0, 4))
    length = len(text) if rng.random() < 0.9 else integer(rng)
    packed_length = struct.pack("<H", length % (1 << 16)) if version == 1 else struct.pack("<I", length % (1 << 32))
    body = content[128:]
    if rng.random() < 0.5 and all(0 <= side < 100 for side in shape) and rng.random() < 0.9:
        body = rng.randbytes(min(4096, int(np.prod(shape, dtype=np.float64)) * rng.choice((1, 1, 2, 4, 8))))
    return b"\x93NUMPY" + bytes([version, 0]) + packed_length + text + body


def _mutated_npy(content: bytes, rng: random.Random) -> bytes:
    return edited(content, rng) if rng.random() < 0.4 else _npy_with_header(content, rng)


def _confirm_npy(content: bytes, found: np.ndarray) -> None:
    """Reads the header by itself, and compares the bytes."""
    assert content[:6] == b"\x93NUMPY"
    start = 10 if content[6] == 1 else 12
    length = int.from_bytes(content[8:start], "little")
    text = content[start : start + length].decode("utf-8" if content[6] == 3 else "latin1")
    header = ast.literal_eval(re.sub(r"(\d)L\b", r"\1", " ".join(text.split())))  # Python 2 wrote an L after a number
    dtype = np.dtype(header["descr"])  # which may be an array itself, such as 2<i8
    assert found.shape == header["shape"] + dtype.shape, f"shape {found.shape} of {header}"
    assert found.dtype == dtype.base, f"dtype {found.dtype} of {header}"
    assert not found.dtype.hasobject, "an array of objects was read"
    body = content[start + length :][: found.nbytes]
    assert found.tobytes("F" if header["fortran_order"] else "C") == body, "other bytes than those in the file"


class Npy(Reader):
    """Arrays of numbers, read whole and mapped into memory."""

    file_name = "array.npy"
    modules = ("hardfast.data.array_images", "numpy.lib._format_impl", "numpy.lib._npyio_impl", "numpy._core.memmap")

    def seeds(self) -> list[bytes]:
        return [_npy(array) for array in _ARRAYS]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        return _mutated_npy(content, rng)

    def read(self, content: bytes) -> list[np.ndarray]:
        path = self.folder / self.file_name
        path.write_bytes(content)
        return [read_npy(path, "nowhere"), read_npy(path, "nowhere", "r")]

    def confirm(self, content: bytes, value: list[np.ndarray]) -> None:
        for array in value:
            _confirm_npy(content, array)


class Npz(Reader):
    """Archives of two arrays, as CIFAR-10.2 is published."""

    file_name = "arrays.npz"
    modules = (*Npy.modules, "zipfile")
    _names = ("images", "labels")

    def seeds(self) -> list[bytes]:
        members = {"images.npy": _npy(_PIXELS[:1, :4, :4, None]), "labels.npy": _npy(_LABELS)}
        return [_archive(members, compression) for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        members = _members(content)
        if rng.random() < 0.3 or not members:
            return edited(content, rng)
        name = rng.choice(list(members))
        start = members[name][:128]
        members[name] = (
            start + rng.randbytes(len(members[name]) - len(start))  # other content under a true header
            if rng.random() < 0.3
            else _mutated_npy(members[name], rng)
        )
        if rng.random() < 0.1:
            members[rng.choice(("../x.npy", "labels.npy", "images", "x" * 300))] = members.pop(name)
        whole = _archive(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
        return whole if rng.random() < 0.7 else edited(whole, rng)

    def read(self, content: bytes) -> list[np.ndarray]:
        path = self.folder / self.file_name
        path.write_bytes(content)
        return read_npz(path, self._names, "nowhere")

    def confirm(self, content: bytes, value: list[np.ndarray]) -> None:
        members = _members(content)
        for name, array in zip(self._names, value, strict=True):
            _confirm_npy(members[f"{name}.npy" if f"{name}.npy" in members else name], array)


def _archive(members: dict[str, bytes], compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)  # of 1980: the same bytes every time
    return buffer.getvalue()


def _members(content: bytes) -> dict[str, bytes]:
    """The files of an archive; none of one that is too damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.open(name).read(1 << 20) for name in archive.namelist()}
    except Exception:  # whatever a damaged archive raises
        return {}


class _Cifar10(Reader):
    """One batch of CIFAR-10, whose other files are whole and the same."""

    file_name = "data_batch_3"
    modules = ("hardfast.data.cifar10", "pickletools")
    suffix = ""
    whole: bytes

    def read(self, content: bytes) -> Splits:
        path = self.folder / (self.file_name + self.suffix)
        if not path.exists():
            for part in PARTS:
                (self.folder / (part + self.suffix)).write_bytes(self.whole)
        path.write_bytes(content)
        return load_cifar10(self.folder, validation_size=1)

    def _third_batch(self, splits: Splits) -> tuple[np.ndarray, np.ndarray]:
        images, labels = _in_order(splits, 1)
        mine = slice(2 * _CIFAR_COUNT, len(labels) - 2 * _CIFAR_COUNT)
        return (images[mine] * 255).reshape(-1, 3072).numpy(), labels[mine].numpy()


_CIFAR_COUNT = 2
_CIFAR_PIXELS = np.random.default_rng(1).integers(0, 256, (_CIFAR_COUNT, 3072), dtype=np.uint8)
_CIFAR_LABELS = np.array([4, 9])


class Cifar10Binary(_Cifar10):
    """Records of a label and an image."""

    suffix = ".bin"
    whole = np.concatenate([_CIFAR_LABELS[:, None].astype(np.uint8), _CIFAR_PIXELS], axis=1).tobytes()

    def seeds(self) -> list[bytes]:
        return [self.whole, self.whole[:3073]]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        changed = edited(content, rng)
        return changed if rng.random() < 0.5 else changed.ljust(3073 * rng.choice((1, 2, 3)), b"\x03")

    def confirm(self, content: bytes, value: Splits) -> None:
        assert content, "images were read from an empty file"
        records = [content[start : start + 3073] for start in range(0, len(content), 3073)]
        pixels, labels = self._third_batch(value)
        assert labels.tolist() == [record[0] for record in records]
        assert [bytes(image) for image in pixels.astype(np.uint8)] == [record[1:] for record in records]


class Cifar10Python(_Cifar10):
    """Batches as Python 2 pickled them, which are read without running what they name."""

    whole = python_batch(_CIFAR_PIXELS, _CIFAR_LABELS)
    _tokens = (
        b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n",
        b"cbuiltins\neval\n", b"cos\nsystem\n", b"cnumpy\nload\n", b"}(", b"](", b"u.", b"tb", b"R", b"b", b"0", b"2",
        b"(", b"t", b"\x85", b"\x86", b"\x87", b"K\x01", b"K\x00\x85", b"M\x00\x0c", b"U\x01b", b"U\x02u1", b"U\x02O8",
        b"U\x04data", b"U\x06labels", b"\x89", b"N", b"J\xff\xff\xff\xff", b"J\x00\x00\x00\x7f", b"r\xff\xff\xff\x7f",
        b"q\x01", b"h\x01", b"\x8a\x08\x00\x00\x00\x00\x00\x01\x00\x00", b"B\xff\xff\xff\xff", b"T\xff\xff\xff\x7f",
        b"\x8e" + b"\xff" * 7 + b"\x7f", b"\x95" + b"\xff" * 8, b"c__builtin__\ngetattr\n", b"\x81", b"\x93", b"P0\n",
    )  # fmt: skip

    def seeds(self) -> list[bytes]:
        now = {b"labels": _CIFAR_LABELS.tolist(), b"data": _CIFAR_PIXELS}
        return [self.whole, pickle.dumps(now, 2), pickle.dumps(now, 4)]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        return edited(content, rng) if rng.random() < 0.4 else replaced(content, rng, self._tokens)

    def confirm(self, content: bytes, value: Splits) -> None:
        pixels, labels = self._third_batch(value)
        assert len(pixels) == len(labels) > 0
        assert set(labels.tolist()) <= set(range(10))
        orders = [pixels.astype(np.uint8).tobytes(order) for order in ("C", "F")]
        as_text = [stored.decode("latin1").encode() for stored in orders]  # how Python 3 pickles bytes in protocol 2
        assert any(stored in content for stored in orders + as_text), "pixels that are not in the file"


class Photo(Reader):
    """Image files of the formats that data sets have."""

    refusal = UnreadableImageError
    file_name = "photo.jpg"
    modules = (
        "hardfast.data.image_files", "PIL.Image", "PIL.ImageFile", "PIL.PngImagePlugin", "PIL.JpegImagePlugin",
        "PIL.BmpImagePlugin", "PIL.WebPImagePlugin",
    )  # fmt: skip
    _size = 6

    def seeds(self) -> list[bytes]:
        colours = np.random.default_rng(2).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        image = Image.fromarray(colours)
        other = {"PNG": image.convert("P"), "JPEG": image.convert("CMYK"), "BMP": image.convert("1")}
        images = [(form, image) for form in ("JPEG", "PNG", "BMP", "WEBP")] + list(other.items())
        return [_encoded(image, form) for form, image in images]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.05:  # formats of which Pillow runs a program, or which no data set has
            content = _encoded(Image.new("RGB", (9, 7)), rng.choice(("EPS", "GIF", "TIFF", "ICO", "PPM", "TGA")))
        if content[:4] == b"\x89PNG" and rng.random() < 0.7:
            return mutated_png(content, rng)
        return edited(content, rng)

    def read(self, content: bytes) -> torch.Tensor:
        path = self.folder / self.file_name
        path.write_bytes(content)
        return ImageFiles([path], torch.tensor([0]), self._size, threads=1).load(torch.tensor([0]))

    def confirm(self, content: bytes, value: torch.Tensor) -> None:
        with Image.open(io.BytesIO(content)) as image:
            assert image.format in ("BMP", "JPEG", "MPO", "PNG", "WEBP"), f"{image.format} is no format of a data set"
            whole = functional.pil_to_tensor(image.convert("RGB"))
        small = functional.resize(functional.to_pil_image(whole), [self._size], InterpolationMode.BICUBIC)
        wanted = functional.pil_to_tensor(functional.center_crop(small, [self._size]))
        assert torch.equal((value * 255).round().byte(), wanted[None])


def _encoded(image: Image.Image, form: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def mutated_png(content: bytes, rng: random.Random) -> bytes:
    """A PNG file of which one chunk is changed, its checksum repaired."""
    chunks = []
    place = 8
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return edited(content, rng)
    number = rng.randrange(len(chunks))
    kind, data = chunks[number]
    if kind == b"IHDR" and len(data) == 13:
        changed = bytearray(data)
        where = rng.choice((0, 4, 8, 9, 10, 11, 12))
        if where < 8:
            changed[where : where + 4] = rng.choice(
                (packed(rng, ">I"), struct.pack(">I", rng.choice((9, 9000, 30_000))))
            )
        else:
            changed[where] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[number] = (kind, bytes(changed))
    elif kind == b"IDAT" and rng.random() < 0.5:
        chunks[number] = (kind, zlib.compress(edited(_inflated(data), rng)))
    elif rng.random() < 0.3:
        chunks.insert(number, (rng.choice((b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"acTL", b"fdAT", kind)), data))
    else:
        chunks[number] = (kind, edited(data, rng))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return content[:8] + b"".join(parts)


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, 1 << 20)
    except zlib.error:
        return data
