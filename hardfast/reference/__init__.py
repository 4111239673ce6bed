"""The ops in plain PyTorch: the oracle of the tests, the baseline of the benchmarks, the fallback at run time."""

from hardfast.reference.affine_warp import affine_warp
from hardfast.reference.confidence_disagreement import confidence_disagreement
from hardfast.reference.distillation_loss import distillation_loss
from hardfast.reference.flow_warp import flow_warp
from hardfast.reference.guided_step import guided_step
from hardfast.reference.kl_disagreement import kl_disagreement
from hardfast.reference.linear_kl_disagreement import linear_kl_disagreement
from hardfast.reference.projective_warp import projective_warp
from hardfast.reference.thin_plate_warp import thin_plate_warp

__all__ = [
    "affine_warp",
    "confidence_disagreement",
    "distillation_loss",
    "flow_warp",
    "guided_step",
    "kl_disagreement",
    "linear_kl_disagreement",
    "projective_warp",
    "thin_plate_warp",
]
