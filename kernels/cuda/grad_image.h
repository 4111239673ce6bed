// The gradient to the image. A block owns a tile of the input and sums what the output pixels that reach it bring, in
// shared memory and in fixed point, so that the result does not depend on the order. A first kernel finds, for each
// tile of the output, the box of the input that it reaches, and the largest gradient, which sets the unit.
#pragma once

#include "../math/fixed_point.h"
#include "pixels.h"
#include "scratch.h"

HARDFAST_BEGIN

__device__ __forceinline__ void grow(GrowingBox& grown, const Box& box) {
  atomicMax(&grown.before_x, ~static_cast<unsigned>(box.first_x));
  atomicMax(&grown.end_x, static_cast<unsigned>(box.last_x) + 1u);
  atomicMax(&grown.before_y, ~static_cast<unsigned>(box.first_y));
  atomicMax(&grown.end_y, static_cast<unsigned>(box.last_y) + 1u);
}

template <typename Frame, typename T, int kTaps>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_reach_kernel(const __grid_constant__ WarpParams p, GradImageScratch scratch) {
  __shared__ Frame frame;
  __shared__ int low_x, high_x, low_y, high_y;
  const OutputTiling tiling = output_tiling(p);
  const TileGroups groups = tile_groups(tiling);
  const i64 tiles = tiling.count();
#pragma unroll 1
  for (i64 item = blockIdx.x; item < p.batch * tiles; item += gridDim.x) {
    const Tile tile = tile_at(tiling, item / tiles, item % tiles);
    __syncthreads();  // nobody still reads what the first thread now writes
    if (threadIdx.x == 0) {
      make_frame(&frame, &p, tile.sample, tile.first_x, tile.first_y);
      low_x = low_y = 0x7fffffff;
      high_x = high_y = -1;
    }
    __syncthreads();
    Box reached = {0x7fffffff, -1, 0x7fffffff, -1};
    for_each_pixel(p, tile, tiling.height, [&](unsigned, unsigned, int pixel_dx, int pixel_dy) {
      for_each_sample<T>(p, pixel_dx, pixel_dy, [&](T dx, T dy) {
        const Cell<T> cell = cell_at<kTaps>(p, frame, tile.sample, dx, dy);
#pragma unroll 1
        for (int k = 0; k < tap_count(p.mode); ++k) {
          const int x = tap_at<kTaps>(cell.x, rule_x(p), k).index, y = tap_at<kTaps>(cell.y, rule_y(p), k).index;
          if (x >= 0) {
            reached.first_x = min(reached.first_x, x);
            reached.last_x = max(reached.last_x, x);
          }
          if (y >= 0) {
            reached.first_y = min(reached.first_y, y);
            reached.last_y = max(reached.last_y, y);
          }
        }
      });
    });
    reached.first_x = __reduce_min_sync(0xffffffffu, reached.first_x);
    reached.last_x = __reduce_max_sync(0xffffffffu, reached.last_x);
    reached.first_y = __reduce_min_sync(0xffffffffu, reached.first_y);
    reached.last_y = __reduce_max_sync(0xffffffffu, reached.last_y);
    if (threadIdx.x % 32 == 0) {
      atomicMin(&low_x, reached.first_x);
      atomicMax(&high_x, reached.last_x);
      atomicMin(&low_y, reached.first_y);
      atomicMax(&high_y, reached.last_y);
    }
    __syncthreads();
    if (threadIdx.x != 0) continue;
    const Box box = {low_x, high_x, low_y, high_y};
    const bool empty = low_x > high_x || low_y > high_y;
    scratch.boxes[item] = empty ? Box{1, 0, 1, 0} : box;
    if (!empty) grow(scratch.groups[tile.sample * groups.count + group_of_tile(tiling, groups, item % tiles)], box);
  }
}

