"""hardfast: fast differentiable ops, learned augmentors and guided diffusion for robust knowledge distillation."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardfast import geometry, transforms
    from hardfast.ops._library import backends
    from hardfast.ops.affine_warp import affine_warp
    from hardfast.ops.confidence_disagreement import confidence_disagreement
    from hardfast.ops.distillation_loss import distillation_loss
    from hardfast.ops.flow_warp import flow_warp
    from hardfast.ops.guided_step import guided_step
    from hardfast.ops.keep_memory import keep_memory
    from hardfast.ops.kl_disagreement import kl_disagreement
    from hardfast.ops.linear_kl_disagreement import linear_kl_disagreement
    from hardfast.ops.projective_warp import projective_warp
    from hardfast.ops.thin_plate_warp import thin_plate_warp

__version__ = version("hardfast")
__all__ = [
    "__version__",
    "affine_warp",
    "backends",
    "confidence_disagreement",
    "distillation_loss",
    "flow_warp",
    "geometry",
    "guided_step",
    "keep_memory",
    "kl_disagreement",
    "linear_kl_disagreement",
    "projective_warp",
    "thin_plate_warp",
    "transforms",
]


def __getattr__(name: str) -> Any:
    # The ops import torch, which takes seconds: `hardfast --help` does without.
    if name in ("geometry", "transforms"):
        return import_module(f"hardfast.{name}")
    if name in __all__:
        from hardfast import ops

        return getattr(ops, name)
    raise AttributeError(f"module 'hardfast' has no attribute {name!r}")
