// affine_warp on CUDA: the arithmetic of kernels/math, one thread per output pixel, all channels of it in turn.
#define HARDFAST_ISA cuda
#include "affine_warp.h"

#include "../math/affine.h"
#include "../math/half.h"
#include "../math/interpolation.h"
#include "../math/padding.h"

namespace hardfast {
namespace {

using i64 = std::int64_t;

// A warp covers 32 neighbouring columns, so that its loads and stores coalesce for maps near the identity; eight rows
// keep the lines that they share in the first-level cache.
constexpr int kBlockColumns = 32;
constexpr int kBlockRows = 8;
constexpr int kThreads = kBlockColumns * kBlockRows;
constexpr int kWarps = kThreads / 32;

struct Grid {
  i64 columns, rows;
};

Grid block_grid(const AffineWarpParams& p) {
  return {(p.out_width + kBlockColumns - 1) / kBlockColumns, (p.out_height + kBlockRows - 1) / kBlockRows};
}

// All blocks in one dimension: it alone may exceed 65,535.
unsigned grid_size(i64 blocks) { return static_cast<unsigned>(blocks); }

// Which sample and output pixel a thread works on.
struct Place {
  i64 sample, block, first_x, first_y, x, y;
  bool inside;
};

__device__ __forceinline__ Place place(const AffineWarpParams& p, Grid grid) {
  const i64 blocks = grid.columns * grid.rows, index = blockIdx.x;
  Place at;
  at.sample = index / blocks;
  at.block = index % blocks;
  at.first_x = at.block % grid.columns * kBlockColumns;
  at.first_y = at.block / grid.columns * kBlockRows;
  at.x = at.first_x + threadIdx.x % kBlockColumns;
  at.y = at.first_y + threadIdx.x / kBlockColumns;
  at.inside = at.x < p.out_width && at.y < p.out_height;
  return at;
}

// A position on the input: whole pixels from `origin`, as on the CPU, so that large images lose no precision.
template <typename T>
struct Axis {
  T start, step_x, step_y;
  i64 origin;
};

template <typename T>
struct BlockMap {
  Axis<T> x, y;
};

template <typename T>
__device__ Axis<T> block_axis(const AffineWarpParams& p, const Place& at, const T* theta_row, i64 length) {
  const AffineAxis axis =
      affine_axis(theta_row, p.theta_column, axis_scale(length, p.out_height, p.out_width, p.align_corners));
  const double u = static_cast<double>(at.first_x) - 0.5 * static_cast<double>(p.out_width - 1);
  const double v = static_cast<double>(at.first_y) - 0.5 * static_cast<double>(p.out_height - 1);
  const double start = axis.column * u + axis.row * v + axis.centre;
  const double last = static_cast<double>(length);
  const double clamped = start > 0 ? (start < last ? start : last) : 0;  // NaN becomes 0
  // An even origin keeps ties of "nearest" what they are in the image.
  const i64 origin = static_cast<i64>(clamped) & ~i64{1};
  return {static_cast<T>(start - static_cast<double>(origin)), static_cast<T>(axis.column), static_cast<T>(axis.row),
          origin};
}

template <typename T>
__device__ BlockMap<T> block_map(const AffineWarpParams& p, const Place& at) {
  __shared__ BlockMap<T> map;
  if (threadIdx.x == 0) {
    const T* theta = static_cast<const T*>(p.theta) + at.sample * p.theta_batch;
    map.x = block_axis(p, at, theta, p.width);
    map.y = block_axis(p, at, theta + p.theta_row, p.height);
  }
  __syncthreads();
  return map;
}

// One axis of a cell: its first tap in the image, the place within, and the slope of the padding rule.
template <typename T>
struct Cell {
  i64 first;
  T within, slope;
};

template <typename T>
__device__ __forceinline__ Cell<T> cell(const AffineWarpParams& p, const Axis<T>& axis, i64 length) {
  const T dx = static_cast<T>(threadIdx.x % kBlockColumns), dy = static_cast<T>(threadIdx.x / kBlockColumns);
  // The rule is the same for all threads, so choosing it here costs next to nothing, and one kernel serves all rules.
  const Extent<T> extent = {static_cast<T>(axis.origin), static_cast<T>(length), p.align_corners, p.padding};
  const Padded<T> padded = AnyPadding::apply(axis.start + dx * axis.step_x + dy * axis.step_y, extent);
  // Two pixels beyond either edge all taps lie outside; NaN goes there too.
  const T low = static_cast<T>(-2 - axis.origin), high = static_cast<T>(length - axis.origin);
  const T above = padded.position > low ? padded.position : low;
  const T clamped = above < high ? above : high;
  const bool nearest = p.mode == Mode::kNearest;
  const T first = nearest ? rint(clamped) : floor(clamped);
  return {axis.origin + static_cast<i64>(first), nearest ? T(0) : clamped - first, padded.slope};
}

// Where the four taps of an output pixel lie, the same in every channel. A tap outside the image has no place.
struct TapPlaces {
  i64 at[4];
  bool inside[4];
};

template <typename T>
__device__ __forceinline__ TapPlaces tap_places(const AffineWarpParams& p, const Cell<T>& x, const Cell<T>& y,
                                                i64 row_stride, i64 column_stride) {
  TapPlaces places;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const i64 column = x.first + k % 2, row = y.first + k / 2;
    places.inside[k] = column >= 0 && column < p.width && row >= 0 && row < p.height;
    places.at[k] = row * row_stride + column * column_stride;
  }
  return places;
}

template <typename T, typename Storage>
__device__ __forceinline__ Taps<T> load_taps(const TapPlaces& places, const Storage* channel, T outside) {
  T taps[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    taps[k] = places.inside[k] ? static_cast<T>(widen(channel[places.at[k]])) : outside;
  }
  return {taps[0], taps[1], taps[2], taps[3]};
}

template <typename T>
__device__ __forceinline__ T outside_value(const AffineWarpParams& p, i64 sample, i64 channel) {
  return p.fill ? static_cast<const T*>(p.fill)[sample * p.fill_batch + channel * p.fill_channel] : T(0);
}

// Everything about one output pixel that its channels share.
template <typename T, typename Storage>
struct Pixel {
  Cell<T> x, y;
  TapPlaces places;
  const Storage* image;

