"""The compiled warps under parameters that nobody would choose: no crash, no hang, no read beyond a tensor.

``HARDFAST_FUZZ`` is the number of cases; ``make test-asan`` runs many of them under AddressSanitizer and UBSan.
"""

from __future__ import annotations

import faulthandler
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from hardfast import reference
from hardfast.ops import _library
from hardfast.reference.thin_plate_warp import warp_by_weights

CASES = int(os.environ.get("HARDFAST_FUZZ", "500"))
BATCHES = 20  # tests, so that a failure names a twentieth of the cases
SECONDS = 60.0  # for one case, far above what the slowest takes under a sanitizer
WARPS = ("affine_warp", "projective_warp", "flow_warp", "thin_plate_warp")
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8)
SIDES = (1, 2, 3, 5, 8, 13, 16, 33)
EXTREMES = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    1e-30,
    1e6,
    -1e9,
    1e18,
    1e30,
    -1e30,
    3e38,
    float("inf"),
    -float("inf"),
    float("nan"),
)

pytestmark = pytest.mark.skipif(_library.load_errors["_ops_cpu"] is not None, reason="needs the compiled CPU library")


@dataclass
class Case:
    """Arguments of one op, as the op takes them."""

    name: str
    image: Tensor
    parameters: list[Tensor]
    fill: Tensor | None
    color: Tensor | None
    size: list[int]
    samples: list[int]
    mode: str
    padding_mode: str
    align_corners: bool
    tame: bool
    options: list[str] = field(default_factory=list)

    def tensors(self) -> list[Tensor | None]:
        return [self.image, *self.parameters, self.fill, self.color]

    def rules(self) -> list[Any]:
        return [self.samples, self.mode, self.padding_mode, self.align_corners, *self.options]


def random_case(seed: int) -> Case:
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    dtype = rng.choice(DTYPES)
    compute_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    batch, channels = rng.choice([1, 2, 3]), rng.choice([1, 2, 3, 4, 5, 9])
    size = [rng.choice(SIDES), rng.choice(SIDES)]
    tame = rng.random() < 0.3

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(compute_dtype)

    def any_batch() -> int:
        return rng.choice([1, batch])

    def disturbed(tensor: Tensor) -> Tensor:
        """A copy with some values replaced by extreme ones, or nearly all, or the whole scaled."""
        tensor = tensor.clone()
        if tame:
            return tensor
        if rng.random() < 0.3:
            tensor = tensor * rng.choice([0.0, 1e-20, 50.0, 1e5, 1e20])
        flat = tensor.view(-1)
        for _ in range(rng.choice([0, 1, 2, flat.numel()])):
            flat[rng.randrange(flat.numel())] = rng.choice(EXTREMES)
        return tensor

    name = rng.choice(WARPS)
    options: list[str] = []
    if name == "affine_warp":
        parameters = [disturbed(torch.eye(2, 3) + 0.5 * randn(any_batch(), 2, 3))]
    elif name == "projective_warp":
        spread = torch.tensor([[0.3, 0.3, 0.3], [0.3, 0.3, 0.3], [0.1, 0.1, 0.1]])
        parameters = [disturbed(torch.eye(3) + (spread * randn(any_batch(), 3, 3)).clamp(-0.4, 0.4))]
    elif name == "flow_warp":
        grid = rng.choice([size, [1, 1], [2, 3], [rng.choice(SIDES), rng.choice(SIDES)]])
        parameters = [disturbed(0.3 * randn(any_batch(), 2, *grid))]
        options = [rng.choice(["bilinear", "cubic_bspline"])]
    else:
        count, maps = rng.choice([0, 1, 3, 7]), any_batch()
        points = 0.5 * randn(maps, count, 2)
        if count > 1 and rng.random() < 0.3:
            points[:, 1] = points[:, 0]
        linear = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=compute_dtype).expand(maps, 3, 2)
        weights = torch.cat([0.1 * randn(maps, count, 2), linear + 0.1 * randn(maps, 3, 2)], 1)
        parameters = [disturbed(points) if count else points, disturbed(weights)]
    parameters = [p.to(compute_dtype) for p in parameters]

    shape = (any_batch(), channels, rng.choice(SIDES), rng.choice(SIDES))
    image = torch.rand(shape, generator=generator)
    image = (255 * image).to(dtype) if dtype == torch.uint8 else image.to(dtype)
    layout = rng.choice(["contiguous", "channels_last", "stepped", "transposed"])
    if layout == "channels_last":
        image = image.contiguous(memory_format=torch.channels_last)
    elif layout == "stepped":
        image = image.repeat_interleave(2, 3)[:, :, :, ::2]
    elif layout == "transposed":
        image = image.transpose(2, 3).contiguous().transpose(2, 3)
    padding_mode = rng.choice(["zeros", "border", "reflection", "fill"])
    return Case(
        name,
        image,
        parameters,
        randn(any_batch(), channels) if padding_mode == "fill" and rng.random() < 0.8 else None,
        randn(any_batch(), channels, channels + 1) if channels <= 4 and rng.random() < 0.3 else None,
        size,
        rng.choice([[1, 1], [1, 1], [1, 1], [2, 3], [1, 4], [5, 1]]),
        rng.choice(["bilinear", "nearest", "bicubic"]),
        padding_mode,
        rng.random() < 0.5,
        tame,
        options,
    )


