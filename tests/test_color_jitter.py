"""ColorJitter against torchvision v2, factor by factor and in every order."""

import itertools

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from hardfast.testing import assert_as_exact
from hardfast.transforms import ColorJitter, ColorParameters
from hardfast.transforms.color import FACTORS

ADJUST = [TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue]
WEIGHTS = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)[:, None, None]


def images(batch=4, channels=3, size=(9, 14), dtype=torch.float64, seed=0):
    values = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values[:, :, 0] = values[:, :1, 0]  # a row of grays, whose hue is undefined,
    values[:, :, 1, :6] = torch.tensor([0.0, 1.0] * 3, dtype=torch.float64)  # black and white,
    values[:, -1, 2] = values[:, 0, 2]  # and ties between channels
    return (255 * values).round().to(dtype) if dtype == torch.uint8 else values.to(dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def torchvisions(batch, parameters, names):
    """The same by torchvision, one image after the other, each in its order or else in that of ``names``."""
    outputs = []
    for i, image in enumerate(batch):
        order = [FACTORS.index(name) for name in names]
        if parameters.order is not None:
            order = parameters.order[i].tolist()
        for k in order:
            if parameters[k] is not None:
                image = ADJUST[k](image, parameters[k][i].item())
        outputs.append(image)
    return torch.stack(outputs)


def assert_bytes_equal(result, theirs):
    """But for the few that float32 rounding takes over a whole number, which later factors enlarge."""
    difference = (result.int() - theirs.int()).abs()
    assert difference.max() <= 3
    assert (difference > 0).double().mean() < 0.002


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("names", list(itertools.permutations(FACTORS))[::5])
def test_a_fixed_order_is_torchvisions(names, channels):
    transform = ColorJitter(0.6, 0.6, 0.8, 0.4, order=names)
    batch = images(5, channels, dtype=torch.float32)
    parameters = transform.sample(batch, seeded(1))
    assert parameters.order is None
    result, theirs = transform.apply(batch, parameters), torchvisions(batch, parameters, names)
    torch.testing.assert_close(result, theirs, atol=5e-6, rtol=0)
    whole = images(5, channels, dtype=torch.uint8)
    assert_bytes_equal(transform.apply(whole, parameters), torchvisions(whole, parameters, names))
    without_hue = parameters._replace(hue=None)
    assert torch.equal(transform.apply(whole, without_hue), torchvisions(whole, without_hue, names))


@pytest.mark.parametrize("left_out", [(), ("hue",), ("brightness", "saturation"), ("contrast", "saturation", "hue")])
def test_a_random_order_is_torchvisions_image_by_image(left_out):
    amounts = {name: None if name in left_out else 0.45 for name in FACTORS}
    transform = ColorJitter(**amounts)
    for dtype, channels in ((torch.float32, 3), (torch.uint8, 3), (torch.float32, 1), (torch.uint8, 1)):
        batch = images(24, channels, dtype=dtype)
        parameters = transform.sample(batch, seeded(2))
        assert [getattr(parameters, name) is None for name in FACTORS] == [name in left_out for name in FACTORS]
        result, theirs = transform.apply(batch, parameters), torchvisions(batch, parameters, FACTORS)
        assert result.dtype == dtype
        if dtype == torch.uint8 and "hue" in left_out:
            assert torch.equal(result, theirs)
        elif dtype == torch.uint8:
            assert_bytes_equal(result, theirs)
        else:
            torch.testing.assert_close(result, theirs, atol=5e-6, rtol=0)


@pytest.mark.parametrize("index", range(4))
def test_each_factor_alone_is_as_exact_as_torchvisions(index):
    amounts = [0.0] * 4
    amounts[index] = 0.5
    transform = ColorJitter(*amounts)
    batch = images(8, dtype=torch.float32)
    parameters = transform.sample(batch, seeded(3))
    narrow = transform.apply(batch, parameters)
    exact = transform.apply(batch.double(), ColorParameters(*(None if p is None else p.double() for p in parameters)))
    if index < 3:  # torchvision's hue is float32 for any image
        double = ColorParameters(*(None if p is None else p.double() for p in parameters[:4]))
        torch.testing.assert_close(exact, torchvisions(batch.double(), double, FACTORS))
    assert_as_exact(narrow, torchvisions(batch, parameters, FACTORS), exact)


def test_hue_turns_the_color_circle():
    primaries = torch.eye(3)[None, :, :, None].contiguous()  # red, green and blue pixels
    jitter = ColorJitter(hue=0.5)

    def turn(turns, pixels=primaries):
        return jitter.apply(pixels, ColorParameters(hue=torch.tensor([turns])))

    torch.testing.assert_close(turn(1 / 3)[0, :, :, 0], torch.eye(3)[[2, 0, 1]])  # red becomes green
    torch.testing.assert_close(turn(0.5)[0, :, :, 0], 1 - torch.eye(3))
    batch = images(2)
    torch.testing.assert_close(turn(1.0, batch), batch)
    torch.testing.assert_close(turn(-0.2, turn(0.2, batch)), batch)
    for reduce in (torch.amax, torch.amin):
        torch.testing.assert_close(reduce(turn(0.123, batch), 1), reduce(batch, 1))


def chain(image, parameters, index):
    """The first three factors on one image without any clamp, in its order."""
    for k in parameters.order[index].tolist():
        if k == 0:
            image = parameters.brightness[index] * image
        elif k < 3:
            gray = (WEIGHTS * image).sum(0, keepdim=True)
            factor = (parameters.contrast if k == 1 else parameters.saturation)[index]
            image = factor * image + (1 - factor) * (gray.mean() if k == 1 else gray)
    return image


def test_without_a_clamp_the_factors_are_one_affine_map():
    never = ColorJitter(0.7, 0.7, 0.7, clamp="never")
    batch = images(12)
    parameters = never.sample(batch, seeded(4))
    expected = torch.stack([chain(image, parameters, i) for i, image in enumerate(batch)])
    assert expected.amax() > 1.1
    assert expected.amin() < -0.1
    torch.testing.assert_close(never.apply(batch, parameters), expected)
    matrix = never.matrix(batch, parameters)
    assert matrix.shape == (12, 3, 4)
    torch.testing.assert_close(
        torch.einsum("bij,bjhw->bihw", matrix[..., :3], batch) + matrix[..., 3][..., None, None], expected
    )
    last = ColorJitter(0.7, 0.7, 0.7, clamp="last")
    torch.testing.assert_close(last.apply(batch, parameters), expected.clamp(0, 1))
    whole = images(12, dtype=torch.uint8)
    expected = torch.stack([chain(image.double(), parameters, i) for i, image in enumerate(whole)])
    difference = (last.apply(whole, parameters).double() - expected.clamp(0, 255)).abs()
    assert difference.max() < 0.5001


def test_one_clamp_is_torchvisions_where_nothing_leaves_the_range():
    batch = 0.3 + 0.3 * images(10)
    last, each = (ColorJitter((0.8, 1.2), (0.8, 1.2), (0.8, 1.2), clamp=clamp) for clamp in ("last", "each"))
    parameters = last.sample(batch, seeded(5))
    torch.testing.assert_close(last.apply(batch, parameters), each.apply(batch, parameters))
    with_hue = parameters._replace(hue=torch.full((10,), 0.2, dtype=torch.float64))
    hue_last = ColorJitter(0.1, 0.1, 0.1, 0.1).apply(last.apply(batch, parameters), ColorParameters(hue=with_hue.hue))
    torch.testing.assert_close(last.apply(batch, with_hue), hue_last)


@pytest.mark.parametrize("clamp", ["each", "last", "never"])
def test_gradients_are_exact(clamp):
    transform = ColorJitter(0.3, 0.3, 0.3, 0.2, clamp=clamp)
    batch = 0.3 + 0.3 * torch.rand(2, 3, 3, 4, generator=seeded(1), dtype=torch.float64)
    drawn = transform.sample(batch, seeded(6))
    leaves = [value.clone().requires_grad_() for value in (batch, *drawn[:4])]
    assert torch.autograd.gradcheck(
        lambda i, *factors: transform.apply(i, ColorParameters(*factors, drawn.order)), leaves, fast_mode=True
    )
    gray = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    transform(gray).sum().backward()
    assert gray.grad.isfinite().all()


@pytest.mark.parametrize("clamp", ["each", "last"])
def test_every_kind_of_batch(clamp):
    transform = ColorJitter(0.4, 0.4, 0.4, 0.2, clamp=clamp)
    batch = images(3)
    parameters = transform.sample(batch, seeded())
    expected = transform.apply(batch, parameters)
    single = ColorParameters(*(value[:1] for value in parameters))
    torch.testing.assert_close(transform.apply(batch[0], single), expected[0])
    torch.testing.assert_close(transform.apply(batch, single)[0], expected[0])
    result = transform.apply(batch.contiguous(memory_format=torch.channels_last), parameters)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected)
    assert transform(batch[:0]).shape == (0, 3, 9, 14)
    for dtype in (torch.float16, torch.bfloat16):
        half = transform.apply(batch.to(dtype), parameters)
        assert half.dtype == dtype
        exact = transform.apply(batch.to(dtype).double(), parameters)
        assert (half.double() - exact).abs().max() < 2 * torch.finfo(dtype).eps


