"""Training sets with files that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from photo_files import write_image

from hardfast.data import ChosenImages, ImageFiles, LabelledImages
from hardfast.data.image_files import UnreadableImageError
from hardfast.data.readable_images import ReadableImages, readable, unreadable
from hardfast.distill import Trainer, TrainerConfig
from hardfast.distill.run_dir import RunDir
from hardfast.distill.step import student_step
from hardfast.report import build_report

LABELS = torch.tensor([0, 1] * 6)


def files(folder: Path, cut: tuple[int, ...] = (), gone: tuple[int, ...] = ()) -> ImageFiles:
    """Image ``i`` has the grey ``10 * (i + 1)``; some are cut short, some are gone."""
    paths = [folder / f"{number:02d}.png" for number in range(len(LABELS))]
    for number, path in enumerate(paths):
        write_image(path, 10 * (number + 1))
        if number in cut:
            path.write_bytes(path.read_bytes()[:-40])
        if number in gone:
            path.unlink()
    return ImageFiles(paths, LABELS, 12)


def greys(images: torch.Tensor) -> list[int]:
    return [round(float(image.mean()) * 255) // 10 - 1 for image in images]


def test_the_next_of_the_label_stands_in_also_later(tmp_path):
    images = ReadableImages(files(tmp_path, cut=(2, 4), gone=(11,)), 0.3)
    assert greys(images.load(torch.arange(12))) == [0, 1, 6, 3, 6, 5, 6, 7, 8, 9, 10, 1]
    assert greys(images.load(torch.tensor([11, 4, 0, 2]))) == [1, 6, 0, 6]
    assert len(images.unreadable) == 3
    assert {sentence.partition(".png")[0][-2:] for sentence in images.unreadable} == {"02", "04", "11"}
    assert torch.equal(images.labels, LABELS)


def test_what_stands_in_may_be_lost_too(tmp_path):
    images = ReadableImages(files(tmp_path), 0.5)
    for gone, expected in (("00", 2), ("02", 4), ("04", 6)):
        (tmp_path / f"{gone}.png").unlink()
        assert greys(images.load(torch.tensor([0, 1, 2]))) == [expected, 1, max(expected, 2)]
        assert images.shown(torch.tensor([0, 1, 2])).tolist() == [expected, 1, max(expected, 2)]
    assert len(images.unreadable) == 3


class TellsGrey(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grey = images.mean((1, 2, 3))
        return torch.stack([grey, 1 - grey], 1)


def test_a_file_lost_in_the_middle_brings_the_answer_on_what_stands_in(tmp_path, monkeypatch):
    """The teacher has answered each image once, before the training began."""
    images = files(tmp_path)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 2))
    config = TrainerConfig(steps=2, batch_size=12, max_unreadable=0.1)
    trainer = Trainer(student, images, images, config, teacher=TellsGrey())
    seen = []

    def watched(model, teacher, batch, *args, **options):
        seen.append((batch, options["teacher_clean"]))
        return student_step(model, teacher, batch, *args, **options)

    monkeypatch.setattr("hardfast.distill.trainer.student_step", watched)
    (tmp_path / "04.png").unlink()
    trainer.fit()
    assert sorted(greys(seen[0][0])).count(6) == 2
    for batch, answers in seen:
        torch.testing.assert_close(answers, TellsGrey()(batch))


def test_an_image_outside_the_chosen_ones_never_stands_in(tmp_path):
    """As those of groups that are left out of the training."""
    images = ReadableImages(ChosenImages(files(tmp_path, cut=(2,)), torch.tensor([0, 1, 2, 8])), 0.3)
    assert greys(images.load(torch.tensor([2, 1]))) == [8, 1]


def test_too_many_stop_with_their_names(tmp_path):
    images = ReadableImages(files(tmp_path, cut=(1, 2, 3, 5), gone=(0,)), 0.34)
    images.load(torch.tensor([1, 2, 3]))
    with pytest.raises(
        UnreadableImageError, match=r"5 of 12 images cannot be read, more than the share of 0\.34"
    ) as got:
        images.load(torch.tensor([0]))
    assert "01.png" in str(got.value)
    assert str(got.value).endswith("and 2 more")
    strict = ReadableImages(files(tmp_path, cut=(1,)), 0.0)
    with pytest.raises(UnreadableImageError, match="1 of 12 images cannot be read"):
        strict.load(torch.tensor([1]))


def test_a_label_without_a_readable_image_is_named(tmp_path):
    images = ReadableImages(files(tmp_path, cut=tuple(range(0, 12, 2))), 0.9)
    with pytest.raises(UnreadableImageError, match="none of the 6 images with the label 0 can be read"):
        images.load(torch.tensor([1, 2]))


def test_what_is_in_memory_is_left_alone():
    images = LabelledImages(torch.zeros(2, 3, 4, 4), torch.tensor([0, 1]))
    assert readable(images, 0.1) is images
    assert unreadable(images) == unreadable(None) == []


def test_a_training_goes_on_and_its_report_tells(tmp_path):
    train = files(tmp_path, cut=(3,))
    config = TrainerConfig(steps=4, batch_size=6, validate_every=2, max_unreadable=0.1)
    run = RunDir(tmp_path / "run")
    for _ in range(2):
        with run.method("student", 0) as directory:
            model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(432, 2))
            Trainer(model, train, train, config, directory=directory).fit()
    assert directory.read_json("unreadable")["images"][0].startswith(str(tmp_path / "03.png"))
    assert len(directory.read_json("unreadable")["images"]) == 1
    page = build_report(run.path).read_text()
    assert "student/seed-0 did without 1 image that could not be read" in page
    assert "03.png must be a whole image file" in page
    strict = TrainerConfig(steps=4, batch_size=6, max_unreadable=0.05)
    one = Trainer(model, train, train, strict)
    with pytest.raises(UnreadableImageError, match="1 of 12 images cannot be read"):
        one.fit()
