"""The warps at the sizes of training batches, beside everything that gives the same pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from hardfast.ops import affine_warp, flow_warp, projective_warp, thin_plate_warp

from . import roofline, warp_peers
from .case import OURS, PASSES, Case, Floors, Implementation, Inputs, differentiated, eager_and_compiled

Shape = tuple[int, int, int, int]

POINTS = 16
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
RULES = {
    "nearest": {"mode": "nearest"},
    "bicubic": {"mode": "bicubic"},
    "border": {"padding_mode": "border"},
    "reflection": {"padding_mode": "reflection"},
}
MAIN: Shape = (16, 3, 224, 224)
SMALL: Shape = (256, 1, 28, 28)
GPU_MAIN: Shape = (256, 3, 224, 224)
SIDES = (32, 64, 128, 448)  # of the plot of speed against size, beside those that are measured anyway


@dataclass(frozen=True)
class Peer:
    """Somebody else's warp: of the same inputs, or of what ``convert`` makes of them."""

    function: Callable[..., Any]
    convert: Callable[[Inputs], Inputs] = tuple
    passes: Sequence[str] = tuple(PASSES)
    device: str | None = None
    compiled: bool = False
    float32_only: bool = False


@dataclass(frozen=True)
class Map:
    """An op, how its parameters are made and who else has it.

    Args:
        parameters: from a shape to float32 tensors.
        position: operations for a position, as :func:`bench.roofline.positions` counts them.
        mode: of interpolation.
    """

    op: str
    label: str
    ours: Callable[..., Tensor]
    parameters: Callable[[Shape], tuple[Tensor, ...]]
    position: int
    peers: dict[str, Peer]
    mode: str = "bilinear"


def _noise(shape: Shape, *rest: int) -> Tensor:
    return torch.randn(shape[0], *rest, generator=torch.Generator().manual_seed(0))


def _theta(shape: Shape) -> tuple[Tensor, ...]:
    return (warp_peers.affine_parameters(shape[0], (shape[2], shape[3])).theta((shape[2], shape[3])),)


def _homography(shape: Shape) -> tuple[Tensor, ...]:
    spread = torch.tensor([[0.1, 0.1, 0.1], [0.1, 0.1, 0.1], [0.03, 0.03, 0.03]])
    return (torch.eye(3) + spread * _noise(shape, 3, 3),)


def _coarse_flow(shape: Shape) -> tuple[Tensor, ...]:
    return (0.05 * _noise(shape, 2, 8, 8),)


def _dense_flow(shape: Shape) -> tuple[Tensor, ...]:
    return (0.02 * _noise(shape, 2, shape[2], shape[3]),)


def _points(shape: Shape) -> tuple[Tensor, ...]:
    side = torch.linspace(-0.8, 0.8, int(POINTS**0.5))
    points = torch.cartesian_prod(side, side).expand(shape[0], -1, -1)
    return points + 0.05 * _noise(shape, POINTS, 2), points.contiguous()


def _torch_peer(function: Callable[..., Tensor], convert: Callable[[Inputs], Inputs] = tuple) -> Peer:
    return Peer(function, convert, compiled=True)


def _opencv_peer(function: Callable[..., Any], convert: Callable[[Inputs], Inputs]) -> Peer:
    return Peer(function, convert, ("forward",), "cpu", float32_only=True)


