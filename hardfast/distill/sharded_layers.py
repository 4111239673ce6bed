"""Layers that treat a batch as one, although each process has but a part of it: batch norm and dropout."""

from __future__ import annotations

import copy
from typing import Any

import torch
from timm.layers import BatchNormAct2d, DropPath, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from hardfast.distill.fully_sharded import is_fully_sharded
from hardfast.distill.shard import Shard

__all__ = ["has_exchange", "shard_layers"]

#: Layers that multiply every image with random numbers of mean 1.
_RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, DropPath)


def shard_layers(network: nn.Module, shard: Shard) -> nn.Module:
    """Makes a network compute of its part of a batch what it would of the part in the whole batch.

    Batch norms take their statistics of the whole batch: those of PyTorch and timm, by PyTorch's own synchronisation
    on GPUs. Dropout and stochastic depth draw for the whole batch and take their part. Of other layers each image's
    output must not depend on others. Random numbers of compiled graphs are drawn otherwise than those of eager ones.

    Args:
        network: changed in place: parameters, buffers and their names stay. All processes seed the global generator
            equally.
        shard: of the batches, one or several of which, one after the other, are its input.

    Returns:
        The network, or what replaces it where it is itself such a layer.
    """
    if shard.processes.alone:
        return network
    on_gpu = next((parameter.is_cuda for parameter in network.parameters()), False)
    return _sharded(convert_sync_batchnorm(network) if on_gpu else network, shard)


def has_exchange(network: nn.Module) -> bool:
    """Whether a forward of the network waits for other processes, which a compiled graph cannot."""
    exchanging = (nn.SyncBatchNorm, _WholeBatchNorm)
    return any(isinstance(module, exchanging) or is_fully_sharded(module) for module in network.modules())


def _sharded(module: nn.Module, shard: Shard) -> nn.Module:
    if isinstance(module, (*_RANDOM, _ShardedDropout)):
        if getattr(module, "p", None) == 0:
            return module  # attention of timm calls no such layer and looks at its probability
        return _ShardedDropout(module.dropout if isinstance(module, _ShardedDropout) else module, shard)
    if isinstance(module, _BatchNorm) and not isinstance(module, (nn.SyncBatchNorm, _WholeBatchNorm)):
        return _WholeBatchNorm.of(module, shard)
    for name, child in module.named_children():
        setattr(module, name, _sharded(child, shard))
    return module


class _ShardedDropout(nn.Module):
    """Dropout's random factors of the whole batch, of which this process takes its part."""

    def __init__(self, dropout: nn.Module, shard: Shard) -> None:
        super().__init__()
        self._dropouts = (dropout,)  # in a tuple it is no submodule
        self._shard = shard

    @property
    def dropout(self) -> nn.Module:
        """The layer in whose place it is."""
        return self._dropouts[0]

    @property
    def p(self) -> float:
        """Not told to a network that would drop by itself, for this part alone, as timm's attention does."""
        raise ValueError(
            "a network that drops out inside of its attention cannot be trained by several processes; make it with a "
            f"probability of 0 there (timm's attn_drop_rate), got {self.dropout}"
        )

    def forward(self, values: Tensor) -> Tensor:
        """``[k * len(shard), ...]`` of ``k`` batches."""
        if not self.training:
            return values
        batches = len(values) // len(self._shard)
        ones = values.new_ones(()).expand(batches * self._shard.batch_size, *values.shape[1:])
        return values * self._shard.of(self.dropout.train()(ones.contiguous()))


class _WholeBatchNorm(_BatchNorm):
    """A batch norm with the statistics of all processes, on any device; ``torch.nn.SyncBatchNorm`` is for GPUs only."""

    shard: Shard

    @classmethod
    def of(cls, norm: _BatchNorm, shard: Shard) -> _BatchNorm:
        """Makes one that shares parameters and buffers with a batch norm of one process."""
        whole = copy.copy(norm)  # its tensors are the same ones
        whole.__class__ = type(f"Whole{type(norm).__name__}", (cls, type(norm)), {"shard": shard})
        return whole

    @torch.compiler.disable
    def forward(self, values: Tensor) -> Tensor:
        """As the batch norm that it was made of."""
        if not self.training:
            return super().forward(values)
        normalised = self._normalised(values)
        if isinstance(self, BatchNormAct2d):
            normalised = self.act(self.drop(normalised))
        return normalised

    def _normalised(self, values: Tensor) -> Tensor:
        self._check_input_dim(values)
        normalised, mean, variance = _Normalise.apply(values, self.weight, self.bias, self.eps, self.shard)
        if self.track_running_stats:
            count = _count(values, self.shard)
            self._track(mean, variance * (count / (count - 1)))
        return normalised

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        dtype = self.running_mean.dtype
        torch._foreach_lerp_([self.running_mean, self.running_var], [mean.to(dtype), variance.to(dtype)], momentum)


class _Normalise(torch.autograd.Function):
    """Batch norm by mean and variance over all processes, of which it returns those as well.

    Mean and variance take two passes over the values, which are vectorised: the one pass of PyTorch's kernel is not.
    """

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, shard: Shard
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = values.detach().to(torch.promote_types(values.dtype, torch.float32))
        dims = [dim for dim in range(values.dim()) if dim != 1]
        mean = wide.mean(dims, keepdim=True)
        variance = (wide - mean).square_().mean(dims)
        means, variances = shard.processes.stack(torch.stack([mean.flatten(), variance])).unbind(1)
        shares = shard.shares.to(wide)[:, None]
        mean = (shares * means).sum(0)
        variance = (means - mean).square_().add_(variances).mul_(shares).sum(0)
        ctx.save_for_backward(values, weight, mean, variance)
        ctx.eps, ctx.shard = eps, shard
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(wide, mean, variance, weight, bias, eps=eps).to(values.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, variance = ctx.saved_tensors
        gradient, wide, sums_only = gradient.to(mean.dtype), values.to(mean.dtype), [False, True, True]
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, wide, weight, mean, variance, None, None, False, ctx.eps, sums_only
        )
        parts = ctx.shard.processes.stack_later(torch.stack([grad_bias, grad_weight]))
        inverse = (variance + ctx.eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        shape = [1, -1, *[1] * (values.dim() - 2)]
        through = gradient * scale.view(shape)
        scale = scale / -_count(values, ctx.shard)
        # What the batch's own mean and variance take away: of the gradient its mean, and its part along the values.
        constant, slope = (parts().sum(0) * scale).unbind()
        slope = slope * inverse
        constant = constant.addcmul(slope, mean, value=-1)
        through.addcmul_(wide, slope.view(shape)).add_(constant.view(shape))
        learned = (None, None) if weight is None else (grad_weight, grad_bias)
        return through.to(values.dtype), *learned, None, None


def _count(values: Tensor, shard: Shard) -> int:
    """How many values of a channel the whole batch has, of whose part these are."""
    return values.numel() // values.shape[1] // len(shard) * shard.batch_size
