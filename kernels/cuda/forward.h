// The forward kernel of every warp: a thread takes a column of a tile's pixels, and all channels of each.
#pragma once

#include "pixels.h"

HARDFAST_BEGIN

template <typename Frame, typename T, typename Storage, int kTaps>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_forward_kernel(const __grid_constant__ WarpParams p) {
  __shared__ Frame frame;
  const OutputTiling tiling = output_tiling(p);
  const i64 tiles = tiling.count();
  const bool one_sample = p.samples_y == 1 && p.samples_x == 1;
  const T share = sample_share<T>(p);
#pragma unroll 1
  for (i64 item = blockIdx.x; item < p.batch * tiles; item += gridDim.x) {
    const Tile tile = tile_at(tiling, item / tiles, item % tiles);
    __syncthreads();  // nobody still reads the frame before
    if (threadIdx.x == 0) make_frame(&frame, &p, tile.sample, tile.first_x, tile.first_y);
    __syncthreads();
    for_each_pixel(p, tile, tiling.height, [&](unsigned x, unsigned y, int pixel_dx, int pixel_dy) {
      Cell<T> cell;
#pragma unroll 1
      for (i64 first = 0; first < p.channels; first += kChannelBlock) {
        const ChannelStep step = channel_step<Storage>(p.image, first, p.channels);
        const Channels<T> outside = outside_channels<T>(p, tile.sample, first, step.count);
        const i64 base = tile.sample * p.image.batch + first * p.image.channel;
        Channels<T> value = {};
        for_each_sample<T>(p, pixel_dx, pixel_dy, [&](T dx, T dy) {
          // All channels share the only position that there is.
          if (first == 0 || !one_sample) cell = cell_at<kTaps>(p, frame, tile.sample, dx, dy);
          add_sampled<kTaps>(p, cell, static_cast<const Storage*>(p.image.data), base, step, outside, value);
        });
#pragma unroll
        for (int c = 0; c < kChannelBlock; ++c) value.at[c] *= share;
        if (p.color.data) value = apply_color(p, tile.sample, value);
        store_channels(value, channel_step<Storage>(p.output, first, p.channels),
                       static_cast<Storage*>(p.output.data) + tile.sample * p.output.batch + first * p.output.channel +
                           y * p.output.row + x * p.output.column);
      }
    });
  }
}

HARDFAST_END
