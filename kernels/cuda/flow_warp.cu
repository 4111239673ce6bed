// flow_warp on CUDA.
#include "grad_flow.h"
#include "launch.h"

namespace hardfast {
namespace {

cudaError_t launch_grad_flow(const WarpParams& p, double* /*sums*/, cudaStream_t stream) {
  const ControlTiling tiling = control_tiling(p, flow_sharing(p));
  const unsigned blocks = grid_size(p.map_count * tiling.columns * tiling.rows);
  with_variant(p, [&](auto variant) {
    using V = decltype(variant);
    launch(warp_grad_flow_kernel<typename V::T, typename V::Storage, V::kTaps>, blocks, stream, p);
  });
  return cudaGetLastError();
}

}  // namespace

extern const WarpKernels flow_warp_kernels = {launch_forward<FlowFrame>, launch_grad_flow,
                                              launch_grad_constants<FlowFrame>, launch_grad_image<FlowFrame>};

}  // namespace hardfast