@pytest.mark.parametrize(("clamp", "order"), [("each", FACTORS), ("never", "random")])
def test_compiles_to_one_graph(clamp, order):
    transform = ColorJitter(0.4, 0.4, 0.4, 0.2, clamp=clamp, order=order)
    batch = images(2, dtype=torch.float32).requires_grad_()
    parameters = transform.sample(batch, seeded())
    compiled = torch.compile(lambda i, p: transform.apply(i, p), fullgraph=True, backend="eager")
    results = []
    for function in (compiled, transform.apply):
        output = function(batch, parameters)
        results.append([output, torch.autograd.grad(output.square().sum(), batch)[0]])
    torch.testing.assert_close(*results)


def test_draws_fill_their_ranges_and_every_order_is_as_likely():
    transform = ColorJitter((0.2, 0.9), 0.3, 1.5, (-0.1, 0.4))
    parameters = transform.sample(torch.empty(24_000, 3, 2, 2), seeded())
    for name, (low, high) in {"brightness": (0.2, 0.9), "contrast": (0.7, 1.3), "saturation": (0, 2.5)}.items():
        values = getattr(parameters, name)
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.01 * (high - low)
    assert -0.1 <= parameters.hue.min() < -0.09
    assert 0.39 < parameters.hue.max() <= 0.4
    orders, counts = parameters.order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert ((counts - 1000).abs() < 150).all()
    columns = torch.stack(list(parameters[:4]))
    assert (torch.corrcoef(columns) - torch.eye(4)).abs().max() < 0.03


