"""The warps of hardfast.transforms against torchvision v2, sample by sample; ColorJitter is in test_color_jitter."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as TF

import hardfast
import hardfast.transforms as T
from hardfast.testing import assert_as_exact

SIZE = (15, 22)
WARPS = {
    "affine": lambda **kw: T.RandomAffine(40, (0.2, 0.1), (0.6, 1.5), (-20, 20, -15, 15), **kw),
    "perspective": lambda **kw: T.RandomPerspective(0.6, 0.8, **kw),
    "elastic": lambda **kw: T.ElasticTransform(60.0, 2.0, **kw),
}


def images(batch=4, channels=3, size=SIZE, dtype=torch.float64, seed=0):
    values = torch.rand(batch, channels, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (256 * values).floor().to(dtype) if dtype == torch.uint8 else values.to(dtype)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def torchvisions(transform, batch, parameters, fill=None):
    """The same by torchvision, one image after the other; its matrices are left in float64."""
    mode = InterpolationMode(transform.interpolation)
    height, width = batch.shape[-2:]
    outputs = []
    for i, image in enumerate(batch):
        if isinstance(transform, T.RandomAffine):
            angle, translate, scale, shear = (value[i].double().tolist() for value in parameters)
            center = None if transform.center is None else list(transform.center)
            output = TF.affine(image, angle, translate, scale, shear, mode, fill, center)
        elif isinstance(transform, T.RandomPerspective):
            coefficients = perspective_coefficients(parameters.endpoints[i].double(), height, width)
            output = TF.perspective(image, None, None, mode, fill, coefficients)
        else:
            output = TF.elastic(image, parameters.displacement[i].permute(1, 2, 0)[None], mode, fill)
        outputs.append(output)
    return torch.stack(outputs)


def perspective_coefficients(endpoints, height, width):
    rows, values = [], []
    for (x, y), (u, v) in zip(
        endpoints.tolist(), [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], strict=True
    ):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    double = {"dtype": torch.float64}
    return torch.linalg.solve(torch.tensor(rows, **double), torch.tensor(values, **double)).tolist()


@pytest.mark.parametrize("size", [SIZE, (8, 8), (31, 5)])
@pytest.mark.parametrize("name", WARPS)
def test_bilinear_is_torchvisions(name, size):
    transform = WARPS[name](interpolation=InterpolationMode.BILINEAR)
    batch = images(6, 2, size)
    parameters = transform.sample(batch, seeded(1))
    exact = torchvisions(transform, batch, parameters)
    torch.testing.assert_close(transform.apply(batch, parameters), exact)
    narrow = type(parameters)(*(value.float() for value in parameters))
    exact = torchvisions(transform, batch.float().double(), narrow)
    assert_as_exact(transform.apply(batch.float(), narrow), torchvisions(transform, batch.float(), narrow), exact)


@pytest.mark.parametrize("name", WARPS)
def test_nearest_is_torchvisions_but_where_two_pixels_are_equally_near(name):
    transform = WARPS[name](interpolation="nearest")
    for seed in range(3):
        batch = images(5, seed=seed)
        parameters = transform.sample(batch, seeded(seed))
        different = (transform.apply(batch, parameters) != torchvisions(transform, batch, parameters)).any(1)
        # Positions of pixels are images of their own coordinates, away from the edges.
        ramps = [torch.arange(n, dtype=torch.float64) for n in SIZE]
        ramp = torch.stack(torch.meshgrid(*ramps, indexing="ij")).expand(5, 2, *SIZE)
        bilinear = WARPS[name](interpolation="bilinear")
        positions = torchvisions(bilinear, ramp, parameters)
        covered = torchvisions(bilinear, torch.ones_like(ramp), parameters)
        tied = (((positions % 1) - 0.5).abs() < 1e-4).any(1) | (covered < 0.999).any(1)
        assert not (different & ~tied).any()
        assert different.sum() <= 8


@pytest.mark.parametrize("center", [None, (3.0, 12.5)])
def test_affine_about_any_center(center):
    transform = T.RandomAffine(90, scale=(0.5, 0.9), shear=25, interpolation="bilinear", center=center)
    batch = images(5)
    parameters = transform.sample(batch, seeded(2))
    torch.testing.assert_close(transform.apply(batch, parameters), torchvisions(transform, batch, parameters))
    assert torch.equal(parameters.shear[:, 1], torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("name", WARPS)
def test_a_fill_is_blended_by_coverage_where_torchvision_counts_it_twice(name):
    fill = [0.2, 0.9, -1.0]
    transform = WARPS[name](interpolation="bilinear", fill=fill)
    batch, ones = images(4), torch.ones(4, 3, *SIZE, dtype=torch.float64)
    parameters = transform.sample(batch, seeded(3))
    shown, coverage = torchvisions(transform, batch, parameters), torchvisions(transform, ones, parameters)
    values = torch.tensor(fill, dtype=torch.float64)[:, None, None]
    result = transform.apply(batch, parameters)
    torch.testing.assert_close(result, shown + (1 - coverage) * values)
    theirs = torchvisions(transform, batch, parameters, fill)
    torch.testing.assert_close(theirs, coverage * shown + (1 - coverage) * values)
    whole = (coverage < 1e-9) | (coverage > 1 - 1e-9)
    assert whole.double().mean() > 0.8
    torch.testing.assert_close(result[whole], theirs[whole])
    nearest = WARPS[name](interpolation="nearest", fill=fill)
    agree = nearest.apply(batch, parameters) == torchvisions(nearest, batch, parameters, fill)
    assert agree.double().mean() > 0.99


@pytest.mark.parametrize("name", WARPS)
def test_gradients_are_torchvisions_and_reach_the_parameters(name):
    transform = WARPS[name](interpolation="bilinear")
    batch = images(2, 2, (6, 7)).requires_grad_()
    parameters = transform.sample(batch, seeded(4))
    weight = images(2, 2, (6, 7), seed=5)
    ours = torch.autograd.grad((weight * transform.apply(batch, parameters)).sum(), batch)
    theirs = torch.autograd.grad((weight * torchvisions(transform, batch, parameters)).sum(), batch)
    torch.testing.assert_close(ours, theirs)
    leaves = [value.detach().double().requires_grad_() for value in parameters]
    moved = [leaf + 0.0123 for leaf in leaves]  # off the pixel grid, where bilinear has a kink

    def apply(*values):
        return transform.apply(batch.detach(), type(parameters)(*values))

    assert torch.autograd.gradcheck(apply, [m.detach().requires_grad_() for m in moved], atol=1e-4, fast_mode=True)


def test_directions():
    image = torch.zeros(1, 9, 11)
    image[0, 4, 8] = 1  # right of the middle, (5, 4)

    def lit(angle=0.0, translate=(0.0, 0.0), scale=1.0, shear=(0.0, 0.0)):
        parameters = T.AffineParameters(*(torch.tensor([value]) for value in (angle, translate, scale, shear)))
        return T.RandomAffine(0).apply(image, parameters)[0].nonzero().flip(1).tolist()

    assert lit() == [[8, 4]]
    assert lit(angle=90.0) == [[5, 7]]  # clockwise: from right of the middle to below it
    assert lit(translate=(2.0, -1.0)) == [[10, 3]]
    assert lit(shear=(0.0, 45.0)) == [[8, 1]]  # y loses the distance right of the middle
    assert lit(scale=1 / 3) == [[6, 4]]
    corners = torch.tensor([[[0.0, 0], [10, 0], [10, 8], [0, 8]]])
    right = T.RandomPerspective(p=1, interpolation="nearest").apply(image, T.PerspectiveParameters(corners + 2))
    assert right[0].nonzero().tolist() == [[6, 10]]
    flow = torch.zeros(1, 2, 9, 11)
    flow[:, 0] = 2 * 2 / 11
    elastic = T.ElasticTransform(interpolation="nearest").apply(image, T.ElasticParameters(flow))
    assert elastic[0].nonzero().tolist() == [[4, 6]]


def test_the_matrix_takes_points_where_the_pixels_go():
    for transform in (T.RandomAffine(30, (0.1, 0.1), (0.8, 1.2), 10), T.RandomPerspective(0.3, 1.0)):
        batch = torch.zeros(8, 1, 40, 50, dtype=torch.float64)
        batch[:, 0, 18:21, 24:27] = 1
        transform.interpolation = "bilinear"
        parameters = transform.sample(batch, seeded(6))
        moved = transform.apply(batch, parameters)[:, 0]
        weight = moved / moved.sum((1, 2), keepdim=True)
        x = (weight.sum(1) * torch.arange(50)).sum(1)
        y = (weight.sum(2) * torch.arange(40)).sum(1)
        point = transform.matrix(parameters, (40, 50)) @ torch.tensor([25.0, 19, 1], dtype=torch.float64)
        torch.testing.assert_close(point[:, :2] / point[:, 2:], torch.stack([x, y], 1), atol=0.1, rtol=0)


def test_affine_draws_fill_their_ranges():
    transform = T.RandomAffine((-10, 50), (0.25, 0.1), (0.5, 2.0), (-5, 15, 20, 30))
    parameters = transform.sample(torch.empty(20_000, 1, 40, 16), seeded())
    width, height = 16, 40
    expected = {
        "angle": (parameters.angle, -10, 50),
        "x": (parameters.translate[:, 0], -0.25 * width, 0.25 * width),
        "y": (parameters.translate[:, 1], -0.1 * height, 0.1 * height),
        "scale": (parameters.scale, 0.5, 2.0),
        "shear x": (parameters.shear[:, 0], -5, 15),
        "shear y": (parameters.shear[:, 1], 20, 30),
    }
    for name, (values, low, high) in expected.items():
        span = high - low
        assert low <= values.min() < low + 0.01 * span, name
        assert high - 0.01 * span < values.max() <= high, name
        assert abs(values.mean() - (low + high) / 2) < 0.01 * span, name
        whole_pixels = 1 / 12 if name in ("x", "y") else 0
        assert abs(values.var() - (span**2 / 12 + whole_pixels)) < 0.04 * span**2 / 12 + whole_pixels, name
    assert torch.equal(parameters.translate, parameters.translate.round())
    columns = torch.stack([value for value, _, _ in expected.values()])
    assert (torch.corrcoef(columns) - torch.eye(6)).abs().max() < 0.03


def test_what_is_not_asked_for_is_not_drawn():
    parameters = T.RandomAffine(0).sample(images(3), seeded())
    for value, neutral in zip(parameters, (0, 0, 1, 0), strict=True):
        assert torch.equal(value, torch.full_like(value, neutral))
    for name in WARPS:
        still = {
            "affine": T.RandomAffine(0, interpolation="bilinear"),
            "perspective": T.RandomPerspective(0.9, 0.0),
            "elastic": T.ElasticTransform(0.0),
        }[name]
        batch = images(3, dtype=torch.float32)
        assert torch.equal(still(batch), batch), name


@pytest.mark.parametrize("size", [(9, 14), (2, 3), (224, 224)])
@pytest.mark.parametrize("distortion_scale", [0.0, 0.37, 1.0])
def test_perspective_draws_what_torchvision_draws(size, distortion_scale):
    height, width = size
    transform = T.RandomPerspective(distortion_scale, 1.0)
    points = transform.sample(torch.empty(4000, 1, *size), seeded()).endpoints
    reach_y, reach_x = (int(distortion_scale * (n // 2)) for n in size)
    corners = [(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)]
    for index, (x, y) in enumerate(corners):
        for axis, (start, reach, end) in enumerate([(x, reach_x, width - 1), (y, reach_y, height - 1)]):
            values = points[:, index, axis]
            low, high = (0, reach) if start == 0 else (end - reach, end)
            assert (values.min(), values.max()) == (low, high)
            assert abs(values.mean() - (low + high) / 2) < 0.06 * (reach + 1)
            assert len(values.unique()) == reach + 1


def test_perspective_changes_a_share_of_the_images():
    points = T.RandomPerspective(0.8, 0.3).sample(torch.empty(10_000, 1, 100, 100), seeded()).endpoints
    changed = (points != torch.tensor([[0.0, 0], [99, 0], [99, 99], [0, 99]])).any(-1).any(-1)
    assert abs(changed.double().mean() - 0.3) < 0.02


def test_endpoints_on_a_line_leave_the_image():
    points = torch.tensor([[[0.0, 0], [5, 0], [10, 0], [0, 8]]])
    batch = images(1, size=(9, 11))
    assert torch.equal(T.RandomPerspective().apply(batch, T.PerspectiveParameters(points)), batch)


@pytest.mark.parametrize(("alpha", "sigma"), [(50.0, 5.0), ((20.0, 80.0), 3.0), (30.0, 0.0)])
def test_elastic_draws_have_torchvisions_distribution(alpha, sigma):
    batch = torch.empty(60, 1, 48, 64)
    ours = T.ElasticTransform(alpha, sigma).sample(batch, seeded()).displacement
    torch.manual_seed(0)
    reference = v2.ElasticTransform(alpha, sigma)
    theirs = torch.cat([reference.make_params([batch])["displacement"] for _ in range(60)]).permute(0, 3, 1, 2)
    assert ours.shape == theirs.shape
    for region in ((slice(None), slice(None)), (slice(0, 3), slice(None)), (slice(None), slice(-3, None))):
        a, b = ours[..., region[0], region[1]], theirs[..., region[0], region[1]]
        torch.testing.assert_close(a.std((0, 2, 3)), b.std((0, 2, 3)), rtol=0.12, atol=0)
        assert (a.mean((0, 2, 3)).abs() < 0.2 * a.std((0, 2, 3))).all()
    for shift in (1, 4, 9):
        a, b = ((d[..., shift:] * d[..., :-shift]).mean((0, 2, 3)) / d.var((0, 2, 3)) for d in (ours, theirs))
        torch.testing.assert_close(a, b, atol=0.08, rtol=0)


def test_elastic_smooths_as_torchvision_and_where_it_cannot(monkeypatch):
    noise = torch.rand(2, 1, 30, 40, generator=seeded(1))
    monkeypatch.setattr("hardfast.transforms.elastic.uniform", lambda *a: 2 * noise - 1)
    drawn = T.ElasticTransform((40.0, 30.0), 2.3).sample(torch.empty(2, 1, 30, 40)).displacement
    expected = TF.gaussian_blur(2 * noise - 1, [19, 19], [2.3, 2.3]) * torch.tensor([1.0, 1.0])[:, None, None]
    torch.testing.assert_close(drawn, expected)
    monkeypatch.undo()
    for size in ((1, 1), (1, 7), (3, 4)):
        assert T.ElasticTransform(sigma=5.0)(images(2, size=size)).isfinite().all()
    anisotropic = T.ElasticTransform(sigma=(6.0, 0.0)).sample(torch.empty(2, 1, 50, 50), seeded()).displacement
    assert anisotropic.diff(dim=3).std() < 0.2 * anisotropic.diff(dim=2).std()


@pytest.mark.parametrize("name", WARPS)
def test_draws_differ_between_samples_and_repeat_with_the_generator(name):
    transform, batch = WARPS[name](), images(8)
    state = torch.get_rng_state()
    first = transform.sample(batch, seeded(7))
    assert torch.equal(torch.get_rng_state(), state)
    again, other = transform.sample(batch, seeded(7)), transform.sample(batch, seeded(8))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert len(a.unique(dim=0)) >= 4
        assert a.shape[0] == 8
    assert torch.equal(transform(batch, seeded(7)), transform.apply(batch, first))
    torch.manual_seed(3)
    a = transform(batch)
    torch.manual_seed(3)
    assert torch.equal(a, transform(batch))


@pytest.mark.parametrize("name", WARPS)
def test_every_kind_of_batch(name):
    transform = WARPS[name](interpolation="bilinear", fill=0.25)
    batch = images(3)
    parameters = transform.sample(batch, seeded())
    expected = transform.apply(batch, parameters)
    single = type(parameters)(*(value[:1] for value in parameters))
    torch.testing.assert_close(transform.apply(batch[0], single), expected[0])
    assert transform(batch[0]).shape == batch.shape[1:]
    last = batch.contiguous(memory_format=torch.channels_last)
    result = transform.apply(last, parameters)
    assert result.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(result, expected)
    shared = transform.apply(batch, single)
    torch.testing.assert_close(shared[0], expected[0])
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        narrow = transform.apply(batch.to(dtype), parameters)
        assert narrow.dtype == dtype
        exact = transform.apply(batch.to(dtype).double(), parameters)
        assert (narrow.double() - exact).abs().max() < 2 * torch.finfo(dtype).eps + 1e-5


@pytest.mark.parametrize("name", WARPS)
def test_an_empty_batch_is_warped(name):
    transform = WARPS[name](interpolation="bilinear", fill=0.25)
    assert transform(images(3)[:0]).shape == (0, 3, *SIZE)


@pytest.mark.parametrize("name", WARPS)
def test_an_empty_batch_is_drawn(name):
    assert all(value.shape[0] == 0 for value in WARPS[name]().sample(images(3)[:0]))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("name", WARPS)
def test_bytes_are_torchvisions(name, interpolation):
    transform = WARPS[name](interpolation=interpolation)
    batch = images(4, dtype=torch.uint8)
    parameters = transform.sample(batch, seeded(2))
    result, theirs = transform.apply(batch, parameters), torchvisions(transform, batch, parameters)
    assert result.dtype == torch.uint8
    difference = (result.int() - theirs.int()).abs()
    if interpolation == "bilinear":
        assert difference.max() <= 1  # within float32 rounding of a half
    assert (difference > 0).double().mean() < 0.005


@pytest.mark.parametrize("name", WARPS)
def test_compiles_to_one_graph(name):
    transform = WARPS[name](interpolation="bilinear", fill=(0.1, 0.2, 0.3))
    batch = images(3, dtype=torch.float32).requires_grad_()
    parameters = transform.sample(batch, seeded())
    backend = "aot_eager" if name == "affine" else "eager"  # the ops have the compiler's tests of their own
    compiled = torch.compile(lambda i, p: transform.apply(i, p), fullgraph=True, backend=backend)
    results = []
    for function in (compiled, transform.apply):
        output = function(batch, parameters)
        results.append([output, torch.autograd.grad(output.square().sum(), batch)[0]])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", [*WARPS, "color", "fused"])
def test_autocast_changes_nothing(name):
    batch = images(2, dtype=torch.float32)
    jitter = T.ColorJitter(0.2, 0.2, 0.2, 0.1, clamp="last")
    transform = {"color": jitter, "fused": T.Fused(T.RandomAffine(10), jitter)}.get(name) or WARPS[name]()
    with torch.autocast("cpu", torch.bfloat16):
        result = transform(batch, seeded())
    assert torch.equal(result, transform(batch, seeded()))


@pytest.mark.parametrize("name", [*WARPS, "color", "fused"])
def test_nothing_waits_for_or_names_a_device(name):
    jitter = T.ColorJitter(0.2, 0.2, 0.2, 0.1, clamp="last")
    transform = {"color": jitter, "fused": T.Fused(T.RandomAffine(10, fill=0.5), jitter)}.get(name)
    transform = transform or WARPS[name](fill=(0.1, 0.2, 0.3))
    output = transform(torch.empty(2, 3, 30, 32, device="meta"))  # holds no values: reading one is an error
    assert output.shape == (2, 3, 30, 32)
    assert output.device.type == "meta"


class Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append((func._schema.name, max([a.numel() for a in args if isinstance(a, torch.Tensor)] or [0])))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", WARPS)
def test_a_fused_pair_reads_the_images_for_their_mean_and_in_one_warp(name, monkeypatch):
    module = f"hardfast.transforms.{name}"
    op = {"affine": "affine_warp", "perspective": "projective_warp", "elastic": "flow_warp"}[name]
    calls = []
    monkeypatch.setattr(f"{module}.{op}", lambda images, *args, **options: calls.append(options) or images)
    fused = T.Fused(WARPS[name](), T.ColorJitter(0.3, 0.3, 0.3, clamp="never"))
    batch = images(2, size=(64, 64), dtype=torch.float32)
    parameters = fused.sample(batch, seeded())
    for contrast, readings in ((parameters.color.contrast, ["aten::mean"]), (None, [])):
        with Calls() as seen:
            output = fused.apply(batch, parameters._replace(color=parameters.color._replace(contrast=contrast)))
        assert output is batch
        assert [options["color"].shape for options in calls] == [(2, 3, 4)]
        calls.clear()
        assert [call for call, size in seen.names if size >= batch.numel()] == readings


@pytest.mark.parametrize("clamp", ["last", "never"])
@pytest.mark.parametrize("name", WARPS)
def test_a_fused_pair_is_one_after_the_other(name, clamp):
    for fill in (0, (0.3, 0.1, 0.9)):
        warp = WARPS[name](interpolation="bilinear", fill=fill)
        color = T.ColorJitter(0.6, None, 0.6, 0.2, clamp=clamp)
        fused, batch = T.Fused(warp, color), images(4)
        parameters = fused.sample(batch, seeded(5))
        expected = color.apply(warp.apply(batch, parameters.warp), parameters.color)
        torch.testing.assert_close(fused.apply(batch, parameters), expected)
        torch.testing.assert_close(fused.apply(batch[0], fused.sample(batch[0], seeded(1))), fused(batch[0], seeded(1)))
    whole = images(4, dtype=torch.uint8)
    assert fused(whole, seeded()).dtype == torch.uint8


def test_a_fused_contrast_is_about_the_mean_before_the_warp():
    fused = T.Fused(
        T.RandomAffine(30, (0.3, 0.3), interpolation="bilinear"), T.ColorJitter(contrast=0.9, clamp="never")
    )
    batch = images(4).requires_grad_()
    parameters = fused.sample(batch, seeded())
    warped = fused.warp.apply(batch, parameters.warp)
    contrast = parameters.color.contrast[:, None, None, None]
    weights = torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    mean = (batch * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    expected = contrast * warped + (1 - contrast) * mean
    result = fused.apply(batch, parameters)
    torch.testing.assert_close(result, expected)
    weight = images(4, seed=8)
    gradients = [torch.autograd.grad((weight * value).sum(), batch, retain_graph=True) for value in (result, expected)]
    torch.testing.assert_close(*gradients)


def test_the_submodules_come_with_the_package():
    assert hardfast.__getattr__("transforms") is T
    assert hardfast.__getattr__("geometry").warp_affine
    assert {"geometry", "transforms"} <= set(hardfast.__all__)


def test_modules_keep_their_own_apply():
    names = []
    torch.nn.Sequential(T.RandomAffine(3), T.Fused(T.RandomAffine(3), T.ColorJitter(clamp="last"))).apply(
        lambda module: names.append(type(module).__name__)
    )
    assert names == ["RandomAffine", "RandomAffine", "ColorJitter", "Fused", "Sequential"]
    pipeline = torch.nn.Sequential(T.RandomAffine(3), T.ColorJitter(0.1))
    assert v2.Compose([pipeline])(images(2)).shape == (2, 3, *SIZE)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: T.RandomAffine(-1), ValueError, "degrees must be >= 0"),
        (lambda: T.RandomAffine((1, 2, 3)), ValueError, "degrees must be a sequence of 2"),
        (lambda: T.RandomAffine((20, 10)), ValueError, "degrees must be pairs"),
        (lambda: T.RandomAffine("30"), TypeError, "degrees must be a sequence of 2"),
        (lambda: T.RandomAffine(math.nan), ValueError, "degrees"),
        (lambda: T.RandomAffine(0, 0.1), TypeError, "translate must be a sequence of 2"),
        (lambda: T.RandomAffine(0, (0.1, 1.5)), ValueError, "translate must be two fractions"),
        (lambda: T.RandomAffine(0, scale=(0.0, 1.0)), ValueError, "scale must be > 0"),
        (lambda: T.RandomAffine(0, scale=(1.0, math.inf)), ValueError, "scale"),
        (lambda: T.RandomAffine(0, shear=(1, 2, 3)), ValueError, "shear must be a sequence of 2 or 4"),
        (lambda: T.RandomAffine(0, center=(1.0,)), ValueError, "center must be a sequence of 2"),
        (lambda: T.RandomAffine(0, interpolation=InterpolationMode.BOX), ValueError, "interpolation must be one of"),
        (lambda: T.RandomAffine(0, fill={"x": 1}), TypeError, "fill must be"),
        (lambda: T.RandomAffine(0, fill=(1, 2))(images()), ValueError, "fill must be one number or one for each of 3"),
        (lambda: T.RandomPerspective(1.1), ValueError, "distortion_scale must be between 0 and 1"),
        (lambda: T.RandomPerspective("a"), TypeError, "distortion_scale must be a number, got str"),
        (lambda: T.RandomPerspective(p=-0.1), ValueError, "p must be between 0 and 1"),
        (lambda: T.RandomPerspective()(images(size=(1, 5))), ValueError, "at least 2 x 2"),
        (lambda: T.ElasticTransform("50"), TypeError, "alpha must be a sequence of 1 or 2"),
        (lambda: T.ElasticTransform(sigma=(1, 2, 3)), ValueError, "sigma must be a sequence of 1 or 2"),
        (lambda: T.ElasticTransform(sigma=-1.0), ValueError, "sigma must be >= 0"),
        (
            lambda: T.ElasticTransform().apply(images(), T.ElasticParameters(torch.zeros(4, 2, 3, 3))),
            ValueError,
            "displacement must have shape",
        ),
        (lambda: T.RandomAffine(0)(torch.rand(2, 2)), ValueError, r"images must have shape \[B, C, H, W\]"),
        (lambda: T.RandomAffine(0)([1]), TypeError, "images must be a tensor"),
        (lambda: T.Fused(T.RandomAffine(0), T.ColorJitter()), ValueError, "color must have clamp='last'"),
        (lambda: T.Fused(T.ColorJitter(), T.ColorJitter()), TypeError, "warp must be a transform that warps"),
        (lambda: T.Fused(T.RandomAffine(0), T.RandomAffine(0)), TypeError, "color must be ColorJitter"),
    ],
)
def test_bad_arguments_are_named(build, error, message):
    with pytest.raises(error, match=message):
        build()
