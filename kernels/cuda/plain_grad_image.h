// The gradient of plain calls to the image: what each tile of the output reaches, with the largest gradient in it, and
// what it brings to a tile of the input.
#pragma once

#include "grad_image.h"
#include "plain_pixels.h"

HARDFAST_BEGIN

// The cell of a position, whatever lies in the image of it; false where all its taps lie outside.
template <typename Frame>
__device__ __forceinline__ bool find_cell(const WarpParams& p, const PlainTile<Frame>& tile, Point<float> at,
                                          AxisCell<float>& x, AxisCell<float>& y) {
  if (lies_within(tile, at)) {
    const FlooredPosition across = floor_cell(at.x), down = floor_cell(at.y);
    x = {tile.origin_x + across.whole, across.rest, 1.0f};
    y = {tile.origin_y + down.whole, down.rest, 1.0f};
    return true;
  }
  if (lies_outside(p, tile, at)) return false;
  x = edge_cell(p, at.x, tile.low_x, tile.end_x, tile.origin_x);
  y = edge_cell(p, at.y, tile.low_y, tile.end_y, tile.origin_y);
  return true;
}

// A block is one tile of the output.
template <typename Frame>
__global__ void __launch_bounds__(kThreads, kPlainGradBlocks<Frame>)
    warp_plain_reach_kernel(const __grid_constant__ WarpParams p, const __grid_constant__ OutputTiling tiling,
                            GradImageScratch scratch) {
  __shared__ PlainTile<Frame> shared;
  __shared__ int low_x, high_x, low_y, high_y;
  __shared__ unsigned largest;
  if (threadIdx.x == 0) {
    make_own_tile(&shared, p, tiling);
    low_x = low_y = 0x7fffffff;
    high_x = high_y = -1;
    largest = 0;
  }
  __syncthreads();
  HeldTile<Frame> tile = shared;
  const int channel = static_cast<int>(p.grad_output.channel), channels = static_cast<int>(p.channels);
  int first_x = 0x7fffffff, last_x = -1, first_y = 0x7fffffff, last_y = -1;
  unsigned most = 0;  // without their sign, floats are ordered as their bits are
  for_each_plain_pixel(p, tile, tiling.height, [&](int dx, int dy, Point<float> at) {
    i64 place = grad_place(p, tile, dx, dy);
#pragma unroll 4
    for (int c = 0; c < channels; ++c, place += channel) {
      const float grad = load_element<float>(p.dtype, static_cast<const AnyFloat*>(p.grad_output.data), place);
      most = max(most, float_to_bits(grad) & 0x7fffffffu);
    }
    AxisCell<float> x, y;
    if (!find_cell(p, tile, at, x, y)) return;
    first_x = min(first_x, x.first);
    last_x = max(last_x, x.first + 1);
    first_y = min(first_y, y.first);
    last_y = max(last_y, y.first + 1);
  });
  first_x = __reduce_min_sync(0xffffffffu, first_x);
  last_x = __reduce_max_sync(0xffffffffu, last_x);
  first_y = __reduce_min_sync(0xffffffffu, first_y);
  last_y = __reduce_max_sync(0xffffffffu, last_y);
  most = static_cast<unsigned>(__reduce_max_sync(0xffffffffu, static_cast<int>(most)));
  if (threadIdx.x % 32 == 0) {
    atomicMin(&low_x, first_x);
    atomicMax(&high_x, last_x);
    atomicMin(&low_y, first_y);
    atomicMax(&high_y, last_y);
    atomicMax(&largest, most);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  const i64 sample = tile.sample, index = blockIdx.x % (tiling.columns * tiling.rows);
  const Box box = {max(low_x, 0), min(high_x, static_cast<int>(p.width) - 1), max(low_y, 0),
                   min(high_y, static_cast<int>(p.height) - 1)};
  const bool empty = box.first_x > box.last_x || box.first_y > box.last_y;
  scratch.boxes[blockIdx.x] = empty ? Box{1, 0, 1, 0} : box;
  const TileGroups groups = tile_groups(tiling);
  if (!empty) grow(scratch.groups[sample * groups.count + group_of_tile(tiling, groups, index)], box);
  if (largest > 0) {
    const unsigned long long bits = double_to_bits(static_cast<double>(bits_to_float(largest)));
    atomicMax(scratch.largest + (p.image_count == 1 ? 0 : sample), bits & 0x7fffffffffffffffull);
  }
}

template <typename Frame, int kLanes>
struct PlainGather {
  using T = float;
  using Storage = AnyFloat;
  using Place = PlainTile<Frame>;
  static constexpr int kBlocks = kPlainGradBlocks<Frame>;

  static __device__ __forceinline__ void place(const WarpParams& p, const Tile& tile, Place* place) {
    make_plain_tile(place, &p, tile.sample, static_cast<int>(tile.first_x), static_cast<int>(tile.first_y));
  }

  static __device__ __forceinline__ void add(const WarpParams& p, const OutputTiling& tiling, const Tile& /*tile*/,
                                             const Place& tile, const Owned& own, const SharedSums& sums,
                                             const Unit& unit) {
    const int plane = own.width * own.height, channel = static_cast<int>(p.grad_output.channel);
    const FloatPower upper = FloatPower::of(unit.shift - 32);
    const int channels = own.channels;
    const auto has = [channels](int c) { return kLanes < kChannelBlock || c < channels; };
    for_each_plain_pixel(p, tile, tiling.height, [&](int dx, int dy, Point<float> at) {
      AxisCell<float> x, y;
      if (!find_cell(p, tile, at, x, y)) return;
      // As unsigned numbers, those left of the owned tile are beyond its end too.
      const int column = x.first - own.left, row = y.first - own.top;
      const unsigned width = static_cast<unsigned>(own.width), height = static_cast<unsigned>(own.height);
      if (static_cast<unsigned>(column + 1) > width || static_cast<unsigned>(row + 1) > height) return;
      i64 place = grad_place(p, tile, dx, dy) + own.channel * channel;
      float grads[kLanes];
#pragma unroll
      for (int c = 0; c < kLanes; ++c, place += channel) {
        const auto* data = static_cast<const AnyFloat*>(p.grad_output.data);
        grads[c] = has(c) ? load_element<float>(p.dtype, data, place) * upper.first * upper.second : 0.0f;
      }
#pragma unroll
      for (int tap = 0; tap < 4; ++tap) {
        const int right = tap % 2, under = tap / 2;
        if (static_cast<unsigned>(column + right) >= width || static_cast<unsigned>(row + under) >= height) continue;
        const float weight = linear_weight(right, x).value * linear_weight(under, y).value;
        const int target = (row + under) * own.width + column + right;
        FixedHalves parts[kLanes];
        unsigned before[kLanes];
#pragma unroll
        for (int c = 0; c < kLanes; ++c) {
          parts[c] = to_fixed_halves(grads[c] * weight);
          before[c] = 0;
          if (has(c)) before[c] = atomicAdd(sums.words + target + c * plane, parts[c].lower);
        }
#pragma unroll
        for (int c = 0; c < kLanes; ++c) {
          if (has(c)) sums.add_upper(target + c * plane, parts[c].upper, before[c], parts[c].lower);
        }
      }
    });
  }
};

HARDFAST_END
