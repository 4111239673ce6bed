"""ImageNet and its shifted test sets from folders as they are published."""

from __future__ import annotations

import shutil

import pytest
import torch
from photo_files import write_image

from hardfast.data import (
    imagenet_c_corruptions,
    load_imagenet,
    load_imagenet_a,
    load_imagenet_c,
    load_imagenet_r,
    load_imagenet_sketch,
    load_imagenet_stylized,
    load_imagenet_v2,
)

CLASSES = {1: "n01443537", 94: "n01833805", 134: "n02012849"}
BY_WNID = {
    "imagenet-a": load_imagenet_a,
    "imagenet-r": load_imagenet_r,
    "sketch": load_imagenet_sketch,
    "stylized-imagenet": load_imagenet_stylized,
}


def write_classes(folder, each=2, suffix="JPEG"):
    """The grey of an image is its label."""
    for label, wnid in CLASSES.items():
        for i in range(each):
            write_image(folder / wnid / f"{wnid}_{i}.{suffix}", label, 20, 17)


def greys(images) -> list[int]:
    pixels = images.load(torch.arange(len(images)))
    return (pixels[:, 0].mean((1, 2)) * 255).round().long().tolist()


def test_imagenet_parts(tmp_path):
    write_classes(tmp_path / "train", 5)
    write_classes(tmp_path / "val", 3)
    splits = load_imagenet(tmp_path, 8, resize=9, validation_per_class=2)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [9, 6, 9]
    for part in (splits.train, splits.validation, splits.test):
        assert part.load(torch.tensor([0])).shape == (1, 3, 8, 8)
        assert greys(part) == part.labels.tolist()
        assert part.labels.unique().tolist() == list(CLASSES)
    train, held_out = set(splits.train.paths), set(splits.validation.paths)
    assert not train & held_out
    assert len(train | held_out) == 15
    assert splits.class_names[94] == "hummingbird"
    other = load_imagenet(tmp_path, 8, validation_per_class=2, split_seed=1)
    assert set(other.validation.paths) != held_out
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(FileNotFoundError, match=r"val is missing.*image-net\.org"):
        load_imagenet(tmp_path, 8, validation_per_class=1)


@pytest.mark.parametrize("name", BY_WNID)
@pytest.mark.parametrize("itself", [True, False])
def test_sets_of_wordnet_folders(tmp_path, name, itself):
    folder = tmp_path / name / "val" if name == "stylized-imagenet" else tmp_path / name
    write_classes(folder, suffix="jpg")
    images = BY_WNID[name](tmp_path / name if itself else tmp_path, 8)
    assert images.labels.tolist() == [1, 1, 94, 94, 134, 134]
    assert greys(images) == images.labels.tolist()
    (folder / "goldfish").mkdir()
    with pytest.raises(ValueError, match=f"folders of {folder} must be named by ImageNet's WordNet numbers"):
        BY_WNID[name](tmp_path, 8)


@pytest.mark.parametrize("name", BY_WNID)
def test_a_missing_set_is_named_and_another_not_taken_for_it(tmp_path, name):
    for other in set(BY_WNID) - {name}:
        write_classes(tmp_path / other / ("val" if other == "stylized-imagenet" else ""))
    for root in (tmp_path, *(tmp_path / other for other in set(BY_WNID) - {name})):
        with pytest.raises(FileNotFoundError, match=rf"{name}(/val)? is missing.*https://"):
            BY_WNID[name](root, 8)


@pytest.mark.parametrize("variant", ["matched-frequency", "threshold0.7", "top-images"])
def test_labels_of_v2_are_numbers_and_not_the_order_of_the_folders(tmp_path, variant):
    folder = tmp_path / f"imagenetv2-{variant}-format-val"
    for label in (0, 2, 10, 100):
        write_image(folder / str(label) / "abc.jpeg", label)
    for root in (tmp_path, folder):
        images = load_imagenet_v2(root, 8, variant=variant)
        assert sorted(images.labels.tolist()) == [0, 2, 10, 100]
        assert greys(images) == images.labels.tolist()
    write_image(folder / "1000" / "abc.jpeg", 1)
    with pytest.raises(ValueError, match="must be named 0 to 999, by the label, got '1000'"):
        load_imagenet_v2(tmp_path, 8, variant=variant)
    with pytest.raises(ValueError, match="variant must be one of"):
        load_imagenet_v2(tmp_path, 8, variant="a")


def test_a_missing_v2_is_named(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"imagenetv2-top-images-format-val is missing.*imagenetv2-top-images\.tar\.gz"
    ):
        load_imagenet_v2(tmp_path, 8, variant="top-images")


def test_imagenet_c(tmp_path):
    for severity in (1, 4):
        write_classes(tmp_path / "imagenet-c" / "fog" / str(severity), each=severity)
    (tmp_path / "imagenet-c" / "saturate").mkdir()
    assert imagenet_c_corruptions(tmp_path) == ("fog", "saturate")
    assert len(load_imagenet_c(tmp_path, 8, "fog", 4)) == 12
    assert greys(load_imagenet_c(tmp_path / "imagenet-c", 8, "fog", 1)) == list(CLASSES)
    with pytest.raises(FileNotFoundError, match=r"fog/5 is missing.*zenodo\.org/records/2235448"):
        load_imagenet_c(tmp_path, 8, "fog", 5)
    with pytest.raises(ValueError, match=r"corruption must be one of .*got 'rain'"):
        load_imagenet_c(tmp_path, 8, "rain", 1)
    with pytest.raises(ValueError, match=r"severity must be one of .*got 0"):
        load_imagenet_c(tmp_path, 8, "fog", 0)
    with pytest.raises(FileNotFoundError, match=r"holds no corruption, such as gaussian_noise"):
        imagenet_c_corruptions(tmp_path / "nowhere")
