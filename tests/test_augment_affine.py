"""The learned Gaussian over affine maps."""

import math

import pytest
import torch
from torch.nn import functional as F

from hardfast.augment import AffineAugmentor

FREE = {
    "full": [[1, 1, 1], [1, 1, 1]],
    "translation": [[0, 0, 1], [0, 0, 1]],
    "no_translation": [[1, 1, 0], [1, 1, 0]],
}


def blob(dy: int = 0, dx: int = 0) -> torch.Tensor:
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 12 + dy : 16 + dy, 10 + dx : 18 + dx] = 1
    return image


def thetas(augmentor: AffineAugmentor, count: int, generator: torch.Generator) -> torch.Tensor:
    return augmentor.draw(torch.zeros(count, 1, 1, 1), generator)["theta"]


@pytest.mark.parametrize("mode", FREE)
def test_starts_at_the_identity_with_scale_a_tenth(mode):
    augmentor = AffineAugmentor(mode)
    assert torch.equal(augmentor.mean, torch.eye(2, 3))
    torch.testing.assert_close(augmentor.scale, 0.1 * torch.tensor(FREE[mode], dtype=torch.float32))
    assert sum(p.numel() for p in augmentor.parameters()) == 2 * sum(map(sum, FREE[mode]))


@pytest.mark.parametrize("mode", FREE)
def test_samples_follow_mean_and_scale(mode):
    augmentor = AffineAugmentor(mode, initial_scale=0.3)
    with torch.no_grad():
        augmentor.mean_offset.copy_(torch.linspace(-1, 1, len(augmentor.mean_offset)))
        augmentor.log_scale.copy_(torch.linspace(-3, -1, len(augmentor.log_scale)))
    theta = thetas(augmentor, 20_000, torch.Generator().manual_seed(0)).detach()
    torch.testing.assert_close(theta.mean(0), augmentor.mean.detach(), atol=0.02, rtol=0)
    torch.testing.assert_close(theta.std(0), augmentor.scale.detach(), atol=1e-3, rtol=0.03)
    fixed = torch.tensor(FREE[mode]) == 0
    assert torch.equal(theta[:, fixed], torch.eye(2, 3)[fixed].expand(20_000, -1))


def test_entries_are_independent():
    theta = thetas(AffineAugmentor(), 20_000, torch.Generator().manual_seed(0)).detach()
    correlation = torch.corrcoef(theta.flatten(1).T)
    torch.testing.assert_close(correlation, torch.eye(6), atol=0.03, rtol=0)


def test_gradients_are_those_of_the_reparametrised_gaussian():
    augmentor = AffineAugmentor(initial_scale=0.2).double()
    weight = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    theta = thetas(augmentor, 5, torch.Generator().manual_seed(0))
    (weight * theta).sum().backward()
    noise = (theta.detach() - augmentor.mean.detach()) / augmentor.scale.detach()
    torch.testing.assert_close(augmentor.mean_offset.grad, 0.2 * weight.sum(0).flatten())
    torch.testing.assert_close(augmentor.log_scale.grad, 0.2 * (weight * noise).sum(0).flatten())


def test_the_scale_stays_positive_under_any_step():
    augmentor = AffineAugmentor()
    optimizer = torch.optim.SGD(augmentor.parameters(), lr=10)
    augmentor.scale.sum().backward()
    for _ in range(3):
        optimizer.step()
    assert (augmentor.scale > 0).all()
    assert (augmentor.scale < 0.1).all()


def test_forward_equals_grid_sample_of_the_same_draw():
    augmentor = AffineAugmentor()
    images = torch.rand(6, 2, 9, 11, generator=torch.Generator().manual_seed(3))
    theta = thetas(augmentor, 6, torch.Generator().manual_seed(5))
    expected = F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)
    actual = augmentor(images, torch.Generator().manual_seed(5))
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


def test_forward_is_differentiable_in_images_and_parameters():
    augmentor = AffineAugmentor()
    images = torch.rand(3, 1, 8, 8, requires_grad=True)
    augmentor(images).square().sum().backward()
    for gradient in (images.grad, augmentor.mean_offset.grad, augmentor.log_scale.grad):
        assert gradient.abs().sum() > 0


