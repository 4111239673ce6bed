// The gradients of a thin-plate spline to its control points and weights. A block first finds the gradients to the
// positions of one tile, and then each warp sums them for control points of its own. Blocks may share the control
// points of a strip, each finding the gradients to the positions for itself: the sums are the same.
#pragma once

#include "grad_parameters.h"

HARDFAST_BEGIN

// One output pixel: its gradient and place, both in normalised units.
template <typename T>
struct PlacedGradient {
  T grad_x, grad_y, x, y;
};

// Sums of one control point over the tile. `value` is the radial function, or a term of the affine part.
template <typename T>
struct ControlSums {
  T weight_x, weight_y, point_x, point_y;

  __device__ __forceinline__ void add_value(const PlacedGradient<T>& pixel, T value) {
    weight_x = fused(pixel.grad_x, value, weight_x);
    weight_y = fused(pixel.grad_y, value, weight_y);
  }

  __device__ __forceinline__ void add_control(const PlacedGradient<T>& pixel, const Pair<T>& target,
                                              const Pair<T>& weight) {
    const T from_x = pixel.x - target.x, from_y = pixel.y - target.y;
    const T squared = fused(from_x, from_x, from_y * from_y);
    add_value(pixel, thin_plate(squared));
    const T through = fused(pixel.grad_x, weight.x, pixel.grad_y * weight.y) * grad_thin_plate(squared) * T(-2);
    point_x = fused(through, from_x, point_x);
    point_y = fused(through, from_y, point_y);
  }
};

__device__ __forceinline__ void write_or_add(double* target, double value, bool write) {
  *target = write ? value : *target + value;
}

template <typename T, typename Storage, int kTaps>
__global__ void __launch_bounds__(kThreads, kResidentBlocks<T>)
    warp_grad_thin_plate_kernel(const __grid_constant__ WarpParams p, double* sums) {
  __shared__ ThinPlateFrame<T> frame;
  __shared__ PlacedGradient<T> pixels[kTileWidth * kTallTile];
  const OutputTiling tiling = output_tiling(p);
  const Strips cut = strips(p, tiling.count(), thin_plate_sums(p));
  const i64 count = p.control_points, groups = control_groups(p), group_size = ceil_div(count + 3, groups);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
#pragma unroll 1
  for (i64 item = blockIdx.x; item < p.batch * cut.count * groups; item += gridDim.x) {
    const i64 strip = item / groups, first_control = item % groups * group_size;
    const i64 end_control = smaller(first_control + group_size, count + 3);
    // Of one strip: points [K, 2], then weights [K + 3, 2].
    double* point_sums = sums + strip * thin_plate_sums(p);
    double* weight_sums = point_sums + 2 * count;
    for_each_tile(p, tiling, cut, strip, frame, [&](const Tile& tile, bool first_tile) {
      const Pair<T>* points = ThinPlateFrame<T>::points(p, tile.sample);
      const Pair<T>* weights = ThinPlateFrame<T>::weights(p, tile.sample);
#pragma unroll 1
      for (i64 k = 0; k < p.samples_y * p.samples_x; ++k) {
        const T offset_x = sub_sample_offset<T>(static_cast<int>(k % p.samples_x), p.samples_x);
        const T offset_y = sub_sample_offset<T>(static_cast<int>(k / p.samples_x), p.samples_y);
        __syncthreads();  // nobody still reads the pixels before
#pragma unroll 1
        for (int row = thread_row(); row < tiling.height; row += kBlockRows) {
          const unsigned x = tile.first_x + static_cast<unsigned>(thread_column());
          const unsigned y = tile.first_y + static_cast<unsigned>(row);
          PlacedGradient<T> pixel = {T(0), T(0), T(0), T(0)};
          if (x < static_cast<unsigned>(p.out_width) && y < static_cast<unsigned>(p.out_height)) {
            const T dx = static_cast<T>(thread_column()) + offset_x, dy = static_cast<T>(row) + offset_y;
            const Point<T> grad = grad_position<kTaps, Storage>(p, frame, tile.sample, x, y, dx, dy);
            pixel = {grad.x * frame.half_x, grad.y * frame.half_y, frame.norm_x.at(dx, dy), frame.norm_y.at(dx, dy)};
          }
          pixels[row * kTileWidth + thread_column()] = pixel;
        }
        __syncthreads();
        const bool write = first_tile && k == 0;
#pragma unroll 1
        for (i64 control = first_control + warp; control < end_control; control += kWarps) {
          ControlSums<T> sum = {T(0), T(0), T(0), T(0)};
          if (control < count) {
            const Pair<T> target = points[control], weight = weights[control];
#pragma unroll 2
            for (int at = lane; at < tiling.height * kTileWidth; at += 32) sum.add_control(pixels[at], target, weight);
          } else {
            const i64 term = control - count;
#pragma unroll 1
            for (int at = lane; at < tiling.height * kTileWidth; at += 32) {
              sum.add_value(pixels[at], term == 0 ? T(1) : (term == 1 ? pixels[at].x : pixels[at].y));
            }
          }
          sum = {warp_sum(sum.weight_x), warp_sum(sum.weight_y), warp_sum(sum.point_x), warp_sum(sum.point_y)};
          if (lane != 0) continue;
          write_or_add(weight_sums + 2 * control, static_cast<double>(sum.weight_x), write);
          write_or_add(weight_sums + 2 * control + 1, static_cast<double>(sum.weight_y), write);
          if (control >= count) continue;
          write_or_add(point_sums + 2 * control, static_cast<double>(sum.point_x), write);
          write_or_add(point_sums + 2 * control + 1, static_cast<double>(sum.point_y), write);
        }
      }
    });
  }
}

HARDFAST_END
