// Gradients to what all pixels share: matrices, control points, fill values, colours. A block sums over a strip of
// tiles, and a second kernel over the strips, both in an order that the shapes alone decide.
#pragma once

#include "pixels.h"
#include "scratch.h"

HARDFAST_BEGIN

// The gradient to one position on the input, over all channels.
template <int kTaps, typename Storage, typename T, typename Frame>
__device__ __forceinline__ Point<T> grad_position(const WarpParams& p, const Frame& frame, i64 sample, unsigned x,
                                                  unsigned y, T dx, T dy) {
  const Cell<T> cell = cell_at<kTaps>(p, frame, sample, dx, dy);
  Point<T> sum = {T(0), T(0)};
#pragma unroll 1
  for (i64 first = 0; first < p.channels; first += kChannelBlock) {
    const ChannelStep step = channel_step<Storage>(p.image, first, p.channels);
    const i64 base = sample * p.image.batch + first * p.image.channel;
    const Channels<T> outside = outside_channels<T>(p, sample, first, step.count);
    const Channels<T> grad = load_sampled_grad<T, Storage>(p, sample, x, y, first);
    for_each_tap_slowly<kTaps, 2>(p, cell, [&](const Tap<T>& column, const Tap<T>& row) {
      const Channels<T> tap = load_tap(p, static_cast<const Storage*>(p.image.data), base, column, row, step, outside);
      T product = T(0);
#pragma unroll
      for (int c = 0; c < kChannelBlock; ++c) product = fused(grad.at[c], tap.at[c], product);
      sum.x = fused(column.slope * row.weight, product, sum.x);
      sum.y = fused(column.weight * row.slope, product, sum.y);
    });
  }
  const T share = sample_share<T>(p);
  return {sum.x * share, sum.y * share};
}

// Calls function(tile) for the tiles of one strip, with their frame made.
template <typename Frame, typename Function>
__device__ __forceinline__ void for_each_tile(const WarpParams& p, const OutputTiling& tiling, const Strips& cut,
                                              i64 item, Frame& frame, const Function& function) {
  const i64 sample = item / cut.count, first = item % cut.count * cut.tiles;
  const i64 last = smaller(first + cut.tiles, tiling.count());
#pragma unroll 1
  for (i64 index = first; index < last; ++index) {
    const Tile tile = tile_at(tiling, sample, index);
    __syncthreads();  // nobody still reads the frame before
    if (threadIdx.x == 0) make_frame(&frame, &p, sample, tile.first_x, tile.first_y);
    __syncthreads();
    function(tile, index == first);
  }
}

// A matrix acts through forms that are linear in the output position: the gradient to each form, plain and times that
// position, is summed. Affine has two forms, projective three.
template <typename T>
__device__ __forceinline__ void form_gradients(const AffineFrame<T>& /*frame*/, Point<T> /*at*/, Point<T> grad,
                                               T (&forms)[2]) {
  forms[0] = grad.x;
  forms[1] = grad.y;
}

template <typename T, typename Form>
__device__ __forceinline__ void form_gradients(const ProjectiveFrame<T, Form>& frame, const ProjectivePoint<T>& at,
                                               Point<T> grad, T (&forms)[3]) {
  const ProjectiveTerms<T> terms = grad_projective_frame(frame, at, grad);
  forms[0] = terms.x;
  forms[1] = terms.y;
  forms[2] = terms.w;
}