  __device__ __forceinline__ Pixel(const AffineWarpParams& p, const Place& at, const BlockMap<T>& map)
      : x(cell(p, map.x, p.width)),
        y(cell(p, map.y, p.height)),
        places(tap_places(p, x, y, p.image.row, p.image.column)),
        image(static_cast<const Storage*>(p.image.data) + at.sample * p.image.batch) {}

  __device__ __forceinline__ Taps<T> taps(const AffineWarpParams& p, const Place& at, i64 channel) const {
    return load_taps(places, image + channel * p.image.channel, outside_value<T>(p, at.sample, channel));
  }
};

template <typename T, typename Storage>
__device__ __forceinline__ T load_grad(const AffineWarpParams& p, const Place& at, i64 channel) {
  const i64 index = at.sample * p.grad_output.batch + channel * p.grad_output.channel + at.y * p.grad_output.row +
                    at.x * p.grad_output.column;
  return static_cast<T>(widen(static_cast<const Storage*>(p.grad_output.data)[index]));
}

template <typename T, typename Storage>
__global__ void __launch_bounds__(kThreads) affine_warp_kernel(AffineWarpParams p, Grid grid) {
  const Place at = place(p, grid);
  const BlockMap<T> map = block_map<T>(p, at);
  if (!at.inside) return;
  const Pixel<T, Storage> pixel(p, at, map);
  Storage* output =
      static_cast<Storage*>(p.output.data) + at.sample * p.output.batch + at.y * p.output.row + at.x * p.output.column;
#pragma unroll 1
  for (i64 c = 0; c < p.channels; ++c) {
    const Taps<T> taps = pixel.taps(p, at, c);
    const T value = p.mode == Mode::kNearest ? taps.v00 : bilinear(taps, pixel.x.within, pixel.y.within);
    output[c * p.output.channel] = narrow<Storage>(value);
  }
}

// Sums in a fixed order: lanes by shuffles, warps by the first thread. The result is in thread 0.
__device__ __forceinline__ double block_sum(double value, double* per_warp) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffffu, value, offset);
  __syncthreads();
  if (threadIdx.x % 32 == 0) per_warp[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += per_warp[w];
  return sum;
}

