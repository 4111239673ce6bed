"""The network that a training moves, and what belongs to it, as one or several processes hold it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.distributed.tensor.experimental import implicit_replication

from hardfast.distill.finite_steps import FiniteSteps
from hardfast.distill.fully_sharded import FullySharded, load_whole_state, whole_state
from hardfast.distill.processes import ALONE, Processes
from hardfast.distill.trainer_config import TrainerConfig

__all__ = ["Learner"]


class Learner:
    """A network with its optimizer, the moving average of its weights, and the judge of its steps.

    Each of several processes has all of it and averages the gradients (DDP), or, with ``fully_shard``, has a part of
    every parameter, gradient, moment and average (FSDP2). What is saved is the same.

    Args:
        network: its layers are those of a part of the batch already (:func:`shard_layers`).
        config: of the training.
        processes: those that train together.
    """

    def __init__(self, network: nn.Module, config: TrainerConfig, processes: Processes) -> None:
        execution = config.execution
        self.network, self._processes = network, processes
        self._average = ModelEmaV3(network, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None
        #: The network to use, as plain as the one that was given.
        self.trained = network if self._average is None else self._average.module
        self._sharded: list[FullySharded] = []
        self._held = network
        if execution.fully_shard and not processes.alone:
            self._held = self._shard(network)
            if self._average is not None:
                self._average.module = self._shard(self.trained)
        self.optimizer = torch.optim.AdamW(
            self._held.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        #: The network for steps in which it is a constant, and for those in which it learns.
        self.constant = execution.network(self._held)
        self.learning = self.constant if self._sharded else processes.wrap(self.constant)
        self.finite = FiniteSteps(
            self.optimizer, self._held, config.most_skipped, processes if self._sharded else ALONE
        )

    def _shard(self, network: nn.Module) -> nn.Module:
        self._sharded.append(FullySharded(network, self._processes))
        return self._sharded[-1].parts

    def update_average(self, step: int) -> None:
        """Follows the weights after so many steps."""
        if self._average is not None:
            with implicit_replication():  # of buffers, among parameters that are divided
                self._average.update(self._held, step=step)

    @contextmanager
    def training(self) -> Iterator[None]:
        """In training mode; of a fully sharded network the plain ones have no weights inside the block.

        After an exception they still have none: another process may be gone, without which they cannot be gathered.
        """
        self.network.train()
        self._held.train()
        for sharded in self._sharded:
            sharded.empty()
        yield
        self._fill()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Within a training, with the weights of the plain networks; all processes must come here together."""
        self._fill()
        yield
        for sharded in self._sharded:
            sharded.empty()

    def _fill(self) -> None:
        for sharded in self._sharded:
            sharded.fill()

    @property
    def parts(self) -> dict[str, Any]:
        """What has a state, by its name in that of the trainer."""
        parts = {"model": self._held, "optimizer": self.optimizer, "finite": self.finite, "ema": self._average}
        return {name: part for name, part in parts.items() if part is not None}

    def state_dict(self) -> dict[str, Any]:
        """The states of the parts, the same however many processes hold them.

        Of what is fully sharded all processes must call it, and the first one alone is given whole tensors.
        """
        return {name: whole_state(part, self._processes) for name, part in self.parts.items()}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Continues from :meth:`state_dict`; all processes must call it, with whole tensors."""
        for name, part in self.parts.items():
            load_whole_state(part, states[name])
        self._fill()
