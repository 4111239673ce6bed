"""The learned distribution that the families share: mixtures, and heads that look at the image."""

import pytest
import torch

from hardfast.augment import AffineAugmentor, ColorAugmentor, GaussianAugmentor

NOTHING = torch.zeros(1, 1, 1, 1)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_components_start_slightly_apart_about_the_identity():
    augmentor = AffineAugmentor(components=4, initial_scale=0.2)
    assert augmentor.mean_offset.shape == augmentor.log_scale.shape == (4, 6)
    torch.testing.assert_close(augmentor.mean, torch.eye(2, 3))
    distances = torch.cdist(augmentor.mean_offset, augmentor.mean_offset)[~torch.eye(4, dtype=torch.bool)]
    assert 0.05 < distances.min() < distances.max() < 1
    torch.testing.assert_close(augmentor.scale, torch.full((2, 3), 0.2), rtol=0.03, atol=0)
    assert torch.equal(AffineAugmentor(components=4).mean_offset, augmentor.mean_offset)


def test_draws_of_a_mixture_follow_weights_and_moments():
    augmentor = AffineAugmentor("translation", components=3, initial_scale=0.1)
    with torch.no_grad():
        augmentor.mean_offset.copy_(torch.tensor([[-50.0, 0.0], [0.0, 50.0], [50.0, 0.0]]))
        augmentor.weight_logits.copy_(torch.tensor([0.6, 0.3, 0.1]).log())
    theta = augmentor.draw(NOTHING.expand(20_000, -1, -1, -1), seeded(1))["theta"].detach()
    nearest = torch.cdist(theta[:, :, 2], torch.tensor([[-5.0, 0], [0, 5], [5, 0]])).argmin(1)
    share = torch.bincount(nearest, minlength=3) / len(theta)
    torch.testing.assert_close(share, torch.tensor([0.6, 0.3, 0.1]), atol=0.015, rtol=0)
    torch.testing.assert_close(augmentor.weights.detach(), torch.tensor([0.6, 0.3, 0.1]))
    torch.testing.assert_close(theta.mean(0), augmentor.mean.detach(), atol=0.08, rtol=0)
    torch.testing.assert_close(theta.std(0), augmentor.scale.detach(), atol=0.05, rtol=0)
    described = augmentor.describe((20, 40))
    assert described["shift_x_px"].mean == pytest.approx(-20 * theta[:, 0, 2].mean().item(), abs=1)
    assert described["shift_x_px"].std == pytest.approx(20 * theta[:, 0, 2].std().item(), rel=0.02)


def test_spread_of_a_quantity_knows_that_components_tie_entries_together():
    """Two components that rotate by opposite angles: no shear at all, though each entry has a spread."""
    augmentor = AffineAugmentor("no_translation", components=2, initial_scale=1.0)
    with torch.no_grad():
        augmentor.mean_offset.copy_(torch.tensor([[0, 0.1, -0.1, 0], [0, -0.1, 0.1, 0]]))
        augmentor.log_scale.fill_(-30)
    described = augmentor.describe((8, 8))
    assert described["rotation_deg"].std == pytest.approx(5.73, abs=0.01)
    assert described["shear_percent"].std == pytest.approx(0, abs=1e-6)


def test_the_choice_is_of_one_component_and_its_gradient_the_soft_choices():
    augmentor = ColorAugmentor("grey", in_channels=1, components=3).double()
    with torch.no_grad():
        augmentor.mean_offset.mul_(20)
    noise = augmentor.noise(NOTHING.expand(7, -1, -1, -1), seeded(3))
    entries = augmentor.entries(None, noise)
    means = augmentor.rest + 0.1 * augmentor.mean_offset
    each = means + augmentor.log_scale.exp() * noise["normal"][:, None]  # [B, components, entries]
    soft = (augmentor.weight_logits + noise["gumbel"]).softmax(1)
    chosen = soft.argmax(1)
    assert len(chosen.unique()) > 1
    assert torch.equal(entries, each[torch.arange(7), chosen])
    weight = torch.randn(7, 2, generator=seeded(4), dtype=torch.float64)
    (actual,) = torch.autograd.grad((weight * entries).sum(), augmentor.weight_logits, retain_graph=True)
    loss = (weight[:, None] * each.detach() * soft[..., None]).sum()
    (expected,) = torch.autograd.grad(loss, augmentor.weight_logits)
    torch.testing.assert_close(actual, expected)
    assert (actual != 0).all()


