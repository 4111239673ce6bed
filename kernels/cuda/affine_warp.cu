// affine_warp on CUDA.
#include "launch.h"

namespace hardfast {

extern const WarpKernels affine_warp_kernels = {launch_forward<AffineFrame>, launch_grad_matrix<AffineFrame, 2>,
                                                launch_grad_constants<AffineFrame>, launch_grad_image<AffineFrame>};

}  // namespace hardfast