def test_draws_repeat_with_the_generator_and_differ_between_samples():
    transform, batch = ColorJitter(0.5, 0.5, 0.5, 0.5), images(8)
    state = torch.get_rng_state()
    first, again, other = (transform.sample(batch, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert len(a.unique(dim=0)) > 4


@pytest.mark.parametrize("value", [None, 0, 0.5, 1.5, (0.5, 1.5), (1.0, 1.0), [0.0, 3.0]])
def test_ranges_are_torchvisions(value):
    ours, theirs = ColorJitter(value, value, value), v2.ColorJitter(value, value, value)
    for name in FACTORS[:3]:
        assert getattr(ours, name) == getattr(theirs, name)
    hue = value if value in (None, 0, 0.5) else 0.25
    assert ColorJitter(hue=hue).hue == v2.ColorJitter(hue=hue).hue
    assert ColorJitter(hue=(-0.1, 0.3)).hue == v2.ColorJitter(hue=(-0.1, 0.3)).hue


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: ColorJitter(-0.1), ValueError, "brightness must be >= 0"),
        (lambda: ColorJitter(contrast=(-1.0, 1.0)), ValueError, "contrast must lie between 0 and inf"),
        (lambda: ColorJitter(saturation=(1.0, 0.5)), ValueError, "saturation must be pairs"),
        (lambda: ColorJitter(saturation="much"), TypeError, "saturation must be a sequence of 2"),
        (lambda: ColorJitter(hue=0.6), ValueError, "hue must lie between -0.5 and 0.5"),
        (lambda: ColorJitter(hue=(0.1, 0.2, 0.3)), ValueError, "hue must be a sequence of 2"),
        (lambda: ColorJitter(order=("hue", "contrast")), ValueError, "order must be 'random' or"),
        (lambda: ColorJitter(order="fixed"), ValueError, "order must be 'random' or"),
        (lambda: ColorJitter(order=3), ValueError, "order must be 'random' or"),
        (lambda: ColorJitter(clamp="first"), ValueError, "clamp must be one of"),
        (lambda: ColorJitter(0.1)(torch.rand(2, 4, 5, 5)), ValueError, "images must have 1 or 3 channels"),
        (lambda: ColorJitter(0.1)(torch.ones(2, 3, 5, 5).int()), TypeError, "images must be floating point or uint8"),
    ],
)
def test_bad_arguments_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