def test_weights_move_to_the_better_component():
    augmentor = ColorAugmentor("grey", in_channels=1, components=2)
    with torch.no_grad():
        augmentor.mean_offset.copy_(torch.tensor([[4.0, 0.0], [-4.0, 0.0]]))
    optimizer = torch.optim.Adam([augmentor.weight_logits], lr=0.1)
    for step in range(60):
        optimizer.zero_grad()
        augmentor(torch.ones(64, 1, 2, 2), seeded(step)).mean().backward()
        optimizer.step()
    assert augmentor.weights[1] > 0.9


def test_a_conditional_distribution_starts_as_the_unconditional_one():
    conditional, plain = AffineAugmentor(conditional=True, in_channels=2), AffineAugmentor()
    images = torch.rand(3, 2, 7, 5)
    torch.testing.assert_close(conditional(images, seeded(1)), plain(images, seeded(1)))
    assert plain.head is None
    assert conditional.describe((7, 5)) == plain.describe((7, 5))


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (5, 70)])
def test_a_head_learns_what_to_do_with_which_image(size):
    """Dark images are to become brighter and bright ones darker, which no distribution alike for all can do."""
    torch.manual_seed(0)
    augmentor = ColorAugmentor("diagonal", in_channels=1, initial_scale=0.1, conditional=True)
    optimizer = torch.optim.Adam(augmentor.parameters(), lr=0.02)
    dark, bright = torch.full((16, 1, *size), 0.2), torch.full((16, 1, *size), 0.8)
    images = torch.cat([dark, bright])
    for step in range(60):
        optimizer.zero_grad()
        (augmentor(images, seeded(step)) - images.flip(0)).square().mean().backward()
        optimizer.step()
    result = augmentor(images, seeded(100))
    assert result[:16].mean() > 0.6
    assert result[16:].mean() < 0.4


def test_the_head_sees_each_image_by_itself():
    augmentor = AffineAugmentor(conditional=True, in_channels=1)
    torch.nn.init.normal_(augmentor.head.last.weight, generator=seeded(1))
    images = torch.rand(4, 1, 6, 6)
    noise = augmentor.noise(images, seeded(2))
    whole = augmentor.variables(images, noise)["theta"]
    changed = torch.cat([images[:3], images[3:] + 1])
    moved = augmentor.variables(changed, noise)["theta"]
    torch.testing.assert_close(moved[:3], whole[:3])
    assert not torch.allclose(moved[3], whole[3], atol=1e-3)


def test_only_the_named_entries_are_free_and_repeats_are_independent_draws():
    augmentor = GaussianAugmentor(torch.tensor([1.0, 2.0, 3.0]), 0.5, free=[2], relative=[2.0])
    entries = augmentor.entries(None, augmentor.noise(NOTHING.expand(4000, -1, -1, -1), seeded(1))).detach()
    assert (entries[:, :2] == torch.tensor([1.0, 2.0])).all()
    assert entries[:, 2].std().item() == pytest.approx(1.0, rel=0.05)
    repeated = GaussianAugmentor(torch.zeros(1), 1.0, repeats=[3])
    entries = repeated.entries(None, repeated.noise(NOTHING.expand(4000, -1, -1, -1), seeded(1))).detach()
    torch.testing.assert_close(torch.corrcoef(entries.T), torch.eye(3), atol=0.06, rtol=0)
