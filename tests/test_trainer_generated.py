"""The trainer with generated images, and with images that are decoded when they are asked for."""

import json

import pytest
import torch
from torch import Tensor, nn

from hardfast.augment import AffineAugmentor, MixUp
from hardfast.data import LabelledImages
from hardfast.distill import FixedRatio, Trainer, TrainerConfig, accuracy
from hardfast.distill.checkpoint import CheckpointPolicy
from hardfast.distill.run_dir import MethodDir

CONFIG = TrainerConfig(steps=12, batch_size=8, validate_every=4, log_every=3)


class LazyImages:
    """Decodes when asked, into what the training must not keep, and remembers the numbers."""

    def __init__(self, images: LabelledImages) -> None:
        self._images = images
        self.asked: list[list[int]] = []

    @property
    def labels(self) -> Tensor:
        return self._images.labels

    def __len__(self) -> int:
        return len(self._images)

    def load(self, index: Tensor) -> Tensor:
        self.asked.append(index.tolist())
        return self._images.load(index)


def pictures(count: int, seed: int, pixel: int) -> LabelledImages:
    """Three classes that one pixel tells, at 0, 0.5 or 1; the others are noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    images = torch.rand(count, 1, 3, 3, generator=generator)
    images.view(count, 9)[:, pixel] = labels / 2
    return LabelledImages(images, labels)


TRAIN, GENERATED, VALIDATION = pictures(40, 0, 0), pictures(13, 1, 8), pictures(50, 2, 8)


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 3))


class Teacher(nn.Module):
    """Knows both pixels: the one that the training images have the class in, and the one of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        pixels = images.flatten(1)[:, [0, 8]]
        levels = torch.tensor([0, 0.5, 1])
        return -200 * (pixels[:, :, None] - levels).square().amin(1)


def trainer(seed: int = 0, config: TrainerConfig = CONFIG, train=TRAIN, **options) -> Trainer:
    options = {"teacher": Teacher(), "generated": GENERATED} | options
    return Trainer(network(3), train, VALIDATION, config, seed=seed, **options)


def same(first: Trainer, second: Trainer) -> bool:
    pairs = zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def fitted(**options) -> Trainer:
    one = trainer(**options)
    one.fit()
    return one


def test_generated_images_teach_what_the_others_do_not():
    config = TrainerConfig(steps=300, batch_size=16, learning_rate=0.02)
    many = pictures(200, 5, 8)
    teacher = Teacher()
    reached = {}
    for name, generated in (("with", many), ("without", None)):
        one = fitted(config=config, teacher=teacher, generated=generated, train=pictures(200, 4, 0))
        reached[name] = accuracy(one.model, VALIDATION.images, VALIDATION.labels)
    assert reached["with"] > reached["without"] + 0.2


def test_the_seed_decides_and_images_may_be_lazy():
    first = fitted()
    torch.manual_seed(1)
    lazy = LazyImages(TRAIN), LazyImages(GENERATED)
    assert same(first, fitted(train=lazy[0], generated=lazy[1]))
    assert not same(first, fitted(seed=1))
    assert not same(first, fitted(generated=None))


def test_every_step_sees_as_many_generated_images_as_others():
    train, generated, teacher = LazyImages(TRAIN), LazyImages(GENERATED), Teacher()
    one = trainer(train=train, generated=generated, teacher=teacher)
    # The teacher answers each image once, before the first step.
    for images in (train, generated):
        assert [number for index in images.asked for number in index] == list(range(len(images)))
    train.asked.clear()
    generated.asked.clear()
    one.fit()
    assert teacher.asked == 53
    for images in (train, generated):
        assert [len(index) for index in images.asked] == [8] * 12
        counts = torch.tensor(images.asked).flatten().bincount(minlength=len(images))
        assert counts.max() - counts.min() <= 1


def test_a_resumed_run_with_generated_images_ends_bitwise_as_one_that_was_never_stopped(tmp_path):
    class KilledError(Exception):
        pass

    class Killing(MethodDir):
        def log(self, step, **scalars):
            super().log(step, **scalars)
            if step >= 100 + 8 and "validation_accuracy" in scalars:
                raise KilledError

    whole = fitted(first_step=100)
    with pytest.raises(KilledError), Killing(tmp_path, CheckpointPolicy("3")) as directory:
        trainer(directory=directory, first_step=100).fit()
    with MethodDir(tmp_path) as directory:
        second = trainer(directory=directory, first_step=100)
        assert second.resume()
        assert second.step == 6
        assert second.fit().steps == 12
    assert same(whole, second)
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [103, 104, 106, 108, 109, 112, 112]


def test_the_first_step_moves_the_log_and_nothing_else(tmp_path):
    with MethodDir(tmp_path) as directory:
        moved = fitted(first_step=1000, directory=directory)
    assert same(moved, fitted())
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "student_loss" in line] == [1003, 1006, 1009, 1012]
    assert "disagreement" in lines[0]
    assert "teacher_consistency" not in lines[0]


@pytest.mark.parametrize("parts", ["labels", "distillation", "augmentor", "hard"])
def test_lazy_images_train_as_those_in_memory_do(parts):
    options = {"labels": {"teacher": None}, "augmentor": {"augmentor": MixUp()}}.get(parts, {})
    runs = []
    for train in (TRAIN, LazyImages(TRAIN)):
        if parts == "hard":
            options = {"augmentor": AffineAugmentor(), "alternation": FixedRatio(2)}
        runs.append(fitted(train=train, generated=None, **options))
    assert same(*runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": None}, "generated needs images, a teacher and no augmentor; got 13 images, None and None"),
        ({"augmentor": MixUp()}, "got 13 images, a teacher and an augmentor"),
        ({"generated": GENERATED[:0]}, "got 0 images, a teacher and None"),
        ({"train": LazyImages(TRAIN[:0])}, "train and validation must hold images; got 0 and 50"),
    ],
)
def test_parts_that_do_not_go_together_raise(options, message):
    with pytest.raises(ValueError, match=message):
        trainer(**options)
