"""Fast differentiable ops: each is defined by the lines of plain PyTorch in its docstring."""

from hardfast.ops._library import backends, load_compiled_libraries
from hardfast.ops.affine_warp import affine_warp
from hardfast.ops.kl_disagreement import kl_disagreement

load_compiled_libraries()

__all__ = ["affine_warp", "backends", "kl_disagreement"]
