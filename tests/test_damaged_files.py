"""What fuzzing found in the readers of files, once each; :mod:`test_fuzz_readers` looks for more."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from cifar_files import python_batch, write_cifar10
from fuzz.reader import bounded_memory
from mnist_files import write_mnist
from PIL import Image

from hardfast.data import ImageFiles, ShardedImages, load_cifar10, load_mnist
from hardfast.data.array_images import read_npy, read_npz
from hardfast.data.image_files import UnreadableImageError
from hardfast.diffusion.image_encoding import from_png, from_shard, to_png
from hardfast.diffusion.image_record import Candidate
from hardfast.diffusion.image_store import BrokenGroupError, ImageStore
from hardfast.distill import checkpoint
from hardfast.distill.checkpoint import BrokenCheckpointError, CheckpointPolicy, Checkpoints, write_checkpoint


@pytest.fixture(autouse=True)
def _little_memory():
    with bounded_memory():
        yield


def npy(header: str, body: bytes = b"", version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + body


def described(descr: str, shape: str) -> str:
    return f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}"


def test_gzip_whose_blocks_are_damaged_is_named(tmp_path):
    write_mnist(tmp_path, gz=True)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 30)
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte\.gz is not a whole IDX file"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        npy(described("|u1", f"({2**40},)")),
        npy(described("|u1", f"({2**32}, {2**32})")),
        npy(described("|V0", f"(4, 69, {2**32 - 1})")),
        npy(described("<U0", "(3, 0)")),
        npy(described("|u1", "(3,")),
        npy("(" * 9000),
        b"\x93NUMPY\x02\x00\x00\x00\x00\x80" + described("|u1", "(3,)").encode(),
    ],
    ids=["long", "overflowing", "of no size", "of no text", "cut", "nested", "long header"],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_headers_that_lie_are_refused_without_their_memory(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    for mode in (None, "r"):
        with pytest.raises(ValueError, match=r"a\.npy must be a whole \.npy file of numbers"):
            read_npy(path, "nowhere", mode)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(ValueError, match=r"a\.npz must be a whole \.npz file with the arrays x"):
        read_npz(tmp_path / "a.npz", ("x",), "nowhere")


def test_an_archive_is_no_array(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        np.savez(file, x=np.arange(3))
    with pytest.raises(ValueError, match=r"a\.npy must be .*archive of several"):
        read_npy(tmp_path / "a.npy", "nowhere")


@pytest.mark.parametrize("damage", ["deflate", "version"])
def test_damaged_archives_are_named(tmp_path, damage):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.arange(300))
    content = bytearray(path.read_bytes())
    if damage == "deflate":
        content[60:160] = b"\xff" * 100
    else:
        content[content.index(b"PK\x01\x02") + 6] = 84
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npz must be a whole \.npz file"):
        read_npz(path, ("x",), "nowhere")


def with_dtype_state(state: bytes) -> bytes:
    whole = python_batch(np.zeros((4, 3072), np.uint8), np.zeros(4))
    start, end = whole.index(b"(K\x03U\x01|NNN"), whole.index(b"tb\x89T")
    return whole[:start] + state + whole[end:]


@pytest.mark.parametrize(
    "content",
    [
        b"}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n\x8a\x06" + b"\0" * 5 + b"\1U\x01btRu.",
        b"}(U\x04datar\xff\xff\xff\x7fu.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        pickle.dumps({"data": b"x" * 6144, "labels": [1, 2]}),
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aU\x04zlibtR.",
    ],
    ids=["array of a terabyte", "memo", "bytes of a terabyte", "no array", "codec"],
)
def test_a_crafted_pickle_takes_no_memory(tmp_path, content):
    write_cifar10(tmp_path, binary=False)
    path = tmp_path / "data_batch_2"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} must be a whole batch") as caught:
        load_cifar10(tmp_path, validation_size=1)
    assert "MemoryError" not in str(caught.value)


def test_a_state_of_a_dtype_that_crashes_numpy_is_nothing_to_bytes(tmp_path):
    write_cifar10(tmp_path, binary=False)
    (tmp_path / "data_batch_2").write_bytes(with_dtype_state(b"(K\x03U\x01|N" + b"J\xff\xff\xff\xff" * 2 + b"K\x00"))
    assert load_cifar10(tmp_path, validation_size=1).train.images.shape == (19, 3, 32, 32)


def encoded(form: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (200, 30, 30)).save(buffer, form, **options)
    return buffer.getvalue()


def large_png(side: int) -> bytes:
    content = bytearray(encoded("PNG"))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [encoded("EPS"), encoded("GIF"), large_png(9000), large_png(50_000), encoded("JPEG")[:30], encoded("PNG")[:50]],
    ids=["a program for Ghostscript", "GIF", "81 million pixels", "a bomb", "cut JPEG", "cut PNG"],
)
@pytest.mark.filterwarnings("ignore:Image size")
def test_photographs_are_of_few_formats_and_bounded(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    files = ImageFiles([tmp_path / "a.jpg"], torch.tensor([0]), 4)
    with pytest.raises(UnreadableImageError, match=r"a\.jpg must be a whole image file"):
        files.load(torch.tensor([0]))
    with pytest.raises(ValueError, match="no whole PNG file"):
        from_png(content)


@pytest.mark.parametrize("state", ["text", [1, 2], torch.ones(3)])
def test_a_state_is_by_name(tmp_path, state):
    with pytest.raises(BrokenCheckpointError, match=r"a\.pt holds what is no state"):
        checkpoint.read_checkpoint(write_checkpoint(tmp_path / "a.pt", state))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_checkpoint_that_memory_is_too_small_for_is_kept(tmp_path, monkeypatch, error):
    mine = Checkpoints(tmp_path, CheckpointPolicy(), 0, 100)
    path = mine.save(10, {"step": 10})

    def load(*_args, **_options):
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)):
        mine.load()
    monkeypatch.undo()
    assert mine.load().path == path


def shard(*entries: tuple[str, bytes, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, name, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x" * 700,
        gzip.compress(shard(("a", tarfile.REGTYPE, b"x"))),
        shard(("a", tarfile.DIRTYPE, b"")),
        shard(("a", tarfile.SYMTYPE, b"")),
        shard(("a", tarfile.CHRTYPE, b"")),
        shard(("a", tarfile.REGTYPE, b"x"), ("a", tarfile.REGTYPE, b"y")),
        shard(("a", tarfile.REGTYPE, b"x" * 600))[:900],
    ],
    ids=["empty", "no archive", "compressed", "folder", "link to itself", "device", "twice the same", "cut"],
)
def test_a_shard_holds_plain_files_once_each(content):
    with pytest.raises(ValueError, match="no whole archive of files"):
        from_shard(content)


@pytest.fixture(params=["folder", "webdataset"])
def store(tmp_path, request):
    store = ImageStore(tmp_path / "set", request.param)
    store.begin(count=2, group_size=2, class_names=["cat", "dog"])
    images = torch.rand(2, 1, 3, 3)
    candidates = [Candidate(n, n, n, ("cat", "dog")[n], 0.5, None, 0.5, 0.5, 1.0, True) for n in range(2)]
    store.put(0, candidates, images, images)
    assert store.is_done(0)
    return store


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("files",), {}),
        (("files", "/dev/zero"), "0" * 64),
        (("files", "../outside.png"), "0" * 64),
        (("candidates", 0, "label"), 2),
        (("candidates", 0, "label"), -1),
        (("candidates", 0, "label"), "0"),
        (("candidates", 0, "label"), 1),
        (("candidates", 0, "kept"), 1),
        (("candidates", 0, "kept"), False),
        (("candidates", 0, "number"), True),
        (("candidates", 0, "score"), "1"),
        (("candidates", 0, "reason"), 3),
        (("candidates",), json.loads("[" * 900 + "]" * 900)),
    ],
    ids=str,
)
def test_a_record_that_is_not_of_its_group_is_refused(store, path, value):
    file = store.path / "records" / "group-000000.json"
    record = json.loads(file.read_bytes())
    *parents, last = path
    place = record
    for key in parents:
        place = place[key]
    place[last] = value
    file.write_text(json.dumps(record))
    with pytest.raises(BrokenGroupError, match=r"group-000000\.json is no whole record of group 0"):
        store.read(0)
    with pytest.raises(BrokenGroupError, match=r"group-000000\.json"):
        store.is_done(0)
    assert store.candidates() == []


@pytest.mark.parametrize("name", ["records/group-000000.json", "generation.json"])
def test_json_that_nests_too_deeply_is_named(store, name):
    (store.path / name).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=name):
        ImageStore.open(store.path).read(0)


@pytest.mark.parametrize(
    "changed",
    [
        {"group_size": 0},
        {"group_size": "2"},
        {"count": -1},
        {"count": 10**30},
        {"count": 1.5},
        {"format": "zip"},
        {"class_names": [1, 2]},
        {"fields": 3},
        {"recipe": None},
    ],
    ids=str,
)
def test_settings_that_no_set_has_are_refused(store, changed):
    file = store.path / "generation.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | changed))
    with pytest.raises(ValueError, match=r"generation\.json is damaged"):
        ImageStore.open(store.path)


def test_many_groups_that_are_not_there_are_not_looked_for(store):
    file = store.path / "generation.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"count": 10**9}))
    assert ImageStore.open(store.path).counts() == {"kept": 2, "to be made": 10**9 - 2}


def grey_with_alpha() -> bytes:
    buffer = io.BytesIO()
    Image.new("LA", (3, 3)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content", [b"", to_png(torch.ones(3, 4, 4))[:-30], grey_with_alpha()], ids=["empty", "cut", "LA"]
)
def test_a_signed_image_that_is_none_is_named(store, content):
    """Its digest is that of the record, so it is what someone meant to be there."""
    record = json.loads((store.path / "records/group-000000.json").read_bytes())
    name = next(name for name in record["files"] if name.startswith("images/"))
    if store.format == "webdataset":
        files = from_shard((store.path / name).read_bytes()) | {"00000000.png": content}
        content = shard(*((entry, tarfile.REGTYPE, data) for entry, data in files.items()))
    (store.path / name).write_bytes(content)
    record["files"][name] = hashlib.sha256(content).hexdigest()
    (store.path / "records/group-000000.json").write_text(json.dumps(record))
    with pytest.raises(BrokenGroupError, match=rf"{name}.* is broken"):
        store.read(0)
    (store.path / "preview/00000001.png").write_bytes(b"x")
    with pytest.raises(BrokenGroupError, match=r"00000001\.png is broken"):
        store.read_before(1)


def test_candidates_are_checked_when_they_are_made():
    good = Candidate(0, 0, 0, "cat", 0.5, None, 0.5, 0.5, 1.0, True)
    for name, value in {"number": -1, "class_name": 3, "teacher_after": "x", "kept": None}.items():
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            dataclasses.replace(good, **{name: value})


def narrow_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (1, 1 << 20)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_photograph_that_grows_when_it_is_resized_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(narrow_png())
    with pytest.raises(UnreadableImageError, match=r"a\.png must be .*or too narrow"):
        ImageFiles([tmp_path / "a.png"], torch.tensor([0]), 64).load(torch.tensor([0]))
    assert ImageFiles([tmp_path / "a.png"], torch.tensor([0]), 2).load(torch.tensor([0])).shape == (1, 3, 2, 2)


def test_a_checkpoint_that_claims_memory_is_damaged(tmp_path):
    path = write_checkpoint(tmp_path / "a.pt", {"x": torch.ones(3)})
    with zipfile.ZipFile(io.BytesIO(path.read_bytes()[95:])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"K\x03tq", b"\x8a\x06\0\0\0\0\0\1tq"))
    body = buffer.getvalue()
    path.write_bytes(path.read_bytes()[:30] + hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(BrokenCheckpointError, match=r"a\.pt holds what is no state"):
        checkpoint.read_checkpoint(path)


def test_a_long_name_that_is_not_there_takes_no_memory(tmp_path):
    entry = tarfile.TarInfo("././@LongLink")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    (tmp_path / "s.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(ValueError, match=r"s\.tar must be a tar file of webdataset") as caught:
        ShardedImages([tmp_path / "s.tar"], 4)
    assert not isinstance(caught.value.__cause__, MemoryError)


@pytest.mark.parametrize("changed", [-1, 1 << 40, 0.5])
@pytest.mark.parametrize("row", range(4))
def test_an_index_that_leaves_the_shards_is_made_again(tmp_path, row, changed):
    image = to_png(torch.ones(3, 4, 4))
    path = tmp_path / "s.tar"
    path.write_bytes(shard(("a.png", tarfile.REGTYPE, image), ("a.cls", tarfile.REGTYPE, b"3")))
    expected = ShardedImages([path], 4).load(torch.tensor([0]))
    index = tmp_path / ".hardfast-index.npz"
    good = index.read_bytes()
    with np.load(index, allow_pickle=False) as arrays:
        known = {name: arrays[name] for name in arrays.files}
    known["samples"] = known["samples"].astype(np.asarray(changed).dtype)
    known["samples"][row] = changed
    for content in (None, b"PK\x03\x04", good[:-30], b"[" * 5000):
        np.savez(index, **known) if content is None else index.write_bytes(content)
        images = ShardedImages([path], 4)
        assert torch.equal(images.load(torch.tensor([0])), expected)
        assert images.labels.tolist() == [3] or (row == 3 and changed == 1 << 40)
