// CUDA kernels of affine_warp: the host functions that launch them. Each returns the error of its launches.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "../warp_params.h"

namespace hardfast {

// Blocks of output pixels per sample: grad_theta_sums holds six doubles for each.
std::int64_t affine_warp_blocks(const AffineWarpParams& params);

cudaError_t launch_affine_warp(const AffineWarpParams& params, cudaStream_t stream);
cudaError_t launch_affine_warp_grad_theta(const AffineWarpParams& params, cudaStream_t stream);

// `accumulators` is scratch of batch * channels * height * width 64-bit integers and `largest` of one 32-bit integer,
// all zero.
cudaError_t launch_affine_warp_grad_image(const AffineWarpParams& params, unsigned long long* accumulators,
                                          unsigned* largest, cudaStream_t stream);

}  // namespace hardfast
