"""Networks that are trained once and then loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from hardfast.distill.atomic import write_bytes


def cached(
    cache: Path, name: str, settings: Mapping[str, Any], network: nn.Module, train: Callable[[nn.Module], nn.Module]
) -> nn.Module:
    """Loads a network's weights, or trains it and keeps them; it comes back constant, in evaluation mode.

    Args:
        cache: directory, created if needed.
        name: for people, part of the file's name.
        settings: all that decides what the training comes to; a digest of them is part of the file's name.
        network: untrained, of the same layers as what ``train`` returns.
        train: trains it, in place or not, and returns the trained one.

    Raises:
        FloatingPointError: the training came to weights that are not finite.
        ValueError: the file is damaged or of another network; the message names it.
        OSError: the directory cannot be written.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = Path(cache) / f"{name}-{digest}.safetensors"
    if path.exists():
        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be loaded: {error}; remove it, and it is made again") from error
        trained = network
    else:
        trained = train(network)
        if not all(bool(value.isfinite().all()) for value in trained.parameters()):
            raise FloatingPointError(f"{name} has weights that are not finite after its training: it is not kept")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, save({key: value.cpu().contiguous() for key, value in trained.state_dict().items()}))
    return trained.eval().requires_grad_(False)
