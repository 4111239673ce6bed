"""What is in the last checkpoint of a method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hardfast.distill.checkpoint import read_checkpoint


def last_state(method: Path) -> dict[str, Any]:
    """The state of the trainer at the end of ``<run>/<method>/seed-<seed>``."""
    return read_checkpoint(max((method / "checkpoints").iterdir()))["trainer"]