// The largest gradient to a sampled value, infinity and NaN being larger than all numbers, for each image.
template <typename T, typename Storage>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_largest_grad_kernel(const __grid_constant__ WarpParams p, GradImageScratch scratch) {
  const OutputTiling tiling = output_tiling(p);
  const i64 tiles = tiling.count();
#pragma unroll 1
  for (i64 item = blockIdx.x; item < p.batch * tiles; item += gridDim.x) {
    const Tile tile = tile_at(tiling, item / tiles, item % tiles);
    unsigned long long largest = 0;
    for_each_pixel(p, tile, tiling.height, [&](unsigned x, unsigned y, int, int) {
#pragma unroll 1
      for (i64 first = 0; first < p.channels; first += kChannelBlock) {
        const Channels<T> grad = load_sampled_grad<T, Storage>(p, tile.sample, x, y, first);
#pragma unroll
        for (int c = 0; c < kChannelBlock; ++c) {
          const unsigned long long bits = double_to_bits(static_cast<double>(grad.at[c])) & 0x7fffffffffffffffull;
          largest = max(largest, bits);
        }
      }
    });
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      largest = max(largest, __shfl_down_sync(0xffffffffu, largest, offset));
    }
    if (threadIdx.x % 32 == 0 && largest > 0) {
      atomicMax(scratch.largest + (p.image_count == 1 ? 0 : tile.sample), largest);
    }
  }
}

// Of one float in fixed point, 24 of which count: to_fixed_halves() takes no larger ones.
constexpr int kMostFloatBits = 53;

// The unit of the sums, 2^-shift, and how much finer the second word's is.
struct Unit {
  int shift, extra;
  FloatPower power;  // 2^-shift
  bool finite;       // else there is no unit, and the gradient is NaN, so that nobody takes a step with it
};

template <typename T>
__device__ __forceinline__ Unit unit_of(const WarpParams& p, unsigned long long largest) {
  const i64 outputs = p.out_height * p.out_width * (p.image_count == 1 ? p.batch : 1);
  const int enough = fixed_point_bits(outputs);
  const int bits = kWords<T> == 1 && enough > kMostFloatBits ? kMostFloatBits : enough;
  const int above = bits - exponent_above(largest), shift = above < 1000 ? above : 1000;
  return {shift, bits, FloatPower::of(-shift), largest < 0x7ff0000000000000ull};
}

// 64-bit sums in shared memory, as halves: there the hardware adds 32 bits at once, and 64 only in a loop.
struct SharedSums {
  unsigned* words;  // [2, kSharedWords]: the lower halves, then the upper ones

  __device__ __forceinline__ void add(int at, std::int64_t value) const {
    const unsigned lower = static_cast<unsigned>(value), before = atomicAdd(words + at, lower);
    add_upper(at, static_cast<unsigned>(value >> 32), before, lower);
  }

  // The upper half of a summand whose lower one met `before`.
  __device__ __forceinline__ void add_upper(int at, unsigned upper, unsigned before, unsigned lower) const {
    atomicAdd(words + at + kSharedWords, upper + (before + lower < lower ? 1u : 0u));
  }

  __device__ __forceinline__ std::int64_t read(int at) const {
    return static_cast<std::int64_t>(static_cast<unsigned long long>(words[at + kSharedWords]) << 32 | words[at]);
  }
};

__device__ __forceinline__ void add_fixed(const SharedSums& sums, int at, float value, const Unit& unit) {
  sums.add(at, to_fixed(value, unit.shift));
}

__device__ __forceinline__ void add_fixed(const SharedSums& sums, int at, double value, const Unit& unit) {
  const FixedPair pair = to_fixed_pair(value, unit.shift, unit.extra);
  sums.add(at, pair.high);
  sums.add(at + kSharedWords / 2, pair.low);
}

template <typename T>
__device__ __forceinline__ T fixed_value(std::int64_t high, std::int64_t low, const Unit& unit) {
  if (!unit.finite) return static_cast<T>(bits_to_double(0x7ff8000000000000ull));
  if constexpr (kWords<T> == 2) {
    return from_fixed_pair(high, low, unit.shift, unit.extra);
  } else {
    return from_fixed(high, unit.power);
  }
}

// The tile of the input that a block owns, with its first channel.
struct Owned {
  int left, top, width, height, channels;
  i64 channel;
};

// What one output tile brings to it.
template <typename Frame, typename Compute, typename Stored, int kTaps>
struct TileGather {
  using T = Compute;
  using Storage = Stored;
  using Place = Frame;  // where the tile lies
  static constexpr int kBlocks = kResidentImageBlocks<T, kTaps>;

  static __device__ __forceinline__ void place(const WarpParams& p, const Tile& tile, Frame* frame) {
    make_frame(frame, &p, tile.sample, tile.first_x, tile.first_y);
  }

