// The gradients of plain calls to a matrix and to a dense flow.
#pragma once

#include "grad_parameters.h"
#include "plain_pixels.h"

HARDFAST_BEGIN

// The gradient to the position of an output pixel, over all channels. Its gradient lies at `grad`, in any strides,
// zeros included.
template <typename V, typename Frame, typename Cell>
__device__ __forceinline__ Point<float> grad_cell(const WarpParams& p, const PlainTile<Frame>& tile,
                                                  const PlainImage<V>& image, const Cell& cell,
                                                  const typename V::Storage* grad) {
  const int channel = static_cast<int>(p.grad_output.channel);
  Point<float> sum = {0.0f, 0.0f};
  for_each_plain_block<V>(p, [&](int first, unsigned block) {
    Channels<float> grads;
    const auto* element = grad + i64{first} * channel;
#pragma unroll
    for (int c = 0; c < V::kLanes; ++c, element += channel) grads.at[c] = load_global(element);
    cell.for_each_tap(p, tile, image, first, block,
                      [&](const Channels<float>& tap, TapWeight<float> x, TapWeight<float> y) {
                        float product = grads.at[0] * tap.at[0];
#pragma unroll
                        for (int c = 1; c < V::kLanes; ++c) product = fused(grads.at[c], tap.at[c], product);
                        sum.x = fused(x.slope * y.value, product, sum.x);
                        sum.y = fused(x.value * y.slope, product, sum.y);
                      });
  });
  return sum;
}

// Where the gradient of a tile's pixel lies, from its first channel on.
template <typename Storage, typename Frame>
__device__ __forceinline__ const Storage* grad_at(const WarpParams& p, const PlainTile<Frame>& tile, int dx, int dy) {
  return static_cast<const Storage*>(p.grad_output.data) + grad_place(p, tile, dx, dy);
}

// A block sums one strip of tiles. Positions of the output are counted from its centre.
template <typename Frame, typename V, int kForms>
__global__ void __launch_bounds__(kThreads, kPlainGradBlocks<Frame>)
    warp_plain_grad_matrix_kernel(const __grid_constant__ WarpParams p, const __grid_constant__ OutputTiling tiling,
                                  const __grid_constant__ Strips cut, double* sums) {
  using Storage = typename V::Storage;
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
    HeldTile<Frame> tile = shared;
    const PlainImage<V> image(p, tile.image);
    const Storage* const grads = kept(grad_at<Storage>(p, tile, thread_column(), 0));
    for_each_cell<V>(
        p, tile, tiling.height,
        [&](const auto& cell, const auto& pixel) {
          const int x = tile.first_x + pixel.dx, y = tile.first_y + pixel.dy;
          const Storage* grad = grads + i64{pixel.dy} * static_cast<int>(p.grad_output.row);
          float forms[kForms];
          form_gradients(tile.frame, pixel.at, grad_cell(p, tile, image, cell, grad), forms);
#pragma unroll
          for (int f = 0; f < kForms; ++f) {
            plain[f] += forms[f];
            times_x[f] = fused(forms[f], static_cast<float>(x) - centre_x, times_x[f]);
            times_y[f] = fused(forms[f], static_cast<float>(y) - centre_y, times_y[f]);
          }
        },
        [](const auto&) {});
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
  HeldTile<Frame> tile = shared;
  const i64 plane = p.out_height * p.out_width;
  const PlainImage<V> image(p, tile.image);
  const auto* grads = kept(grad_at<typename V::Storage>(p, tile, thread_column(), 0));
  float* const column = kept(static_cast<float*>(p.grad_flow) + tile.sample * 2 * plane + tile.first_y * p.out_width +
                             tile.first_x + thread_column());
  const auto store = [&](Point<float> grad, int dy) {
    float* own = column + i64{dy} * static_cast<int>(p.out_width);
    own[0] = grad.x * tile.frame.half_x;
    own[plane] = grad.y * tile.frame.half_y;
  };
  for_each_cell<V>(
      p, tile, tiling.height,
      [&](const auto& cell, const auto& pixel) {
        const auto* grad = grads + i64{pixel.dy} * static_cast<int>(p.grad_output.row);
        store(grad_cell(p, tile, image, cell, grad), pixel.dy);
      },
      [&](const auto& pixel) { store({0.0f, 0.0f}, pixel.dy); });
}

HARDFAST_END
