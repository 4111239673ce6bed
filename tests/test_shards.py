"""Images in shards of webdataset, as its own writer and other tools make them."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from fake_maker import FakeMaker
from PIL import Image

from hardfast.data import ImageFiles, ShardedImages, load_imagenet
from hardfast.data.image_files import UnreadableImageError
from hardfast.data.shards import list_shards
from hardfast.diffusion.generate import generate_images
from hardfast.diffusion.image_store import ImageStore


def write_shards(folder: Path, labels: list[int], per_shard: int, name: str = "train-%04d.tar") -> list[Path]:
    """PNG files of noise with their labels, in shards of webdataset's writer; the same files beside them."""
    folder.mkdir(parents=True)
    (folder / "files").mkdir()
    random = np.random.default_rng(0)
    with webdataset.ShardWriter(str(folder / name), maxcount=per_shard, verbose=0) as writer:
        for number, label in enumerate(labels):
            pixels = random.integers(0, 256, (9 + number % 3, 12, 3), dtype=np.uint8)
            path = folder / "files" / f"{number:03d}.png"
            Image.fromarray(pixels).save(path)
            sample = {"__key__": f"sample.d/{number:06d}", "png": path.read_bytes(), "cls": label}
            writer.write(sample | {"json": {"number": number}})
    return list_shards(folder)


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(value: int = 7) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_and_labels_are_those_of_the_files_in_any_order(tmp_path):
    labels = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    shards = write_shards(tmp_path / "data", labels, 4)
    assert len(shards) == 3
    images = ShardedImages(shards, 6, resize=8, threads=3)
    files = ImageFiles(sorted((tmp_path / "data" / "files").iterdir()), torch.tensor(labels), 6, resize=8)
    assert len(images) == len(labels)
    assert images.labels.tolist() == labels
    order = torch.tensor([10, 0, 4, 3, 7, 0])
    assert torch.equal(images.load(order), files.load(order))
    with pytest.raises(ValueError, match=r"index must be in \[0, 11\)"):
        images.load(torch.tensor([11]))


def test_the_index_is_kept_and_looked_for_again_when_a_shard_changes(tmp_path, monkeypatch):
    shards = write_shards(tmp_path / "data", [0, 1, 2, 3, 4], 2)
    first = ShardedImages(shards, 4)
    with monkeypatch.context() as patch:
        patch.setattr("hardfast.data.shards._samples", lambda shard: pytest.fail("it is known"))
        again = ShardedImages(shards, 4)
    every = torch.arange(5)
    assert torch.equal(again.load(every), first.load(every))
    assert torch.equal(again.labels, first.labels)
    write_tar(shards[1], {"z.png": png(), "z.cls": b"8\n"})
    assert ShardedImages(shards, 4).labels.tolist() == [0, 1, 8, 4]
    assert ShardedImages(shards[:1], 4).labels.tolist() == [0, 1]
    with np.load(tmp_path / "data" / ".hardfast-index.npz") as index:
        known = {name if name != "samples" else "index": index[name] for name in index}
    np.savez(tmp_path / "data" / ".hardfast-index.npz", **known)  # as an earlier version had it
    assert ShardedImages(shards, 4).labels.tolist() == [0, 1, 8, 4]
    (tmp_path / "data" / ".hardfast-index.npz").write_bytes(b"nothing")
    assert ShardedImages(shards, 4).labels.tolist() == [0, 1, 8, 4]


def test_a_folder_that_cannot_be_written_is_read_all_the_same(tmp_path, monkeypatch):
    shards = write_shards(tmp_path / "data", [0, 1], 2)

    def refuse(path, content):
        raise PermissionError(13, "read-only")

    monkeypatch.setattr("hardfast.data.shards.write_bytes", refuse)
    assert ShardedImages(shards, 4).labels.tolist() == [0, 1]
    assert not (tmp_path / "data" / ".hardfast-index.npz").exists()


