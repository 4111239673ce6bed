"""Digits under five kinds of shift, and the recipes that set families of augmentors against them."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from hardfast.data.digit_shifts import RandomShifts, Recolour, digit_shifts, load_rgb_digits, shifted_sets
from hardfast.data.digits import load_digits
from hardfast.distill import Trainer
from hardfast.recipes import get_recipe
from hardfast.recipes.hard_digits_shifts import FAMILIES, FamiliesConfig


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_digits_have_three_equal_channels_and_the_same_split():
    grey, colour = load_digits(3), load_rgb_digits(3)
    for first, second in zip(dataclasses.astuple(grey), dataclasses.astuple(colour), strict=True):
        assert torch.equal(first[0].expand(-1, 3, -1, -1), second[0])
        assert torch.equal(first[1], second[1])


def test_every_set_is_the_same_for_a_seed_and_keeps_labels_and_range():
    test = load_rgb_digits().test[:7]
    sets, again, other = (shifted_sets(test, 3, seed) for seed in (1, 1, 2))
    assert list(sets) == ["shifted", "rotated", "scaled", "recoloured", "warped"]
    for name, drawn in sets.items():
        assert drawn.images.shape == (21, 3, 28, 28)
        assert torch.equal(drawn.labels, test.labels.repeat(3))
        assert torch.equal(drawn.images, again[name].images)
        assert not torch.equal(drawn.images, other[name].images)
        assert drawn.images.min() >= 0
        assert drawn.images.max() <= 1
        # Every image is drawn by itself, also copies of one.
        assert not torch.equal(drawn.images[:7], drawn.images[7:14])
    # Shifts by whole pixels keep every digit whole.
    torch.testing.assert_close(sets["shifted"].images.sum((1, 2, 3)), test.images.sum((1, 2, 3)).repeat(3))
    with pytest.raises(ValueError, match="draws must be >= 1; got 0"):
        shifted_sets(test, 0, 1)


def test_recolouring_gives_each_image_two_colours():
    images = torch.zeros(500, 3, 2, 2)
    images[:, :, 0, 0] = 1
    drawn = Recolour(0.4, 0.6)(images, seeded(0))
    background, strokes = drawn[:, :, 1, 1], drawn[:, :, 0, 0]
    assert background.min() >= 0
    assert background.max() <= 0.4
    assert strokes.min() >= 0.6
    assert strokes.max() <= 1
    assert background.std(0).min() > 0.1
    assert abs(torch.corrcoef(torch.cat([background.T, strokes.T])).triu(1)).max() < 0.2
    with pytest.raises(ValueError, match="background and strokes must be"):
        Recolour(0.7, 0.6)


def test_the_teacher_sees_every_shift_by_the_toss_of_a_coin():
    class Add(nn.Module):
        def __init__(self, amount: float) -> None:
            super().__init__()
            self.amount = amount

        def forward(self, images, generator):
            return images + self.amount

    shifts = RandomShifts({"one": Add(1.0), "two": Add(2.0)})
    seen = shifts(torch.zeros(4000, 1, 2, 2), seeded(0))[:, 0, 0, 0]
    for value in (0, 1, 2, 3):
        assert abs((seen == value).float().mean() - 0.25) < 0.03
    recipe = get_recipe("hard-digits-flow")
    assert list(recipe.teacher_transform().shifts) == list(digit_shifts())


def test_the_teacher_alone_is_taught_the_shifts(tmp_path, monkeypatch):
    seen = {}
    fit = Trainer.fit

    def watch(self):
        seen[len(seen)] = (self.teacher is None, self.transform)
        return fit(self)

    monkeypatch.setattr(Trainer, "fit", watch)
    from hardfast.distill.run_dir import RunDir

    recipe = dataclasses.replace(get_recipe("hard-digits-translation"), smoke=True, seeds=1)
    rows = recipe.run(RunDir(tmp_path), progress=False)
    assert [(alone, transform is None) for alone, transform in seen.values()] == [(True, False)] + [(False, True)] * 3
    assert {row.split for row in rows} == {"centred", *digit_shifts()}


@pytest.mark.parametrize("learn_mean", [False, True])
def test_a_mean_is_learned_where_the_recipe_says_so(learn_mean):
    recipe = get_recipe("hard-digits-affine-flow-color")
    config = dataclasses.replace(recipe.augmentor, learn_mean=learn_mean)
    augmentor = config.build(load_rgb_digits().train, recipe.image_shape, Path("unused"), torch.device("cpu"), False)
    learned = {name: parameter.requires_grad for name, parameter in augmentor.named_parameters()}
    assert {requires for name, requires in learned.items() if name.endswith("mean_offset")} == {learn_mean}
    assert all(requires for name, requires in learned.items() if name.endswith("log_scale"))


def test_every_family_is_a_method_and_a_recipe_with_the_same_augmentor():
    families = get_recipe("hard-digits-families")
    for family in FAMILIES:
        recipe = get_recipe(f"hard-digits-{family.replace('_', '-')}")
        assert families.augmentor_of(family) == recipe.augmentor == recipe.augmentor_of("hard")
        assert recipe.augmentor.family == family
    assert families.augmentor_of("distillation") is None
    with pytest.raises(ValueError, match=r"augmentors\.flow\.family must stay 'flow'; got 'color'"):
        FamiliesConfig(flow=dataclasses.replace(FamiliesConfig().flow, family="color"))
