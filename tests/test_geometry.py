"""Warps between pixels, and the conversions, against kornia, OpenCV and positions worked out by hand."""

import kornia.geometry as K
import pytest
import torch
from torch.nn import functional as F

import hardfast
from hardfast import geometry as G
from hardfast.testing import assert_as_exact

IMAGE = (8, 11)


def draws(batch: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"translations": (batch, 2), "center": (batch, 2), "scale": (batch, 2), "angle": (batch,)}
    values = {name: torch.rand(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    values["translations"] = 6 * values["translations"] - 3
    values["center"] = 10 * values["center"]
    values["scale"] = values["scale"] + 0.6
    values["angle"] = 360 * values["angle"] - 180
    for name in ("sx", "sy"):
        values[name] = torch.rand(batch, generator=g, dtype=torch.float64) - 0.5
    return {name: value.to(dtype) for name, value in values.items()}


def affine_matrices(batch: int, seed: int = 0) -> torch.Tensor:
    values = draws(batch, seed)
    return K.get_affine_matrix2d(**values)[:, :2]


def projective_matrices(batch: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[0, 0], [10, 0], [10, 7], [0, 7]], dtype=torch.float64).expand(batch, 4, 2)
    moved = corners + 2 * torch.rand(batch, 4, 2, generator=g, dtype=torch.float64)
    return K.get_perspective_transform(corners, moved)


def images(batch: int, channels: int = 2, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(batch, channels, *IMAGE, generator=torch.Generator().manual_seed(9)).to(dtype)


def value_and_gradients(function, arguments: dict[str, torch.Tensor]):
    leaves = {name: value.clone().requires_grad_() for name, value in arguments.items()}
    output = function(**leaves)
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    gradients = torch.autograd.grad((weight * output).sum(), list(leaves.values()))
    return [output.detach(), *gradients]


@pytest.mark.parametrize("left_out", [(), ("sx",), ("sy",), ("sx", "sy")])
def test_affine_matrices_are_kornias(left_out):
    values = {name: value for name, value in draws(5, seed=len(left_out)).items() if name not in left_out}
    ours = value_and_gradients(G.get_affine_matrix2d, values)
    torch.testing.assert_close(ours, value_and_gradients(K.get_affine_matrix2d, values))


def test_rotation_matrices_are_kornias_and_share_batches_of_one():
    values = {name: draws(4, seed=3)[name] for name in ("center", "angle", "scale")}
    ours = value_and_gradients(G.get_rotation_matrix2d, values)
    torch.testing.assert_close(ours, value_and_gradients(K.get_rotation_matrix2d, values))
    shared = G.get_rotation_matrix2d(values["center"][:1], values["angle"], values["scale"][:1])
    repeated = K.get_rotation_matrix2d(values["center"][[0] * 4], values["angle"], values["scale"][[0] * 4])
    torch.testing.assert_close(shared, repeated)


def test_perspective_transforms_are_kornias_and_the_identity_is_exact():
    g = torch.Generator().manual_seed(4)
    source = torch.tensor([[0, 0], [30, 0], [30, 20], [0, 20]], dtype=torch.float64).expand(6, 4, 2)
    points = {"points_src": source, "points_dst": source + 5 * torch.rand(6, 4, 2, generator=g, dtype=torch.float64)}
    ours = value_and_gradients(G.get_perspective_transform, points)
    torch.testing.assert_close(ours, value_and_gradients(K.get_perspective_transform, points))
    assert torch.equal(G.get_perspective_transform(source, source), torch.eye(3, dtype=torch.float64).expand(6, 3, 3))


def test_narrow_matrices_are_as_exact_as_kornias():
    wide, narrow = draws(16, seed=8), draws(16, seed=8, dtype=torch.float32)
    exact = K.get_affine_matrix2d(**{name: value.double() for name, value in narrow.items()})
    ours = G.get_affine_matrix2d(**narrow)
    assert ours.dtype == torch.float32
    assert_as_exact(ours, K.get_affine_matrix2d(**narrow), exact)
    assert G.get_affine_matrix2d(**wide).dtype == torch.float64


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection", "fill"])
@pytest.mark.parametrize("dsize", [IMAGE, (5, 13), (1, 1)])
@pytest.mark.parametrize("name", ["warp_affine", "warp_perspective"])
def test_warps_are_kornias_in_value_and_gradient(name, dsize, padding_mode, align_corners):
    matrices = affine_matrices(3, seed=1) if name == "warp_affine" else projective_matrices(3, seed=1)
    options = {"padding_mode": padding_mode, "align_corners": align_corners}
    if padding_mode == "fill":
        options["fill_value"] = torch.tensor([0.3, -2.0], dtype=torch.float64)
    arguments = {"src": images(3), "matrix": matrices}
    for mode in ("bilinear", "nearest"):
        ours, theirs = (
            value_and_gradients(
                lambda src, matrix, module=module, mode=mode: getattr(module, name)(
                    src, matrix, dsize, mode=mode, **options
                ),
                arguments,
            )
            for module in (G, K.transform)
        )
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["warp_affine", "warp_perspective"])
def test_narrow_warps_are_as_exact_as_kornias(name):
    matrices = (affine_matrices(4, seed=5) if name == "warp_affine" else projective_matrices(4, seed=5)).float()
    src = images(4, 3, torch.float32)
    exact = value_and_gradients(
        lambda src, matrix: getattr(K, name)(src, matrix, (9, 10)), {"src": src.double(), "matrix": matrices.double()}
    )
    ours, theirs = (
        value_and_gradients(
            lambda src, matrix, m=module: getattr(m, name)(src, matrix, (9, 10)), {"src": src, "matrix": matrices}
        )
        for module in (G, K)
    )
    for result, peer, truth in zip(ours, theirs, exact, strict=True):
        assert_as_exact(result, peer, truth)


@pytest.mark.parametrize("name", ["warp_affine", "warp_perspective"])
def test_one_matrix_serves_a_batch_and_one_image_many_matrices(name):
    matrices = affine_matrices(3) if name == "warp_affine" else projective_matrices(3)
    warp, src = getattr(G, name), images(3)
    shared = value_and_gradients(lambda src, matrix: warp(src, matrix, IMAGE), {"src": src, "matrix": matrices[:1]})
    copied = value_and_gradients(
        lambda src, matrix: warp(src, matrix.expand(3, -1, -1), IMAGE), {"src": src, "matrix": matrices[:1]}
    )
    torch.testing.assert_close(shared, copied)
    torch.testing.assert_close(warp(src[:1], matrices, IMAGE), warp(src[:1].expand(3, -1, -1, -1), matrices, IMAGE))


def test_a_matrix_says_where_pixels_go():
    src = torch.zeros(1, 1, 6, 7)
    src[0, 0, 2, 1] = 1
    moved = G.warp_affine(src, torch.tensor([[[1.0, 0, 3], [0, 1, 2]]]), (6, 7), mode="nearest")
    assert moved[0, 0].nonzero().tolist() == [[4, 4]]
    larger = G.warp_affine(src, torch.tensor([[[2.0, 0, 0], [0, 2, 0]]]), (12, 14))
    assert larger[0, 0].argmax().item() == 4 * 14 + 2
    counter_clockwise = G.get_rotation_matrix2d(torch.tensor([[3.0, 2]]), torch.tensor([90.0]), torch.ones(1, 2))
    turned = G.warp_affine(src, counter_clockwise, (6, 7), mode="nearest")
    assert turned[0, 0].nonzero().tolist() == [[4, 3]]  # from left of (3, 2) to below it


def test_the_direction_is_opencvs():
    cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")
    src = images(1, 1, torch.float32)
    matrix = cv2.getRotationMatrix2D((4.0, 3.0), 90.0, 1.0)
    ours = G.get_rotation_matrix2d(torch.tensor([[4.0, 3.0]]), torch.tensor([90.0]), torch.ones(1, 2))
    torch.testing.assert_close(ours[0].double(), torch.from_numpy(matrix), atol=1e-6, rtol=0)
    theirs = cv2.warpAffine(src[0, 0].numpy(), matrix, (9, 10))
    torch.testing.assert_close(G.warp_affine(src, ours, (10, 9))[0, 0], torch.from_numpy(theirs), atol=1e-4, rtol=0)
    shift = torch.tensor([[[1.0, 0, 2], [0, 1, -1]]])
    theirs = cv2.warpAffine(src[0, 0].numpy(), shift[0].numpy(), IMAGE[::-1])
    torch.testing.assert_close(G.warp_affine(src, shift, IMAGE)[0, 0], torch.from_numpy(theirs))
    map_x, map_y = torch.rand(5, 6) * 12 - 1, torch.rand(5, 6) * 9 - 1
    theirs = cv2.remap(src[0, 0].numpy(), map_x.numpy(), map_y.numpy(), cv2.INTER_NEAREST)
    ours = G.remap(src, map_x[None], map_y[None], mode="nearest")[0, 0]
    assert (ours != torch.from_numpy(theirs)).sum() <= 1  # OpenCV rounds to 1/32 pixel first


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sizes", [((8, 11), (8, 11)), ((5, 300), (40, 7)), ((1, 4), (6, 1))])
def test_conversions_undo_each_other_and_are_kornias(sizes, align_corners):
    in_size, out_size = sizes
    options = {"in_size": in_size, "out_size": out_size, "align_corners": align_corners}
    affine, projective = affine_matrices(4, seed=2), projective_matrices(4, seed=2)
    theta = G.theta_from_matrix(affine, **options)
    homography = G.homography_from_matrix(projective, **options)
    torch.testing.assert_close(G.matrix_from_theta(theta, **options), affine)
    back = G.matrix_from_homography(homography, **options)
    torch.testing.assert_close(back, projective)
    forward = K.conversions.normalize_homography(projective, in_size, out_size, align_corners=align_corners)
    torch.testing.assert_close(homography @ forward, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
    square = torch.cat([affine, torch.tensor([[[0, 0, 1.0]]], dtype=torch.float64).expand(4, 1, 3)], 1)
    assert torch.equal(G.homography_from_matrix(square, **options)[:, :2], theta)


def test_the_identity_stays_the_identity_to_the_last_bit():
    for size in ((7, 13), (224, 225), (1, 4097)):
        for align_corners in (True, False):
            eye = torch.eye(3)[None]
            assert torch.equal(G.homography_from_matrix(eye, size, size, align_corners=align_corners), eye)
            assert torch.equal(G.theta_from_matrix(eye[:, :2], size, size, align_corners=align_corners), eye[:, :2])


def test_multiples_of_a_matrix_are_the_same_map():
    matrices, src = projective_matrices(2), images(2)
    expected = G.warp_perspective(src, matrices, IMAGE)
    for factor in (-1.0, 1e-20, 1e20):
        torch.testing.assert_close(G.warp_perspective(src, factor * matrices, IMAGE), expected)


def test_conversions_have_exact_gradients():
    sizes = {"in_size": (5, 9), "out_size": (6, 4)}
    affine = affine_matrices(2, seed=6).requires_grad_()
    projective = projective_matrices(2, seed=6).requires_grad_()
    for convert, matrix in (
        (G.theta_from_matrix, affine),
        (G.matrix_from_theta, affine),
        (G.homography_from_matrix, projective),
        (G.matrix_from_homography, projective),
    ):
        assert torch.autograd.gradcheck(lambda m, convert=convert: convert(m, **sizes), (matrix,))
        assert torch.autograd.gradgradcheck(lambda m, convert=convert: convert(m, **sizes), (matrix,))


@pytest.mark.parametrize("align_corners", [True, False])
def test_flows_and_points_in_pixels(align_corners):
    size = (5, 9)
    half = torch.tensor([4.0, 2.0]) if align_corners else torch.tensor([4.5, 2.5])
    flow = torch.randn(2, 2, 3, 4)
    norm = G.flow_from_pixels(flow, size, align_corners=align_corners)
    torch.testing.assert_close(norm, flow / half[:, None, None])
    torch.testing.assert_close(G.pixels_from_flow(norm, size, align_corners=align_corners), flow)
    points = torch.tensor([[[0.0, 0.0], [8.0, 4.0], [4.0, 2.0]]])
    norm = G.points_from_pixels(points, size, align_corners=align_corners)
    edge = 1.0 if align_corners else torch.tensor([8 / 9, 4 / 5])
    torch.testing.assert_close(norm, torch.stack([-edge * torch.ones(2), edge * torch.ones(2), torch.zeros(2)])[None])
    torch.testing.assert_close(G.pixels_from_points(norm, size, align_corners=align_corners), points)


def test_a_flow_in_pixels_reads_that_much_further_right():
    src = images(1, 1)
    flow = torch.zeros(1, 2, *IMAGE, dtype=torch.float64)
    flow[:, 0], flow[:, 1] = 2, 1
    for align_corners in (True, False):
        norm = G.flow_from_pixels(flow, IMAGE, align_corners=align_corners)
        moved = hardfast.flow_warp(src, norm, align_corners=align_corners)
        torch.testing.assert_close(moved[..., :-1, :-2], src[..., 1:, 2:])
        assert moved[..., -1, :].abs().max() < 1e-12


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
def test_remap_is_kornias_and_grid_samples(padding_mode):
    g = torch.Generator().manual_seed(1)
    arguments = {
        "image": images(3),
        "map_x": torch.rand(3, 6, 7, generator=g, dtype=torch.float64) * 14 - 2,
        "map_y": torch.rand(3, 6, 7, generator=g, dtype=torch.float64) * 11 - 2,
    }
    ours, theirs = (
        value_and_gradients(
            lambda m=module, **kw: m.remap(**kw, padding_mode=padding_mode, align_corners=True), arguments
        )
        for module in (G, K.transform)
    )
    torch.testing.assert_close(ours, theirs)
    grid_x, grid_y = arguments["map_x"] / 6 - 1, arguments["map_y"] / 5 - 1
    for align_corners in (True, False):
        options = {"padding_mode": padding_mode, "align_corners": align_corners}
        expected = F.grid_sample(arguments["image"], torch.stack([grid_x, grid_y], -1), **options)
        result = G.remap(arguments["image"], grid_x, grid_y, normalized_coordinates=True, **options)
        torch.testing.assert_close(result, expected)
    unaligned = {"padding_mode": "zeros", "align_corners": False}
    expected = G.remap(**arguments)
    torch.testing.assert_close(G.remap(**arguments, **unaligned), expected)


@pytest.mark.parametrize("fill", [0.5, [0.5, 0.5], torch.tensor([0.5]), torch.full((3, 2, 1, 1), 0.5)])
def test_fills_of_every_shape(fill):
    src, matrices = images(3, dtype=torch.float32), affine_matrices(3).float()
    result = G.warp_affine(src, matrices, (20, 20), padding_mode="fill", fill_value=fill)
    expected = K.warp_affine(src, matrices, (20, 20), padding_mode="fill", fill_value=torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(result, expected)
    unused = G.warp_affine(src, matrices, (20, 20), fill_value=fill)
    torch.testing.assert_close(unused, K.warp_affine(src, matrices, (20, 20)))


def test_compiles_to_one_graph():
    src, matrices = images(2, dtype=torch.float32), projective_matrices(2).float()

    def warps(src, matrices):
        return G.warp_perspective(src, matrices, IMAGE) + G.warp_affine(src, matrices[:, :2], IMAGE)

    compiled = torch.compile(warps, fullgraph=True, backend="aot_eager")
    ours, expected = (value_and_gradients(f, {"src": src, "matrices": matrices}) for f in (compiled, warps))
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_images_keep_full_positions(dtype):
    src, matrices = images(2).to(dtype), affine_matrices(2, seed=7)
    result = G.warp_affine(src, matrices.float(), (40, 41))
    assert result.dtype == dtype
    exact = K.warp_affine(src.double(), matrices.float().double(), (40, 41))
    assert (result.double() - exact).abs().max() <= torch.finfo(dtype).eps


def test_nothing_waits_for_or_names_a_device():
    src, matrices = images(2).float().to("meta"), torch.empty(2, 3, 3, device="meta")
    assert G.warp_perspective(src, matrices, (4, 5)).shape == (2, 2, 4, 5)
    assert G.warp_affine(src, matrices[:, :2], (4, 5)).device.type == "meta"
    assert G.get_affine_matrix2d(**{name: value.to("meta") for name, value in draws(2).items()}).shape == (2, 3, 3)
    assert G.remap(src, matrices, matrices).shape == (2, 2, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: G.warp_affine(images(1), torch.eye(3)[None], IMAGE),
            ValueError,
            r"M must have shape \[B or 1, 2, 3\]",
        ),
        (lambda: G.warp_perspective(images(1), torch.eye(3), IMAGE), ValueError, r"M must have shape \[B or 1, 3, 3\]"),
        (lambda: G.warp_affine(images(1), torch.ones(1, 2, 3).long(), IMAGE), TypeError, "M must be float32"),
        (lambda: G.warp_affine(images(1), torch.ones(1, 2, 3), 5), ValueError, "dsize must be"),
        (lambda: G.warp_affine(images(1), torch.zeros(1, 2, 3), IMAGE), ValueError, "the inverse of M must be finite"),
        (lambda: G.warp_perspective(images(1), torch.zeros(1, 3, 3), IMAGE), ValueError, "the inverse of M must be"),
        (lambda: G.warp_perspective(images(1), torch.ones(1, 3, 3), (5, 0)), ValueError, "dsize must be"),
        (lambda: G.get_perspective_transform(torch.rand(1, 4, 2), torch.rand(1, 3, 2)), ValueError, "points_dst"),
        (
            lambda: G.get_rotation_matrix2d(torch.rand(1, 2), 30.0, torch.rand(1, 2)),
            TypeError,
            "angle must be a tensor",
        ),
        (lambda: G.theta_from_matrix(torch.rand(1, 3, 3), IMAGE, IMAGE), ValueError, "matrix must have shape"),
        (lambda: G.flow_from_pixels(torch.rand(1, 3, 4, 4), IMAGE), ValueError, "flow must have shape"),
        (lambda: G.points_from_pixels(torch.rand(4, 2), IMAGE), ValueError, "points must have shape"),
        (lambda: G.remap(images(1), torch.rand(1, 3, 4), torch.rand(1, 3, 5)), ValueError, "map_x and map_y"),
    ],
)
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
