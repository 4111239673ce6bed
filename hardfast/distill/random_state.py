"""PyTorch's global source of random numbers, which dropout takes, as a training's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["OwnRandomState"]


class OwnRandomState:
    """The global generators as they are in a training; outside of it they are the caller's, untouched.

    Args:
        device: of the training, whose generator is meant beside that of the CPU.
        seed: with which the training begins.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device, self._seed = device, seed
        #: Where the generators stood at the last :meth:`keep`; None at the beginning.
        self.kept: dict[str, Tensor] | None = None

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Goes on from what was kept."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._seed)
            if self.kept is not None:
                torch.set_rng_state(self.kept["cpu"])
                if devices:
                    torch.cuda.set_rng_state(self.kept["cuda"], self._device)
            yield

    def keep(self) -> None:
        """Remembers where the generators stand."""
        self.kept = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            self.kept["cuda"] = torch.cuda.get_rng_state(self._device)
