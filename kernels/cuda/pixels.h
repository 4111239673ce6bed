// What the kernels of all warps share: tiles, taps of an output pixel, and channels in blocks of up to four.
#pragma once

#include <cuda_runtime_api.h>

#include <type_traits>

#include "../math/frame.h"
#include "../math/half.h"
#include "../math/taps.h"
#include "tiles.h"

HARDFAST_BEGIN

// A tile of one sample's output, and the pixel in it that a thread begins with.
struct Tile {
  i64 sample;
  unsigned first_x, first_y;  // sides are below 2^31, so that sums of a few more pixels still fit
};

__device__ __forceinline__ Tile tile_at(const OutputTiling& tiling, i64 sample, i64 index) {
  return {sample, static_cast<unsigned>(index % tiling.columns) * kTileWidth,
          static_cast<unsigned>(index / tiling.columns) * static_cast<unsigned>(tiling.height)};
}

__device__ __forceinline__ int thread_column() { return static_cast<int>(threadIdx.x) % kTileWidth; }
__device__ __forceinline__ int thread_row() { return static_cast<int>(threadIdx.x) / kTileWidth; }

// Calls function(x, y, dx, dy) for this thread's pixels of a tile that lie in the output.
template <typename Function>
__device__ __forceinline__ void for_each_pixel(const WarpParams& p, const Tile& tile, int height,
                                               const Function& function) {
  const unsigned x = tile.first_x + static_cast<unsigned>(thread_column());
  if (x >= static_cast<unsigned>(p.out_width)) return;
#pragma unroll 1
  for (int dy = thread_row(); dy < height; dy += kBlockRows) {
    const unsigned y = tile.first_y + static_cast<unsigned>(dy);
    if (y < static_cast<unsigned>(p.out_height)) function(x, y, thread_column(), dy);
  }
}

// Calls function(dx, dy) for the sub-samples of an output pixel; their values' mean is the pixel's. A single one lies
// exactly on the pixel.
template <typename T, typename Function>
__device__ __forceinline__ void for_each_sample(const WarpParams& p, int dx, int dy, const Function& function) {
  const T step_y = T(1) / static_cast<T>(p.samples_y), step_x = T(1) / static_cast<T>(p.samples_x);
#pragma unroll 1
  for (int k = 0; k < static_cast<int>(p.samples_y); ++k) {
    const T y = static_cast<T>(dy) + fused(static_cast<T>(k) + T(0.5), step_y, T(-0.5));
#pragma unroll 1
    for (int l = 0; l < static_cast<int>(p.samples_x); ++l) {
      function(static_cast<T>(dx) + fused(static_cast<T>(l) + T(0.5), step_x, T(-0.5)), y);
    }
  }
}

// Where sub-sample k of `count` along one axis lies, from the pixel.
template <typename T>
__device__ __forceinline__ T sub_sample_offset(int k, i64 count) {
  return (static_cast<T>(k) + T(0.5)) / static_cast<T>(count) - T(0.5);
}

template <typename T>
__device__ __forceinline__ T sample_share(const WarpParams& p) {
  return T(1) / static_cast<T>(p.samples_y * p.samples_x);
}

// The frame of a tile. Not inlined: one thread needs it, once a tile, and the code is long.
template <typename Frame>
__device__ __noinline__ void make_frame(Frame* frame, const WarpParams* p, i64 sample, i64 first_x, i64 first_y) {
  *frame = Frame::make(*p, sample, first_x, first_y);
}

// The taps of one position on the image.
template <typename T>
struct Cell {
  AxisCell<T> x, y;
};

__device__ __forceinline__ TapRule rule_x(const WarpParams& p, i64 origin = 0) {
  return {origin, p.width, p.mode, p.padding, p.align_corners};
}

__device__ __forceinline__ TapRule rule_y(const WarpParams& p, i64 origin = 0) {
  return {origin, p.height, p.mode, p.padding, p.align_corners};
}

template <int kTaps, typename T, typename Frame>
__device__ __forceinline__ Cell<T> cell_at(const WarpParams& p, const Frame& frame, i64 sample, T dx, T dy) {
  const Point<T> at = frame.at(p, sample, dx, dy);
  return {axis_cell<kTaps>(at.x, rule_x(p, frame.origin_x)), axis_cell<kTaps>(at.y, rule_y(p, frame.origin_y))};
}

// Calls function(x, y) for the taps of a cell, with `kRows` rows of them in flight together.
template <int kTaps, int kRows = kTaps == 2 ? 2 : 1, typename T, typename Function>
__device__ __forceinline__ void for_each_tap(const WarpParams& p, const Cell<T>& cell, const Function& function) {
  const int count = tap_count(p.mode);
  Tap<T> columns[kTaps];
#pragma unroll
  for (int i = 0; i < kTaps; ++i) columns[i] = tap_at<kTaps>(cell.x, rule_x(p), i);
#pragma unroll(kRows)
  for (int j = 0; j < kTaps; ++j) {
    if (j >= count) break;
    const Tap<T> row = tap_at<kTaps>(cell.y, rule_y(p), j);
#pragma unroll
    for (int i = 0; i < kTaps; ++i) {
      if (i < count) function(columns[i], row);
    }
  }
}

