"""Networks whose parameters are divided among processes: FSDP2 of PyTorch, and the way from and to whole tensors."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from hardfast.distill.processes import Processes

__all__ = ["FullySharded", "is_fully_sharded", "load_whole_state", "local_part", "whole_state"]

#: Of all parameters, the share from which on a block is gathered by itself.
_LEAST_SHARE = 0.01


class FullySharded:
    """A network of which each process has a part of every parameter, and so of gradients and an optimizer's state.

    It is there twice: ``parts`` learns, and gathers its blocks as they are run, which all processes must do together;
    ``network`` is the plain one, for all that a process does by itself, and has weights once it is filled with them.

    Args:
        network: without parameters of 0 dimensions.
        processes: several.
    """

    def __init__(self, network: nn.Module, processes: Processes) -> None:
        self.network, self.parts = network, copy.deepcopy(network)
        for parameter in self.parts.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP2 takes no other memory format
        device = next(self.parts.parameters()).device
        mesh = init_device_mesh(device.type, (processes.world_size,))
        for unit in (*_blocks(self.parts), self.parts):
            fully_shard(unit, mesh=mesh)

    def empty(self) -> None:
        """Frees the parameters of the plain network."""
        for parameter in self.network.parameters():
            parameter.data = parameter.new_empty(0)

    @torch.no_grad()
    def fill(self) -> None:
        """Gives the plain network parameters and buffers as the parts have them now; all processes must call it."""
        for parameter, part in zip(self.network.parameters(), self.parts.parameters(), strict=True):
            assert isinstance(part, DTensor)
            parameter.data = part.full_tensor()
        for buffer, theirs in zip(self.network.buffers(), self.parts.buffers(), strict=True):
            buffer.copy_(theirs)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Blocks that hold enough of the parameters to be gathered by themselves, inner ones first."""
    if len(list(network.named_parameters(remove_duplicate=False))) > len(list(network.parameters())):
        return []  # FSDP2 wants layers that share a parameter in one unit
    least = _LEAST_SHARE * _size(network)
    blocks = {
        child
        for layers in network.modules()
        if isinstance(layers, (nn.ModuleList, nn.Sequential))
        for child in layers.children()
        if _size(child) >= least and type(child).forward is not nn.Module.forward
    }
    return [module for module in reversed(list(network.modules())) if module in blocks]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def is_fully_sharded(module: nn.Module) -> bool:
    """Whether the module gathers parameters when it is run."""
    return isinstance(module, FSDPModule)


def local_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, which may be divided or not."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_state(part: Any, processes: Processes) -> dict[str, Any]:
    """The state of a network or an optimizer, with whole tensors on the CPU in place of divided ones.

    All processes must call it; the first one is given whole tensors, the others their parts.
    """
    state = part.state_dict()
    if not isinstance(part, Optimizer):
        return _gathered(state, processes)
    state["state"] = {number: _gathered(dict(moments), processes) for number, moments in state["state"].items()}
    return state


def load_whole_state(part: Any, state: Mapping[str, Any]) -> None:
    """Loads what :func:`whole_state` gave the first process: each process its part of what is divided."""
    if not isinstance(part, Optimizer):
        part.load_state_dict(_divided(state, part.state_dict()))
        return
    parameters = dict(enumerate(itertools.chain.from_iterable(group["params"] for group in part.param_groups)))
    moments = {
        number: _divided(values, {name: parameters.get(number) for name in values if name != "step"})
        for number, values in state["state"].items()
    }
    part.load_state_dict({**state, "state": moments})


def _gathered(state: dict[str, Any], processes: Processes) -> dict[str, Any]:
    for name, value in state.items():
        if isinstance(value, DTensor):
            whole = value.full_tensor()
            if processes.first:
                state[name] = whole.cpu()
    return state


def _divided(state: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _part_of(value, like.get(name)) for name, value in state.items()}


def _part_of(whole: Any, like: Any) -> Any:
    """Divided as another tensor and laid out in memory as it is, on which fused optimizers rely without a check."""
    if not isinstance(like, Tensor) or whole.shape != like.shape:
        return whole
    if isinstance(like, DTensor):
        return distribute_tensor(whole.contiguous(), like.device_mesh, like.placements, src_data_rank=None)
    return torch.empty_like(like).copy_(whole)
