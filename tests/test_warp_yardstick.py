"""Whether the warps are at least half as exact as PyTorch's own ops, in every dtype, mode and memory format."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from warp_cases import AFFINE, FLOW, MODES, PROJECTIVE, THIN_PLATE, TORCH_PADDINGS, WarpCase, gradients, random_image

from hardfast.testing import assert_as_exact

# What PyTorch computes itself: B-splines it has none of.
with_peer = pytest.mark.parametrize(
    "case", [AFFINE, PROJECTIVE, FLOW, THIN_PLATE], ids=["affine", "projective", "flow", "thin_plate"]
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("padding_mode", TORCH_PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@with_peer
def test_at_most_twice_the_error_of_torch(case: WarpCase, mode, padding_mode, dtype):
    size, narrow = (21, 33), case.parameters(2, dtype, seed=1)
    for channels, align_corners, channels_last in itertools.product((1, 3, 6), (False, True), (False, True)):
        image = random_image((2, channels, 29, 37), dtype, seed=channels)
        if channels_last:
            image = image.contiguous(memory_format=torch.channels_last)
        rules = (mode, padding_mode, align_corners)
        keywords = dict(zip(("mode", "padding_mode", "align_corners"), rules, strict=True))

        def ours(image: Tensor, *maps: Tensor, keywords: dict[str, object] = keywords) -> Tensor:
            return case.op(image, *maps, size, **keywords)

        def theirs(image: Tensor, *maps: Tensor, rules: tuple[object, ...] = rules) -> Tensor:
            return case.torch_warp(image, maps, size, *rules)

        output, peer = ours(image, *narrow), theirs(image, *narrow)
        exact = theirs(image.double(), *(m.double() for m in narrow))
        assert output.dtype == dtype
        if mode == "nearest":  # a rounding of the position chooses between pixels: no error to compare
            continue
        assert_as_exact(output, peer, exact)
        grad = random_image(output.shape, dtype, seed=5)
        results = gradients(ours, (image, *narrow), grad)
        peers = gradients(theirs, (image, *narrow), grad)
        references = gradients(theirs, (image.double(), *(m.double() for m in narrow)), grad.double())
        assert results[0].is_contiguous(memory_format=torch.channels_last) == (channels_last or channels == 1)
        for mine, other, reference in zip(results, peers, references, strict=True):
            assert_as_exact(mine, other, reference)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding_mode", TORCH_PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@with_peer
def test_equals_torch_in_float64(case: WarpCase, mode, padding_mode, align_corners):
    # [C, H, W] and (H_out, W_out): odd, prime, single pixels, one row, several channel blocks, several tiles.
    shapes = [
        ((3, 17, 23), (17, 23)),
        ((1, 28, 28), (28, 28)),
        ((1, 13, 7), (5, 31)),
        ((2, 1, 1), (3, 3)),
        ((4, 1, 19), (2, 11)),
        ((5, 31, 2), (31, 2)),
        ((9, 12, 12), (1, 5)),
        ((3, 90, 140), (110, 70)),
    ]
    for seed, (shape, size) in enumerate(shapes):
        image, maps = random_image((2, *shape), seed=seed), case.parameters(2, seed=seed)

        def ours(image: Tensor, *maps: Tensor, size: tuple[int, int] = size) -> Tensor:
            return case.op(image, *maps, size, mode=mode, padding_mode=padding_mode, align_corners=align_corners)

        def theirs(image: Tensor, *maps: Tensor, size: tuple[int, int] = size) -> Tensor:
            return case.torch_warp(image, maps, size, mode, padding_mode, align_corners)

        expected = theirs(image, *maps)
        torch.testing.assert_close(ours(image, *maps), expected, rtol=0, atol=1e-10, msg=f"{shape} {size}")
        grad = torch.randn_like(expected)
        actual_grads, expected_grads = (gradients(f, (image, *maps), grad) for f in (ours, theirs))
        for mine, other in zip(actual_grads, expected_grads, strict=True):
            scale = max(1.0, other.abs().max().item())
            torch.testing.assert_close(mine, other, rtol=0, atol=1e-9 * scale, msg=f"{shape} {size}")


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@with_peer
def test_large_images_lose_no_precision(case: WarpCase, mode):
    # Between neighbours that differ by ones, a float32 position would be wrong by a thousandth.
    image = random_image((1, 1, 8, 16000), torch.float32)
    maps, forward = case.raw_parameters(1, torch.float32, seed=2), case.raw[0]
    if case.name in ("flow_warp", "thin_plate_warp"):
        # Displacements are float32 numbers: here, of a few pixels.
        maps[-1][:, : -3 if case is THIN_PLATE else None] *= 1e-3
    rules = ([8, 500], [1, 1], mode, "border", False, *(["bilinear"] if case.name == "flow_warp" else []))
    exact = forward(image.double(), *(m.double() for m in maps), None, None, *rules)
    error = (forward(image, *maps, None, None, *rules).double() - exact).abs().max()
    assert error < 5e-6


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("case", [AFFINE, PROJECTIVE, FLOW], ids=["affine", "projective", "flow"])
def test_pixels_far_into_an_image_keep_their_digits(case: WarpCase, mode):
    """As above for output pixels that lie a pixel or so apart in the image: GPUs count from the first of 32."""
    image = random_image((1, 1, 8, 16000), torch.float32)
    if case is FLOW:
        size, maps = (8, 16000), 1e-3 * random_image((1, 2, 2, 50), torch.float32)
    else:
        size, crop = (8, 500), torch.tensor([[[0.031, 0.001, 0.7], [0.01, 1.0, 0.05], [0.001, 0.002, 1.0]]])
        maps = crop[:, : 2 if case is AFFINE else 3]
    exact = case.op(image.double(), maps.double(), size, mode=mode)
    error = (case.op(image, maps, size, mode=mode).double() - exact).abs().max()
    assert error < 2e-5
