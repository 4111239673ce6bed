"""Fast differentiable ops: each is defined by the lines of plain PyTorch in its docstring."""

from hardfast.ops._library import backends, load_backends
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

load_backends()

__all__ = [
    "affine_warp",
    "backends",
    "confidence_disagreement",
    "distillation_loss",
    "flow_warp",
    "guided_step",
    "keep_memory",
    "kl_disagreement",
    "linear_kl_disagreement",
    "projective_warp",
    "thin_plate_warp",
]
