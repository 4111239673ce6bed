"""The readers of what the library itself wrote: weights, checkpoints and sets of generated images."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from fuzz.mutations import edited, edited_json, integer, json_bytes, parsed_json, replaced
from fuzz.reader import Reader
from fuzz.shards import mutated_tar, tar, tar_entries
from hardfast.diffusion.image_store import BrokenGroupError, Candidate, ImageStore
from hardfast.distill.checkpoint import BrokenCheckpointError, read_checkpoint, write_checkpoint
from hardfast.models.networks import load_weights

_MAGIC = b"hardfast checkpoint 1, sha256 "


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


class Weights(Reader):
    """A network's weights in a safetensors file."""

    file_name = "weights.safetensors"
    modules = ("hardfast.models.networks", "safetensors.torch")
    _dtypes: ClassVar = {
        "F32": torch.float32,
        "F64": torch.float64,
        "BF16": torch.bfloat16,
        "I64": torch.int64,
        "U8": torch.uint8,
    }

    def seeds(self) -> list[bytes]:
        state = _network().state_dict()
        return [save({name: value.to(dtype) for name, value in state.items()}) for dtype in self._dtypes.values()]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return edited(content, rng)
        length = int.from_bytes(content[:8], "little")
        body = content[8 + length :]
        if rng.random() < 0.2:
            return content[: 8 + length] + rng.randbytes(len(body))
        header = parsed_json(content[8 : 8 + length], b'{"0.weight": {"dtype": "F32", "shape": [4, 3]}}')
        text = json_bytes(edited_json(header, rng), rng)
        told = len(text) if rng.random() < 0.9 else integer(rng) % (1 << 64)
        return struct.pack("<Q", told) + text + body

    def read(self, content: bytes) -> dict[str, Tensor]:
        path = self.folder / self.file_name
        path.write_bytes(content)
        return load_weights(_network(), path).state_dict()

    def confirm(self, content: bytes, value: dict[str, Tensor]) -> None:
        length = int.from_bytes(content[:8], "little")
        header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
        assert header.keys() - {"__metadata__"} == value.keys()
        for name, tensor in value.items():
            entry = header[name]
            if entry["dtype"] in self._dtypes:
                start, end = entry["data_offsets"]
                stored = torch.frombuffer(bytearray(body[start:end]), dtype=self._dtypes[entry["dtype"]])
                wanted = stored.reshape(entry["shape"]).to(tensor.dtype)
                torch.testing.assert_close(tensor, wanted, rtol=0, atol=0, equal_nan=True)


