"""Generated images on disk: what other programs read there, and what becomes of damage."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from fake_maker import GROUP, FakeMaker, generate, tree
from PIL import Image
from torchvision.datasets import ImageFolder

from hardfast.data import LabelledImages
from hardfast.diffusion.image_store import FORMATS, BrokenGroupError, ImageStore, load_generated

COUNT = 22


def kept_numbers() -> list[int]:
    return [number for number in range(COUNT) if FakeMaker().reason(number) is None]


def expected_image(number: int) -> torch.Tensor:
    """As the set has it: of its group, clamped, in eight bits."""
    group = number // GROUP * GROUP
    image = FakeMaker().make(range(group, group + GROUP)).images[number - group]
    return (image.clamp(0, 1) * 255).round() / 255


@pytest.fixture(params=FORMATS)
def made(request, tmp_path) -> Path:
    generate(tmp_path / "set", request.param, COUNT)
    return tmp_path / "set"


def files(path: Path, name: str) -> Path:
    (found,) = path.rglob(name)
    return found


def test_load_generated(made):
    loaded = load_generated(made)
    assert isinstance(loaded.images, LabelledImages)
    assert [item.number for item in loaded.candidates] == kept_numbers()
    assert loaded.images.labels.tolist() == [number % 3 for number in kept_numbers()]
    assert torch.equal(loaded.images.images, torch.stack([expected_image(number) for number in kept_numbers()]))
    assert loaded.skipped == []


def test_every_candidate_is_recorded(made):
    maker = FakeMaker()
    candidates = ImageStore.open(made).candidates()
    assert [item.number for item in candidates] == list(range(COUNT))
    for item in candidates:
        guided = maker.make([item.number])
        assert item.seed == maker.seed_of(item.number)
        assert item.class_name == maker.class_names[item.label]
        assert item.reason == maker.reason(item.number)
        assert item.kept == (item.reason is None)
        if item.number % 7 == 3:
            assert item.teacher_before is item.student_after is item.score is None
        else:
            for name in ("teacher_before", "teacher_after", "student_before", "student_after"):
                assert getattr(item, name) == pytest.approx(float(getattr(guided, name)), rel=1e-5)
            assert item.score == (None if item.reason == "not finite" else pytest.approx(float(guided.scores.max())))
    reasons = [maker.reason(number) for number in range(COUNT)]
    assert ImageStore.open(made).counts() == {
        "kept": reasons.count(None),
        "dropped: not finite": reasons.count("not finite"),
        "dropped: teacher": reasons.count("teacher"),
        "to be made": 0,
    }


def test_image_folder_reads_it(tmp_path):
    generate(tmp_path, "folder", COUNT)
    dataset = ImageFolder(str(tmp_path / "images"))
    assert dataset.classes == ["St. Bernard _ dog", "circle", "square"]
    numbers = [int(Path(file).stem) for file, _ in dataset.imgs]
    found = dict(zip(numbers, dataset, strict=True))
    assert sorted(found) == kept_numbers()
    for number, (image, label) in found.items():
        assert label == (2, 0, 1)[number % 3]
        assert np.array_equal(np.asarray(image), (expected_image(number) * 255).permute(1, 2, 0).round().byte())


def test_metadata_names_every_image(tmp_path):
    generate(tmp_path, "folder", COUNT)
    lines = [json.loads(line) for line in (tmp_path / "images" / "metadata.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines] == kept_numbers()
    assert {line["file_name"] for line in lines} == {
        str(file.relative_to(tmp_path / "images")) for file in (tmp_path / "images").glob("*/*.png")
    }
    assert {"seed", "label", "class_name", "teacher_before", "student_after", "score"} < set(lines[0])


def test_webdataset_reads_it(tmp_path):
    generate(tmp_path, "webdataset", COUNT)
    shards = sorted(map(str, (tmp_path / "images").iterdir()))
    assert [Path(shard).name for shard in shards] == [f"images-{group:06d}.tar" for group in range(6)]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("torchrgb"))
    assert [int(sample["__key__"]) for sample in samples] == kept_numbers()
    for sample, number in zip(samples, kept_numbers(), strict=True):
        assert torch.equal(sample["png"], expected_image(number))
        assert sample["cls"] == number % 3
        assert sample["json"]["number"] == number


def test_a_shard_of_nothing_is_readable(tmp_path):
    class Hopeless(FakeMaker):
        def make(self, numbers):
            guided = super().make(numbers)
            if numbers[0] == 0:
                guided.kept[:] = False
            return guided

    generate(tmp_path, "webdataset", 2 * GROUP, maker=Hopeless())
    shards = sorted(map(str, (tmp_path / "images").iterdir()))
    assert len(shards) == 2
    samples = webdataset.WebDataset(shards, shardshuffle=False)
    assert [int(sample["__key__"]) for sample in samples] == [number for number in kept_numbers() if 4 <= number < 8]
    assert load_generated(tmp_path).candidates[0].number >= GROUP


def test_grey_images(tmp_path):
    generate(tmp_path, "webdataset", 4, maker=FakeMaker(channels=1))
    assert load_generated(tmp_path).images.images.shape[1:] == (1, 6, 5)


def test_images_of_four_channels(tmp_path):
    with pytest.raises(ValueError, match=r"images must have shape \[4, C, H, W\] with C 1 or 3, got \[4, 4, 6, 5\]"):
        generate(tmp_path, "folder", 4, maker=FakeMaker(channels=4))


def test_classes_of_one_name(tmp_path):
    maker = FakeMaker()
    maker.class_names = ("Crane", "crane", "../etc")
    generate(tmp_path, "folder", 4, maker=maker)
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == ["Crane-0", "_etc", "crane-1", "metadata.jsonl"]


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-700] or b"{")


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGES = {
    "truncated shard": ("webdataset", "images-000002.tar", truncate),
    "empty shard": ("webdataset", "images-000002.tar", lambda file: file.write_bytes(b"")),
    "shard of another bit": ("webdataset", "images-000002.tar", flip_a_bit),
    "missing shard": ("webdataset", "images-000002.tar", Path.unlink),
    "PNG of another bit": ("folder", "images/*/00000008.png", flip_a_bit),
    "missing PNG": ("folder", "images/*/00000011.png", Path.unlink),
    "missing preview": ("folder", "preview/00000011.png", Path.unlink),
    "truncated record": ("webdataset", "group-000002.json", truncate),
    "empty record": ("folder", "group-000002.json", lambda file: file.write_bytes(b"")),
    "record of something else": ("folder", "group-000002.json", lambda file: file.write_text('{"candidates": []}')),
    "record of another group": (
        "folder",
        "group-000002.json",
        lambda file: file.write_bytes(file.with_name("group-000001.json").read_bytes()),
    ),
    "record that is a list": ("webdataset", "group-000002.json", lambda file: file.write_text("[1]")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_made_good(tmp_path, damage):
    format, name, harm = DAMAGES[damage]
    generate(tmp_path, format, COUNT)
    expected = tree(tmp_path)
    (file,) = tmp_path.glob(name) if "/" in name else tmp_path.rglob(name)
    harm(file)

    with pytest.raises(BrokenGroupError, match=f"{file.name}.*run the same `hardfast generate` again"):
        load_generated(tmp_path)
    partial = load_generated(tmp_path, skip_broken=True)
    assert [item.number for item in partial.candidates] == [n for n in kept_numbers() if n // GROUP != 2]
    (sentence,) = partial.skipped
    assert str(file) in sentence

    maker = FakeMaker()
    summary = generate(tmp_path, format, COUNT, maker=maker)
    assert maker.made == [[8, 9, 10, 11]]
    (sentence,) = summary.broken
    assert str(file) in sentence
    assert tree(tmp_path) == expected


def test_a_group_that_was_not_made(tmp_path):
    generate(tmp_path, "folder", COUNT, rank=1, world_size=2)
    with pytest.raises(BrokenGroupError, match=r"group-000000\.json is missing: the group has not been made"):
        load_generated(tmp_path)
    assert len(load_generated(tmp_path, skip_broken=True).skipped) == 3


def test_a_group_of_fewer_images_than_were_asked_for_since(tmp_path):
    """As an interruption leaves the last one, when more images are made of a set."""
    generate(tmp_path, "folder", COUNT)
    store = ImageStore(tmp_path, "folder", recipe="fake", fields={"rate": 0.5, "objective.gamma": 1})
    store.begin(count=COUNT + 1, group_size=GROUP, class_names=FakeMaker().class_names)
    with pytest.raises(BrokenGroupError, match=r"group-000005\.json is of fewer images than were asked for since"):
        load_generated(tmp_path)
    assert len(load_generated(tmp_path, skip_broken=True).skipped) == 1


def test_half_written_files_of_killed_processes(tmp_path):
    generate(tmp_path, "folder", COUNT)
    expected = tree(tmp_path)
    shared = [".generation.json.0123abcd.tmp", "images/.metadata.jsonl.0123abcd.tmp"]
    of_groups = {0: "images/circle/.00000002.png.0123abcd.tmp", 1: "records/.group-000001.json.0123abcd.tmp"}
    for name in [*shared, *of_groups.values(), "images/.images-000003.tar.0123abcd.tmp"]:
        (tmp_path / name).write_bytes(b"half")
    generate(tmp_path, "folder", COUNT, rank=0, world_size=2)
    assert (tmp_path / of_groups[1]).exists()  # the other process may be writing it
    assert not (tmp_path / of_groups[0]).exists()
    generate(tmp_path, "folder", COUNT, rank=1, world_size=2)
    assert tree(tmp_path) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fields": {"rate": 0.25, "objective.gamma": 1}}, "begun with fields.rate 0.5, and this run has 0.25"),
        ({"fields": {"rate": 0.5}}, "begun with fields.objective.gamma 1, and this run has None"),
        ({"recipe": "other"}, "begun with recipe 'fake', and this run has 'other'"),
        ({"format": "webdataset"}, "begun with format 'folder', and this run has 'webdataset'"),
        ({"count": COUNT - 1}, "count must be at least the 22 of .*, got 21"),
        ({"group_size": 5}, "begun with group_size 4, and this run has 5"),
        ({"class_names": ("a", "b", "c")}, "begun with class_names .*, and this run has"),
    ],
)
def test_other_settings_are_refused(tmp_path, change, message):
    generate(tmp_path, "folder", COUNT)
    expected = tree(tmp_path)
    description = {"format": "folder", "recipe": "fake", "fields": {"rate": 0.5, "objective.gamma": 1}}
    settings = {"count": COUNT, "group_size": GROUP, "class_names": FakeMaker.class_names}
    store = ImageStore(tmp_path, **{name: change.get(name, value) for name, value in description.items()})
    with pytest.raises(ValueError, match=message):
        store.begin(**{name: change.get(name, value) for name, value in settings.items()})
    assert tree(tmp_path) == expected


def test_directories_that_are_no_set(tmp_path):
    store = ImageStore(tmp_path / "photos")
    (tmp_path / "photos").mkdir()
    store.check()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(FileExistsError, match=r"holds 'cat.png' and no generation.json.*--out"):
        store.check()
    with pytest.raises(NotADirectoryError, match="is a file"):
        ImageStore(tmp_path / "photos" / "cat.png").check()
    with pytest.raises(FileNotFoundError, match="`hardfast generate` makes such a directory"):
        load_generated(tmp_path / "photos")
    (tmp_path / "photos" / "generation.json").write_text('{"recipe": ')
    with pytest.raises(ValueError, match=r"generation.json is damaged"):
        load_generated(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"format must be one of \['folder', 'webdataset'\], got 'zip'"):
        ImageStore(tmp_path, "zip")
    with pytest.raises(RuntimeError, match="call begin"):
        ImageStore(tmp_path).candidates()


def test_nothing_kept(tmp_path):
    class Hopeless(FakeMaker):
        def make(self, numbers):
            guided = super().make(numbers)
            guided.kept[:] = False
            return guided

    generate(tmp_path, "folder", 4, maker=Hopeless())
    with pytest.raises(ValueError, match="none of its 4 candidates was kept"):
        load_generated(tmp_path)


def test_shards_hold_no_time_and_no_owner(tmp_path):
    generate(tmp_path, "webdataset", 4)
    with tarfile.open(fileobj=io.BytesIO(files(tmp_path, "images-000000.tar").read_bytes())) as archive:
        for entry in archive:
            assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, 0, "", "")
            if entry.name.endswith(".png"):
                assert Image.open(archive.extractfile(entry)).size == (5, 6)
