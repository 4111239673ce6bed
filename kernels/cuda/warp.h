// CUDA kernels of the warps: the host functions that launch them. Each returns the first error of its launches.
#pragma once

#include <cuda_runtime_api.h>

#include "scratch.h"

namespace hardfast {

struct WarpKernels {
  cudaError_t (*forward)(const WarpParams& params, cudaStream_t stream);
  // To matrix, flow, or points and weights. `sums` is scratch of strip_count(map_sums()) * map_sums() doubles.
  cudaError_t (*grad_map)(const WarpParams& params, double* sums, cudaStream_t stream);
  // To fill and color. `sums` is scratch of strip_count(constant_sums()) * constant_sums() doubles.
  cudaError_t (*grad_constants)(const WarpParams& params, double* sums, cudaStream_t stream);
  cudaError_t (*grad_image)(const WarpParams& params, const GradImageScratch& scratch, cudaStream_t stream);
};

extern const WarpKernels affine_warp_kernels, projective_warp_kernels, flow_warp_kernels, thin_plate_warp_kernels;

inline const WarpKernels& warp_kernels(Map map) {
  switch (map) {
    case Map::kProjective: return projective_warp_kernels;
    case Map::kFlow: return flow_warp_kernels;
    case Map::kThinPlate: return thin_plate_warp_kernels;
    default: return affine_warp_kernels;
  }
}

}  // namespace hardfast
