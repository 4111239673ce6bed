"""Arguments of ops that nobody would choose: the result of the reference, or an error that names an argument."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from hardfast import ops, reference

OPS = [name for name in ops.__all__ if name not in ("backends", "keep_memory")]
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9, torch.float16: 1e-2, torch.bfloat16: 8e-2}

SIDES = st.sampled_from((1, 2, 3, 5, 8))
WARP = {"mode": ("bilinear", "nearest", "bicubic"), "padding_mode": ("zeros", "border", "reflection")}
REDUCTIONS = {"divergence": ("forward", "reverse", "jensen_shannon"), "reduction": ("none", "sum", "batchmean")}
#: In place of any argument: other types, and numbers that are none.
ODD = (
    None, "x", "", b"x", [], [1], {}, object, math.nan, math.inf, -1, 0, 1 << 63, 1j, True, np.zeros(3),
    [[1.0], [2, 3]],
)  # fmt: skip
EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)


def any_layout(draw: st.DrawFn, tensor: Tensor) -> Tensor:
    """The same values in another order in memory."""
    kind = draw(st.sampled_from(("contiguous", "transposed", "stepped", "expanded")))
    if kind == "transposed" and tensor.dim() > 1:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    if kind == "stepped" and tensor.dim():
        return tensor.repeat_interleave(2, -1)[..., ::2]
    if kind == "expanded" and tensor.dim() and tensor.shape[0]:
        return tensor[:1].expand(tensor.shape)
    return tensor


def outputs(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


@st.composite
def sound(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """Arguments that an op takes, as its reference takes them too."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    dtype = draw(st.sampled_from(DTYPES))
    batch = draw(st.sampled_from((0, 1, 2, 3)))

    def randn(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return any_layout(draw, torch.randn(shape, generator=generator).to(dtype))

    def chosen(options: dict[str, tuple[str, ...]]) -> dict[str, str]:
        return {key: draw(st.sampled_from(words)) for key, words in options.items()}

    if name.endswith("_warp"):
        compute = torch.float64 if dtype == torch.float64 else torch.float32
        channels, size = draw(SIDES), [draw(SIDES), draw(SIDES)]
        arguments: dict[str, Any] = {"image": randn(batch, channels, draw(SIDES), draw(SIDES))}
        arguments |= {"size": size, "align_corners": draw(st.booleans())} | chosen(WARP)
        if name == "affine_warp":
            arguments["theta"] = torch.eye(2, 3, dtype=compute) + 0.3 * randn(batch, 2, 3, dtype=compute)
        elif name == "projective_warp":
            arguments["homography"] = torch.eye(3, dtype=compute) + 0.1 * randn(batch, 3, 3, dtype=compute).clamp(-2, 2)
        elif name == "flow_warp":
            arguments["flow"] = 0.3 * randn(batch, 2, draw(SIDES), draw(SIDES), dtype=compute)
        else:
            points = torch.tensor([[-0.7, -0.6], [0.8, -0.5], [-0.6, 0.7], [0.5, 0.9]], dtype=compute)
            for which in ("source_points", "target_points"):
                arguments[which] = points + 0.1 * randn(batch, 4, 2, dtype=compute).clamp(-1, 1)
        return arguments
    classes = draw(st.sampled_from((2, 3, 10, 33)))
    if name == "guided_step":
        shape = (batch, 2, draw(SIDES), draw(SIDES))
        return {
            **{which: randn(*shape) for which in ("latents", "noise_cond", "noise_uncond")},
            "alpha_bar": draw(st.sampled_from((0.1, 0.5, 0.9))),
            "alpha_bar_next": draw(st.sampled_from((0.91, 0.99, 1.0))),
            "guidance_scale": draw(st.sampled_from((0.0, 1.0, 7.5))), "clip_range": draw(st.sampled_from((None, 1.0))),
            **chosen({"prediction_type": ("epsilon", "v_prediction", "sample")}),
        }  # fmt: skip
    if name == "linear_kl_disagreement":
        features = draw(SIDES)
        pairs = {f"{who}_{part}": shape for who in ("student", "teacher")
                 for part, shape in (("features", (batch, features)), ("weight", (classes, features)))}  # fmt: skip
        return {**{key: randn(*shape) for key, shape in pairs.items()}, **chosen(REDUCTIONS)}
    arguments = {"student_logits": randn(batch, classes), "teacher_logits": randn(batch, classes)}
    if name == "kl_disagreement":
        return {**arguments, "temperature": draw(st.sampled_from((0.5, 1.0, 4.0))), **chosen(REDUCTIONS)}
    arguments["labels"] = torch.randint(0, classes, (batch,), generator=generator)
    if name == "distillation_loss":
        smoothing = draw(st.sampled_from((0.0, 0.1)))
        return {**arguments, "label_smoothing": smoothing, **chosen({"reduction": ("none", "sum", "mean")})}
    return {**arguments, **chosen({"form": ("probability", "log", "logit"), "reduction": ("none", "sum", "mean")})}


@st.composite
def spoilt(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], list[str]]:
    """Arguments of which one to three are odd, and which."""
    arguments = draw(sound(name))
    parameters = list(inspect.signature(getattr(ops, name)).parameters)
    odd = draw(st.lists(st.sampled_from(parameters), min_size=1, max_size=3, unique=True))
    for key in odd:
        value = arguments.get(key)
        arguments[key] = draw(odd_tensors(value) if isinstance(value, Tensor) else st.sampled_from(ODD))
    return arguments, odd


