"""What the warps hold in memory besides inputs, outputs and gradients: next to nothing; and images of any size."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from warp_cases import ALL, WarpCase, every_warp

CLEAR = Path("/proc/self/clear_refs")
MEGABYTE = 1 << 20


def memory_kb(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1])


@pytest.mark.skipif(not CLEAR.exists(), reason="needs Linux, which tells the peak memory of a process")
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@every_warp
def test_forward_and_backward_hold_inputs_outputs_and_gradients(case: WarpCase, mode):
    def run(side: int) -> None:
        image = torch.full((4, 3, side, side), 0.5, requires_grad=True)
        maps = [m.requires_grad_() for m in case.parameters(4, torch.float32)]
        color = torch.eye(3, 4)[None].requires_grad_()
        output = case.op(image, *maps, mode=mode, padding_mode="reflection", color=color, **case.options)
        torch.autograd.grad(output.sum(), [image, *maps, color])

    run(64)  # the threads make their workspaces, which they keep
    gc.collect()
    CLEAR.write_text("5")
    before = memory_kb("VmHWM:")
    run(1024)
    image = 4 * 3 * 1024 * 1024 * 4
    # The gradient of the sum is one number, expanded. Three tensors; each may begin and end inside a large page.
    assert (memory_kb("VmHWM:") - before) * 1024 < 3 * image * 1.01 + 3 * 2 * MEGABYTE


@pytest.mark.parametrize("case", ALL[:2], ids=["affine", "projective"])
def test_an_image_of_more_than_2_to_the_31_elements(case: WarpCase):
    side = 46400  # its memory is never touched but for the corner
    image = torch.empty(1, 1, side, side, dtype=torch.uint8)
    corner = torch.randint(0, 256, (8, 8), dtype=torch.uint8)
    image[0, 0, -8:, -8:] = corner
    scale = 8 / side
    matrix = torch.tensor([[scale, 0, 1 - scale], [0, scale, 1 - scale], [0, 0, 1]])[None].double()
    if case.name == "affine_warp":
        matrix = matrix[:, :2]
    assert image.numel() > 2**31
    output = case.op(image, matrix.float(), (8, 8))[0, 0]
    # float32 numbers place the corner to a thousandth of a pixel, which may round to the next byte.
    assert (output.int() - corner.int()).abs().max() <= 1
