"""How networks are run: compiled or not, in which precision, in which memory format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torch.fx.proxy import TraceError

from hardfast.augment import Augmentor
from hardfast.distill.constant import held_constant
from hardfast.distill.fully_sharded import is_fully_sharded
from hardfast.distill.shard import Shard, ShardedAugmentor
from hardfast.distill.sharded_layers import has_exchange
from hardfast.ops import _checks

PRECISIONS = ("float32", "bfloat16")


class _Autocast(nn.Module):
    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, self.dtype):
            return self.network(images).float()


class CompiledAugmentor(nn.Module):
    """An augmentor of which all but the random numbers is one compiled graph; it shares the augmentor's parameters.

    Args:
        augmentor: any; every shape of images is compiled once.
    """

    def __init__(self, augmentor: Augmentor) -> None:
        super().__init__()
        self.augmentor = augmentor
        self.transform = torch.compile(augmentor.transform, fullgraph=True, dynamic=False)
        self.noise, self.mixes = augmentor.noise, augmentor.mixes

    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws and renders, as the augmentor does."""
        return self.transform(images, self.noise(images, generator))


def _folded(network: nn.Module) -> nn.Module:
    try:
        with held_constant(network):
            return fuse(network)
    except (TraceError, TypeError):  # what torch.fx raises where control flow depends on the images
        return network


@dataclass(frozen=True)
class Execution:
    """How a training runs its networks. The defaults are plain PyTorch.

    Args:
        compile: whether student, teacher and augmentor are compiled, each as one graph without a break, but for what
            waits for other processes: batch norms, and blocks that are gathered. Shapes are static: batches of one size
            are compiled in the first few steps and never again.
        precision: of the networks' layers, ``"float32"`` or ``"bfloat16"`` (autocast). Weights, losses, positions of
            warps and optimisers are float32 in either.
        channels_last: whether images and convolutions' weights have their channels innermost. On CPUs it gains for some
            networks and costs for others (``python -m bench.hard_step``).
        fold_teacher: whether the batch norms of a teacher become part of the convolutions before them: in a copy of it
            that computes the same up to rounding. A teacher that ``torch.fx`` cannot trace is run as it is; one that
            decides by the shape of its images is not for this.
        fully_shard: whether several processes divide the network that learns, its gradients, its optimizer's state and
            its average among them (FSDP2), so that none has them all but to validate; else each has all of them (DDP).
            What is learned and saved is the same. Convolutions' weights are not channels last then. The teacher and
            the augmentor, which has few parameters, are whole in each process.
    """

    compile: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    fold_teacher: bool = False
    fully_shard: bool = False

    def __post_init__(self) -> None:
        _checks.one_of("precision", self.precision, PRECISIONS)

    @property
    def memory_format(self) -> torch.memory_format:
        """That of images and convolutions' weights."""
        return torch.channels_last if self.channels_last else torch.preserve_format

    def network(self, network: nn.Module) -> nn.Module:
        """The network as it is run in training: same parameters, images ``[B, C, H, W]`` to float32 logits."""
        if not is_fully_sharded(network):  # FSDP2 wants its own memory format
            network.to(memory_format=self.memory_format)
        if self.precision == "bfloat16":
            network = _Autocast(network, torch.bfloat16)
        if not self.compile:
            return network
        # A compiled module is a module, and torch.compile's type says less.
        return torch.compile(network, fullgraph=not has_exchange(network), dynamic=False)  # type: ignore[return-value]

    def teacher(self, teacher: nn.Module) -> nn.Module:
        """As :meth:`network`, of one that never learns; with ``fold_teacher`` its parameters may be copies."""
        return self.network(_folded(teacher) if self.fold_teacher else teacher)

    def augmentor(self, augmentor: Augmentor, shard: Shard | None = None) -> nn.Module:
        """The augmentor as it is run in training: same parameters; compiled only if it says that it can be.

        Args:
            augmentor: of whole batches.
            shard: the part of them that this process has; None for all of them.
        """
        run = CompiledAugmentor(augmentor) if self.compile and augmentor.compilable else augmentor
        return run if shard is None or shard.processes.alone else ShardedAugmentor(run, shard)

    def images(self, images: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` as the networks take them."""
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images
