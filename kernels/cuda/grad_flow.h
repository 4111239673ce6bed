// The gradient to the control grid of a flow: each control point gathers from the output pixels in its support, in a
// fixed order. A dense flow has a point per pixel and a thread per point; on a coarse grid a warp or a block share one.
#pragma once

#include "grad_parameters.h"

HARDFAST_BEGIN

// Output pixels along one axis that a control point can reach, `first` to `last`.
struct Support {
  int first, last;
};

HARDFAST_HD Support flow_support(const FlowAxis& axis, i64 control, i64 out_length, bool sub_samples) {
  const double last = static_cast<double>(out_length - 1), margin = sub_samples ? 0.5 : 0.0;
  const double radius = axis.spline ? 2.0 : 1.0, centre = static_cast<double>(control) - axis.offset;
  if (axis.per_pixel == 0.0) return {0, static_cast<int>(out_length - 1)};
  // Border values are repeated, so the outermost points reach as far as the output goes.
  double low = control == 0 ? 0.0 : (centre - radius) / axis.per_pixel - margin;
  double high = control == axis.length - 1 ? last : (centre + radius) / axis.per_pixel + margin;
  low = low > 0.0 ? low : 0.0;
  high = high < last ? high : last;
  return {static_cast<int>(__builtin_ceil(low)), static_cast<int>(__builtin_floor(high))};
}

// What a control point weighs at one place of its axis.
template <typename T>
__device__ __forceinline__ T control_weight(const FlowFrameAxis<T>& axis, T d, int control) {
  const ControlCell<T> cell = control_cell(axis, d);
  const int count = axis.spline ? 4 : 2;
  T weight = T(0);
#pragma unroll 1
  for (int k = 0; k < count; ++k) {
    if (control_index(axis, cell, k) == control) weight += control_tap(axis, cell, k);
  }
  return weight;
}

// Threads that share a control point: 1, 32 or the whole block. Blocks of single threads cover a tile of the grid.
HARDFAST_HD int flow_sharing(const WarpParams& p) {
  const double reach = p.spline ? 4.0 : 2.0;
  const double support = reach * reach * static_cast<double>(p.out_height) * static_cast<double>(p.out_width) /
                         (static_cast<double>(p.flow_height) * static_cast<double>(p.flow_width));
  if (support <= 64.0) return 1;
  return support <= 4096.0 && p.map_count * p.flow_height * p.flow_width >= kReductionBlocks ? 32 : kThreads;
}

struct ControlTiling {
  i64 columns, rows;
  int width, height;
};

HARDFAST_HD ControlTiling control_tiling(const WarpParams& p, int sharing) {
  const int width = sharing == 1 ? kTileWidth : kThreads / sharing, height = sharing == 1 ? kBlockRows : 1;
  return {ceil_div(p.flow_width, width), ceil_div(p.flow_height, height), width, height};
}

// Where a thread looks for its control point's share. Places are counted from the frame's first pixel.
struct Visit {
  int control_x, control_y, first_dx, last_dx, first_dy, last_dy;
};

// One tile of the control grid for each block: memory holds no grid of 2^31 tiles.
template <typename T, typename Storage, int kTaps>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_grad_flow_kernel(const __grid_constant__ WarpParams p) {
  using Frame = FlowFrame<T>;
  __shared__ Frame frame;
  __shared__ double per_warp[kWarps];
  // Each thread's own: in registers they would be spilled.
  __shared__ Visit visits[kThreads];
  __shared__ double totals[2][kThreads];
  __shared__ int frame_x, frame_y;
  const int sharing = flow_sharing(p);
  const int column_step = sharing < 32 ? sharing : 32, row_step = sharing / column_step;
  const int member = static_cast<int>(threadIdx.x) % sharing, slot = static_cast<int>(threadIdx.x) / sharing;
  const ControlTiling tiling = control_tiling(p, sharing);
  const i64 tiles = tiling.columns * tiling.rows, map = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  Visit& visit = visits[threadIdx.x];
  {
    const FlowAxis axis_x = flow_axis(p.flow_width, p.out_width, p.align_corners, p.spline);
    const FlowAxis axis_y = flow_axis(p.flow_height, p.out_height, p.align_corners, p.spline);
    const bool sub_samples = p.samples_y > 1 || p.samples_x > 1;
    const int tile_x = static_cast<int>(tile % tiling.columns * tiling.width);
    const int tile_y = static_cast<int>(tile / tiling.columns * tiling.height);
    // The frame begins at the first pixel that the tile's first control point reaches.
    const int first_x = flow_support(axis_x, tile_x, p.out_width, sub_samples).first;
    const int first_y = flow_support(axis_y, tile_y, p.out_height, sub_samples).first;
    const int control_x = tile_x + slot % tiling.width, control_y = tile_y + slot / tiling.width;
    const bool inside = control_x < p.flow_width && control_y < p.flow_height;
    const Support columns = flow_support(axis_x, control_x, p.out_width, sub_samples);
    const Support rows = flow_support(axis_y, control_y, p.out_height, sub_samples);
    visit = {control_x,
             control_y,
             columns.first - first_x + member % column_step,
             columns.last - first_x,
             rows.first - first_y + member / column_step,
             inside ? rows.last - first_y : -1};
    if (threadIdx.x == 0) {
      frame_x = first_x;
      frame_y = first_y;
    }
  }
  totals[0][threadIdx.x] = totals[1][threadIdx.x] = 0;
#pragma unroll 1
  for (i64 sample = map; sample < p.batch; sample += p.map_count) {
    __syncthreads();  // nobody still reads the frame before
    if (threadIdx.x == 0) make_frame(&frame, &p, sample, frame_x, frame_y);
    __syncthreads();
#pragma unroll 1
    for (int pixel_dy = visit.first_dy; pixel_dy <= visit.last_dy; pixel_dy += row_step) {
      T sum_x = T(0), sum_y = T(0);
#pragma unroll 1
      for (int pixel_dx = visit.first_dx; pixel_dx <= visit.last_dx; pixel_dx += column_step) {
        for_each_sample<T>(p, pixel_dx, pixel_dy, [&](T dx, T dy) {
          const T weight =
              control_weight(frame.column, dx, visit.control_x) * control_weight(frame.row, dy, visit.control_y);
          if (weight == T(0)) return;
          const Point<T> grad =
              grad_position<kTaps, Storage>(p, frame, sample, static_cast<unsigned>(frame_x + pixel_dx),
                                            static_cast<unsigned>(frame_y + pixel_dy), dx, dy);
          sum_x = fused(weight, grad.x, sum_x);
          sum_y = fused(weight, grad.y, sum_y);
        });
      }
      totals[0][threadIdx.x] += static_cast<double>(sum_x);
      totals[1][threadIdx.x] += static_cast<double>(sum_y);
    }
  }
  double total_x = totals[0][threadIdx.x], total_y = totals[1][threadIdx.x];
  if (sharing == 32) {
    total_x = warp_sum(total_x);
    total_y = warp_sum(total_y);
  } else if (sharing == kThreads) {
    total_x = block_sum(total_x, per_warp);
    total_y = block_sum(total_y, per_warp);
  }
  if (member != 0 || visit.control_x >= p.flow_width || visit.control_y >= p.flow_height) return;
  const i64 plane = p.flow_height * p.flow_width;
  T* grad = static_cast<T*>(p.grad_flow) + map * 2 * plane + visit.control_y * p.flow_width + visit.control_x;
  grad[0] = static_cast<T>(total_x * static_cast<double>(frame.half_x));
  grad[plane] = static_cast<T>(total_y * static_cast<double>(frame.half_y));
}

HARDFAST_END
