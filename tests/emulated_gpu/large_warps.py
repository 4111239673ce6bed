"""Warps so large that the kernels share their work otherwise. Run by tests/test_emulated_gpu.py."""

from __future__ import annotations

import torch
from torch import Tensor

from hardfast import ops, reference


def noise(*shape: int, seed: int = 5) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_large_image_gets_the_sum_of_its_gradients():
    """Its 4.02 MiB of sums are more than blocks may share."""
    image, theta = noise(1, 1, 719, 733), torch.eye(2, 3) + 0.1 * noise(3, 2, 3)
    grads = []
    for module, dtype in ((ops, torch.float32), (reference, torch.float64)):
        leaf = image.to(dtype).requires_grad_()
        output = module.affine_warp(leaf, theta.to(dtype), (40, 35))
        grads += torch.autograd.grad(output.square().sum(), leaf)
    assert grads[1].count_nonzero() > 10_000
    torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-4, atol=1e-3)


def test_blocks_that_share_the_control_points_of_a_strip():
    """71 points and 3 affine terms for three blocks, of two samples and of one that they share."""
    image = noise(2, 2, 19, 23)
    for count in (1, 2):
        target = 0.9 * torch.linspace(-1, 1, 71 * 2 * count, dtype=torch.float64).cos().view(count, 71, 2)
        target = target + 0.3 * noise(count, 71, 2)
        leaves = [(target + 0.05 * noise(count, 71, 2, seed=6)).requires_grad_(), target.requires_grad_()]
        grads = []
        for module in (ops, reference):
            output = module.thin_plate_warp(image, *leaves, (20, 40), regularization=0.1)
            grads.append(torch.autograd.grad((output * noise(2, 2, 20, 40, seed=7)).sum(), leaves))
        for mine, other in zip(*grads, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
