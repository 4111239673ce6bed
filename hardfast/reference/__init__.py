"""The ops in plain PyTorch: the oracle of the tests, the baseline of the benchmarks, the fallback at run time."""

from hardfast.reference.affine_warp import affine_warp
from hardfast.reference.confidence_disagreement import confidence_disagreement
from hardfast.reference.distillation_loss import distillation_loss
from hardfast.reference.guided_step import guided_step
from hardfast.reference.kl_disagreement import kl_disagreement
from hardfast.reference.linear_kl_disagreement import linear_kl_disagreement

__all__ = [
    "affine_warp",
    "confidence_disagreement",
    "distillation_loss",
    "guided_step",
    "kl_disagreement",
    "linear_kl_disagreement",
]
