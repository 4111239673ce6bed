// The gradients of plain calls to a matrix and to a dense flow.
#pragma once

#include "grad_parameters.h"
#include "plain_pixels.h"

HARDFAST_BEGIN

// The gradient to the position of an output pixel, over all channels; zero where no tap lies in the image.
template <typename V, typename Frame>
__device__ __forceinline__ Point<float> plain_grad_position(const WarpParams& p, const PlainTile<Frame>& tile,
                                                            Point<float> at, int x, int y) {
  // The gradient of the output may have any strides, zeros included.
  const int channel = static_cast<int>(p.grad_output.channel);
  const auto* pixel =
      static_cast<const typename V::Storage*>(p.grad_output.data) + tile.grad_output +
      static_cast<unsigned>(y * static_cast<int>(p.grad_output.row) + x * static_cast<int>(p.grad_output.column));
  Point<float> sum = {0.0f, 0.0f};
  visit_cell<V>(p, tile, at, [&](const auto& cell) {
    for_each_plain_block<V>(p, [&](int first) {
      Channels<float> grad;
      const auto* element = pixel + i64{first} * channel;
#pragma unroll
      for (int c = 0; c < V::kLanes; ++c, element += channel) grad.at[c] = widen(*element);
      cell.for_each_tap(p, tile, first, [&](const Channels<float>& tap, TapWeight<float> x, TapWeight<float> y) {
        float product = grad.at[0] * tap.at[0];
#pragma unroll
        for (int c = 1; c < V::kLanes; ++c) product = fused(grad.at[c], tap.at[c], product);
        sum.x = fused(x.slope * y.value, product, sum.x);
        sum.y = fused(x.value * y.slope, product, sum.y);
      });
    });
  });
  return sum;
}

// A block sums one strip of tiles. Positions of the output are counted from its centre.
template <typename Frame, typename V, int kForms>
__global__ void __launch_bounds__(kThreads, kPlainGradBlocks<Frame>)
    warp_plain_grad_matrix_kernel(const __grid_constant__ WarpParams p, const __grid_constant__ OutputTiling tiling,
                                  const __grid_constant__ Strips cut, double* sums) {
  __shared__ PlainTile<Frame> shared;
  __shared__ double per_warp[kWarps];
  const int columns = static_cast<int>(tiling.columns), tiles = columns * static_cast<int>(tiling.rows);
  const int strips = static_cast<int>(cut.count), item = static_cast<int>(blockIdx.x), sample = item / strips;
  const int first = item % strips * static_cast<int>(cut.tiles);
  const int end = min(first + static_cast<int>(cut.tiles), tiles);
  const float centre_x = 0.5f * static_cast<float>(static_cast<int>(p.out_width) - 1);
  const float centre_y = 0.5f * static_cast<float>(static_cast<int>(p.out_height) - 1);
  float plain[kForms] = {}, times_x[kForms] = {}, times_y[kForms] = {};
#pragma unroll 1
  for (int index = first; index < end; ++index) {
    __syncthreads();  // nobody still reads the tile before
    if (threadIdx.x == 0) {
      make_plain_tile(&shared, &p, sample, index % columns * kTileWidth, index / columns * tiling.height);
    }
    __syncthreads();
    const PlainTile<Frame>& tile = shared;
    for_each_plain_pixel(p, tile, tiling.height, [&](int dx, int dy, Point<float> at) {
      const int x = tile.first_x + dx, y = tile.first_y + dy;
      float forms[kForms];
      form_gradients(tile.frame, static_cast<float>(dx), static_cast<float>(dy),
                     plain_grad_position<V>(p, tile, at, x, y), forms);
#pragma unroll
      for (int f = 0; f < kForms; ++f) {
        plain[f] += forms[f];
        times_x[f] = fused(forms[f], static_cast<float>(x) - centre_x, times_x[f]);
        times_y[f] = fused(forms[f], static_cast<float>(y) - centre_y, times_y[f]);
      }
    });
  }
#pragma unroll
  for (int f = 0; f < kForms; ++f) {
    const float values[3] = {times_x[f], times_y[f], plain[f]};  // in the order of the matrix
#pragma unroll
    for (int part = 0; part < 3; ++part) {
      const double sum = block_sum(static_cast<double>(values[part]), per_warp);
      if (threadIdx.x == 0) sums[i64{item} * (3 * kForms) + 3 * f + part] = sum;
    }
  }
}

// Each pixel of a dense flow has its own displacement. A block is one tile.
template <typename V>
__global__ void __launch_bounds__(kThreads, kPlainGradBlocks<DenseFlowFrame<float>>)
    warp_plain_grad_dense_flow_kernel(const __grid_constant__ WarpParams p,
                                      const __grid_constant__ OutputTiling tiling) {
  using Frame = DenseFlowFrame<float>;
  __shared__ PlainTile<Frame> shared;
  if (threadIdx.x == 0) make_own_tile(&shared, p, tiling);
  __syncthreads();
  const PlainTile<Frame> tile = shared;
  const i64 plane = p.out_height * p.out_width;
  float* target = static_cast<float*>(p.grad_flow) + tile.sample * 2 * plane;
  for_each_plain_pixel(p, tile, tiling.height, [&](int dx, int dy, Point<float> at) {
    const int x = tile.first_x + dx, y = tile.first_y + dy;
    const Point<float> grad = plain_grad_position<V>(p, tile, at, x, y);
    float* own = target + static_cast<unsigned>(y * static_cast<int>(p.out_width) + x);
    own[0] = grad.x * tile.frame.half_x;
    own[plane] = grad.y * tile.frame.half_y;
  });
}

HARDFAST_END