@st.composite
def odd_tensors(draw: st.DrawFn, tensor: Tensor) -> Any:
    """A tensor of another dtype, shape or device, or with other values, or no tensor."""
    kind = draw(st.integers(0, 7))
    if kind == 0:
        return draw(st.sampled_from(ODD))
    if kind == 1:
        return tensor.to(draw(st.sampled_from((torch.int64, torch.uint8, torch.bool, torch.complex64, *DTYPES))))
    if kind == 2:
        return tensor.unsqueeze(0)
    if kind == 3:
        return tensor.sum(0) if tensor.dtype != torch.bool else tensor
    if kind == 4:
        return torch.cat([tensor, tensor], draw(st.integers(-tensor.dim(), tensor.dim() - 1)))
    if kind == 5:
        return tensor.narrow(draw(st.integers(-tensor.dim(), tensor.dim() - 1)), 0, 0)
    if kind == 6 and tensor.is_floating_point():
        return torch.full_like(tensor, draw(st.sampled_from((math.nan, math.inf, -math.inf, 6e4, 1e-7, 0.0))))
    return tensor.to("meta")


@pytest.mark.parametrize("name", OPS)
@EXAMPLES
@given(data=st.data())
def test_sound_arguments_give_what_the_reference_gives(name, data):
    arguments = data.draw(sound(name))
    found = getattr(ops, name)(**arguments)
    wide = {key: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
            for key, value in arguments.items()}  # fmt: skip
    assume(arguments.get("mode") != "nearest" or arguments["image"].dtype == torch.float64)  # ties go by the last digit
    wanted = getattr(reference, name)(**wide)
    first = next(value for value in arguments.values() if isinstance(value, Tensor))
    for mine, theirs in zip(outputs(found), outputs(wanted), strict=True):
        assert mine.shape == theirs.shape
        tolerance = TOLERANCES[first.dtype]
        scale = 1 + theirs.nan_to_num().abs().max().item() if theirs.numel() else 1
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


@pytest.mark.parametrize("name", OPS)
@EXAMPLES
@given(data=st.data())
def test_odd_arguments_are_named(name, data):
    arguments, _ = data.draw(spoilt(name))
    told = None
    try:
        found = getattr(ops, name)(**arguments)
    except (TypeError, ValueError) as error:
        told = str(error)
    if told is None:
        for value in outputs(found):
            assert isinstance(value, Tensor)
            assert value.is_meta or value.isnan().sum() >= 0  # every element is there to be read
    else:
        parameters = inspect.signature(getattr(ops, name)).parameters
        assert any(parameter in told for parameter in parameters), told
