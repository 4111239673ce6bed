"""What the augmentor does to a few images, and its distribution, recorded through training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardfast.augment import Augmentor


class SnapshotRecorder:
    """Warps the same images with the same noise at chosen steps, so that only the learning is seen to change.

    Args:
        augmentor: the augmentor, which the recorder reads and never changes.
        images: clean images ``[n, C, H, W]``.
        steps: number of training steps.
        count: number of snapshots, evenly spaced from step 0 to ``steps``, >= 2.
        seed: of the noise.
    """

    def __init__(self, augmentor: Augmentor, images: Tensor, steps: int, count: int, seed: int) -> None:
        if count < 2:
            raise ValueError(f"count must be >= 2 (the first and the last step); got {count}")
        self.augmentor = augmentor
        self.images = images
        self.seed = seed
        self._due = {round(i * steps / (count - 1)) for i in range(count)}
        self._records: list[dict[str, Any]] = []

    @torch.no_grad()
    def record(self, step: int) -> None:
        """Takes the snapshot of ``step`` if one is due and not yet taken."""
        if step not in self._due or any(record["step"] == step for record in self._records):
            return
        generator = torch.Generator(self.images.device).manual_seed(self.seed)
        self._records.append(
            {
                "step": step,
                "augmented": self.augmentor(self.images, generator).cpu(),
                # Parameters themselves among them: a later step must not change what was recorded.
                **{name: value.detach().to("cpu", copy=True) for name, value in self.augmentor.arrays().items()},
            }
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns ``steps [S]``, ``clean [n, C, H, W]``, ``augmented [S, n, C, H, W]``, and the augmentor's own
        arrays, ``[S, ...]``.

        Raises:
            ValueError: nothing was recorded yet.
        """
        if not self._records:
            raise ValueError("there is no snapshot yet: call record() first")
        stacked = {
            name: torch.stack([record[name] for record in self._records]).numpy()
            for name in self._records[0]
            if name != "step"
        }
        steps = np.array([record["step"] for record in self._records], dtype=np.int64)
        return {"steps": steps, "clean": self.images.cpu().numpy(), **stacked}

    def state_dict(self) -> dict[str, Any]:
        """The snapshots so far."""
        return {"records": list(self._records)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        self._records = list(state["records"])
