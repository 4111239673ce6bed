// The gradient to the control grid of a flow: a block owns a group of control points and sums what the output pixels in
// their reach bring, in a fixed order.
#pragma once

#include "grad_parameters.h"
#include "plain_grad.h"

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

// How the control grid is cut into groups, each owned by a block that visits all output pixels which reach it. Larger
// ones visit fewer pixels twice.
struct ControlGroups {
  i64 columns, rows;
  int width, height;
};

constexpr int kGroupWidth = 32, kGroupHeight = 8;  // at most; then each thread has a control point

inline ControlGroups flow_groups(const WarpParams& p) {
  const auto fitting = [&](i64 controls, i64 length, int tile, int most) {
    // As many as the pixels of a tile reach.
    const i64 reached = tile * controls / length - (p.spline ? 3 : 1);
    return static_cast<int>(smaller(larger(smaller(reached, most), 8), controls));
  };
  ControlGroups groups;
  groups.width = fitting(p.flow_width, p.out_width, kTileWidth, kGroupWidth);
  groups.height = fitting(p.flow_height, p.out_height, kTallTile, kGroupHeight);
  for (;;) {
    groups.columns = ceil_div(p.flow_width, groups.width);
    groups.rows = ceil_div(p.flow_height, groups.height);
    const bool enough = p.map_count * groups.columns * groups.rows >= kEnoughTiles;
    if (enough || groups.width * groups.height == 1) return groups;
    int& longer = groups.width > groups.height ? groups.width : groups.height;
    longer = (longer + 1) / 2;
  }
}

// The gradient to the position of one sub-sample of a pixel, which lies (dx, dy) from the first of the frame.
template <typename Compute, typename Storage, int kTaps>
struct FlowGradient {
  using T = Compute;
  using Place = FlowFrame<T>;
  struct NoImage {};
  static constexpr int kBlocks = kResidentBlocks<T>;
  static constexpr bool kOneSample = false;

  static __device__ __forceinline__ void place(const WarpParams& p, i64 sample, int x, int y, Place* frame) {
    make_frame(frame, &p, sample, x, y);
  }
  static __device__ __forceinline__ const FlowFrame<T>& frame(const Place& place) { return place; }
  static __device__ __forceinline__ NoImage image(const WarpParams& /*p*/, const Place& /*place*/) { return {}; }

  static __device__ __forceinline__ Point<T> at(const WarpParams& p, const Place& frame, NoImage /*image*/, i64 sample,
                                                int x, int y, T dx, T dy) {
    return grad_position<kTaps, Storage>(p, frame, sample, static_cast<unsigned>(x), static_cast<unsigned>(y), dx, dy);
  }
};

template <typename V>
struct PlainFlowGradient {
  using T = float;
  using Place = PlainTile<TileFlowFrame<float>>;
  static constexpr int kBlocks = 2;  // with three some of it is spilled
  static constexpr bool kOneSample = true;

  static __device__ __forceinline__ void place(const WarpParams& p, i64 sample, int x, int y, Place* tile) {
    make_plain_tile(tile, &p, sample, x, y);
  }
  static __device__ __forceinline__ const FlowFrame<float>& frame(const Place& place) { return place.frame; }
  static __device__ __forceinline__ PlainImage<V> image(const WarpParams& p, const Place& place) {
    return PlainImage<V>(p, place.image);
  }

  static __device__ __forceinline__ Point<float> at(const WarpParams& p, const Place& tile, const PlainImage<V>& image,
                                                    i64 sample, int x, int y, float dx, float dy) {
    Point<float> grad = {0.0f, 0.0f};
    visit_cell<V>(p, tile, tile.frame.at(p, sample, dx, dy), [&](const auto& cell) {
      grad = grad_cell(p, tile, image, cell, grad_at<typename V::Storage>(p, tile, x - tile.first_x, y - tile.first_y));
    });
    return grad;
  }
};

