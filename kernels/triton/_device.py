"""The GPU that a launch goes to: Triton's is the current one, which need not be that of the tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def on_device_of(tensor: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device_of(tensor)