template <typename T, typename Storage>
__global__ void __launch_bounds__(kThreads) affine_warp_grad_theta_kernel(AffineWarpParams p, Grid grid) {
  const Place at = place(p, grid);
  const BlockMap<T> map = block_map<T>(p, at);
  PositionGradient<T> sum = {T(0), T(0)};
  if (at.inside) {
    const Pixel<T, Storage> pixel(p, at, map);
#pragma unroll 1
    for (i64 c = 0; c < p.channels; ++c) {
      const PositionGradient<T> gradient =
          grad_bilinear_position(pixel.taps(p, at, c), pixel.x.within, pixel.y.within, load_grad<T, Storage>(p, at, c));
      sum.x += gradient.x;
      sum.y += gradient.y;
    }
    sum.x *= pixel.x.slope;
    sum.y *= pixel.y.slope;
  }
  __shared__ double per_warp[kWarps];
  const double u = static_cast<double>(at.x) - 0.5 * static_cast<double>(p.out_width - 1);
  const double v = static_cast<double>(at.y) - 0.5 * static_cast<double>(p.out_height - 1);
  const double gx = sum.x, gy = sum.y;
  const double terms[6] = {gx, gx * u, gx * v, gy, gy * u, gy * v};
  double* sums = p.grad_theta_sums + 6 * (at.sample * grid.columns * grid.rows + at.block);
  for (int k = 0; k < 6; ++k) {
    const double total = block_sum(terms[k], per_warp);
    if (threadIdx.x == 0) sums[k] = total;
  }
}

// One block per sample joins its blocks' sums, again in a fixed order.
template <typename T>
__global__ void __launch_bounds__(kThreads) reduce_theta_kernel(AffineWarpParams p, i64 blocks) {
  __shared__ double per_warp[kWarps];
  const i64 sample = blockIdx.x;
  double total[6];
  for (int k = 0; k < 6; ++k) {
    double sum = 0;
    for (i64 b = threadIdx.x; b < blocks; b += kThreads) sum += p.grad_theta_sums[6 * (sample * blocks + b) + k];
    total[k] = block_sum(sum, per_warp);
  }
  if (threadIdx.x != 0) return;
  T* grad_theta = static_cast<T*>(p.grad_theta) + 6 * sample;
  grad_affine_axis({total[0], total[1], total[2]}, axis_scale(p.width, p.out_height, p.out_width, p.align_corners),
                   grad_theta);
  grad_affine_axis({total[3], total[4], total[5]}, axis_scale(p.height, p.out_height, p.out_width, p.align_corners),
                   grad_theta + 3);
}

// The gradient to the image is accumulated in 64-bit fixed point: integer sums do not depend on their order, so the
// result is the same in every run. The unit comes from the largest gradient, which an integer maximum finds, equally
// independent of order.
template <typename T, typename Storage>
__global__ void __launch_bounds__(kThreads) largest_grad_kernel(AffineWarpParams p, Grid grid, unsigned* largest) {
  const Place at = place(p, grid);
  float value = 0;
  if (at.inside) {
    for (i64 c = 0; c < p.channels; ++c) {
      const float size = fabsf(static_cast<float>(load_grad<T, Storage>(p, at, c)));
      if (size > value || size != size) value = size;  // NaN is largest, and stays
    }
  }
  // Bits of nonnegative floats are ordered as the floats, with infinity and then NaN at the end.
  const unsigned bits = __reduce_max_sync(0xffffffffu, __float_as_uint(value));
  if (threadIdx.x % 32 == 0) atomicMax(largest, bits);
}

// Units per one: 2^38 to the largest gradient leave room for 2^24 of them in one pixel, and an error of a single
// gradient far below that of a float sum.
__device__ __forceinline__ double fixed_point_scale(unsigned largest) {
  int exponent;
  frexp(static_cast<double>(__uint_as_float(largest)), &exponent);
  return ldexp(1.0, 38 - exponent);
}

template <typename T, typename Storage>
__global__ void __launch_bounds__(kThreads)
    affine_warp_grad_image_kernel(AffineWarpParams p, Grid grid, unsigned long long* accumulators,
                                  const unsigned* largest) {
  const Place at = place(p, grid);
  const BlockMap<T> map = block_map<T>(p, at);
  if (!at.inside) return;
  const Cell<T> x = cell(p, map.x, p.width), y = cell(p, map.y, p.height);
  const TapPlaces places = tap_places(p, x, y, p.width, 1);
  const double scale = fixed_point_scale(*largest);
#pragma unroll 1
  for (i64 c = 0; c < p.channels; ++c) {
    unsigned long long* channel = accumulators + (at.sample * p.channels + c) * p.height * p.width;
    // At a whole position, as "nearest" makes them, the first tap's weight is one and the others' zero.
    const Taps<T> taps = grad_bilinear_taps(x.within, y.within, load_grad<T, Storage>(p, at, c));
    const T values[4] = {taps.v00, taps.v01, taps.v10, taps.v11};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (!places.inside[k] || values[k] == T(0)) continue;
      const long long units = __double2ll_rn(static_cast<double>(values[k]) * scale);
      atomicAdd(channel + places.at[k], static_cast<unsigned long long>(units));
    }
  }
}