// The same with fewer registers, for the gradients: each of 16 taps is found when it is due. `kTogether` rows of two
// taps, or taps of a row of four, are in flight.
template <int kTaps, int kTogether, typename T, typename Function>
__device__ __forceinline__ void for_each_tap_slowly(const WarpParams& p, const Cell<T>& cell,
                                                    const Function& function) {
  if constexpr (kTaps == 2) {
    for_each_tap<kTaps, kTogether>(p, cell, function);
  } else {
    const int count = tap_count(p.mode);
#pragma unroll 1
    for (int j = 0; j < count; ++j) {
      const Tap<T> row = tap_at<kTaps>(cell.y, rule_y(p), j);
#pragma unroll(kTogether)
      for (int i = 0; i < count; ++i) function(tap_at<kTaps>(cell.x, rule_x(p), i), row);
    }
  }
}

// Up to four channels of one pixel.
template <typename T>
struct Channels {
  T at[kChannelBlock];

  // By comparisons: an index that is not constant would send the channels from registers to memory.
  __device__ __forceinline__ T pick(int c) const { return c < 2 ? (c == 0 ? at[0] : at[1]) : (c == 2 ? at[2] : at[3]); }
};

// Stands for float, half and bfloat16, told apart at run time: the gradients' kernels are built once for the three.
struct AnyFloat {};

template <typename T, typename Storage>
__device__ __forceinline__ T load_element(DType /*dtype*/, const Storage* data, i64 at) {
  return static_cast<T>(widen(data[at]));
}

template <typename T>
__device__ __forceinline__ T load_element(DType dtype, const AnyFloat* data, i64 at) {
  if (dtype == DType::kFloat32) return reinterpret_cast<const float*>(data)[at];
  const std::uint16_t bits = reinterpret_cast<const std::uint16_t*>(data)[at];
  return dtype == DType::kFloat16 ? widen(Half{bits}) : widen(BFloat16{bits});
}

template <typename T, typename Storage>
__device__ __forceinline__ void store_element(DType /*dtype*/, Storage* data, i64 at, T value) {
  data[at] = narrow<Storage>(value);
}

template <typename T>
__device__ __forceinline__ void store_element(DType dtype, AnyFloat* data, i64 at, T value) {
  if (dtype == DType::kFloat32) {
    reinterpret_cast<float*>(data)[at] = value;
  } else {
    reinterpret_cast<std::uint16_t*>(data)[at] =
        dtype == DType::kFloat16 ? narrow<Half>(value).bits : narrow<BFloat16>(value).bits;
  }
}

template <typename Storage>
struct alignas(kChannelBlock * sizeof(Storage) > 16 ? 16 : kChannelBlock * sizeof(Storage)) Packed {
  Storage at[kChannelBlock];
};

// How a block of channels lies in memory. Packed: four, side by side and aligned, so that one access brings them all.
struct ChannelStep {
  i64 stride;
  int count;
  bool packed;
};

template <typename Storage, typename Void>
__device__ __forceinline__ ChannelStep channel_step(const ImageView<Void>& view, i64 first, i64 channels) {
  const int count = static_cast<int>(smaller(channels - first, kChannelBlock));
  const bool whole = (view.batch | view.row | view.column) % kChannelBlock == 0;
  return {view.channel, count,
          !std::is_same<Storage, AnyFloat>::value && count == kChannelBlock && view.channel == 1 && whole &&
              reinterpret_cast<std::uintptr_t>(view.data) % alignof(Packed<Storage>) == 0};
}

template <typename T, typename Storage>
__device__ __forceinline__ Channels<T> load_channels(DType dtype, const Storage* data, i64 at,
                                                     const ChannelStep& step) {
  Channels<T> value;
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    value.at[c] = c < step.count ? load_element<T>(dtype, data, at + c * step.stride) : T(0);
  }
  return value;
}

template <typename T, typename Storage>
__device__ __forceinline__ Channels<T> load_packed(const Storage* data, i64 at) {
  const Packed<Storage> all = *reinterpret_cast<const Packed<Storage>*>(data + at);
  Channels<T> value;
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) value.at[c] = static_cast<T>(widen(all.at[c]));
  return value;
}

// Four channels of one tap, or the constant outside.
template <typename T, typename Storage>
__device__ __forceinline__ Channels<T> load_tap(const WarpParams& p, const Storage* image, i64 base, const Tap<T>& x,
                                                const Tap<T>& y, const ChannelStep& step, const Channels<T>& outside) {
  if (x.index < 0 || y.index < 0) return outside;
  const i64 at = base + y.index * p.image.row + x.index * p.image.column;
  if constexpr (!std::is_same<Storage, AnyFloat>::value) {
    if (step.packed) return load_packed<T>(image, at);
  }
  return load_channels<T>(p.dtype, image, at, step);
}

