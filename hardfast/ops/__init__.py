"""Fast differentiable ops: each is defined by the lines of plain PyTorch in its docstring."""

from hardfast.ops._library import backends, load_backends
from hardfast.ops.affine_warp import affine_warp
from hardfast.ops.kl_disagreement import kl_disagreement

load_backends()

__all__ = ["affine_warp", "backends", "kl_disagreement"]
