"""Batches of which each process has a part, computed so that the number of processes does not show in the results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hardfast.augment import Augmentor
from hardfast.distill.processes import Processes

if TYPE_CHECKING:
    from hardfast.distill.execution import CompiledAugmentor

__all__ = ["Shard", "ShardedAugmentor", "sharded"]


class Shard:
    """The part of every batch that this process has: consecutive images, as many as the others have or one more.

    Args:
        processes: among which batches are split.
        batch_size: of a whole batch, at least one image a process.
    """

    def __init__(self, processes: Processes, batch_size: int) -> None:
        if batch_size < processes.world_size:
            raise ValueError(
                f"batch_size must be at least one image for each of the {processes.world_size} processes, "
                f"got {batch_size}"
            )
        self.processes, self.batch_size = processes, batch_size
        each, more = divmod(batch_size, processes.world_size)
        rank = processes.rank
        start = rank * each + min(rank, more)
        self.slice = slice(start, start + each + (rank < more))
        self._weight = len(self) * processes.world_size / batch_size
        lengths = [each + (other < more) for other in range(processes.world_size)]
        #: Of the batch, that each process has, ``[world_size]``.
        self.shares = torch.tensor(lengths, dtype=torch.float64) / batch_size

    def __len__(self) -> int:
        return self.slice.stop - self.slice.start

    def of(self, whole: Tensor) -> Tensor:
        """This process's part of something ``[batch_size, ...]``, or of several batches one after the other."""
        return whole.unflatten(0, (-1, self.batch_size))[:, self.slice].flatten(0, 1)

    def whole(self, part: Tensor) -> Tensor:
        """The batch ``[batch_size, ...]`` of all parts ``[len(self), ...]``, without gradients."""
        batch = part.new_zeros(self.batch_size, *part.shape[1:])
        batch[self.slice] = part.detach()
        return self.processes.merge(batch)

    def mean(self, means: Tensor) -> Tensor:
        """Means over the batch, of means over the parts, of any shape: the same bits in every process.

        Their gradient is that of :meth:`weigh`.
        """
        return means if self.processes.alone else _Mean.apply(means, self)

    def mean_later(self, means: Tensor) -> Callable[[], Tensor]:
        """As :meth:`mean`, without gradients, of what the function returns: other work is done meanwhile."""
        if self.processes.alone:
            return means.detach
        parts = self.processes.stack_later(means.detach().double() * self._weight)
        return lambda: parts().mean(0).to(means.dtype)

    def weigh(self, means: Tensor) -> Tensor:
        """Means over this part, so weighted that their average over the processes is the mean over the batch.

        That average is what ``DistributedDataParallel`` forms of their gradients.
        """
        return means if self._weight == 1 else means * self._weight


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means: Tensor, shard: Shard) -> Tensor:
        ctx.shard = shard
        return shard.mean_later(means)()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.shard.weigh(gradient), None


class ShardedAugmentor(nn.Module):
    """An augmentor of whole batches, run on this process's part of each; it shares the augmentor's parameters.

    The noise is drawn for the whole batch, so that an image has the same however many processes there are. An augmentor
    that makes an image of others of its batch is given the whole batch.

    Args:
        augmentor: any, compiled or not.
        shard: of its batches.
    """

    def __init__(self, augmentor: Augmentor | CompiledAugmentor, shard: Shard) -> None:
        super().__init__()
        self.augmentor, self._shard = augmentor, shard

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws and renders: images ``[len(shard), C, H, W]`` for such images."""
        augmentor, shard = self.augmentor, self._shard
        if augmentor.mixes:
            return shard.of(augmentor(shard.whole(images), generator))
        like_whole = images[:1].expand(shard.batch_size, *images.shape[1:])
        noise = augmentor.noise(like_whole, generator)
        return augmentor.transform(images, {name: shard.of(value) for name, value in noise.items()})


def sharded(transform: Any, shard: Shard) -> Any:
    """A function of whole batches ``[B, C, H, W]`` and a source of noise as one of this process's part of them.

    What is no augmentor is given the whole batch in every process.
    """
    if transform is None or shard.processes.alone:
        return transform
    if isinstance(transform, Augmentor):
        return ShardedAugmentor(transform, shard)
    return lambda images, generator: shard.of(transform(shard.whole(images), generator))
