"""The registry of evaluation sets on small files in their published formats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cifar_files import write_cifar10_c
from mnist_files import write_mnist_c
from photo_files import write_image

from hardfast.data.evaluation_sets import EVALUATION_SETS, open_set

WNIDS = {1: "n01443537", 94: "n01833805"}
PHOTOS = {
    "imagenet-v2": "imagenetv2-matched-frequency-format-val",
    "imagenet-a": "imagenet-a",
    "imagenet-r": "imagenet-r",
    "imagenet-sketch": "sketch",
    "imagenet-stylized": "stylized-imagenet/val",
}


def write_photos(root, name):
    for label, wnid in WNIDS.items():
        folder = str(label) if name == "imagenet-v2" else wnid
        write_image(root / PHOTOS[name] / folder / "a.jpg", label, 40, 30)


def write_everything(root):
    for name in PHOTOS:
        write_photos(root, name)
    for severity in range(1, 6):
        write_image(root / "imagenet-c" / "snow" / str(severity) / WNIDS[94] / "a.jpg", 40 * severity)
    write_cifar10_c(root / "CIFAR-10-C", ("saturate", "fog"), each=2)
    pixels, labels = np.full((3, 32, 32, 3), 51, np.uint8), np.arange(3)
    np.save(root / "cifar10.1_v6_data.npy", pixels)
    np.save(root / "cifar10.1_v6_labels.npy", labels)
    np.savez(root / "cifar102_test.npz", images=pixels, labels=labels)
    write_mnist_c(root / "mnist_c" / "zigzag")
    write_mnist_c(root / "mnist_c" / "shear")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    write_everything(path)
    return path


@pytest.mark.parametrize("name", EVALUATION_SETS)
def test_parts_have_images_that_fit(root, tmp_path, name):
    entry = EVALUATION_SETS[name]
    side = entry.side_px or 21
    parts = list(open_set(name, [tmp_path, root], side, threads=1))
    assert parts
    for part in parts:
        assert len(part.images) > 0
        assert part.images.load(torch.tensor([0])).shape == (1, entry.channels, side, side)
        assert int(part.images.labels.max()) < entry.classes
        assert (part.corruption is not None) == bool(entry.corruptions)
    with pytest.raises(FileNotFoundError, match="https://"):
        open_set(name, [tmp_path], side)


def test_sets_of_some_classes_are_scored_among_them(root):
    for name in PHOTOS:
        (part,) = open_set(name, [root], 8)
        assert part.classes.tolist() == list(WNIDS)
    assert next(open_set("imagenet-c", [root], 8)).classes.tolist() == [94]
    assert next(open_set("cifar10.1", [root], 32)).classes is None


def test_corruptions_come_by_name_and_severity(root):
    parts = list(open_set("cifar10-c", [root], 32))
    assert [(part.corruption, part.severity) for part in parts] == [
        (name, severity) for name in ("fog", "saturate") for severity in range(1, 6)
    ]
    # The pixels tell severity and place in the order of writing.
    found = [round(float(part.images.load(torch.tensor([1])).mean()) * 255) for part in parts]
    assert found == [10 * severity + place for place in (1, 0) for severity in range(1, 6)]
    severities = [float(part.images.load(torch.tensor([0])).mean()) * 255 for part in open_set("imagenet-c", [root], 8)]
    assert severities == pytest.approx([40, 80, 120, 160, 200], abs=1)
    assert [part.corruption for part in open_set("mnist-c", [root], 28)] == ["shear", "zigzag"]


def test_photos_are_cut_as_the_benchmarks_cut_them(tmp_path):
    # 256 px wide: what is white is the frame that resizing to 8/7 of the side and cutting leaves out.
    pixels = np.full((256, 256, 3), 255, np.uint8)
    pixels[20:-20, 20:-20] = 0
    from PIL import Image

    for name in ("imagenet-a", "stylized-imagenet/val"):
        folder = tmp_path / name / WNIDS[1]
        folder.mkdir(parents=True)
        Image.fromarray(pixels).save(folder / "a.png")
    (natural,) = open_set("imagenet-a", [tmp_path], 224)
    (stylized,) = open_set("imagenet-stylized", [tmp_path], 224)
    assert natural.images.load(torch.tensor([0]))[0, 0, 112, :8].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert stylized.images.load(torch.tensor([0]))[0, 0, 112, :15].min() > 0.9


def test_which_networks_a_set_fits():
    assert [name for name, entry in EVALUATION_SETS.items() if entry.fits((1, 28, 28), 10)] == ["mnist-c"]
    assert [name for name, entry in EVALUATION_SETS.items() if entry.fits((3, 32, 32), 10)] == [
        "cifar10.1",
        "cifar10.2",
        "cifar10-c",
    ]
    photos = {name for name, entry in EVALUATION_SETS.items() if entry.fits((3, 160, 160), 1000)}
    assert photos == {*PHOTOS, "imagenet-c"}
    assert not any(entry.fits((3, 224, 160), 1000) for entry in EVALUATION_SETS.values())


def test_an_unknown_set_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"name must be one of \['cifar10\.1', .*'mnist-c'\], got 'imagenet-d'"):
        open_set("imagenet-d", [tmp_path], 8)
