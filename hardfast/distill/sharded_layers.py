"""Layers that treat a batch as one, although each process has but a part of it: batch norm and dropout."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, DropPath, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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
    return any(isinstance(module, (nn.SyncBatchNorm, _WholeBatchNorm)) for module in network.modules())


def _sharded(module: nn.Module, shard: Shard) -> nn.Module:
    if isinstance(module, (*_RANDOM, _ShardedDropout)):
        return _ShardedDropout(module.dropout if isinstance(module, _ShardedDropout) else module, shard)
    if isinstance(module, _BatchNorm) and not isinstance(module, (nn.SyncBatchNorm, _WholeBatchNorm)):
        return _WholeBatchNorm.of(module)
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

    def forward(self, values: Tensor) -> Tensor:
        """``[k * len(shard), ...]`` of ``k`` batches."""
        if not self.training:
            return values
        batches = len(values) // len(self._shard)
        ones = values.new_ones(()).expand(batches * self._shard.batch_size, *values.shape[1:])
        return values * self._shard.of(self.dropout.train()(ones.contiguous()))


class _WholeBatchNorm(_BatchNorm):
    """A batch norm with the statistics of all processes, on any device; ``torch.nn.SyncBatchNorm`` is for GPUs only."""

    @classmethod
    def of(cls, norm: _BatchNorm) -> _BatchNorm:
        """Makes one that shares parameters and buffers with a batch norm of one process."""
        whole = copy.copy(norm)  # its tensors are the same ones
        whole.__class__ = type(f"Whole{type(norm).__name__}", (cls, type(norm)), {})
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
        axes = [axis for axis in range(values.dim()) if axis != 1]
        part_variance, part_mean = (value.double() for value in torch.var_mean(values, axes, correction=0))
        share = values.numel() / values.shape[1]
        count = _Sum.apply(part_mean.new_tensor(share))
        mean = _Sum.apply(part_mean * share) / count
        variance = _Sum.apply((part_variance + (part_mean - mean).square()) * share) / count
        if self.track_running_stats:
            self._track(mean, variance * count / (count - 1))
        shape = [1, -1, *[1] * (values.dim() - 2)]
        scale = (variance + self.eps).rsqrt() * (1 if self.weight is None else self.weight)
        shift = (0 if self.bias is None else self.bias) - mean * scale
        return torch.addcmul(shift.to(values.dtype).view(shape), values, scale.to(values.dtype).view(shape))

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.detach().clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        whole = gradient.contiguous()
        dist.all_reduce(whole)
        return whole