def test_the_generator_decides_the_draw():
    augmentor, images = AffineAugmentor(), torch.rand(4, 1, 8, 8)
    first, again = (augmentor(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, augmentor(images, torch.Generator().manual_seed(2)))
    state = torch.get_rng_state()
    augmentor(images, torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())


def test_padding_mode_is_used():
    image = torch.ones(4, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    augmentor = AffineAugmentor("translation", initial_scale=1.0, padding_mode="border")
    torch.testing.assert_close(augmentor(image, generator), image)


def test_frozen_copy_does_not_follow_the_original():
    augmentor = AffineAugmentor()
    frozen = augmentor.frozen()
    with torch.no_grad():
        augmentor.log_scale.add_(1)
    torch.testing.assert_close(frozen.scale, torch.full((2, 3), 0.1))
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in augmentor.parameters())


def test_weights_round_trip_without_the_constants():
    augmentor = AffineAugmentor("translation")
    with torch.no_grad():
        augmentor.mean_offset.add_(0.5)
    other = AffineAugmentor("translation")
    other.load_state_dict(augmentor.state_dict())
    assert torch.equal(other.mean, augmentor.mean)
    assert set(augmentor.state_dict()) == {"mean_offset", "log_scale"}


@pytest.mark.parametrize("size", [(28, 28), (20, 40)])
def test_describe_measures_what_happens_to_the_content(size):
    """Against the motion of three content points under the inverse of the mean map, in pixels."""
    augmentor = AffineAugmentor(initial_scale=0.1)
    small = 1e-3
    with torch.no_grad():
        augmentor.mean_offset.copy_(small * torch.tensor([3.0, -1.0, 2.0, 5.0, 4.0, -6.0]) / 0.1)
    height, width = size
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    sampling = torch.cat([augmentor.mean.detach().double(), torch.tensor([[0, 0, 1.0]])])
    motion = torch.linalg.inv(sampling)[:2]

    def moved(x_px: float, y_px: float) -> torch.Tensor:
        position = torch.tensor([x_px, y_px], dtype=torch.float64) / half
        return (motion[:, :2] @ position + motion[:, 2]) * half

    centre, right, down = moved(0, 0), moved(1, 0), moved(0, 1)
    columns = torch.stack([right - centre, down - centre], 1) - torch.eye(2)
    expected = {
        "shift_x_px": centre[0],
        "shift_y_px": centre[1],
        # With y down, clockwise takes right to down and down to left.
        "rotation_deg": torch.rad2deg((columns[1, 0] - columns[0, 1]) / 2),
        "zoom_x_percent": 100 * columns[0, 0],
        "zoom_y_percent": 100 * columns[1, 1],
        "shear_percent": 100 * (columns[0, 1] + columns[1, 0]) / 2,
    }
    described = augmentor.describe(size)
    assert set(described) == set(expected)
    for name, value in expected.items():
        assert described[name].mean == pytest.approx(value.item(), rel=0.05), name


def test_describe_gives_the_spread_in_the_same_units():
    described = AffineAugmentor(initial_scale=0.1).describe((28, 28))
    assert described["shift_x_px"].std == pytest.approx(1.4)
    assert described["zoom_y_percent"].std == pytest.approx(10)
    assert described["rotation_deg"].std == pytest.approx(math.degrees(0.1 / math.sqrt(2)))
    fixed = AffineAugmentor("translation").describe((28, 28))
    assert fixed["rotation_deg"] == fixed["zoom_x_percent"] == (0, 0)


def test_a_described_shift_moves_the_picture_that_way():
    augmentor = AffineAugmentor("translation", initial_scale=1e-6)
    with torch.no_grad():
        augmentor.mean_offset.copy_(torch.tensor([-3.0, 2.0]) * 2 / 28 / 1e-6)
    described = augmentor.describe((28, 28))
    assert described["shift_x_px"].mean == pytest.approx(3, rel=1e-4)
    assert described["shift_y_px"].mean == pytest.approx(-2, rel=1e-4)
    torch.testing.assert_close(augmentor(blob()), blob(dy=-2, dx=3), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "rotation"}, r"mode must be one of \['full', 'translation', 'no_translation'\]; got 'rotation'"),
        ({"initial_scale": 0.0}, "initial_scale must be a finite number > 0; got 0.0"),
        ({"initial_scale": -1.0}, "initial_scale"),
        ({"initial_scale": math.nan}, "initial_scale"),
        ({"initial_scale": math.inf}, "initial_scale"),
        ({"padding_mode": "mirror"}, "padding_mode must be one of"),
    ],
)
def test_bad_arguments_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        AffineAugmentor(**arguments)


def test_bad_images_and_sizes_raise():
    augmentor = AffineAugmentor()
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]; got \[3, 8, 8\]"):
        augmentor(torch.rand(3, 8, 8))
    with pytest.raises(TypeError, match="image"):
        augmentor(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    for size in ((0, 28), 28, (28,)):
        with pytest.raises(ValueError, match="size"):
            augmentor.describe(size)
    assert augmentor(torch.zeros(0, 1, 8, 8)).shape == (0, 1, 8, 8)
