"""Launches every CUDA kernel of the warps on small inputs: ``make sanitize-gpu`` runs it under compute-sanitizer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hardfast import ops  # noqa: F401  (defines torch.ops.hardfast)

Call = tuple[str, list[Tensor], list[str]]  # the op, its map parameters, its own options


def maps(device: str) -> Iterator[Call]:
    def spread(*shape: int) -> Tensor:
        return torch.linspace(-0.1, 0.1, torch.Size(shape).numel(), device=device).view(shape)

    yield "affine_warp", [torch.eye(2, 3, device=device) + spread(2, 2, 3)], []
    yield "projective_warp", [torch.eye(3, device=device) + spread(1, 3, 3)], []
    # A thread, a warp and a block for each control point.
    yield "flow_warp", [spread(2, 2, 37, 41)], ["bilinear"]
    yield "flow_warp", [spread(1, 2, 48, 50)], ["bilinear"]
    yield "flow_warp", [spread(2, 2, 3, 4)], ["cubic_bspline"]
    linear = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], device=device)[None]
    yield "thin_plate_warp", [spread(1, 9, 2) * 8, torch.cat([spread(1, 9, 2), linear], 1)], []


def warps(device: str) -> Iterator[tuple[str, list[Tensor], list[int], list[Any]]]:
    """Every map, dtype and mode; one image for all, and one each."""
    for name, parameters, options in maps(device):
        of_warps = bool(options) and parameters[0].shape[2] == 48
        size = [250, 240] if of_warps else [37, 41]
        for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8):
            compute = torch.float64 if dtype == torch.float64 else torch.float32
            for mode, image_count in (("bilinear", 2), ("bicubic", 1)):
                image = torch.arange(image_count * 3 * 33 * 70, device=device).remainder(199)
                tensors = [
                    image.view(image_count, 3, 33, 70).to(dtype),
                    *(p.to(compute) for p in parameters),
                    torch.zeros(1, 3, device=device, dtype=compute),
                    torch.zeros(2, 3, 4, device=device, dtype=compute),
                ]
                yield name, tensors, size, [[1, 2], mode, "fill", False, *options]


def plain_warps(device: str) -> Iterator[tuple[str, list[Tensor | None], list[int], list[Any]]]:
    """What the fast kernels are for: every map, dtype and layout of channels; also a flow with a point a pixel."""
    dense = torch.linspace(-0.3, 0.3, 2 * 37 * 41, device=device).view(1, 2, 37, 41)
    for name, parameters, options in (*maps(device), ("flow_warp", [dense], ["bilinear"])):
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.uint8):
            for channels in (1, 3, 4):
                for layout in (torch.contiguous_format, torch.channels_last):
                    image = torch.arange(channels * 33 * 70, device=device).remainder(199)
                    image = image.view(1, channels, 33, 70).to(dtype).contiguous(memory_format=layout)
                    rules = [[1, 1], "bilinear", "zeros", True, *options]
                    yield name, [image, *parameters, None, None], [37, 41], rules


def run(name: str, tensors: list[Tensor | None], size: list[int], rules: list[Any]) -> None:
    """The warp and all its gradients."""
    output = getattr(torch.ops.hardfast, name)(*tensors, size, *rules)
    if output.dtype != torch.uint8:
        backward = getattr(torch.ops.hardfast, f"_{name}_backward")
        backward(torch.ones_like(output), *tensors, *rules, [True] * len(tensors))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("a GPU is required, and torch.cuda.is_available() is false")
    for warp in (*warps(device), *plain_warps(device)):
        run(*warp)
    if device == "cuda":
        torch.cuda.synchronize()