  static __device__ __forceinline__ void add(const WarpParams& p, const OutputTiling& tiling, const Tile& tile,
                                             const Frame& frame, const Owned& own, const SharedSums& sums,
                                             const Unit& unit) {
    const T share = sample_share<T>(p);
    const int plane = own.width * own.height;
    // With a colour matrix all channels are mixed, of which the block's begin later.
    const int offset = p.color.data ? static_cast<int>(own.channel) : 0;
    for_each_pixel(p, tile, tiling.height, [&](unsigned x, unsigned y, int pixel_dx, int pixel_dy) {
      for_each_sample<T>(p, pixel_dx, pixel_dy, [&](T dx, T dy) {
        const Cell<T> cell = cell_at<kTaps>(p, frame, tile.sample, dx, dy);
        bool loaded = false;
        Channels<T> grad;
        for_each_tap_slowly<kTaps, 1>(p, cell, [&](const Tap<T>& column, const Tap<T>& row) {
          // As unsigned numbers, those left of the tile and the constant's -1 are beyond its end too.
          const unsigned tile_x = static_cast<unsigned>(column.index) - static_cast<unsigned>(own.left);
          const unsigned tile_y = static_cast<unsigned>(row.index) - static_cast<unsigned>(own.top);
          const T weight = column.weight * row.weight;
          if (tile_x >= static_cast<unsigned>(own.width) || tile_y >= static_cast<unsigned>(own.height)) return;
          if (column.index < 0 || row.index < 0 || weight == T(0)) return;
          if (!loaded) grad = load_sampled_grad<T, Storage>(p, tile.sample, x, y, own.channel - offset);
          loaded = true;
          int at = static_cast<int>(tile_y) * own.width + static_cast<int>(tile_x);
#pragma unroll 1
          for (int c = offset; c < offset + own.channels; ++c, at += plane) {
            add_fixed(sums, at, grad.pick(c) * share * weight, unit);
          }
        });
      });
    });
  }
};

__device__ __forceinline__ bool overlaps(const Box& box, const Owned& own) {
  return box.first_x < i64{own.left} + own.width && box.last_x >= own.left && box.first_y < i64{own.top} + own.height &&
         box.last_y >= own.top && box.first_x <= box.last_x;
}

// How the work is cut: by the host, which leaves the registers to the sums.
struct ImageCut {
  OutputTiling tiling;
  TileGroups groups;
  InputTiling input;
  i64 shares, tiles, items;

  static ImageCut of(const WarpParams& p, int words) {
    const OutputTiling tiling = output_tiling(p);
    const InputTiling input = input_tiling(p, words);
    const i64 shares = image_shares(p, input);
    return {tiling, tile_groups(tiling),        input,
            shares, input.columns * input.rows, p.image_count * shares * input.count()};
  }
};

