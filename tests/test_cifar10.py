"""CIFAR-10 and its shifted test sets from files in their published formats."""

from __future__ import annotations

import pickle
import subprocess

import numpy as np
import pytest
import torch
from cifar_files import PARTS, batches, python_batch, write_cifar10, write_cifar10_c

from hardfast.data import (
    ArrayImages,
    cifar10_c_corruptions,
    load_cifar10,
    load_cifar10_1,
    load_cifar10_2,
    load_cifar10_c,
)
from hardfast.data.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS

FOLDERS = {True: "cifar-10-batches-bin", False: "cifar-10-batches-py"}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("above", [True, False])
def test_every_image_is_in_one_part_with_its_label(tmp_path, binary, above):
    content = write_cifar10(tmp_path / FOLDERS[binary], binary=binary)
    splits = load_cifar10(tmp_path if above else tmp_path / FOLDERS[binary], validation_size=7, split_seed=2)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [13, 7, 4]
    pixels, labels = content["test_batch"]
    assert torch.equal((splits.test.images * 255).round().byte(), torch.from_numpy(pixels.reshape(-1, 3, 32, 32)))
    assert splits.test.labels.tolist() == labels.tolist()
    source = {
        row.tobytes(): int(label)
        for name in PARTS[:5]
        for row, label in zip(content[name][0], content[name][1], strict=True)
    }
    images = torch.cat([splits.train.images, splits.validation.images])
    labels = torch.cat([splits.train.labels, splits.validation.labels])
    found = {
        (image * 255).round().byte().numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)
    }
    assert found == source


def test_both_versions_give_the_same_and_the_split_depends_on_its_seed(tmp_path):
    for binary in (True, False):
        write_cifar10(tmp_path / FOLDERS[binary], binary=binary)
    first, same = (load_cifar10(tmp_path / FOLDERS[binary], validation_size=5) for binary in (True, False))
    assert torch.equal(first.validation.images, same.validation.images)
    assert torch.equal(first.train.labels, same.train.labels)
    other = load_cifar10(tmp_path, validation_size=5, split_seed=1)
    assert not torch.equal(first.validation.images, other.validation.images)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_batches_that_python_3_wrote_are_read_too(tmp_path, protocol):
    write_cifar10(tmp_path, binary=False)
    pixels, labels = batches()["test_batch"]
    content = {"data": pixels, "labels": labels.tolist(), "filenames": ["a.png"] * 4}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
    splits = load_cifar10(tmp_path, validation_size=1)
    assert torch.equal((splits.test.images * 255).round().byte(), torch.from_numpy(pixels.reshape(-1, 3, 32, 32)))


class Malicious:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return subprocess.call, (["touch", str(self.path)],)


def test_a_pickle_that_calls_a_program_is_refused_unrun(tmp_path):
    write_cifar10(tmp_path, binary=False)
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": Malicious(tmp_path / "ran"), b"labels": []}))
    with pytest.raises(ValueError, match=r"data_batch_3 must be a whole batch.*subprocess\.call is not part"):
        load_cifar10(tmp_path, validation_size=1)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["data_batch_2.bin", "data_batch_4", "test_batch"])
def test_a_missing_batch_is_named(tmp_path, name):
    write_cifar10(tmp_path, binary=name.endswith("bin"))
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing.*cs\.toronto\.edu"):
        load_cifar10(tmp_path, validation_size=1)


