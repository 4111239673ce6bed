"""Spurious ImageNet beside ImageNet from folders as they are published, and its score."""

from __future__ import annotations

import shutil

import pytest
import torch
from photo_files import write_spurious_imagenet
from torch import nn

from hardfast.data import GroupedImages, LabelledImages, imagenet_classes, load_spurious_imagenet
from hardfast.distill.spurious import class_probabilities, spurious_scores

CLASSES = {1: "n01443537", 94: "n01833805", 134: "n02012849"}


@pytest.fixture
def root(tmp_path):
    write_spurious_imagenet(tmp_path, CLASSES, train=5, validation=2, spurious=3)
    return tmp_path


def load(root, size=8, **options):
    return load_spurious_imagenet(
        root / "spurious_imagenet", root / "imagenet", size, validation_per_class=2, **options
    )


def test_parts_and_labels(root):
    splits = load(root)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [9, 6, 15]
    for part, each in ((splits.train, 3), (splits.validation, 2)):
        assert part.images.labels.unique().tolist() == list(CLASSES)
        assert torch.bincount(part.images.labels).max() == each
        assert not part.groups.any()
    assert not set(splits.train.images.paths) & set(splits.validation.images.paths)
    test = splits.test
    assert test.groups.tolist() == [0] * 6 + [1] * 9
    values = (test.images.load(torch.arange(15))[:, 0].mean((1, 2)) * 255).round().long()
    assert torch.equal(values, test.images.labels % 100 + 100 * test.groups)
    assert splits.class_names[94] == "hummingbird"


def test_held_out_images_depend_on_the_seed_alone(root):
    first, again, other = (load(root, split_seed=seed).validation.images.paths for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_the_classes_of_imagenet_have_names_of_their_own():
    wnids, names = imagenet_classes()
    assert len(set(wnids)) == len(set(names)) == 1000
    assert all(wnids[label] == wnid for label, wnid in CLASSES.items())


def test_what_is_missing_is_named(root):
    shutil.move(root / "imagenet/val/n01833805", root / "away")
    with pytest.raises(FileNotFoundError, match=r"val/n01833805 is missing.*image-net\.org"):
        load(root)
    shutil.rmtree(root / "imagenet/train")
    with pytest.raises(FileNotFoundError, match=r"imagenet/train is missing.*image-net\.org"):
        load(root)


def test_missing_spurious_images_are_named(root):
    shutil.rmtree(root / "spurious_imagenet")
    with pytest.raises(FileNotFoundError, match=r"spurious_imagenet is missing.*YanNeu/spurious_imagenet"):
        load(root)


@pytest.mark.parametrize("name", ["goldfish", "spurious_class_1000_component_1", "spurious_class_7"])
def test_a_folder_of_another_name_is_refused(root, name):
    (root / "spurious_imagenet/images" / name).mkdir()
    (root / "spurious_imagenet/images" / name / "a.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=f"got '{name}'"):
        load(root)


def test_training_folders_must_be_imagenets(root):
    (root / "imagenet/train/goldfish").mkdir()
    with pytest.raises(ValueError, match="WordNet numbers, got 'goldfish'"):
        load(root)
    shutil.rmtree(root / "imagenet/train/goldfish")
    with pytest.raises(ValueError, match="validation_per_class must be less than the 5 images"):
        load_spurious_imagenet(root / "spurious_imagenet", root / "imagenet", 8, validation_per_class=5)


def test_scores_of_orders_whose_values_are_known():
    labels = torch.tensor([4] * 5 + [9] * 5)
    spurious = torch.tensor([0, 0, 1, 1, 1] * 2).bool()
    # Class 4 ranks its images first and third; class 9 ranks both last.
    probabilities = torch.tensor([0.9, 0.7, 0.8, 0.2, 0.1, 0.1, 0.2, 0.5, 0.6, 0.7])
    scores = spurious_scores(probabilities, labels, spurious)
    assert scores.classes.tolist() == [4, 9]
    assert scores.average_precision.tolist() == pytest.approx([(1 + 2 / 3) / 2, (1 / 4 + 2 / 5) / 2])
    assert scores.roc_auc.tolist() == pytest.approx([5 / 6, 0])
    assert scores.mean_roc_auc == pytest.approx(5 / 12)
    assert scores.mean_average_precision == pytest.approx((5 / 6 + 0.325) / 2)


def test_chance_is_the_share_of_images_of_the_class():
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(100).repeat_interleave(125)
    spurious = (torch.arange(125) >= 50).repeat(100)
    scores = spurious_scores(torch.rand(12500, generator=generator), labels, spurious)
    assert scores.mean_average_precision == pytest.approx(0.42, abs=0.02)
    assert scores.mean_roc_auc == pytest.approx(0.5, abs=0.02)


def test_scores_refuse_what_cannot_be_ranked():
    labels, spurious = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 0]).bool()
    with pytest.raises(ValueError, match="got one kind for 1"):
        spurious_scores(torch.rand(4), labels, spurious)
    with pytest.raises(ValueError, match="probabilities must be finite"):
        spurious_scores(torch.tensor([0.1, float("nan"), 0.1, 0.2]), labels, spurious)
    with pytest.raises(ValueError, match="must have one shape"):
        spurious_scores(torch.rand(3), labels, spurious)


def test_probabilities_are_of_the_label_in_evaluation_mode():
    images, labels = torch.rand(11, 3, 4, 4), torch.arange(11) % 5
    grouped = GroupedImages(LabelledImages(images, labels), labels % 2, ("a", "b"))
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(48, 5))
    seen = class_probabilities(model, grouped, batch_size=4)
    wanted = model[2](images.flatten(1)).double().softmax(1)[torch.arange(11), labels]
    torch.testing.assert_close(seen, wanted.detach())
    assert model.training
    with pytest.raises(ValueError, match="among the 3 classes"):
        class_probabilities(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), grouped)