template <typename Gather>
__global__ void __launch_bounds__(kThreads, Gather::kBlocks)
    warp_grad_image_kernel(const __grid_constant__ WarpParams p, const __grid_constant__ GradImageScratch scratch,
                           const __grid_constant__ ImageCut cut) {
  using T = typename Gather::T;
  using Storage = typename Gather::Storage;
  __shared__ unsigned words[2 * kSharedWords];
  __shared__ typename Gather::Place places[kFramesAtOnce];
  __shared__ int group_list[kThreads], tile_list[kThreads];
  __shared__ int group_count, tile_count;
  __shared__ Owned own;  // in registers these would be spilled
  __shared__ Unit unit;
  const SharedSums sums = {words};
  const OutputTiling& tiling = cut.tiling;
  const TileGroups& groups = cut.groups;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (i64 item = blockIdx.x; item < cut.items; item += gridDim.x) {
    const i64 image = item / cut.input.count() / cut.shares, share = item / cut.input.count() % cut.shares;
    if (thread == 0) {
      const i64 channel = item / cut.tiles % cut.input.channel_groups * cut.input.channels;
      own = {static_cast<int>(item % cut.input.columns * cut.input.width),
             static_cast<int>(item / cut.input.columns % cut.input.rows * cut.input.height),
             cut.input.width,
             cut.input.height,
             static_cast<int>(smaller(p.channels - channel, cut.input.channels)),
             channel};
      unit = unit_of<T>(p, scratch.largest[image]);
    }
    for (int k = thread; k < 2 * kSharedWords; k += kThreads) words[k] = 0;
#pragma unroll 1
    for (i64 sample = image + share; sample < (p.image_count == p.batch ? image + 1 : p.batch); sample += cut.shares) {
#pragma unroll 1
      for (i64 first_group = 0; first_group < groups.count; first_group += kThreads) {
        __syncthreads();  // the sums are zero, the tile is known, and nobody still reads the lists before
        if (thread == 0) group_count = 0;
        __syncthreads();
        if (first_group + thread < groups.count) {
          const GrowingBox grown = scratch.groups[sample * groups.count + first_group + thread];
          const bool reached = grown.end_x != 0 && grown.end_y != 0;
          const Box box = {static_cast<int>(~grown.before_x), static_cast<int>(grown.end_x) - 1,
                           static_cast<int>(~grown.before_y), static_cast<int>(grown.end_y) - 1};
          // The order of the list is left to chance: the sums do not depend on it.
          if (reached && overlaps(box, own)) group_list[atomicAdd(&group_count, 1)] = thread;
        }
        __syncthreads();
        const int candidates = group_count * kGroupTiles;
#pragma unroll 1
        for (int first = 0; first < candidates; first += kThreads) {
          __syncthreads();
          if (thread == 0) tile_count = 0;
          __syncthreads();
          if (first + thread < candidates) {
            const int within = (first + thread) % kGroupTiles;
            const i64 group = first_group + group_list[(first + thread) / kGroupTiles];
            const i64 index = tile_of_group(tiling, groups, group, within);
            if (index >= 0 && overlaps(scratch.boxes[sample * tiling.count() + index], own)) {
              tile_list[atomicAdd(&tile_count, 1)] = first + thread;
            }
          }
          __syncthreads();
          const int found = tile_count;
#pragma unroll 1
          for (int begin = 0; begin < found; begin += kFramesAtOnce) {
            const int made = min(found - begin, kFramesAtOnce);
            const auto found_tile = [&](int k) {
              const int candidate = tile_list[begin + k];
              const i64 group = first_group + group_list[candidate / kGroupTiles];
              return tile_at(tiling, sample, tile_of_group(tiling, groups, group, candidate % kGroupTiles));
            };
            if (thread < made) Gather::place(p, found_tile(thread), places + thread);
            __syncthreads();
#pragma unroll 1
            for (int k = 0; k < made; ++k) {
              Gather::add(p, tiling, found_tile(k), places[k], own, sums, unit);
            }
            __syncthreads();
          }
        }
      }
    }
    __syncthreads();
    const int side = own.width == 64 ? 6 : 5;
#pragma unroll 1
    for (int c = 0; c < own.channels; ++c) {
      const i64 from = image * p.grad_image.batch + (own.channel + c) * p.grad_image.channel;
#pragma unroll 1
      for (int k = thread; k < own.width * own.height; k += kThreads) {
        const int x = own.left + (k & (own.width - 1)), y = own.top + (k >> side), at = k + c * own.width * own.height;
        if (x >= p.width || y >= p.height) continue;
        const std::int64_t first = sums.read(at), second = kWords<T> == 2 ? sums.read(at + kSharedWords / 2) : 0;
        if (scratch.sums) {
          unsigned long long* sum = scratch.sums + ((own.channel + c) * p.height + y) * p.width + x;
          atomicAdd(sum, static_cast<unsigned long long>(first));
          if (kWords<T> == 2) {
            atomicAdd(sum + p.channels * p.height * p.width, static_cast<unsigned long long>(second));
          }
          continue;
        }
        store_element(p.dtype, static_cast<Storage*>(p.grad_image.data),
                      from + y * p.grad_image.row + x * p.grad_image.column, fixed_value<T>(first, second, unit));
      }
    }
    __syncthreads();  // before the tile changes and the sums are zeroed again
  }
}

// The sums of a shared image to its gradient.
template <typename T, typename Storage>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_shared_image_kernel(const __grid_constant__ WarpParams p, GradImageScratch scratch) {
  const Unit unit = unit_of<T>(p, scratch.largest[0]);
  const i64 plane = p.height * p.width, count = p.channels * plane;
#pragma unroll 1
  for (i64 k = static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x; k < count;
       k += static_cast<i64>(gridDim.x) * kThreads) {
    const i64 at =
        k / plane * p.grad_image.channel + k % plane / p.width * p.grad_image.row + k % p.width * p.grad_image.column;
    const std::int64_t second_word = kWords<T> == 2 ? static_cast<std::int64_t>(scratch.sums[count + k]) : 0;
    store_element(p.dtype, static_cast<Storage*>(p.grad_image.data), at,
                  fixed_value<T>(static_cast<std::int64_t>(scratch.sums[k]), second_word, unit));
  }
}

HARDFAST_END