def compressed(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


def cut(path: Path) -> None:
    # Within the last image: what follows it, its label and the end of the archive, is gone.
    os.truncate(path, 512 + 100)


def damaged_header(path: Path) -> None:
    """Of the second image: tarfile takes it for the end."""
    content = bytearray(path.read_bytes())
    content[4 * 512] ^= 1
    path.write_bytes(content)


def cut_between_files(path: Path) -> None:
    os.truncate(path, 4 * 512)


TWO = {"a.png": png(), "a.cls": b"1", "b.png": png(), "b.cls": b"1"}


@pytest.mark.parametrize(
    ("files", "change", "message"),
    [
        ({"a.png": png()}, None, r"s\.tar must have a file \.cls for each image; a has none"),
        ({"a.png": png(), "a.jpg": b"", "a.cls": b"1"}, None, "it has several images of the key a"),
        ({"a.png": png(), "a.cls": b"-1"}, None, r"a\.cls must hold a label >= 0, got b'-1'"),
        ({"a.png": png(), "a.cls": b"dog"}, None, r"a\.cls must hold a label"),
        ({"a.png": png(), "a.cls": b"9" * 40}, None, r"a\.cls must hold a label"),
        ({"a.png": bytes(2000), "a.cls": b"1"}, cut, r"s\.tar must be a tar file of webdataset, not compressed; "),
        ({"a.png": png(), "a.cls": b"1"}, compressed, r"s\.tar must be a tar file of webdataset, not compressed; "),
        (TWO, damaged_header, "it is damaged or cut short at byte 2048"),
        (TWO, cut_between_files, "it is damaged or cut short at byte 2048"),
        (TWO, lambda path: os.truncate(path, 4 * 512 + 100), "it is damaged or cut short at byte 2048"),
        ({"a.txt": b"1", "a.cls": b"1"}, None, "have no image with a label"),
    ],
)
def test_shards_that_are_not_as_described_are_named(files, change, message, tmp_path):
    path = write_tar(tmp_path / "s.tar", files)
    if change is not None:
        change(path)
    with pytest.raises(ValueError, match=message):
        ShardedImages([path], 4)


def test_no_shards():
    with pytest.raises(ValueError, match="shards must be at least one tar file, got none"):
        ShardedImages([], 4)


def test_an_image_that_is_none_is_named(tmp_path):
    path = write_tar(tmp_path / "s.tar", {"a.png": png(), "a.cls": b"0", "b.png": b"no image", "b.cls": b"0"})
    images = ShardedImages([path], 4)
    assert images.load(torch.tensor([0])).shape == (1, 3, 4, 4)
    with pytest.raises(UnreadableImageError, match=r"s\.tar at byte \d+ must be a whole image file"):
        images.load(torch.tensor([1]))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"s\.tar at byte \d+ is gone"):
        images.load(torch.tensor([0]))


def test_what_hardfast_generates(tmp_path):
    store = ImageStore(tmp_path / "made", "webdataset", recipe="r", fields={})
    generate_images(FakeMaker(), 9, store, group_size=4, progress=False)
    shards = list_shards(tmp_path / "made" / "images")
    assert len(shards) == 3
    kept = [candidate for candidate in store.candidates() if candidate.kept]
    assert ShardedImages(shards, 4).labels.tolist() == [candidate.label for candidate in kept]


def test_imagenet_in_shards(tmp_path):
    labels = [0, 999, 5] * 4
    write_shards(tmp_path / "train", labels, 5)
    write_shards(tmp_path / "val", [5, 0], 5, "val-%02d.tar")
    splits = load_imagenet(tmp_path, 6, validation_per_class=1)
    assert sorted(splits.train.labels.tolist()) == sorted([0, 999, 5] * 3)
    assert sorted(splits.validation.labels.tolist()) == [0, 5, 999]
    assert splits.test.labels.tolist() == [5, 0]
    together = [part.load(torch.arange(len(part))) for part in (splits.train, splits.validation)]
    assert len(torch.cat(together).flatten(1).unique(dim=0)) == len(labels)  # every image once
    with pytest.raises(ValueError, match="validation_per_class must be less than the 4 images of class 0"):
        load_imagenet(tmp_path, 6, validation_per_class=4)
    write_shards(tmp_path / "more" / "train", [1000], 5)
    with pytest.raises(ValueError, match=r"labels of the shards in .*train must be in \[0, 1000\), got 1000"):
        load_imagenet(tmp_path / "more", 6)
