"""The Triton ops on a GPU, against their references in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import row_losses
import torch
from conftest import need_gpu
from torch import Tensor

from hardfast import backends, ops, reference

need_gpu()
Function = Callable[..., Any]


def labels_of(rows: int, classes: int) -> Tensor:
    return torch.arange(rows).mul(7).remainder(classes)


ROW_OPS: dict[str, tuple[dict[str, Any], bool]] = {  # options, takes labels
    "kl_disagreement": ({"temperature": 2.5, "divergence": "jensen_shannon"}, False),
    "confidence_disagreement": ({"gamma": 2.0}, True),
    "distillation_loss": ({"temperature": 2.5, "label_smoothing": 0.1}, True),
}


def value_and_gradients(function: Function, inputs: list[Tensor], **options: Any) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*leaves, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    total = torch.stack([o.float().square().mean() for o in outputs]).sum()
    return [*(o.detach() for o in outputs), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("shape", [(5, 3), (64, 1000), (3, 50257)], ids=str)
@pytest.mark.parametrize("name", ROW_OPS)
def test_row_ops_equal_the_reference(name: str, shape: tuple[int, int]) -> None:
    assert backends()[name]["cuda"] == "triton"
    options, labelled = ROW_OPS[name]
    inputs = [torch.randn(shape, dtype=torch.float64) * 3 for _ in range(2)]
    labels = labels_of(*shape)
    expected = value_and_gradients(
        getattr(reference, name), inputs, **options, **({"labels": labels} if labelled else {})
    )
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        moved = [x.to("cuda", dtype) for x in inputs]
        keywords = {**options, **({"labels": labels.cuda()} if labelled else {})}
        torch.cuda.set_sync_debug_mode("error")
        try:
            actual = value_and_gradients(getattr(ops, name), moved, **keywords)
            again = value_and_gradients(getattr(ops, name), moved, **keywords)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for mine, repeated, other in zip(actual, again, expected, strict=True):
            assert torch.equal(mine, repeated)
            scale = other.abs().max().item()
            torch.testing.assert_close(mine.cpu().double(), other, rtol=0, atol=tolerance * max(scale, 1e-3))


def loss_and_gradients(function: Function, inputs: list[Tensor], scale: float, **options: Any) -> list[Tensor]:
    return row_losses.value_and_gradients(lambda *logits: scale * function(*logits, **options), *inputs)


def assert_close_to(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for mine, other in zip(actual, expected, strict=True):
        scale = other.abs().max().item()
        torch.testing.assert_close(mine.cpu().double(), other, rtol=0, atol=tolerance * max(scale, 1e-6))


@pytest.mark.parametrize("scale", [1.0, 0.5])  # whether the kernel that multiplies by the loss's gradient has to
@pytest.mark.parametrize("divergence", ["forward", "reverse", "jensen_shannon"])
@pytest.mark.parametrize("classes", [10, 4096, 10_007])
def test_a_loss_with_its_gradients(classes: int, divergence: str, scale: float) -> None:
    options = {"temperature": 2.0, "divergence": divergence}
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        logits = list(row_losses.random_rows((37, classes), dtype)[:2])
        expected = loss_and_gradients(reference.kl_disagreement, [x.double() for x in logits], scale, **options)
        actual = loss_and_gradients(ops.kl_disagreement, [x.cuda() for x in logits], scale, **options)
        assert_close_to(actual, expected, tolerance)


@pytest.mark.parametrize("divergence", ["forward", "jensen_shannon"])
def test_linear_kl_disagreement_equals_the_reference(divergence: str) -> None:
    """Its kernels put the gradients in place of the logits."""
    assert backends()["kl_disagreement"]["cuda"] == "triton"
    inputs = [torch.randn(shape, dtype=torch.float64) for shape in ((75, 64), (5003, 64), (75, 32), (5003, 32))]
    options = {"temperature": 2.0, "divergence": divergence}
    expected = loss_and_gradients(reference.linear_kl_disagreement, inputs, 0.5, **options)
    for chunk_rows in (None, 16):
        moved = [x.to("cuda", torch.float32) for x in inputs]
        actual = loss_and_gradients(ops.linear_kl_disagreement, moved, 0.5, chunk_rows=chunk_rows, **options)
        assert_close_to(actual, expected, 1e-3)  # as exact as the products, which may be of TF32


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_guided_step_equals_the_reference(prediction_type: str, dtype: torch.dtype) -> None:
    assert backends()["guided_step"]["cuda"] == "triton"
    inputs = [torch.randn(3, 4, 33, 31, dtype=torch.float64).to(dtype) for _ in range(3)]
    options = {"alpha_bar": 0.4, "alpha_bar_next": 0.7, "guidance_scale": 7.5, "prediction_type": prediction_type}
    expected = value_and_gradients(reference.guided_step, [x.double() for x in inputs], **options)
    actual = value_and_gradients(ops.guided_step, [x.cuda() for x in inputs], **options)
    for mine, other in zip(actual, expected, strict=True):
        rounding = 4 * torch.finfo(dtype).eps * other.abs().max().item()
        torch.testing.assert_close(mine.cpu().double(), other.double(), rtol=0, atol=rounding + 1e-5)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_second_gpu_serves_its_own_tensors() -> None:
    options = {"alpha_bar": 0.4, "alpha_bar_next": 0.7, "guidance_scale": 7.5}
    calls: list[tuple[str, list[Tensor], dict[str, Any]]] = [
        ("guided_step", [torch.randn(2, 4, 33, 31) for _ in range(3)], options),
        ("kl_disagreement", [torch.randn(64, 1000) for _ in range(2)], {}),
    ]
    for name, inputs, keywords in calls:
        first, second = (
            value_and_gradients(getattr(ops, name), [x.to(gpu) for x in inputs], **keywords)
            for gpu in ("cuda:0", "cuda:1")
        )
        assert torch.cuda.current_device() == 0
        for mine, other in zip(second, first, strict=True):
            assert torch.equal(mine.cpu(), other.cpu())