// Tile by tile, a block finds the gradients to the positions, sums them along the rows of the tile for each of its
// columns of control points, and these sums down their columns. What a thread keeps is its own control point's.
template <typename Gradient>
__global__ void __launch_bounds__(kThreads, Gradient::kBlocks)
    warp_grad_flow_kernel(const __grid_constant__ WarpParams p, const __grid_constant__ ControlGroups groups) {
  using T = typename Gradient::T;
  constexpr int kPitch = kTallTile + 1;  // neither a column's threads nor a row's meet in one bank
  __shared__ typename Gradient::Place place;
  __shared__ T grad_x[kTileWidth * kPitch], grad_y[kTileWidth * kPitch];
  __shared__ T along_x[kGroupWidth * kPitch], along_y[kGroupWidth * kPitch];
  __shared__ T weight_x[kGroupWidth * kTileWidth], weight_y[kGroupHeight * kTallTile];
  __shared__ Support columns[kGroupWidth], rows[kGroupHeight];  // that each control point reaches
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const unsigned group_columns = static_cast<unsigned>(groups.columns);
  const unsigned count = group_columns * static_cast<unsigned>(groups.rows);
  const unsigned map = blockIdx.x / count, group = blockIdx.x % count;
  const int first_x = static_cast<int>(group % group_columns) * groups.width;
  const int first_y = static_cast<int>(group / group_columns) * groups.height;
  const int width = min(groups.width, static_cast<int>(p.flow_width) - first_x);
  const int height = min(groups.height, static_cast<int>(p.flow_height) - first_y);
  const bool sub_samples = p.samples_y > 1 || p.samples_x > 1;
  if (thread < width) columns[thread] = flow_support(p.flow_columns, first_x + thread, p.out_width, sub_samples);
  if (thread < height) rows[thread] = flow_support(p.flow_rows, first_y + thread, p.out_height, sub_samples);
  __syncthreads();
  double total_x = 0, total_y = 0;
#pragma unroll 1
  for (i64 sample = map; sample < p.batch; sample += p.map_count) {
#pragma unroll 1
    for (int top = rows[0].first; top <= rows[height - 1].last; top += kTallTile) {
#pragma unroll 1
      for (int left = columns[0].first; left <= columns[width - 1].last; left += kTileWidth) {
        const int end_x = columns[width - 1].last - left + 1, end_y = rows[height - 1].last - top + 1;
        const int across = min(end_x, kTileWidth), down = min(end_y, kTallTile);
#pragma unroll 1
        for (int k = 0; k < (Gradient::kOneSample ? 1 : static_cast<int>(p.samples_y * p.samples_x)); ++k) {
          const int samples_x = static_cast<int>(p.samples_x);
          const T offset_x = Gradient::kOneSample ? T(0) : sub_sample_offset<T>(k % samples_x, p.samples_x);
          const T offset_y = Gradient::kOneSample ? T(0) : sub_sample_offset<T>(k / samples_x, p.samples_y);
          __syncthreads();  // nobody still reads what stands there
          if (thread == 0 && k == 0) Gradient::place(p, sample, left, top, &place);
          __syncthreads();
          const auto& frame = Gradient::frame(place);
          const auto image = Gradient::image(p, place);
#pragma unroll 1
          for (int c = warp; c < width; c += kWarps) {
            weight_x[c * kTileWidth + lane] =
                control_weight(frame.column, static_cast<T>(lane) + offset_x, first_x + c);
          }
#pragma unroll 1
          for (int c = warp; c < height; c += kWarps) {
            weight_y[c * kTallTile + lane] = control_weight(frame.row, static_cast<T>(lane) + offset_y, first_y + c);
          }
#pragma unroll 1
          for (int dy = warp; dy < down; dy += kWarps) {
            if (lane >= across) break;
            const Point<T> grad = Gradient::at(p, place, image, sample, left + lane, top + dy,
                                               static_cast<T>(lane) + offset_x, static_cast<T>(dy) + offset_y);
            grad_x[lane * kPitch + dy] = grad.x;
            grad_y[lane * kPitch + dy] = grad.y;
          }
          __syncthreads();
#pragma unroll 1
          for (int c = warp; c < width; c += kWarps) {
            T sum_x = T(0), sum_y = T(0);
            const int end = min(columns[c].last - left + 1, across);
#pragma unroll 2
            for (int dx = max(columns[c].first - left, 0); dx < end; ++dx) {
              const T weight = weight_x[c * kTileWidth + dx];
              sum_x = fused(weight, grad_x[dx * kPitch + lane], sum_x);
              sum_y = fused(weight, grad_y[dx * kPitch + lane], sum_y);
            }
            along_x[c * kPitch + lane] = sum_x;
            along_y[c * kPitch + lane] = sum_y;
          }
          __syncthreads();
          const int own_x = thread % width, own_y = thread / width;
          if (own_y >= height) continue;
          T sum_x = T(0), sum_y = T(0);
          const int end = min(rows[own_y].last - top + 1, down);
#pragma unroll 2
          for (int dy = max(rows[own_y].first - top, 0); dy < end; ++dy) {
            const T weight = weight_y[own_y * kTallTile + dy];
            sum_x = fused(weight, along_x[own_x * kPitch + dy], sum_x);
            sum_y = fused(weight, along_y[own_x * kPitch + dy], sum_y);
          }
          total_x += static_cast<double>(sum_x);
          total_y += static_cast<double>(sum_y);
        }
      }
    }
  }
  const int own_x = thread % width, own_y = thread / width;
  if (own_y >= height) return;
  const i64 plane = p.flow_height * p.flow_width;
  T* grad = static_cast<T*>(p.grad_flow) + i64{map} * 2 * plane + (first_y + own_y) * p.flow_width + first_x + own_x;
  grad[0] = static_cast<T>(total_x * p.scale.x.half_extent);
  grad[plane] = static_cast<T>(total_y * p.scale.y.half_extent);
}

HARDFAST_END
