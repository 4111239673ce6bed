// thin_plate_warp on CUDA.
#include "grad_thin_plate.h"
#include "launch.h"

namespace hardfast {
namespace {

cudaError_t launch_grad_thin_plate(const WarpParams& p, double* sums, cudaStream_t stream) {
  const i64 stride = thin_plate_sums(p), points = 2 * p.control_points;
  with_variant(p, [&](auto variant) {
    using V = decltype(variant);
    using T = typename V::T;
    const unsigned blocks = grid_size(strip_count(p, stride) * control_groups(p));
    launch(warp_grad_thin_plate_kernel<T, typename V::Storage, V::kTaps>, blocks, stream, p, sums);
    launch_reduce<NoFactor, T>(p, p.map_count, stride, 0, points, sums, p.grad_points, stream);
    launch_reduce<NoFactor, T>(p, p.map_count, stride, points, stride - points, sums, p.grad_weights, stream);
  });
  return cudaGetLastError();
}

}  // namespace

extern const WarpKernels thin_plate_warp_kernels = {launch_forward<ThinPlateFrame>, launch_grad_thin_plate,
                                                    launch_grad_constants<ThinPlateFrame>,
                                                    launch_grad_image<ThinPlateFrame>};

}  // namespace hardfast
