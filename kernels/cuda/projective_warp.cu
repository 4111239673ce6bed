// projective_warp on CUDA.
#include "launch.h"

namespace hardfast {

extern const WarpKernels projective_warp_kernels = {
    launch_forward<ProjectiveFrame>, launch_grad_matrix<ProjectiveFrame, 3>, launch_grad_constants<ProjectiveFrame>,
    launch_grad_image<ProjectiveFrame>};

}  // namespace hardfast
