"""What is kept of an augmentor through its training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from hardfast.augment import Augmentor
from hardfast.distill.snapshots import SnapshotRecorder


class Brighter(Augmentor):
    """Adds a learned number, and gives out the very parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))

    def noise(self, images: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {}

    def variables(self, images: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"offset": self.offset.expand(len(images))}

    def render(self, images: Tensor, variables: Mapping[str, Tensor]) -> Tensor:
        return images + variables["offset"].view(-1, 1, 1, 1)

    def arrays(self) -> dict[str, Tensor]:
        return {"offset": self.offset}


def test_snapshots_keep_what_was_at_their_steps() -> None:
    augmentor = Brighter()
    recorder = SnapshotRecorder(augmentor, torch.zeros(3, 1, 2, 2), steps=8, count=3, seed=0)
    for step in range(9):
        recorder.record(step)
        with torch.no_grad():
            augmentor.offset += 1
    arrays = recorder.arrays()
    np.testing.assert_array_equal(arrays["steps"], [0, 4, 8])
    np.testing.assert_array_equal(arrays["offset"], [0, 4, 8])
    np.testing.assert_array_equal(arrays["augmented"][:, 2, 0, 1, 1], [0, 4, 8])
    assert arrays["clean"].shape == (3, 1, 2, 2)
