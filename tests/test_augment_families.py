"""What holds of every learned family, and what each computes against plain PyTorch in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from hardfast.augment import (
    AffineAugmentor,
    ColorAugmentor,
    CropFlip,
    FlowAugmentor,
    GaussianAugmentor,
    MixAugmentor,
    ProjectiveAugmentor,
    SequentialAugmentor,
    ThinPlateAugmentor,
)

FAMILIES = {
    "affine": AffineAugmentor,
    "projective": ProjectiveAugmentor,
    "flow": lambda **options: FlowAugmentor((3, 4), **options),
    "flow, shared": lambda **options: FlowAugmentor((3, 2), shared=True, interpolation="bilinear", **options),
    "thin plate": lambda **options: ThinPlateAugmentor((2, 3), **options),
    "colour": ColorAugmentor,
    "colour, diagonal": lambda **options: ColorAugmentor("diagonal", **options),
    "colour, grey": lambda **options: ColorAugmentor("grey", **options),
}
KINDS = {"gaussian": {}, "mixture": {"components": 3}, "conditional": {"components": 2, "conditional": True}}
SIZE = (9, 20)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(count: int, channels: int = 3, dtype=torch.float64, size=SIZE) -> torch.Tensor:
    return torch.rand(count, channels, *size, dtype=dtype, generator=seeded(count + channels))


def built(family: str, channels: int = 3, **options) -> GaussianAugmentor:
    """With parameters that are nowhere zero or equal."""
    if "conditional" in options or family.startswith("colour"):
        options["in_channels"] = channels
    augmentor = FAMILIES[family](**options).double()
    generator = seeded(11)
    with torch.no_grad():
        for parameter in augmentor.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return augmentor


def plain_entries(augmentor: GaussianAugmentor, images: torch.Tensor, noise: dict) -> torch.Tensor:
    """``mean + scale * normal`` of every image, one image and one entry after the other; forward only the chosen."""
    drawn = []
    for b in range(len(images)):
        offset, log_scale = augmentor.mean_offset, augmentor.log_scale
        if augmentor.head is not None:
            with torch.no_grad():  # its gradient is looked at by itself
                features = augmentor.head.features(F.avg_pool2d(images[b : b + 1], (1, 2)))
            moves = augmentor.head.last(features.mean((2, 3))).view(2, *offset.shape)
            offset, log_scale = offset + moves[0], log_scale + moves[1]
        if augmentor.components > 1:
            chosen = int((augmentor.weight_logits + noise["gumbel"][b]).argmax())
            offset, log_scale = offset[chosen], log_scale[chosen]
        entries = augmentor.rest.flatten().clone()
        for k, entry in enumerate(augmentor.free_entries.tolist()):
            moved = entries[entry] + augmentor.initial_scale * augmentor.units[k] * offset[k]
            entries = entries.index_put((torch.tensor(entry),), moved)
        scale = torch.zeros_like(entries).index_put((augmentor.free_entries,), log_scale.exp())
        drawn.append(entries.view_as(augmentor.rest) + scale.view_as(augmentor.rest) * noise["normal"][b])
    return torch.stack(drawn)


def sampled(images: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.grid_sample(images, torch.stack([x, y], -1), align_corners=False)


def lattice() -> tuple[torch.Tensor, torch.Tensor]:
    y, x = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in SIZE)
    return torch.meshgrid(x, y, indexing="xy")


def plain_projective(images, entries):
    bound = (1 + entries[:, 2, :2].square().sum(1) / 0.6**2).sqrt()
    x, y = lattice()
    rows = entries[:, :, :, None, None]
    p, q = (entries[:, 2, k] / bound for k in (0, 1))
    w = 1 + p[:, None, None] * x + q[:, None, None] * y
    return sampled(images, *((rows[:, k, 0] * x + rows[:, k, 1] * y + rows[:, k, 2]) / w for k in (0, 1)))


def bspline(at: torch.Tensor) -> torch.Tensor:
    """The cubic B-spline as a function of the distance."""
    far = at.abs()
    near, tail = 2 / 3 - far**2 + far**3 / 2, (2 - far).clamp_min(0) ** 3 / 6
    return torch.where(far < 1, near, tail)


def bspline_displacement(entries):
    weights = []
    for length, controls in zip(SIZE, entries.shape[2:], strict=True):
        at = (torch.arange(length, dtype=torch.float64) + 0.5) * controls / length - 0.5
        wide = torch.arange(-3, controls + 3, dtype=torch.float64)  # beyond the border the last value repeats
        taps = bspline(at[:, None] - wide)
        weight = torch.zeros(length, controls, dtype=torch.float64)
        weights.append(weight.index_add(1, wide.long().clamp(0, controls - 1), taps))
    return torch.einsum("yi,bcij,xj->bcyx", weights[0], entries, weights[1])


def bilinear_displacement(entries):
    return F.interpolate(entries, SIZE, mode="bilinear", align_corners=False)


def thin_plate_displacement(entries):
    rows, columns = entries.shape[2:]
    points = torch.stack(
        torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in (columns, rows)), indexing="xy")
    )
    source, target = (points + entries).flatten(2).mT, points.flatten(1).T  # [B, K, 2], [K, 2]
    x, y = lattice()
    pixels = torch.stack([x, y], -1).view(-1, 2)

    def basis(at):
        squared = (at[:, None] - target).square().sum(-1)
        return torch.cat([torch.special.xlogy(squared, squared), torch.ones(len(at), 1).double(), at], 1)

    square = torch.zeros(len(target) + 3, len(target) + 3, dtype=torch.float64)
    square[: len(target)] = basis(target)
    square[len(target) :, : len(target)] = basis(target)[:, len(target) :].T
    inverse = torch.linalg.inv(square)[:, : len(target)]
    return (basis(pixels) @ inverse @ source - pixels).mT.unflatten(2, SIZE)


DISPLACEMENTS = {
    "flow": bspline_displacement,
    "flow, shared": bilinear_displacement,
    "thin plate": thin_plate_displacement,
}


def plain_displacement(family):
    def warp(images, entries):
        x, y = lattice()
        shift = DISPLACEMENTS[family](entries)
        return sampled(images, x + shift[:, 0], y + shift[:, 1])

    return warp


def plain_colour(images, entries):
    return torch.einsum("bij,bjhw->bihw", entries[..., :-1], images) + entries[..., -1, None, None]


PLAIN = {
    "affine": lambda x, e: F.grid_sample(x, F.affine_grid(e, list(x.shape), align_corners=False), align_corners=False),
    "projective": plain_projective,
    **{family: plain_displacement(family) for family in DISPLACEMENTS},
    "colour": plain_colour,
    "colour, diagonal": plain_colour,
    "colour, grey": lambda x, e: e[:, 0, None, None, None] * x + e[:, 1, None, None, None],
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_plain_pytorch(family, kind, channels):
    """Images and the gradients to all parameters but those behind the choice of the component."""
    augmentor, images = built(family, channels, **KINDS[kind]), images_of(5, channels)
    noise = augmentor.noise(images, seeded(3))
    actual = augmentor.transform(images, noise)
    expected = PLAIN[family](images, plain_entries(augmentor, images, noise))
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)
    watched = [augmentor.mean_offset, augmentor.log_scale]
    watched += [] if augmentor.head is None else list(augmentor.head.last.parameters())
    weight = torch.randn(actual.shape, generator=seeded(4), dtype=torch.float64)
    gradients = [torch.autograd.grad((weight * output).sum(), watched) for output in (actual, expected)]
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_a_gradient(family, kind):
    augmentor, images = built(family, **KINDS[kind]), images_of(50)
    augmentor(images, seeded(2)).square().sum().backward()
    for name, parameter in augmentor.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_reproducible_by_its_generator_alone(family):
    augmentor, images = built(family, components=2), images_of(4)
    state = torch.get_rng_state()
    first, again, other = (augmentor(images, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_state_and_copies(family, kind):
    augmentor, images = built(family, **KINDS[kind]).float(), images_of(2, dtype=torch.float32)
    other = FAMILIES[family](
        **KINDS[kind], **({"in_channels": 3} if kind == "conditional" or family.startswith("colour") else {})
    )
    other.load_state_dict(augmentor.state_dict())
    frozen = augmentor.frozen()
    result = augmentor(images, seeded(1))
    assert result.dtype == torch.float32
    assert torch.equal(other(images, seeded(1)), result)
    assert torch.equal(frozen(images, seeded(1)), result)
    assert not frozen(images, seeded(1)).requires_grad
    assert {"mean_offset", "log_scale"} <= set(augmentor.state_dict())
    if kind == "gaussian":
        assert set(augmentor.state_dict()) == {"mean_offset", "log_scale"}


@pytest.mark.parametrize("family", FAMILIES)
def test_images_of_any_number_and_format(family):
    augmentor = built(family, conditional=True).float()
    assert augmentor(images_of(0, dtype=torch.float32)).shape == (0, 3, *SIZE)
    images = images_of(3, dtype=torch.float32)
    noise = augmentor.noise(images, seeded(1))
    together = augmentor.transform(images, noise)
    single = {name: value[:1] for name, value in noise.items()}
    torch.testing.assert_close(augmentor.transform(images[:1], single), together[:1], atol=1e-5, rtol=1e-4)
    last = augmentor.transform(images.contiguous(memory_format=torch.channels_last), noise)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, together.detach(), atol=1e-5, rtol=1e-4)
    half = augmentor.transform(images.bfloat16(), noise)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), together, atol=0.05, rtol=0.05)
    with torch.autocast("cpu"):
        torch.testing.assert_close(built(family).float()(images, seeded(1)), built(family).float()(images, seeded(1)))


def test_transforms_are_one_graph():
    """All families in a row, so that there is one compilation."""
    names = ["projective", "flow", "thin plate", "colour", "colour, grey"]
    families = [built("affine", components=2, conditional=True), *(built(name) for name in names)]
    augmentor, images = SequentialAugmentor(*families, MixAugmentor().double(), CropFlip()), images_of(4)
    noise = augmentor.noise(images, seeded(1))
    torch.compiler.reset()
    compiled = torch.compile(augmentor.transform, fullgraph=True, backend="aot_eager")
    results = []
    for transform in (compiled, augmentor.transform):
        augmentor.zero_grad()
        output = transform(images, noise)
        output.square().sum().backward()
        results.append([output.detach(), *(parameter.grad.clone() for parameter in augmentor.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_reports_are_numbers_of_fixed_names(family, kind):
    augmentor = built(family, **KINDS[kind])
    scalars, described, arrays = augmentor.scalars(), augmentor.describe(SIZE), augmentor.arrays()
    assert scalars
    assert described
    assert all(isinstance(value, float) and value > 0 for value in scalars.values())
    assert all(math.isfinite(mean) and std > 0 for mean, std in described.values())
    assert arrays["mean"].shape == arrays["scale"].shape == augmentor.rest.shape
    assert not any(value.requires_grad for value in arrays.values())
    with pytest.raises(ValueError, match=r"size must be \(height, width\)"):
        augmentor.describe((0, 3))


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
@pytest.mark.parametrize("family", DISPLACEMENTS)
def test_described_displacements_are_those_of_draws(family, kind):
    augmentor = built(family, **KINDS[kind])
    with torch.no_grad():
        augmentor.mean_offset.mul_(5)
        entries = augmentor.entries(None, augmentor.noise(images_of(1).expand(6000, -1, -1, -1), seeded(7)))
        moved = -DISPLACEMENTS[family](entries) * torch.tensor([SIZE[1] / 2, SIZE[0] / 2]).view(2, 1, 1)
    described = augmentor.describe(SIZE)
    assert list(described) == ["displacement_x_px", "displacement_y_px"]
    for k, moments in enumerate(described.values()):
        assert moments.mean == pytest.approx(moved[:, k].mean().item(), abs=0.03 * moments.std)
        assert moments.std == pytest.approx(moved[:, k].std().item(), rel=0.03)


def test_the_shared_flow_has_one_distribution_for_all_cells():
    augmentor = FlowAugmentor((5, 6), initial_scale=0.3, shared=True)
    assert augmentor.mean_offset.shape == (2,)
    with torch.no_grad():
        augmentor.mean_offset.copy_(torch.tensor([1.0, -2.0]))
    flow = augmentor.draw(torch.zeros(2000, 1, 1, 1), seeded(1))["flow"].detach()
    assert flow.shape == (2000, 2, 5, 6)
    torch.testing.assert_close(flow.mean(0), torch.tensor([0.3, -0.6]).view(2, 1, 1).expand(2, 5, 6), atol=0.03, rtol=0)
    assert torch.corrcoef(flow.flatten(1).T).fill_diagonal_(0).abs().max() < 0.15


@pytest.mark.parametrize("scale", [0.1, 3.0, 1e6])
def test_the_divisor_of_a_projective_map_stays_positive_in_the_image(scale):
    augmentor = ProjectiveAugmentor(initial_scale=scale)
    homography = augmentor.draw(torch.zeros(5000, 1, 1, 1), seeded(2))["homography"]
    corners = torch.tensor([[1.0, 1, 1], [1, -1, 1], [-1, 1, 1], [-1, -1, 1]])
    assert (homography[:, 2] @ corners.T).min() > 0.15
    (gradient,) = torch.autograd.grad(homography[:, 2].square().sum(), augmentor.log_scale)
    assert torch.isfinite(gradient).all()


def test_projective_describes_the_growth_at_the_right_and_lower_edge():
    augmentor = ProjectiveAugmentor(initial_scale=1e-3)
    with torch.no_grad():
        augmentor.mean_offset[6:].copy_(torch.tensor([20.0, -10.0]))
        augmentor.log_scale.fill_(-30)
    described = augmentor.describe((64, 64))
    assert described["perspective_x_percent"].mean == pytest.approx(1.0)
    assert described["perspective_y_percent"].mean == pytest.approx(-0.5)
    homography = augmentor.draw(torch.zeros(1, 1, 1, 1))["homography"][0].detach().double()

    def height_at(x: float) -> float:
        """Of what is one pixel high in the middle, after the map, which is from output to input."""
        motion = torch.linalg.inv(homography)
        top, bottom = (motion @ torch.tensor([x, y, 1.0]).double() for y in (-1e-3, 1e-3))
        return float((bottom[1] / bottom[2] - top[1] / top[2]) / 2e-3)

    assert height_at(1.0) / height_at(0.0) == pytest.approx(1.01, abs=5e-4)


def test_colour_describes_gain_offset_and_mixing():
    augmentor = ColorAugmentor("full", initial_scale=0.2)
    with torch.no_grad():
        augmentor.mean_offset.copy_(torch.tensor([[1, 0.5, 0.5, -1], [0.5, 2, 0.5, -1], [0.5, 0.5, 3, -1.0]]).view(-1))
    described = augmentor.describe((4, 4))
    assert described["gain_percent"] == pytest.approx((40, 20 * math.sqrt(1 + 2 / 3)))
    assert described["offset_percent"] == pytest.approx((-20, 20))
    assert described["mixing_percent"] == pytest.approx((10, 20))
    assert set(ColorAugmentor(in_channels=1).describe((4, 4))) == {"gain_percent", "offset_percent"}
    assert ColorAugmentor("grey").scalars() == pytest.approx({"scale_gain": 0.1, "scale_offset": 0.1})
    assert ColorAugmentor("diagonal").scalars() == pytest.approx({"scale_gain": 0.1, "scale_offset": 0.1})


def test_colour_is_clamped_only_where_asked():
    images = images_of(20, dtype=torch.float32)
    free, clamped = (ColorAugmentor(initial_scale=1.0, clamp=clamp)(images, seeded(1)) for clamp in (False, True))
    assert free.min() < 0
    assert free.max() > 1
    assert torch.equal(clamped, free.clamp(0, 1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FlowAugmentor((0, 4)), r"grid must be \(rows, columns\), two integers of at least 1; got \(0, 4\)"),
        (lambda: FlowAugmentor(4), "grid"),
        (lambda: ThinPlateAugmentor((1, 4)), "at least 2"),
        (lambda: FlowAugmentor(interpolation="sinc"), "interpolation"),
        (lambda: ThinPlateAugmentor(regularization=-1.0), "regularization"),
        (lambda: ColorAugmentor("sepia"), "mode must be one of"),
        (lambda: ColorAugmentor(in_channels=0), "in_channels"),
        (lambda: ProjectiveAugmentor(padding_mode="wrap"), "padding_mode"),
        (lambda: ProjectiveAugmentor(initial_scale=math.nan), "initial_scale"),
        (lambda: ProjectiveAugmentor(components=0), "components must be an integer of at least 1, got 0"),
        (lambda: ProjectiveAugmentor(conditional=True), "in_channels must be the number of channels"),
        (lambda: ColorAugmentor(in_channels=3)(images_of(2, 1)), "in_channels = 3"),
        (lambda: FlowAugmentor(conditional=True, in_channels=1)(images_of(2, 3)), "in_channels = 1"),
        (lambda: FlowAugmentor()(torch.rand(3, 8, 8)), r"\[B, C, H, W\]; got \[3, 8, 8\]"),
    ],
)
def test_bad_arguments_raise(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("build", [lambda: ColorAugmentor(), lambda: MixAugmentor()])
def test_bytes_are_rounded_and_saturate_and_have_no_gradients(build):
    """As those of the warps: up to half a level as images in [0, 1] are changed."""
    levels = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    augmentor = build()
    with pytest.raises(TypeError, match="images must have a floating dtype where gradients are asked for, got uint8"):
        augmentor(levels)
    draw = lambda images: augmentor(images, torch.Generator().manual_seed(1))  # noqa: E731
    with torch.no_grad():
        changed, expected = draw(levels), 255 * draw(levels.double() / 255).clamp(0, 1)
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, levels)
    torch.testing.assert_close(changed.double(), expected, rtol=0, atol=0.51)
