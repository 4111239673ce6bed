"""One image for all samples, so large that blocks may not share its sums. Run by tests/test_emulated_gpu.py."""

from __future__ import annotations

import torch

from hardfast import ops, reference


def test_a_large_image_gets_the_sum_of_its_gradients():
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(1, 1, 719, 733, generator=generator)  # 4.02 MiB of sums
    theta = torch.eye(2, 3) + 0.1 * torch.randn(3, 2, 3, generator=generator)
    grads = []
    for module, dtype in ((ops, torch.float32), (reference, torch.float64)):
        leaf = image.to(dtype).requires_grad_()
        output = module.affine_warp(leaf, theta.to(dtype), (40, 35))
        grads += torch.autograd.grad(output.square().sum(), leaf)
    assert grads[1].count_nonzero() > 10_000
    torch.testing.assert_close(grads[0].double(), grads[1], rtol=1e-4, atol=1e-3)