def test_no_files_at_all_say_what_was_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_batch_1\.bin in .*cifar-10-batches-bin.*cs\.toronto\.edu"):
        load_cifar10(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data_batch_5.bin", lambda content: content[:-1], "records of 3073 bytes"),
        ("test_batch.bin", lambda content: b"", "at least one, got 0 bytes"),
        ("data_batch_1.bin", lambda content: b"\x0a" + content[1:], "labels 0 to 9, got . to 10"),
        ("data_batch_5", lambda content: content[:-9], "must be a whole batch"),
        ("data_batch_1", lambda content: b"", "must be a whole batch"),
        ("test_batch", lambda content: python_batch(np.zeros((3, 3000), np.uint8), np.zeros(3)), r"uint8 \[N, 3072\]"),
        ("test_batch", lambda content: python_batch(np.zeros((3, 3072), np.uint8), np.zeros(2)), "labels of"),
        ("test_batch", lambda content: pickle.dumps({"labels": [1]}), "KeyError"),
        ("test_batch", lambda content: pickle.dumps({"labels": [1], "data": b"x"}), "got bytes"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path, name, change, message):
    write_cifar10(tmp_path, binary=name.endswith("bin"))
    path = tmp_path / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{path}.*{message}|{message}.*{path}|labels of {path}|data of {path}"):
        load_cifar10(tmp_path, validation_size=1)


@pytest.mark.parametrize("size", [0, 20, -3])
def test_a_validation_size_that_leaves_nothing_is_refused(tmp_path, size):
    write_cifar10(tmp_path, binary=True)
    with pytest.raises(ValueError, match=f"validation_size must be at least 1 and less than the 20 .*got {size}"):
        load_cifar10(tmp_path, validation_size=size)


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def same_pixels(images: torch.Tensor, pixels: np.ndarray) -> bool:
    return torch.equal((images * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(pixels))


@pytest.mark.parametrize(("folder", "version"), [("", "v6"), ("datasets", "v4"), ("CIFAR-10.1/datasets", "v6")])
def test_cifar10_1(tmp_path, folder, version):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    labels = np.array([3, 9, 0, 1, 1], dtype=np.int32)
    np.save(tmp_path / folder / f"cifar10.1_{version}_data.npy", photos(5))
    np.save(tmp_path / folder / f"cifar10.1_{version}_labels.npy", labels)
    loaded = load_cifar10_1(tmp_path, version)
    assert same_pixels(loaded.images, photos(5))
    assert loaded.labels.tolist() == labels.tolist()
    with pytest.raises(FileNotFoundError, match=r"data\.npy is missing.*github\.com/modestyachts/CIFAR-10\.1"):
        load_cifar10_1(tmp_path, "v4" if version == "v6" else "v6")
    (tmp_path / folder / f"cifar10.1_{version}_labels.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match=r"_labels\.npy must be a whole \.npy file"):
        load_cifar10_1(tmp_path, version)


def test_cifar10_2_reads_numbers_only(tmp_path):
    labels = np.array([3, 9, 0, 1], dtype=np.int64)
    # The published archive has lists of text beside the images, and those are not touched.
    others = {"label_names": np.array(["airplane"], dtype=object), "keywords": np.array(["cat", 3], dtype=object)}
    np.savez(tmp_path / "cifar102_test.npz", images=photos(4), labels=labels, **others)
    loaded = load_cifar10_2(tmp_path)
    assert same_pixels(loaded.images, photos(4))
    assert loaded.labels.tolist() == labels.tolist()
    with pytest.raises(FileNotFoundError, match=r"cifar102_train\.npz is missing.*modestyachts/cifar-10\.2"):
        load_cifar10_2(tmp_path, "train")
    np.savez(tmp_path / "cifar102_test.npz", images=photos(4), labels=labels.astype(object))
    with pytest.raises(ValueError, match=r"cifar102_test\.npz must be a whole \.npz file"):
        load_cifar10_2(tmp_path)
    np.savez(tmp_path / "cifar102_test.npz", images=photos(4))
    with pytest.raises(ValueError, match=r"cifar102_test\.npz must be a whole \.npz file"):
        load_cifar10_2(tmp_path)


@pytest.mark.parametrize("above", ["CIFAR-10-C", ""])
def test_cifar10_c_parts_are_the_severities_in_order(tmp_path, above):
    labels = write_cifar10_c(tmp_path / "CIFAR-10-C", ("spatter", "fog", "gaussian_noise"), each=4)
    root = tmp_path / above
    assert cifar10_c_corruptions(root) == ("gaussian_noise", "fog", "spatter")
    for severity in (1, 3, 5):
        part = load_cifar10_c(root, "fog", severity)
        assert isinstance(part._pixels, np.memmap)
        assert part.labels.tolist() == labels[:4].tolist()
        images = part.load(torch.tensor([3, 0]))
        assert images.shape == (2, 3, 32, 32)
        assert (images * 255).round().unique().tolist() == [10 * severity + 1]
    assert len(load_cifar10_c(root, "spatter")) == 20


def test_cifar10_c_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no corruption, such as gaussian_noise\.npy.*zenodo"):
        cifar10_c_corruptions(tmp_path)
    write_cifar10_c(tmp_path, ("fog",))
    with pytest.raises(FileNotFoundError, match=r"snow\.npy is missing.*zenodo\.org/records/2535967"):
        load_cifar10_c(tmp_path, "snow", 1)
    with pytest.raises(ValueError, match=r"corruption must be one of .*got 'rain'"):
        load_cifar10_c(tmp_path, "rain", 1)
    with pytest.raises(ValueError, match=r"severity must be one of .*got 6"):
        load_cifar10_c(tmp_path, "fog", 6)
    content = (tmp_path / "fog.npy").read_bytes()
    (tmp_path / "fog.npy").write_bytes(content[:-7])
    with pytest.raises(ValueError, match=r"fog\.npy must be a whole \.npy file"):
        load_cifar10_c(tmp_path, "fog", 1)
    np.save(tmp_path / "fog.npy", np.zeros((14, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"fog\.npy must hold as many images of each of 5 severities, got 14"):
        load_cifar10_c(tmp_path, "fog", 1)
    np.save(tmp_path / "fog.npy", np.zeros((15, 32, 32, 3), np.float32))
    with pytest.raises(ValueError, match=r"fog\.npy must be uint8 \[N, 32, 32, 3\], got float32"):
        load_cifar10_c(tmp_path, "fog", 1)


def test_the_benchmark_averages_over_fifteen_corruptions():
    assert len(set(CORRUPTIONS)) == 15
    assert len(set(CORRUPTIONS + EXTRA_CORRUPTIONS)) == 19


def test_array_images_must_be_bytes_with_a_label_each():
    labels = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="pixels must be uint8"):
        ArrayImages(np.zeros((3, 4, 4, 3), np.float32), labels)
    with pytest.raises(ValueError, match=r"labels must be int64 \[2\]"):
        ArrayImages(np.zeros((2, 4, 4, 3), np.uint8), labels)