template <typename T, typename Storage>
__global__ void __launch_bounds__(kThreads)
    fixed_point_to_image_kernel(AffineWarpParams p, i64 count, const unsigned long long* accumulators,
                                const unsigned* largest) {
  const i64 index = static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const i64 x = index % p.width, y = index / p.width % p.height;
  const i64 channel = index / (p.width * p.height) % p.channels, sample = index / (p.width * p.height * p.channels);
  const float size = __uint_as_float(*largest);
  const double sum = static_cast<double>(static_cast<long long>(accumulators[index]));
  // An infinite or NaN gradient has no unit: all of the result is NaN then, so that nobody takes a step with it.
  const double value = size - size == 0 ? sum / fixed_point_scale(*largest) : static_cast<double>(size - size);
  const i64 at =
      sample * p.grad_image.batch + channel * p.grad_image.channel + y * p.grad_image.row + x * p.grad_image.column;
  static_cast<Storage*>(p.grad_image.data)[at] = narrow<Storage>(static_cast<T>(value));
}

template <typename T>
struct Tag {
  using Type = T;
};

// Calls function(Tag<T>, Tag<Storage>) for the parameters' dtype: T is that of the arithmetic.
template <typename Function>
void by_dtype(const AffineWarpParams& p, const Function& function) {
  switch (p.dtype) {
    case DType::kFloat64: return function(Tag<double>{}, Tag<double>{});
    case DType::kFloat16: return function(Tag<float>{}, Tag<Half>{});
    case DType::kBFloat16: return function(Tag<float>{}, Tag<BFloat16>{});
    default: return function(Tag<float>{}, Tag<float>{});
  }
}

}  // namespace

std::int64_t affine_warp_blocks(const AffineWarpParams& p) {
  const Grid grid = block_grid(p);
  return grid.columns * grid.rows;
}

cudaError_t launch_affine_warp(const AffineWarpParams& p, cudaStream_t stream) {
  const Grid grid = block_grid(p);
  const unsigned blocks = grid_size(p.batch * grid.columns * grid.rows);
  by_dtype(p, [&](auto scalar, auto storage) {
    using T = typename decltype(scalar)::Type;
    using Storage = typename decltype(storage)::Type;
    affine_warp_kernel<T, Storage><<<blocks, kThreads, 0, stream>>>(p, grid);
  });
  return cudaGetLastError();
}

cudaError_t launch_affine_warp_grad_theta(const AffineWarpParams& p, cudaStream_t stream) {
  const Grid grid = block_grid(p);
  const i64 blocks = grid.columns * grid.rows;
  by_dtype(p, [&](auto scalar, auto storage) {
    using T = typename decltype(scalar)::Type;
    using Storage = typename decltype(storage)::Type;
    affine_warp_grad_theta_kernel<T, Storage><<<grid_size(p.batch * blocks), kThreads, 0, stream>>>(p, grid);
    reduce_theta_kernel<T><<<grid_size(p.batch), kThreads, 0, stream>>>(p, blocks);
  });
  return cudaGetLastError();
}

cudaError_t launch_affine_warp_grad_image(const AffineWarpParams& p, unsigned long long* accumulators,
                                          unsigned* largest, cudaStream_t stream) {
  const Grid grid = block_grid(p);
  const unsigned blocks = grid_size(p.batch * grid.columns * grid.rows);
  const i64 count = p.batch * p.channels * p.height * p.width;
  const unsigned count_blocks = grid_size((count + kThreads - 1) / kThreads);
  by_dtype(p, [&](auto scalar, auto storage) {
    using T = typename decltype(scalar)::Type;
    using Storage = typename decltype(storage)::Type;
    largest_grad_kernel<T, Storage><<<blocks, kThreads, 0, stream>>>(p, grid, largest);
    affine_warp_grad_image_kernel<T, Storage><<<blocks, kThreads, 0, stream>>>(p, grid, accumulators, largest);
    fixed_point_to_image_kernel<T, Storage><<<count_blocks, kThreads, 0, stream>>>(p, count, accumulators, largest);
  });
  return cudaGetLastError();
}

}  // namespace hardfast
