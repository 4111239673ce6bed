"""SpuCo Birds from folders as SpuCo unpacks them."""

from __future__ import annotations

import shutil

import pytest
import torch
from photo_files import write_spuco_birds

from hardfast.data import load_spuco_birds


def counts(part):
    return torch.bincount(part.groups, minlength=4).tolist()


@pytest.mark.parametrize("folder", ["", "spuco_birds"])
def test_groups_and_parts(tmp_path, folder):
    write_spuco_birds(tmp_path, (6, 2), (3, 1))
    splits = load_spuco_birds(tmp_path / folder, 8)
    assert splits.class_names == ("landbird", "waterbird")
    assert counts(splits.train) == [6, 0, 0, 6]
    assert counts(splits.validation) == counts(splits.test) == [3, 1, 1, 3]
    for part in (splits.train, splits.validation, splits.test):
        assert torch.equal(part.images.labels, part.groups // 2)
        values = (part.images.load(torch.arange(len(part)))[:, 0].mean((1, 2)) * 255).round().long()
        assert torch.equal(values // 50, part.groups // 2 * 2 + part.groups % 2)


def test_groups_can_stay(tmp_path):
    write_spuco_birds(tmp_path, (6, 2), (3, 1))
    assert counts(load_spuco_birds(tmp_path, 8, absent=()).train) == [6, 2, 2, 6]
    with pytest.raises(ValueError, match="absent must be one of"):
        load_spuco_birds(tmp_path, 8, absent=("landbird",))


def test_what_is_missing_is_named(tmp_path):
    write_spuco_birds(tmp_path, (2, 1), (1, 1))
    shutil.rmtree(tmp_path / "spuco_birds/val/waterbirds/land")
    with pytest.raises(FileNotFoundError, match=r"val/waterbirds/land is missing.*BigML-CS-UCLA/SpuCo"):
        load_spuco_birds(tmp_path, 8)
    (tmp_path / "spuco_birds/val/waterbirds/land").mkdir()
    with pytest.raises(FileNotFoundError, match=r"val/waterbirds/land has no image files"):
        load_spuco_birds(tmp_path, 8)
    with pytest.raises(FileNotFoundError, match=r"train/landbirds/land is missing"):
        load_spuco_birds(tmp_path / "nowhere", 8)
