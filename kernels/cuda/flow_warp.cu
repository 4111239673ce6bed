// flow_warp on CUDA.
#include "grad_flow.h"
#include "launch.h"

namespace hardfast {
namespace {

cudaError_t launch_flow_forward(const WarpParams& p, cudaStream_t stream) {
  if (is_dense_flow(p) && launch_plain_forward<DenseFlowFrame<float>>(p, stream)) return cudaGetLastError();
  return launch_forward<FlowFrame>(p, stream);
}

cudaError_t launch_flow_grad_image(const WarpParams& p, const GradImageScratch& scratch, cudaStream_t stream) {
  if (is_dense_flow(p)) return launch_grad_image<FlowFrame, DenseFlowFrame<float>>(p, scratch, stream);
  return launch_grad_image<FlowFrame>(p, scratch, stream);
}

bool launch_plain_grad_dense_flow(const WarpParams& p, cudaStream_t stream) {
  return with_plain<false>(p, [&](auto variant) {
    launch(warp_plain_grad_dense_flow_kernel<decltype(variant)>, tile_blocks(p), stream, p, output_tiling(p));
  });
}

cudaError_t launch_grad_flow(const WarpParams& p, double* /*sums*/, cudaStream_t stream) {
  const bool own = is_dense_flow(p) && p.map_count == p.batch;
  if (own && launch_plain_grad_dense_flow(p, stream)) return cudaGetLastError();
  const ControlGroups groups = flow_groups(p);
  const unsigned blocks = grid_size(p.map_count * groups.columns * groups.rows);
  const bool plain = with_plain<false>(p, [&](auto variant) {
    launch(warp_grad_flow_kernel<PlainFlowGradient<decltype(variant)>>, blocks, stream, p, groups);
  });
  if (plain) return cudaGetLastError();
  with_variant(p, [&](auto variant) {
    using V = decltype(variant);
    using Gradient = FlowGradient<typename V::T, typename V::Storage, V::kTaps>;
    launch(warp_grad_flow_kernel<Gradient>, blocks, stream, p, groups);
  });
  return cudaGetLastError();
}

}  // namespace

extern const WarpKernels flow_warp_kernels = {launch_flow_forward, launch_grad_flow, launch_grad_constants<FlowFrame>,
                                              launch_flow_grad_image};

}  // namespace hardfast