class Checkpoint(Reader):
    """Checkpoints: any changed byte is detected, and with a true checksum nothing is run and nothing made up."""

    refusal = BrokenCheckpointError
    file_name = "step-000000007.pt"
    may_ask_pytorch = True  # torch.load only then compares the size that the pickle tells with that in the archive
    modules = ("hardfast.distill.checkpoint", "torch._weights_only_unpickler", "torch.serialization", "torch._utils")
    _header = len(_MAGIC) + 64 + 1
    _tokens = (
        b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n",
        b"ctorch\nLongStorage\n", b"cbuiltins\neval\n", b"cos\nsystem\n", b"cbuiltins\nbytearray\n", b"ctorch\nSize\n",
        b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._utils\n_rebuild_sparse_tensor\n", b"c__builtin__\nset\n",
        b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n", b"ctorch\ndevice\n", b"R", b"Q", b"b", b"u", b"s", b"}",
        b"]", b"(", b"t", b")", b"\x85", b"\x86", b"\x87", b"K\x00", b"K\x01", b"K\x04", b"M\xff\xff", b"N", b"a", b"e",
        b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08\x00\x00\x00\x00\x00\x01\x00\x00", b"q\x01", b"h\x01",
        b"X\x03\x00\x00\x00cpu", b"X\x04\x00\x00\x00cuda", b"X\x04\x00\x00\x00meta", b"X\x01\x00\x00\x000", b"\x81",
        b"G\x7f\xf0\x00\x00\x00\x00\x00\x00", b".", b"\x88", b"\x89", b"r\xff\xff\xff\xff",
    )  # fmt: skip

    def seeds(self) -> list[bytes]:
        weights = {
            "weight": torch.arange(12.0).reshape(3, 4).t(),
            "step": torch.tensor(5),
            "half": torch.ones(3).half(),
        }
        network = nn.Linear(2, 2)
        states: list[dict[str, Any]] = [
            {"step": 7, "weights": weights, "nested": [{"lr": 0.1, "name": "x"}, (1, None, True)]},
            {"optimizer": torch.optim.Adam(network.parameters()).state_dict(), "state": _network().state_dict()},
            {"rng": torch.get_rng_state(), "text": "a line\n" * 3},
        ]
        path = self.folder / "seed.pt"
        return [write_checkpoint(path, state).read_bytes() for state in states]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        kind = rng.randrange(8)
        if kind == 0:
            return edited(content, rng)
        body = content[self._header :]
        members = _members(body)
        if kind <= 2 or not members:
            return _signed(edited(body, rng))
        name = rng.choice([name for name in members for _ in range(8 if name.endswith(".pkl") else 1)])
        if rng.random() < 0.1:
            members.pop(name)
        elif not name.endswith(".pkl"):
            members[name] = rng.randbytes(len(members[name]))  # other content of the right length
        elif rng.random() < 0.7:
            members[name] = replaced(members[name], rng, self._tokens)
        else:
            members[name] = edited(members[name], rng)
        return _signed(_zipped(members))

    def read(self, content: bytes) -> dict[str, Any]:
        path = self.folder / self.file_name
        path.write_bytes(content)
        return read_checkpoint(path)

    def confirm(self, content: bytes, value: dict[str, Any]) -> None:
        body = content[self._header :]
        digest = hashlib.sha256(body).hexdigest().encode()
        assert content[: self._header] == _MAGIC + digest + b"\n"
        assert isinstance(value, dict), f"a {type(value).__name__} was read as a state"
        for tensor in _tensors(value):
            if tensor.device.type == "cpu" and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                assert storage.nbytes() <= len(body), f"a tensor of {storage.nbytes()} bytes of a file of {len(body)}"
                assert bytes(storage) in body, "a tensor of bytes that are not in the file"


def _signed(body: bytes) -> bytes:
    return _MAGIC + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _members(body: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return {item.filename: archive.open(item).read(1 << 20) for item in archive.infolist()}
    except Exception:  # whatever a damaged archive raises
        return {}


def _zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple, set)) else ()
    return [tensor for item in items for tensor in _tensors(item)]


class _Generated(Reader):
    """A set of three generated images, of which one file is fuzzed."""

    refusal = BrokenGroupError
    modules = (
        "hardfast.diffusion.image_store", "hardfast.diffusion.image_record", "hardfast.diffusion.image_encoding",
        "tarfile", "PIL.PngImagePlugin", "json.decoder",
    )  # fmt: skip
    _shard = "images/images-000000.tar"
    _record = "records/group-000000.json"
    _settings = "generation.json"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / "set"
        store = ImageStore(self.path, "webdataset", recipe="fuzz", fields={"steps": 3})
        store.begin(count=3, group_size=3, class_names=["cat", "dog"])
        self.pixels = np.random.default_rng(3).integers(0, 256, (3, 3, 5, 4), dtype=np.uint8)
        images = torch.from_numpy(self.pixels).float() / 255
        self.candidates = [
            Candidate(
                n,
                10 + n,
                n % 2,
                ("cat", "dog")[n % 2],
                0.5,
                None,
                0.25,
                1.0,
                -2.0,
                n != 1,
                "teacher" * (n == 1) or None,
            )
            for n in range(3)
        ]
        store.put(0, self.candidates, images, images)
        self.good = {name: (self.path / name).read_bytes() for name in (self._shard, self._record, self._settings)}

        self._written = dict(self.good)

    def _store(self, **files: bytes) -> ImageStore:
        """The set with some files of other content."""
        for name, content in {**self.good, **files}.items():
            if self._written[name] != content:
                (self.path / name).write_bytes(content)
                self._written[name] = content
        return ImageStore.open(self.path)

    def _read(self, **files: bytes) -> list[tuple[Candidate, Tensor]]:
        """All that the library asks of a set."""
        store = self._store(**files)
        assert sum(store.counts().values()) == store.settings.count
        found = store.read(0)
        assert not store.is_done(0) or len(store.candidates()) == min(store.settings.group_size, store.settings.count)
        return found

    def _confirm_images(self, value: list[tuple[Candidate, Tensor]]) -> None:
        for candidate, image in value:
            assert np.array_equal((image * 255).round().byte().numpy(), self.pixels[candidate.number])