template <typename Frame, typename T, typename Storage, int kTaps, int kForms>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_grad_matrix_kernel(const __grid_constant__ WarpParams p, double* sums) {
  __shared__ Frame frame;
  __shared__ double per_warp[kWarps];
  // Each thread's own, in the order of the matrix: times x, times y, plain. In registers they would crowd out blocks.
  __shared__ double totals[3 * kForms][kThreads];
  __shared__ Strips cut;  // in registers it would be spilled
  const OutputTiling tiling = output_tiling(p);
  if (threadIdx.x == 0) cut = strips(p, tiling.count(), 3 * kForms);
  __syncthreads();
#pragma unroll 1
  for (i64 item = blockIdx.x; item < p.batch * cut.count; item += gridDim.x) {
#pragma unroll
    for (int k = 0; k < 3 * kForms; ++k) totals[k][threadIdx.x] = 0;
    for_each_tile(p, tiling, cut, item, frame, [&](const Tile& tile, bool) {
      T plain[kForms] = {}, times_x[kForms] = {}, times_y[kForms] = {};
      for_each_pixel(p, tile, tiling.height, [&](unsigned x, unsigned y, int pixel_dx, int pixel_dy) {
        for_each_sample<T>(p, pixel_dx, pixel_dy, [&](T dx, T dy) {
          const Point<T> grad = grad_position<kTaps, Storage>(p, frame, tile.sample, x, y, dx, dy);
          asm volatile("" ::: "memory");  // the position is found anew, for kept it takes registers too many
          T forms[kForms];
          form_gradients(frame, frame.at(p, tile.sample, dx, dy), grad, forms);
#pragma unroll
          for (int f = 0; f < kForms; ++f) {
            plain[f] += forms[f];
            times_x[f] = fused(forms[f], dx, times_x[f]);
            times_y[f] = fused(forms[f], dy, times_y[f]);
          }
        });
      });
      const Point<double> first = from_centre(p, tile.first_x, tile.first_y);
#pragma unroll
      for (int f = 0; f < kForms; ++f) {
        totals[3 * f][threadIdx.x] += first.x * static_cast<double>(plain[f]) + static_cast<double>(times_x[f]);
        totals[3 * f + 1][threadIdx.x] += first.y * static_cast<double>(plain[f]) + static_cast<double>(times_y[f]);
        totals[3 * f + 2][threadIdx.x] += static_cast<double>(plain[f]);
      }
    });
#pragma unroll 1
    for (int k = 0; k < 3 * kForms; ++k) {
      const double sum = block_sum(totals[k][threadIdx.x], per_warp);
      if (threadIdx.x == 0) sums[item * (3 * kForms) + k] = sum;
    }
  }
}

// What a sum of warp_grad_matrix_kernel is multiplied by to be the gradient to the normalised matrix.
struct MatrixFactor {
  __device__ double operator()(const WarpParams& p, i64 value) const {
    const int form = static_cast<int>(value / 3), part = static_cast<int>(value % 3);
    if (form == 2) {
      if (part == 2) return 1.0;
      return part == 0 ? p.scale.unit_x : p.scale.unit_y;
    }
    const AxisScale& scale = form == 0 ? p.scale.x : p.scale.y;
    return part == 0 ? scale.per_column : (part == 1 ? scale.per_row : scale.half_extent);
  }
};

struct NoFactor {
  __device__ double operator()(const WarpParams& /*p*/, i64 /*value*/) const { return 1.0; }
};

// Which of the partial sums [terms of all groups, stride] become which gradients [groups, values].
struct Reduction {
  i64 groups, terms;  // a group is a parameter's own sample, or all of the batch
  i64 stride, offset, values;
};

// A warp sums the terms of one value.
template <typename T, typename Factor>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_reduce_kernel(const __grid_constant__ WarpParams p, Reduction reduction, const double* sums, T* grad) {
  const i64 warps = static_cast<i64>(gridDim.x) * kWarps, lane = threadIdx.x % 32;
#pragma unroll 1
  for (i64 item = static_cast<i64>(blockIdx.x) * kWarps + threadIdx.x / 32; item < reduction.groups * reduction.values;
       item += warps) {
    const i64 group = item / reduction.values, value = item % reduction.values;
    const double* term = sums + group * reduction.terms * reduction.stride + reduction.offset + value;
    double sum = 0;
    for (i64 k = lane; k < reduction.terms; k += 32) sum += term[k * reduction.stride];
    sum = warp_sum(sum);
    if (lane == 0) grad[item] = static_cast<T>(sum * Factor()(p, value));
  }
}