def exact(case: Case, image: Tensor, parameters: list[Tensor], fill: Tensor | None, color: Tensor | None) -> Tensor:
    warp: Any = warp_by_weights if case.name == "thin_plate_warp" else getattr(reference, case.name)
    options = {"interpolation": case.options[0]} if case.options else {}
    return warp(
        image,
        *parameters,
        case.size,
        mode=case.mode,
        padding_mode=case.padding_mode,
        align_corners=case.align_corners,
        fill=fill,
        color=color,
        antialias=case.samples,
        **options,
    )


@pytest.fixture(autouse=True)
def _bounded_time() -> Iterator[None]:
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("part", range(BATCHES))
def test_extreme_parameters(part: int) -> None:
    for seed in range(part, CASES, BATCHES):
        case = random_case(seed)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            check(case)
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"case {seed}: {case}") from error


def check(case: Case) -> None:
    tensors = case.tensors()
    output = getattr(torch.ops.hardfast, case.name)(*tensors, case.size, *case.rules())
    batch = max(t.shape[0] for t in tensors if t is not None)
    assert output.shape == (batch, case.image.shape[1], *case.size)
    assert output.dtype == case.image.dtype
    assert torch.isfinite(output).all()  # wherever the map leads, an output pixel is made of finite values
    if case.image.dtype == torch.uint8:
        return
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output)
    mask = [t is not None for t in tensors]
    backward = getattr(torch.ops.hardfast, f"_{case.name}_backward")
    grads = backward(grad, *tensors, *case.rules(), mask)
    for tensor, gradient in zip(tensors, grads, strict=True):
        assert gradient.shape == (torch.Size([0]) if tensor is None else tensor.shape)
    of_image, *_, of_fill, of_color = grads
    for gradient in (of_image, of_fill, of_color):
        assert torch.isfinite(gradient).all()
    if case.tame and case.image.dtype == torch.float64:
        compare(case, output, grad, grads)


def compare(case: Case, output: Tensor, grad: Tensor, grads: tuple[Tensor, ...]) -> None:
    inputs = [t if t is None else t.detach().clone().requires_grad_() for t in case.tensors()]
    image, *parameters, fill, color = inputs
    expected = exact(case, image, parameters, fill, color)
    torch.testing.assert_close(output, expected.detach(), rtol=1e-9, atol=1e-9)
    wanted = [t for t in inputs if t is not None]
    references = torch.autograd.grad(expected, wanted, grad, allow_unused=True)
    mine = [g for g, t in zip(grads, inputs, strict=True) if t is not None]
    for ours, theirs in zip(mine, references, strict=True):
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        scale = 1 + theirs.abs().max().item() if theirs.numel() else 1
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8 * scale)