class Shard(_Generated):
    """The archive of a group, once with the record that tells it is broken, and once with one that signs it."""

    file_name = "images-000000.tar"

    def seeds(self) -> list[bytes]:
        grey = io.BytesIO()
        Image.fromarray(self.pixels[0, 0]).save(grey, "PNG")
        files = tar_entries(self.good[self._shard])
        return [
            self.good[self._shard],
            tar([(item, grey.getvalue() if content[:4] == b"\x89PNG" else content) for item, content in files]),
        ]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        return mutated_tar(content, rng)

    def read(self, content: bytes) -> list[tuple[Candidate, Tensor]]:
        if content != self.good[self._shard]:
            with pytest.raises(BrokenGroupError, match="are not those that were written"):
                self._store(**{self._shard: content}).read(0)
        record = json.loads(self.good[self._record])
        record["files"][self._shard] = hashlib.sha256(content).hexdigest()
        return self._store(**{self._shard: content, self._record: json.dumps(record).encode()}).read(0)

    def confirm(self, content: bytes, value: list[tuple[Candidate, Tensor]]) -> None:
        assert [candidate for candidate, _ in value] == [item for item in self.candidates if item.kept]
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for candidate, image in value:
                member = archive.extractfile(f"{candidate.number:08d}.png")
                assert member is not None
                with Image.open(member) as picture:
                    assert (picture.format, picture.mode) in {("PNG", "L"), ("PNG", "RGB")}
                    pixels = np.array(picture)
                found = (image * 255).round().byte().permute(1, 2, 0).numpy()
                assert np.array_equal(found[..., 0] if pixels.ndim == 2 else found, pixels)


class Record(_Generated):
    """What a group's record says, which lies beside the images."""

    file_name = "000000"  # itself, or the archive that it tells of

    def seeds(self) -> list[bytes]:
        return [self.good[self._record]]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return edited(content, rng)
        return json_bytes(edited_json(parsed_json(content, self.good[self._record]), rng), rng)

    def read(self, content: bytes) -> list[tuple[Candidate, Tensor]]:
        return self._read(**{self._record: content})

    def confirm(self, content: bytes, value: list[tuple[Candidate, Tensor]]) -> None:
        told = json.loads(content)["candidates"]
        assert [candidate.number for candidate, _ in value] == [item["number"] for item in told if item["kept"] is True]
        assert all(0 <= candidate.label < 2 for candidate, _ in value)
        self._confirm_images(value)


class GenerationSettings(_Generated):
    """``generation.json``: what a set is."""

    refusal = ValueError
    file_name = ""  # either itself, or a file that is missing from the set that it tells of

    def seeds(self) -> list[bytes]:
        return [self.good[self._settings]]

    def mutated(self, content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return edited(content, rng)
        return json_bytes(edited_json(parsed_json(content, self.good[self._settings]), rng), rng)

    def read(self, content: bytes) -> list[tuple[Candidate, Tensor]]:
        return self._read(**{self._settings: content})

    def confirm(self, content: bytes, value: list[tuple[Candidate, Tensor]]) -> None:
        assert json.loads(content)["group_size"] >= 1
        self._confirm_images(value)