template <typename Frame, typename T, typename Storage, int kTaps>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_grad_constants_kernel(const __grid_constant__ WarpParams p, double* sums) {
  __shared__ Frame frame;
  __shared__ double per_warp[kWarps];
  // Each thread's own sums of grad_i * sampled_j, and of grad_i in the last column.
  __shared__ T color[kChannelBlock * (kChannelBlock + 1)][kThreads];
  const OutputTiling tiling = output_tiling(p);
  const Strips cut = strips(p, tiling.count(), constant_sums(p));
  const T share = sample_share<T>(p);
  const int colors = p.grad_color ? static_cast<int>(p.channels) : 0;
#pragma unroll 1
  for (i64 item = blockIdx.x; item < p.batch * cut.count; item += gridDim.x) {
    double* target = sums + item * constant_sums(p);
#pragma unroll 1
    for (i64 first = 0; first < p.channels; first += kChannelBlock) {
      const ChannelStep step = channel_step<Storage>(p.image, first, p.channels);
      T fill[kChannelBlock] = {};
#pragma unroll 1
      for (int k = 0; k < colors * (colors + 1); ++k) color[k][threadIdx.x] = T(0);
      for_each_tile(p, tiling, cut, item, frame, [&](const Tile& tile, bool) {
        const Storage* image = static_cast<const Storage*>(p.image.data);
        const i64 base = tile.sample * p.image.batch + first * p.image.channel;
        const Channels<T> outside = outside_channels<T>(p, tile.sample, first, step.count);
        for_each_pixel(p, tile, tiling.height, [&](unsigned x, unsigned y, int pixel_dx, int pixel_dy) {
          const Channels<T> grad = load_grad<T, Storage>(p, tile.sample, x, y, first);
          const Channels<T> sampled_grad = p.color.data ? grad_before_color(p, tile.sample, grad) : grad;
          T uncovered = T(0);
          Channels<T> sampled = {};
          for_each_sample<T>(p, pixel_dx, pixel_dy, [&](T dx, T dy) {
            const Cell<T> cell = cell_at<kTaps>(p, frame, tile.sample, dx, dy);
            for_each_tap_slowly<kTaps, kTaps == 2 ? 2 : 1>(p, cell, [&](const Tap<T>& column, const Tap<T>& row) {
              const T weight = column.weight * row.weight;
              if (column.index < 0 || row.index < 0) uncovered += weight;
              if (colors == 0) return;
              const Channels<T> tap = load_tap(p, image, base, column, row, step, outside);
#pragma unroll
              for (int c = 0; c < kChannelBlock; ++c) sampled.at[c] = fused(weight, tap.at[c], sampled.at[c]);
            });
          });
#pragma unroll
          for (int c = 0; c < kChannelBlock; ++c) fill[c] = fused(sampled_grad.at[c], uncovered * share, fill[c]);
          int term = 0;
#pragma unroll 1
          for (int i = 0; i < colors; ++i) {
            const T own = grad.pick(i);
#pragma unroll 1
            for (int j = 0; j <= colors; ++j, ++term) {
              const T factor = j < colors ? sampled.pick(j) * share : T(1);
              color[term][threadIdx.x] = fused(own, factor, color[term][threadIdx.x]);
            }
          }
        });
      });
#pragma unroll
      for (int c = 0; c < kChannelBlock; ++c) {
        const double sum = block_sum(static_cast<double>(fill[c]), per_warp);
        if (threadIdx.x == 0 && c < step.count) target[first + c] = sum;
      }
#pragma unroll 1
      for (int k = 0; k < colors * (colors + 1); ++k) {
        const double sum = block_sum(static_cast<double>(color[k][threadIdx.x]), per_warp);
        if (threadIdx.x == 0) target[p.channels + k] = sum;
      }
    }
  }
}

HARDFAST_END