template <typename T, typename Storage>
__device__ __forceinline__ void store_channels(const Channels<T>& value, const ChannelStep& step, Storage* pixel) {
  if (step.packed) {
    Packed<Storage> all;
#pragma unroll
    for (int c = 0; c < kChannelBlock; ++c) all.at[c] = narrow<Storage>(value.at[c]);
    *reinterpret_cast<Packed<Storage>*>(pixel) = all;
    return;
  }
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) {
    if (c < step.count) pixel[c * step.stride] = narrow<Storage>(value.at[c]);
  }
}

// The constant outside the image.
template <typename T>
__device__ __forceinline__ Channels<T> outside_channels(const WarpParams& p, i64 sample, i64 first, int count) {
  Channels<T> value;
  const T* fill = static_cast<const T*>(p.fill) + sample * p.fill_batch + first * p.fill_channel;
#pragma unroll
  for (int c = 0; c < kChannelBlock; ++c) value.at[c] = p.fill && c < count ? fill[c * p.fill_channel] : T(0);
  return value;
}

// Adds one position's interpolated value. The channels begin at element `base` of the image.
template <int kTaps, typename T, typename Storage>
__device__ __forceinline__ void add_sampled(const WarpParams& p, const Cell<T>& cell, const Storage* image, i64 base,
                                            const ChannelStep& step, const Channels<T>& outside, Channels<T>& sum) {
  for_each_tap<kTaps>(p, cell, [&](const Tap<T>& x, const Tap<T>& y) {
    const T weight = x.weight * y.weight;
    const Channels<T> tap = load_tap(p, image, base, x, y, step, outside);
#pragma unroll
    for (int c = 0; c < kChannelBlock; ++c) sum.at[c] = fused(weight, tap.at[c], sum.at[c]);
  });
}

// The colours [C, C + 1] of a sample, contiguous, as the host code sees to.
template <typename T>
__device__ __forceinline__ const T* color_of(const WarpParams& p, i64 sample) {
  return static_cast<const T*>(p.color.data) + sample * p.color.batch;
}

// color[:, :C] @ value + color[:, C].
template <typename T>
__device__ __forceinline__ Channels<T> apply_color(const WarpParams& p, i64 sample, const Channels<T>& value) {
  const T* color = color_of<T>(p, sample);
  const int count = static_cast<int>(p.channels);
  Channels<T> mixed = {};
#pragma unroll
  for (int i = 0; i < kChannelBlock; ++i) {
    if (i >= count) break;
    mixed.at[i] = color[i * (count + 1) + count];
#pragma unroll 1
    for (int j = 0; j < count; ++j) mixed.at[i] = fused(color[i * (count + 1) + j], value.pick(j), mixed.at[i]);
  }
  return mixed;
}

// color[:, :C]^T @ grad.
template <typename T>
__device__ __forceinline__ Channels<T> grad_before_color(const WarpParams& p, i64 sample, const Channels<T>& grad) {
  const T* color = color_of<T>(p, sample);
  const int count = static_cast<int>(p.channels);
  Channels<T> mixed = {};
#pragma unroll
  for (int j = 0; j < kChannelBlock; ++j) {
    if (j >= count) break;
#pragma unroll 1
    for (int i = 0; i < count; ++i) mixed.at[j] = fused(color[i * (count + 1) + j], grad.pick(i), mixed.at[j]);
  }
  return mixed;
}

template <typename T, typename Storage>
__device__ __forceinline__ Channels<T> load_grad(const WarpParams& p, i64 sample, unsigned x, unsigned y, i64 first) {
  const ImageView<const void>& view = p.grad_output;
  const i64 at = sample * view.batch + y * view.row + x * view.column + first * view.channel;
  const int count = static_cast<int>(smaller(p.channels - first, kChannelBlock));
  return load_channels<T>(p.dtype, static_cast<const Storage*>(view.data), at, {view.channel, count, false});
}

// The gradient to the channels `first` and following of the sampled value.
template <typename T, typename Storage>
__device__ __forceinline__ Channels<T> load_sampled_grad(const WarpParams& p, i64 sample, unsigned x, unsigned y,
                                                         i64 first) {
  const Channels<T> grad = load_grad<T, Storage>(p, sample, x, y, first);
  return p.color.data ? grad_before_color(p, sample, grad) : grad;
}

// Sums in a fixed order: lanes by shuffles.
template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  return value;
}

// Then warps, by every thread alike. All threads of the block must call it. Not inlined: it runs once a strip.
inline __device__ __noinline__ double block_sum(double value, double* per_warp) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) per_warp[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += per_warp[w];
  return sum;
}

HARDFAST_END
