"""Augmentors in a row."""

import pytest
import torch
from torch import nn

from hardfast.augment import (
    AffineAugmentor,
    Augmentor,
    ColorAugmentor,
    CutMix,
    DiffusionAugmentor,
    FlowAugmentor,
    SequentialAugmentor,
    ThinPlateAugmentor,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 6, 9, dtype=torch.float64, generator=seeded(0))


def sequence() -> SequentialAugmentor:
    """Whose last part looks at what the others made."""
    augmentor = SequentialAugmentor(
        AffineAugmentor(),
        ColorAugmentor("diagonal", in_channels=3, components=2),
        AffineAugmentor("translation", conditional=True, in_channels=3),
    ).double()
    generator = seeded(1)
    with torch.no_grad():
        for parameter in augmentor.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return augmentor


def test_parts_follow_each_other():
    augmentor, images = sequence(), images_of(8)
    generator = seeded(5)
    parts = list(augmentor.parts)
    noise = [part.noise(images, generator) for part in parts]
    expected = images
    for part, own in zip(parts, noise, strict=True):
        expected = part.transform(expected, own)
    assert torch.equal(augmentor(images, seeded(5)), expected)
    variables = augmentor.draw(images, seeded(5))
    assert set(variables) == {"affine.theta", "color.color", "affine_2.theta"}
    assert torch.equal(augmentor.render(images, variables), expected)
    expected.square().sum().backward()
    for name, parameter in augmentor.named_parameters():
        assert (parameter.grad != 0).all(), name


def test_all_is_told_by_the_names_of_the_parts():
    augmentor = sequence()
    first, color, second = augmentor.parts
    assert augmentor.names == ["affine", "color", "affine_2"]
    for method in ("scalars", "arrays"):
        told = getattr(augmentor, method)()
        for name, part in (("affine", first), ("color", color), ("affine_2", second)):
            for key, value in getattr(part, method)().items():
                assert torch.equal(torch.as_tensor(told.pop(f"{name}.{key}")), torch.as_tensor(value))
        assert told == {}
    described = augmentor.describe((6, 9))
    assert described["affine_2.shift_x_px"] == second.describe((6, 9))["shift_x_px"]
    assert described["color.gain_percent"] == color.describe((6, 9))["gain_percent"]
    assert len(described) == 6 + 2 + 6


def test_state_and_formats():
    augmentor, other, images = sequence(), sequence().frozen(), images_of(3)
    noise = augmentor.noise(images, seeded(2))
    with torch.no_grad():
        other.parts[0].mean_offset.add_(1)
    assert not torch.equal(other.transform(images, noise), augmentor.transform(images, noise))
    other.load_state_dict(augmentor.state_dict())
    assert torch.equal(other.transform(images, noise), augmentor.transform(images, noise))
    assert augmentor(images[:0]).shape == (0, 3, 6, 9)
    assert other.float()(images[:1].float()).dtype == torch.float32


def test_mixes_sequences_and_users_augmentors_are_parts_like_others():
    class Half(Augmentor):  # whose name is that of a method of modules
        def noise(self, images, generator=None):
            return {}

        def variables(self, images, noise):
            return {}

        def render(self, images, variables):
            return images / 2

        def describe(self, size):
            return {}

    images = images_of(4).float()
    inner = SequentialAugmentor(ThinPlateAugmentor((2, 2)), FlowAugmentor((2, 2)))
    augmentor = SequentialAugmentor(CutMix(), inner, Half(), Half())
    assert set(augmentor.draw(images)) == {
        *(f"cut_mix.{name}" for name in ("partner", "share", "place")),
        "sequential.thin_plate.moves",
        "sequential.flow.flow",
    }
    assert augmentor.names == ["cut_mix", "sequential", "half", "half_2"]
    mixed = augmentor.parts[0](images, seeded(1))
    torch.testing.assert_close(SequentialAugmentor(CutMix(), Half())(images, seeded(1)), mixed / 2)


def test_the_preserved_norms_are_those_of_the_parts():
    class Noisy(AffineAugmentor):
        norm_preserved = DiffusionAugmentor.norm_preserved

    assert SequentialAugmentor(AffineAugmentor(), Noisy()).norm_preserved == {"noisy.noise"}


def test_bad_parts_raise():
    with pytest.raises(ValueError, match="one or more"):
        SequentialAugmentor()
    with pytest.raises(TypeError, match="class Augmentor, got Identity"):
        SequentialAugmentor(nn.Identity())
