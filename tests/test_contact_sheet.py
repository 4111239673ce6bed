"""The contact sheet: which images are on it, what is said of them, and that it needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from fake_maker import FakeMaker, generate

from hardfast.diffusion.image_store import PREVIEWS, ImageStore
from hardfast.report import contact_sheet, figures

COUNT = 104


@pytest.fixture(scope="module", params=["folder", "webdataset"])
def finished(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sheet") / "set"
    generate(path, request.param, COUNT, group_size=8)
    return path


def test_shows_kept_images_of_every_class(finished):
    shown = contact_sheet.comparisons(ImageStore.open(finished))
    maker = FakeMaker()
    assert len(shown) == 24
    assert [item.candidate.label for item in shown] == [0, 1, 2] * 8
    by_label = [number for number in range(COUNT) if maker.reason(number) is None]
    for label in range(3):
        numbers = [item.candidate.number for item in shown if item.candidate.label == label]
        assert numbers == [number for number in by_label if number % 3 == label][:8]
    for item in shown:
        start = item.candidate.number // 8 * 8
        made = maker.make(range(start, start + 8))
        before, after = (x[item.candidate.number - start].clamp(0, 1) for x in (made.images_before, made.images))
        assert (item.before - before).abs().max() < 0.6 / 255
        assert (item.after - after).abs().max() < 0.6 / 255


def test_only_the_first_candidates_have_a_preview(finished):
    numbers = [int(file.stem) for file in (finished / "preview").iterdir()]
    assert sorted(numbers) == [number for number in range(PREVIEWS) if FakeMaker().reason(number) is None]
    shown = contact_sheet.comparisons(ImageStore.open(finished), most=COUNT)
    assert max(item.candidate.number for item in shown) < PREVIEWS < COUNT


def test_strip_holds_before_after_and_their_scaled_difference(finished):
    (item, *_) = contact_sheet.comparisons(ImageStore.open(finished))
    strip = torch.from_numpy(contact_sheet._strip(item)).permute(2, 0, 1)
    before, after, difference = strip[..., :5], strip[..., 6:11], strip[..., 12:]
    assert torch.equal(before, item.before)
    assert torch.equal(after, item.after)
    change = after - before
    torch.testing.assert_close(2 * difference - 1, change / change.abs().max())
    same = contact_sheet._strip(item._replace(after=item.before))
    assert (same[:, 12:] == 0.5).all()


def test_legend_has_the_confidences(finished):
    (item, *_) = contact_sheet.comparisons(ImageStore.open(finished))
    with figures.style():
        figure = contact_sheet.comparison_figure([item])
    (text,) = [text.get_text() for axes in figure.axes for text in axes.texts]
    made = FakeMaker().make([item.candidate.number])
    assert text.splitlines() == [
        f"square (no. {item.candidate.number})",
        f"teacher {100 * made.teacher_before.item():.0f} % → {100 * made.teacher_after.item():.0f} %",
        f"student {100 * made.student_before.item():.0f} % → {100 * made.student_after.item():.0f} %",
    ]


def test_page_is_self_contained_and_repeats_bitwise(finished):
    path = contact_sheet.build_contact_sheet(finished)
    assert path == finished / "contact_sheet.html"
    source = path.read_text()
    references = re.findall(r'(?:src|href)="([^"]*)"', source)
    assert len([reference for reference in references if reference.startswith("data:image/png")]) == 24
    assert all(reference.startswith(("#", "data:")) for reference in references)
    assert "<script" not in source
    reasons = [FakeMaker().reason(number) for number in range(COUNT)]
    for name, reason in {"kept": None, "dropped: teacher": "teacher", "dropped: not finite": "not finite"}.items():
        assert f"<td>{name}</td><td>{reasons.count(reason)}</td>" in source
    assert "<td>objective.gamma</td><td>1</td>" in source
    assert contact_sheet.build_contact_sheet(finished).read_text() == source


def test_damaged_groups_are_passed_over(tmp_path):
    generate(tmp_path, "webdataset", 12)
    next(tmp_path.rglob("images-000001.tar")).write_bytes(b"")
    shown = contact_sheet.comparisons(ImageStore.open(tmp_path))
    assert shown
    assert not {4, 5, 6, 7} & {item.candidate.number for item in shown}


def test_large_grey_images_are_shrunk_and_names_are_text(tmp_path):
    class Large(FakeMaker):
        class_names = ("$a_$<b>", "&c", "d")

        def make(self, numbers):
            guided = super().make(numbers)
            for images in (guided.images, guided.images_before):
                images.resize_(len(numbers), 1, 300, 150).fill_(0.5)
            return guided

    generate(tmp_path, "folder", 3, maker=Large(channels=1), group_size=3)
    (item, *_) = contact_sheet.comparisons(ImageStore.open(tmp_path))
    assert contact_sheet._strip(item).shape == (128, 3 * 64 + 2 * 4)
    assert "kept" in contact_sheet.build_contact_sheet(tmp_path).read_text()


def test_nothing_kept_yet(tmp_path):
    ImageStore(tmp_path, recipe="<fake>").begin(count=4, group_size=2, class_names=("a",))
    source = contact_sheet.build_contact_sheet(tmp_path).read_text()
    assert "No image has been kept yet." in source
    assert "<td>to be made</td><td>4</td>" in source
    assert "<h1>&lt;fake&gt;</h1>" in source


def test_no_set(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"generation\.json is missing"):
        contact_sheet.build_contact_sheet(tmp_path)
