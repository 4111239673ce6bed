"""CelebA from files of its own format: the groups, the split, what is left out and what is damaged."""

from __future__ import annotations

import pytest
import torch
from photo_files import write_celeba

from hardfast.data import load_celeba

# (part, blond, male), so that each of the twelve (part, group) has another number of images.
PEOPLE = [
    (part, blond, male)
    for part, counts in enumerate(((3, 2, 4, 5), (1, 2, 3, 1), (2, 1, 1, 4)))
    for (blond, male), count in zip(((0, 0), (0, 1), (1, 0), (1, 1)), counts, strict=True)
    for _ in range(count)
]
PEOPLE = [PEOPLE[i] for i in torch.randperm(len(PEOPLE), generator=torch.Generator().manual_seed(4)).tolist()]


def counts(part):
    return torch.bincount(part.groups, minlength=4).tolist()


@pytest.mark.parametrize("folders", [("", "", ""), ("Img", "Anno", "Eval"), ("celeba", "celeba", "celeba")])
def test_groups_and_parts(tmp_path, folders):
    write_celeba(tmp_path, PEOPLE, folders)
    splits = load_celeba(tmp_path, 8)
    assert splits.train.group_names == ("not blond woman", "not blond man", "blond woman", "blond man")
    assert counts(splits.train) == [3, 2, 4, 0]
    assert counts(splits.validation) == [1, 2, 3, 1]
    assert counts(splits.test) == [2, 1, 1, 4]
    for number, part in enumerate((splits.train, splits.validation, splits.test)):
        assert torch.equal(part.images.labels, part.groups // 2)
        # The grey of an image is its number: each belongs to the person that the tables say.
        persons = (part.images.load(torch.arange(len(part)))[:, 0].mean((1, 2)) * 255).round().long() - 1
        assert [PEOPLE[i] for i in persons.tolist()] == [
            (number, group // 2, group % 2) for group in part.groups.tolist()
        ]


def test_any_groups_can_be_absent(tmp_path):
    write_celeba(tmp_path, PEOPLE)
    assert counts(load_celeba(tmp_path, 8, absent=()).train) == [3, 2, 4, 5]
    both = load_celeba(tmp_path, 8, absent=("not blond man", "blond woman"))
    assert counts(both.train) == [3, 0, 0, 5]
    assert counts(both.test) == [2, 1, 1, 4]
    with pytest.raises(ValueError, match="absent must be one of"):
        load_celeba(tmp_path, 8, absent=("bald man",))


@pytest.mark.parametrize("name", ["list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"])
def test_what_is_missing_is_named(tmp_path, name):
    write_celeba(tmp_path, PEOPLE)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=rf"(?s){name}.*mmlab\.ie\.cuhk\.edu\.hk"):
        load_celeba(tmp_path, 8)


def test_a_missing_image_is_named(tmp_path):
    write_celeba(tmp_path, PEOPLE)
    (tmp_path / "img_align_celeba" / "000004.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)1 images .*000004\.jpg"):
        load_celeba(tmp_path, 8)


@pytest.mark.parametrize(
    ("name", "line", "text", "message"),
    [
        ("list_attr_celeba.txt", 0, "7", "as many rows as its first line says, '7', got 29"),
        ("list_attr_celeba.txt", 1, "Blond_Hair Young", "must name Blond_Hair and Male"),
        ("list_attr_celeba.txt", 3, "000002.jpg 1 1 1", "5 times 1 or -1 in line 4"),
        ("list_attr_celeba.txt", 4, "000003.jpg 1 0 1 1 1", "1 or -1 in line 5"),
        ("list_eval_partition.txt", 5, "000006.jpg 3", "0, 1 or 2 in line 6"),
        ("list_eval_partition.txt", 6, "000099.jpg 1", "got no line for 000007.jpg"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, name, line, text, message):
    write_celeba(tmp_path, PEOPLE)
    lines = (tmp_path / name).read_text().splitlines()
    lines[line] = text
    (tmp_path / name).write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        load_celeba(tmp_path, 8)
    (tmp_path / "list_attr_celeba.txt").write_text("")
    with pytest.raises(ValueError, match="must name Blond_Hair and Male"):
        load_celeba(tmp_path, 8)