AFFINE = Map(
    "affine_warp",
    "",
    affine_warp,
    _theta,
    roofline.positions("affine_warp"),
    {
        "eager": _torch_peer(warp_peers.eager_affine),
        "kornia": _torch_peer(warp_peers.kornia_affine, warp_peers.pixel_matrices),
        "torchvision": Peer(
            warp_peers.torchvision_affine, warp_peers.torchvision_affine_inputs, ("forward",), float32_only=True
        ),
        "OpenCV": _opencv_peer(warp_peers.opencv_warp("warpAffine"), warp_peers.opencv_matrix_inputs),
        "triton-augment": Peer(
            warp_peers.triton_augment_affine, warp_peers.triton_augment_inputs, ("forward",), "cuda", float32_only=True
        ),
    },
)
DENSE_FLOW = Map(
    "flow_warp",
    " dense flow",
    flow_warp,
    _dense_flow,
    roofline.positions("flow_warp"),
    {
        "eager": _torch_peer(warp_peers.eager_flow),
        "kornia": _torch_peer(warp_peers.kornia_flow),
        "torchvision": Peer(warp_peers.torchvision_flow),
        "OpenCV": _opencv_peer(warp_peers.opencv_flow, warp_peers.opencv_flow_inputs),
    },
)
OTHERS = (
    Map(
        "projective_warp",
        "",
        projective_warp,
        _homography,
        roofline.positions("projective_warp"),
        {
            "eager": _torch_peer(warp_peers.eager_projective),
            "kornia": _torch_peer(warp_peers.kornia_projective, warp_peers.pixel_matrices),
            "torchvision": Peer(
                warp_peers.torchvision_projective, warp_peers.torchvision_projective_inputs, ("forward",)
            ),
            "OpenCV": _opencv_peer(warp_peers.opencv_warp("warpPerspective"), warp_peers.opencv_matrix_inputs),
        },
    ),
    Map(
        "flow_warp",
        " flow 8x8",
        flow_warp,
        _coarse_flow,
        roofline.positions("flow_warp", coarse=True),
        {
            "eager": _torch_peer(warp_peers.eager_flow),
            "kornia": _torch_peer(warp_peers.kornia_flow),
            "OpenCV": _opencv_peer(warp_peers.opencv_flow, warp_peers.opencv_flow_inputs),
        },
    ),
    DENSE_FLOW,
    Map(
        "thin_plate_warp",
        f" {POINTS} points",
        thin_plate_warp,
        _points,
        roofline.positions("thin_plate_warp", POINTS),
        {
            "eager": _torch_peer(warp_peers.eager_thin_plate),
            "kornia": _torch_peer(warp_peers.kornia_thin_plate),
        },
    ),
)


def warp_case(
    kind: Map,
    shape: Shape,
    pass_name: str,
    *,
    dtype: str = "float32",
    memory_format: str = "contiguous",
    device: str = "cpu",
    floors: Floors | None = None,
    quick: bool = False,
    compiled: bool = True,
) -> Case:
    """A warp at one size; ``compiled=False`` leaves all compiled peers out."""
    of_image, of_map = PASSES[pass_name]
    differentiable = (of_image, of_map)
    pixel = getattr(torch, dtype)
    parameters = partial(kind.parameters, shape)

    def inputs() -> Inputs:
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        image = image.to(device, pixel, memory_format=MEMORY_FORMATS[memory_format])
        return image, *(x.to(device, pixel) for x in parameters())

    implementations: dict[str, Implementation] = {OURS: differentiated(kind.ours, differentiable)}
    for name, peer in kind.peers.items():
        wrong_device = peer.device not in (None, device)
        if wrong_device or pass_name not in peer.passes or (peer.float32_only and dtype != "float32"):
            continue
        # PyTorch's grid_sample on the CPU counts pixels in the half dtype: it reads others, and past the end of images.
        widened = peer.compiled and device == "cpu" and dtype != "float32"
        function = warp_peers.through_float32(peer.function) if widened else peer.function
        pair = eager_and_compiled(name, function, differentiable, peer.convert)
        implementations |= pair if peer.compiled and compiled else {name: pair[name]}
    map_bytes = _numel(kind.parameters, shape) * pixel.itemsize
    interpolation = roofline.INTERPOLATIONS[kind.mode]
    work = roofline.warp(math.prod(shape), shape[1], pixel.itemsize, map_bytes, kind.position, pass_name, interpolation)
    return Case(
        kind.op,
        "x".join(map(str, shape)) + kind.label,
        pass_name,
        inputs,
        implementations,
        work,
        floors or Floors(),
        shape[0],
        dtype,
        memory_format,
        device,
        quick,
    )


@cache
def _numel(parameters: Callable[[Shape], tuple[Tensor, ...]], shape: Shape) -> int:
    return sum(x.numel() for x in parameters(shape))


def cpu_cases() -> list[Case]:
    return [*_main_cases(), *_other_sizes(), *_other_maps(), *_other_rules(), *_features(), *_sweep()]


def _main_cases() -> list[Case]:
    """One size in every dtype and memory format."""
    floors = {
        ("forward", "float32", "contiguous"): {"eager": 4.0, "OpenCV": 1.3},
        ("forward", "float32", "channels_last"): {"eager": 4.0, "OpenCV": 1.5},
        ("forward", "bfloat16", "contiguous"): {"eager": 3.0},
        ("parameters", "float32", "contiguous"): {"eager": 5.0},
        ("all", "float32", "contiguous"): {"eager": 4.0},
    }
    kinds = [(dtype, memory_format) for dtype in ("float32", "bfloat16") for memory_format in MEMORY_FORMATS]
    kinds.append(("float16", "contiguous"))
    return [
        warp_case(
            AFFINE,
            MAIN,
            name,
            dtype=dtype,
            memory_format=memory_format,
            floors=Floors(floors.get((name, dtype, memory_format), {})),
            quick=(name, dtype, memory_format) in floors,
            compiled=(name, dtype, memory_format)
            in floors,  # the others would be one more compilation of the same code
        )
        for dtype, memory_format in kinds
        for name in PASSES
    ]


