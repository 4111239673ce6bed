"""``flow_warp`` in Triton: arguments as ``hardfast::flow_warp`` and its backward have them."""

from __future__ import annotations

from torch import Tensor

from hardfast._triton._warp_backward import launch_backward
from hardfast._triton._warp_launch import Warp, launch_warp


def forward(
    image: Tensor,
    flow: Tensor,
    fill: Tensor | None,
    color: Tensor | None,
    size: list[int],
    samples: list[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
    interpolation: str,
) -> Tensor:
    options = (tuple(size), tuple(samples), mode, padding_mode, align_corners, interpolation)
    return launch_warp(Warp("flow", image, (flow,), fill, color, *options))


def backward(
    grad: Tensor,
    image: Tensor,
    flow: Tensor,
    fill: Tensor | None,
    color: Tensor | None,
    samples: list[int],
    mode: str,
    padding_mode: str,
    align_corners: bool,
    interpolation: str,
    output_mask: list[bool],
) -> tuple[Tensor, ...]:
    options = (tuple(grad.shape[2:]), tuple(samples), mode, padding_mode, align_corners, interpolation)
    return launch_backward(Warp("flow", image, (flow,), fill, color, *options), grad, output_mask)
