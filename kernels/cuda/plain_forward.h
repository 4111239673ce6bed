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
  Storage* next = static_cast<Storage*>(p.output.data) + tile.output +
                  static_cast<unsigned>((tile.first_y + thread_row()) * strides.row +
                                        (tile.first_x + thread_column()) * strides.column());
  for_each_plain_pixel(p, tile, tiling.height, [&](int, int, Point<float> at) {
    Storage* const pixel = next;
    next += i64{kBlockRows} * strides.row;
    const bool sampled = visit_cell<V>(p, tile, at, [&](const auto& cell) {
      for_each_plain_block<V>(p, [&](int first, unsigned block) {
        Channels<float> value = {};
        cell.for_each_tap(p, tile, image, first, block,
                          [&](const Channels<float>& tap, TapWeight<float> x, TapWeight<float> y) {
                            const float weight = x.value * y.value;
#pragma unroll
                            for (int c = 0; c < V::kLanes; ++c) value.at[c] = fused(weight, tap.at[c], value.at[c]);
                          });
        store_lanes<V>(value, pixel + i64{first} * strides.channel(), strides);
      });
    });
    if (sampled) return;
    for_each_plain_block<V>(p, [&](int first, unsigned) {
      store_lanes<V>(outside_channels<float>(p, tile.sample, first, V::kLanes), pixel + i64{first} * strides.channel(),
                     strides);
    });
  });
}

HARDFAST_END