def _other_sizes() -> list[Case]:
    floors: dict[Shape, dict[str, dict[str, float]]] = {
        (64, 3, 224, 224): {"forward": {"eager": 3.0, "OpenCV": 0.9}},
        (256, 3, 32, 32): {"forward": {"eager": 4.0}, "parameters": {"eager": 5.0}},
        (1024, 1, 28, 28): {"forward": {"eager": 3.0}, "parameters": {"eager": 5.0}},
    }
    return [
        warp_case(AFFINE, shape, name, floors=Floors(by_pass.get(name, {})), quick=name == "parameters")
        for shape, by_pass in floors.items()
        for name in PASSES
    ]


def _other_maps() -> list[Case]:
    least = {"forward": {"eager": 2.5}, "parameters": {"eager": 4.0}, "all": {}}
    kornia = {"kornia": 1.0, "kornia compiled": 1.0}
    return [
        warp_case(kind, (16, 3, 128, 128), name, floors=Floors(least[name] | kornia), quick=name != "all")
        for kind in OTHERS
        for name in PASSES
    ]


def sampled(kind: Map, label: str, **rules: str) -> Map:
    """The map with another ``mode`` or ``padding_mode``, beside the peer that has them all and counts pixels alike."""
    eager = replace(kind.peers["eager"], function=partial(kind.peers["eager"].function, **rules))
    return replace(
        kind,
        label=f"{kind.label} {label}",
        ours=partial(kind.ours, **rules),
        peers={"eager": eager},
        mode=rules.get("mode", kind.mode),
    )


def _other_rules() -> list[Case]:
    """Other ways to sample and to pad, and small flows the usual way; nearest pixels have no gradient to the map."""
    cases = [
        warp_case(sampled(kind, label, **rule), shape, name, floors=Floors(least), compiled=False)
        for kind, shape, least in ((AFFINE, MAIN, {"eager": 2.0}), (DENSE_FLOW, SMALL, {}))
        for label, rule in RULES.items()
        for name in PASSES
        if (label, name) != ("nearest", "parameters")
    ]
    return cases + [warp_case(DENSE_FLOW, SMALL, name, compiled=False) for name in PASSES]


def _features() -> list[Case]:
    """Feature maps: few pixels, many channels."""
    ahead = {"eager": 1.0, "kornia": 1.0}
    return [
        warp_case(AFFINE, (8, 64, 28, 28), name, memory_format=memory_format, floors=Floors(ahead), compiled=False)
        for memory_format in MEMORY_FORMATS
        for name in PASSES
    ]


def _sweep() -> list[Case]:
    return [
        warp_case(AFFINE, (16, 3, side, side), name, compiled=False)
        for side in SIDES
        for name in ("forward", "parameters")
    ]


def gpu_cases() -> list[Case]:
    speed = {"forward": {}, "parameters": {"eager": 5.0, "compiled": 3.0}, "all": {"eager": 1.5}}
    share = {"forward": 0.75, "parameters": 0.75, "all": None}
    small = {"compiled": 1.0}
    cases = [
        warp_case(AFFINE, GPU_MAIN, name, dtype=dtype, device="cuda", floors=Floors(speed[name], roofline=share[name]))
        for dtype in ("float32", "bfloat16", "float16")
        for name in PASSES
    ]
    cases += [
        warp_case(AFFINE, GPU_MAIN, name, memory_format="channels_last", device="cuda", quick=True) for name in PASSES
    ]
    cases += [
        warp_case(AFFINE, shape, name, device="cuda", floors=Floors(small), quick=True)
        for shape in ((256, 3, 32, 32), (1024, 1, 28, 28))
        for name in PASSES
    ]
    cases += [
        warp_case(kind, (64, 3, 128, 128), name, dtype=dtype, device="cuda", quick=dtype == "float32")
        for kind in OTHERS
        for dtype in ("float32", "bfloat16")
        for name in PASSES
    ]
    return cases + [
        warp_case(AFFINE, (64, 3, side, side), name, device="cuda", compiled=False)
        for side in (*SIDES, 224)
        for name in ("forward", "parameters")
    ]
