// The forward kernel for plain calls: a block is one tile.
#pragma once

#include "plain_pixels.h"

HARDFAST_BEGIN

template <typename Frame, typename V>
__global__ void __launch_bounds__(kThreads, kPlainBlocks<Frame>)
    warp_plain_forward_kernel(const __grid_constant__ WarpParams p, const __grid_constant__ OutputTiling tiling) {
  using Storage = typename V::Storage;
  __shared__ PlainTile<Frame> shared;
  if (threadIdx.x == 0) make_own_tile(&shared, p, tiling);
  __syncthreads();
  HeldTile<Frame> tile = shared;
  const PlainImage<V> image(p, tile.image);
  const auto strides = PlainStrides<V::kLayout>::of(p.output);
  Storage* const column =
      kept(static_cast<Storage*>(p.output.data) + tile.output +
           static_cast<unsigned>(tile.first_y * strides.row + (tile.first_x + thread_column()) * strides.column()));
  const auto store = [&](const Channels<float>& value, int dy, int first) {
    store_lanes<V>(value, column + i64{dy} * strides.row + i64{first} * strides.channel(), strides);
  };
  for_each_cell<V>(
      p, tile, tiling.height,
      [&](const auto& cell, const auto& pixel) {
        for_each_plain_block<V>(p, [&](int first, unsigned block) {
          Channels<float> value = {};
          cell.for_each_tap(p, tile, image, first, block,
                            [&](const Channels<float>& tap, TapWeight<float> x, TapWeight<float> y) {
                              const float weight = x.value * y.value;
#pragma unroll
                              for (int c = 0; c < V::kLanes; ++c) value.at[c] = fused(weight, tap.at[c], value.at[c]);
                            });
          store(value, pixel.dy, first);
        });
      },
      [&](const auto& pixel) {
        for_each_plain_block<V>(p, [&](int first, unsigned) {
          store(outside_channels<float>(p, tile.sample, first, V::kLanes), pixel.dy, first);
        });
      });
}

HARDFAST_END
