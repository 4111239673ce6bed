// The inner loops of every warp: positions of one run of output pixels, then interpolation, its gradient to the
// position, or its gradient to the taps, in any layout of the window.
#pragma once

#include "../math/interpolation.h"
#include "../math/padding.h"
#include "window.h"

HARDFAST_BEGIN

// Positions along an output row, in pixels of the window: on a line. In double like all positions, for a float32 one
// is rounded by a millionth of a pixel and more, which is most of the error of a gradient to the map.
struct LinePositions {
  double start_x, step_x, start_y, step_y;

  HARDFAST_HD double x(std::int32_t k) const { return start_x + static_cast<double>(k) * step_x; }
  HARDFAST_HD double y(std::int32_t k) const { return start_y + static_cast<double>(k) * step_y; }
};

// The same, one by one, from where the first are counted.
struct ListedPositions {
  const double *xs, *ys;
  double shift_x, shift_y;

  HARDFAST_HD double x(std::int32_t k) const { return xs[k] + shift_x; }
  HARDFAST_HD double y(std::int32_t k) const { return ys[k] + shift_y; }
};

// What positions are measured against.
struct Frame {
  Extent<double> x, y;  // of the image, counted from the window
  double first;         // smallest position whose taps lie in the window, and the largest ones
  double last_x, last_y;
  std::int32_t pitch;  // from one row of the window to the next, in elements of it; for bicubic sampling in pixels
  std::int32_t unit;   // the same from one pixel to the next
};

// One axis of a position: the cell's first tap, and the place within the cell.
template <typename T>
struct Cell {
  std::int32_t first;
  T within;
};

template <typename T, bool kNearest>
HARDFAST_HD Cell<T> split_cell(double position, double first, double last) {
  const double above = position > first ? position : first;  // NaN becomes the first
  const double clamped = above < last ? above : last;
  if (kNearest) return {static_cast<std::int32_t>(__builtin_rint(clamped)), T(0)};
  const std::int32_t whole = static_cast<std::int32_t>(clamped);
  return {whole, static_cast<T>(clamped - static_cast<double>(whole))};
}

// Fills n of ws.x, ws.y, ws.slope_* and ws.column, the first at `at`, and what is left of their last vector; column is
// the cell's place in the window, in the frame's units.
template <typename Pad, bool kNearest, typename T, typename Positions>
inline void locate_cells(const Positions positions, std::int64_t n, std::int64_t at, const Frame frame,
                         Workspace<T>& ws) {
  // Copies and restricted pointers: nothing that the loop reads can change under it, so it vectorises.
  T* __restrict x_within = ws.x + at, * __restrict y_within = ws.y + at;
  T* __restrict x_slope = ws.slope_x + at, * __restrict y_slope = ws.slope_y + at;
  std::int32_t* __restrict columns = ws.column + at;
  const std::int32_t count = static_cast<std::int32_t>(n + 15) & ~15;
#pragma omp simd
  for (std::int32_t k = 0; k < count; ++k) {
    const Padded<double> x = Pad::apply(positions.x(k), frame.x);
    const Padded<double> y = Pad::apply(positions.y(k), frame.y);
    const Cell<T> column = split_cell<T, kNearest>(x.position, frame.first, frame.last_x);
    const Cell<T> row = split_cell<T, kNearest>(y.position, frame.first, frame.last_y);
    x_within[k] = column.within;
    y_within[k] = row.within;
    columns[k] = row.first * frame.pitch + column.first * frame.unit;
    if (Pad::kBends) {
      x_slope[k] = static_cast<T>(x.slope);
      y_slope[k] = static_cast<T>(y.slope);
    }
  }
}

// One axis of cells anywhere in the image, from positions in double: the pixel, the place within, and the slope.
template <typename Pad, bool kNearest, typename T>
inline void locate_axis(const double* __restrict positions, std::int64_t n, const Extent<double> axis,
                        std::int32_t* __restrict pixel, T* __restrict within, T* __restrict slope) {
  for (std::int64_t k = 0; k < n; ++k) {
    const Padded<double> padded = Pad::apply(positions[k], axis);
    // Three pixels beyond either edge all taps lie outside, those of bicubic too. NaN goes there as well.
    const double above = padded.position > -3.0 ? padded.position : -3.0;
    const double clamped = above < axis.length + 2.0 ? above : axis.length + 2.0;
    const double whole = kNearest ? __builtin_rint(clamped) : __builtin_floor(clamped);
    pixel[k] = static_cast<std::int32_t>(whole);
    within[k] = kNearest ? T(0) : static_cast<T>(clamped - whole);
    slope[k] = static_cast<T>(padded.slope);
  }
}

// Repeats the last cell up to whole vectors: reads there stay in bounds, and their results count for nothing.
template <int kLanes, typename T>
inline void pad_cells(std::int64_t n, Workspace<T>& ws) {
  if (n % kLanes == 0) return;
  const auto repeat_last = [n](auto* values) { store8(values + n, splat8(values[n - 1])); };
  repeat_last(ws.column);
  repeat_last(ws.x);
  repeat_last(ws.y);
  store8(ws.slope_x + n, Vec8<T>{});
  store8(ws.slope_y + n, Vec8<T>{});
}

// Eight cells of a plane, turned into one vector of pixels a tap; `lower` is the plane's second row.
template <typename T>
HARDFAST_HD Taps<Vec8<T>> plane_taps(const T* upper, const T* lower, const std::int32_t* index) {
  const std::int64_t a = index[0], b = index[1], c = index[2], d = index[3];
  const std::int64_t e = index[4], f = index[5], g = index[6], h = index[7];
  const Vec8<T> upper_a = load_pairs(upper + a, upper + b, upper + e, upper + f);
  const Vec8<T> lower_a = load_pairs(lower + a, lower + b, lower + e, lower + f);
  const Vec8<T> upper_b = load_pairs(upper + c, upper + d, upper + g, upper + h);
  const Vec8<T> lower_b = load_pairs(lower + c, lower + d, lower + g, lower + h);
  return {__builtin_shufflevector(upper_a, upper_b, 0, 2, 8, 10, 4, 6, 12, 14),
          __builtin_shufflevector(upper_a, upper_b, 1, 3, 9, 11, 5, 7, 13, 15),
          __builtin_shufflevector(lower_a, lower_b, 0, 2, 8, 10, 4, 6, 12, 14),
          __builtin_shufflevector(lower_a, lower_b, 1, 3, 9, 11, 5, 7, 13, 15)};
}

// Where the upper and the lower taps of cells of four channels are counted from.
template <typename T>
struct CellRows {
  const T *upper, *lower;

  CellRows(const Workspace<T>& ws, std::int64_t pitch) : upper(ws.window), lower(ws.window + 4 * pitch) {}
};

// The left and the right taps of pixel k, of four channels each, blended from their upper to their lower ones. The
// difference is taken from the upper ones, for the lower ones are an operand in memory then.
template <typename T>
HARDFAST_HD Vec8<T> blend_rows(const Workspace<T>& ws, std::int64_t k, const CellRows<T>& rows) {
  const std::int64_t cell = ws.column[k];
  const Vec8<T> upper = load8(rows.upper + cell);
  return upper - (upper - load8(rows.lower + cell)) * splat8(ws.y[k]);
}

template <bool kNearest, typename T>
HARDFAST_HD Vec4<T> sample_pixel(const Workspace<T>& ws, std::int64_t k, const CellRows<T>& rows) {
  if (kNearest) return load4(rows.upper + std::int64_t{ws.column[k]});
  const Vec8<T> taps = blend_rows(ws, k, rows);
  const Vec4<T> left = first_half<T>(taps);
  return left + (second_half<T>(taps) - left) * splat4(ws.x[k]);
}

// Pixels k + kPair and k + kPair + 4; `across` are the eight places from k on.
template <bool kNearest, int kPair, typename T>
HARDFAST_HD Vec8<T> sample_two(const Workspace<T>& ws, std::int64_t k, Vec8<T> across, const CellRows<T>& rows) {
  if (kNearest) {
    return join<T>(sample_pixel<true>(ws, k + kPair, rows), sample_pixel<true>(ws, k + kPair + 4, rows));
  }
  const Vec8<T> a = blend_rows(ws, k + kPair, rows), b = blend_rows(ws, k + kPair + 4, rows);
  const Vec8<T> left = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
  const Vec8<T> right = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  constexpr int i = kPair, j = kPair + 4;
  return left + (right - left) * __builtin_shufflevector(across, across, i, i, i, i, j, j, j, j);
}

// Pixels k to k + 7, as pairs of those that lie four apart.
template <typename T>
struct EightPixels {
  Vec8<T> a, b, c, d;
};

template <bool kNearest, typename T>
HARDFAST_HD EightPixels<T> sample_eight(const Workspace<T>& ws, std::int64_t k, const CellRows<T>& rows) {
  const Vec8<T> across = load8(ws.x + k);
  return {sample_two<kNearest, 0>(ws, k, across, rows), sample_two<kNearest, 1>(ws, k, across, rows),
          sample_two<kNearest, 2>(ws, k, across, rows), sample_two<kNearest, 3>(ws, k, across, rows)};
}

// Forward: n pixels of four channels, kStride elements apart. Where that is fewer than four, the next pixel overwrites
// what is stored too much, and the last one is stored alone.
template <bool kNearest, int kStride, typename T>
inline void sample_channels(std::int64_t n, std::int64_t pitch, const Workspace<T>& ws, T* target) {
  const CellRows<T> rows(ws, pitch);
  const auto store_last = [&](Vec4<T> value) {
    for (int lane = 0; lane < kStride; ++lane) target[kStride * (n - 1) + lane] = value[lane];
  };
  const auto sample = [&](std::int64_t k) __attribute__((always_inline)) {
    const EightPixels<T> pixels = sample_eight<kNearest>(ws, k, rows);
    T* at = target + kStride * k;
    store4(at, first_half<T>(pixels.a));
    store4(at + kStride, first_half<T>(pixels.b));
    store4(at + 2 * kStride, first_half<T>(pixels.c));
    store4(at + 3 * kStride, first_half<T>(pixels.d));
    store4(at + 4 * kStride, second_half<T>(pixels.a));
    store4(at + 5 * kStride, second_half<T>(pixels.b));
    store4(at + 6 * kStride, second_half<T>(pixels.c));
    if (kStride == 4 || k + 8 < n) {
      store4(at + 7 * kStride, second_half<T>(pixels.d));
    } else {
      store_last(second_half<T>(pixels.d));
    }
  };
  if (n >= 8) return for_each_eight(n, sample);
  for (std::int64_t k = 0; k < n; ++k) {
    const Vec4<T> value = sample_pixel<kNearest>(ws, k, rows);
    if (kStride == 4 || k + 1 < n) {
      store4(target + kStride * k, value);
    } else {
      store_last(value);
    }
  }
}

// Forward into kLanes rows of one channel each.
template <bool kNearest, int kLanes, typename T>
inline void sample_planes(std::int64_t n, std::int64_t pitch, const Workspace<T>& ws, T* const (&targets)[4]) {
  const CellRows<T> rows(ws, pitch);
  T *const red = targets[0], *const green = targets[1], *const blue = targets[2], *const alpha = targets[3];
  const auto sample = [&](std::int64_t k) __attribute__((always_inline)) {
    EightPixels<T> pixels = sample_eight<kNearest>(ws, k, rows);
    transpose_fours(pixels.a, pixels.b, pixels.c, pixels.d);
    store8(red + k, pixels.a);
    store8(green + k, pixels.b);
    if (kLanes > 2) store8(blue + k, pixels.c);
    if (kLanes > 3) store8(alpha + k, pixels.d);
  };
  if (n >= 8) return for_each_eight(n, sample);
  for (std::int64_t k = 0; k < n; ++k) {
    const Vec4<T> value = sample_pixel<kNearest>(ws, k, rows);
    for (int lane = 0; lane < kLanes; ++lane) targets[lane][k] = value[lane];
  }
}

// Forward: n values of one channel, from a plane.
template <bool kNearest, typename T>
inline void sample_plane(std::int64_t n, std::int64_t pitch, const Workspace<T>& ws, T* target) {
  const T *const upper = ws.window, *const lower = ws.window + pitch;
  const auto sample = [&](std::int64_t k) __attribute__((always_inline)) {
    const Taps<Vec8<T>> taps = plane_taps(upper, lower, ws.column + k);
    return kNearest ? taps.v00 : bilinear(taps, load8(ws.x + k), load8(ws.y + k));
  };
  T few[8];
  T* const values = n < 8 ? few : target;
  for_each_eight(n, [&](std::int64_t k) __attribute__((always_inline)) { store8(values + k, sample(k)); });
  for (std::int64_t k = 0; n < 8 && k < n; ++k) target[k] = few[k];
}

// The taps of one row of four cells, times the output's gradient and summed over the channels: left ones, right ones.
template <int kLanes, typename T>
HARDFAST_HD Vec8<T> grad_times_row(const T* window, const std::int32_t* column, const T* const (&grads)[4],
                                   std::int64_t k) {
  Vec8<T> a = load8(window + std::int64_t{column[0]}), b = load8(window + std::int64_t{column[1]});
  Vec8<T> c = load8(window + std::int64_t{column[2]}), d = load8(window + std::int64_t{column[3]});
  hold(a), hold(b), hold(c), hold(d);
  transpose_fours(a, b, c, d);
  Vec8<T> sum = a * load_twice(grads[0] + k) + b * load_twice(grads[1] + k);
  if (kLanes > 2) sum += c * load_twice(grads[2] + k);
  if (kLanes > 3) sum += d * load_twice(grads[3] + k);
  return sum;
}

// Where gradients to positions go; kScaled: times a factor for each axis.
template <typename T, bool kScaled>
struct PositionTarget {
  T *x, *y, scale_x, scale_y;

  template <typename Vector>
  HARDFAST_HD void store(std::int64_t k, const PositionGradient<Vector>& gradient) const {
    store_vector(x + k, kScaled ? gradient.x * scale_x : gradient.x);
    store_vector(y + k, kScaled ? gradient.y * scale_y : gradient.y);
  }
};

// Gradient to each position, summed over the channels, before the slope of the padding rule. `grads` are rows of one
// channel each. They and the target have at least eight elements.
template <int kLanes, bool kScaled, typename T>
inline void grad_position_channels(std::int64_t n, std::int64_t pitch, const T* const (&grads)[4],
                                   const Workspace<T>& ws, const PositionTarget<T, kScaled> target) {
  const CellRows<T> cells(ws, pitch);
  const T* const rows[4] = {grads[0], grads[1], grads[2], grads[3]};  // a copy: no store can change it
  for_each_eight(n, [&](std::int64_t k) __attribute__((always_inline)) {
    const std::int32_t* column = ws.column + k;
    const Vec8<T> upper_a = grad_times_row<kLanes>(cells.upper, column, rows, k);
    const Vec8<T> lower_a = grad_times_row<kLanes>(cells.lower, column, rows, k);
    const Vec8<T> upper_b = grad_times_row<kLanes>(cells.upper, column + 4, rows, k + 4);
    const Vec8<T> lower_b = grad_times_row<kLanes>(cells.lower, column + 4, rows, k + 4);
    const Taps<Vec8<T>> taps = {__builtin_shufflevector(upper_a, upper_b, 0, 1, 2, 3, 8, 9, 10, 11),
                                __builtin_shufflevector(upper_a, upper_b, 4, 5, 6, 7, 12, 13, 14, 15),
                                __builtin_shufflevector(lower_a, lower_b, 0, 1, 2, 3, 8, 9, 10, 11),
                                __builtin_shufflevector(lower_a, lower_b, 4, 5, 6, 7, 12, 13, 14, 15)};
    target.store(k, grad_bilinear_position(taps, load8(ws.x + k), load8(ws.y + k), splat8(T(1))));
  });
}

template <bool kScaled, typename T>
inline void grad_position_plane(std::int64_t n, std::int64_t pitch, const T* grads, const Workspace<T>& ws,
                                const PositionTarget<T, kScaled> target) {
  const T *const upper = ws.window, *const lower = ws.window + pitch;
  for_each_eight(n, [&](std::int64_t k) __attribute__((always_inline)) {
    const Taps<Vec8<T>> taps = plane_taps(upper, lower, ws.column + k);
    target.store(k, grad_bilinear_position(taps, load8(ws.x + k), load8(ws.y + k), load8(grads + k)));
  });
}

// Gradient to the window; ws.grads holds the gradient of the output.
template <bool kNearest, typename T>
inline void scatter_channels(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  if (kNearest) {
    for (std::int64_t k = 0; k < n; ++k) accumulate4(ws.window + std::int64_t{ws.column[k]}, load4(ws.grads + 4 * k));
    return;
  }
  const Vec8<T> sign = {-1, -1, -1, -1, 1, 1, 1, 1}, begin = {1, 1, 1, 1, 0, 0, 0, 0};
  T *const upper_row = ws.window, *const lower_row = ws.window + 4 * pitch;
  // Every eighth pixel, then those after them: neighbours share taps, and what was half stored just now is read slowly.
  for (std::int64_t first = 0; first < 8; ++first) {
    for (std::int64_t k = first; k < n; k += 8) {
      const std::int64_t cell = ws.column[k];
      const Vec8<T> grad = load_twice(ws.grads + 4 * k), y = splat8(ws.y[k]);
      const Vec8<T> across = begin + sign * splat8(ws.x[k]);  // the weights of left and right taps
      const Vec8<T> upper = grad * (T(1) - y), lower = grad * y;
      store8(upper_row + cell, load8(upper_row + cell) + upper * across);
      store8(lower_row + cell, load8(lower_row + cell) + lower * across);
    }
  }
}

// The same of one channel, in the tap layout.
template <typename T>
inline void scatter_taps(std::int64_t n, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; k += 4) {
    Taps<Vec4<T>> taps = grad_bilinear_taps(load4(ws.x + k), load4(ws.y + k), load4(ws.grads + k));
    transpose_fours(taps.v00, taps.v01, taps.v10, taps.v11);
    accumulate4(ws.window + std::int64_t{ws.column[k]}, taps.v00);
    accumulate4(ws.window + std::int64_t{ws.column[k + 1]}, taps.v01);
    accumulate4(ws.window + std::int64_t{ws.column[k + 2]}, taps.v10);
    accumulate4(ws.window + std::int64_t{ws.column[k + 3]}, taps.v11);
  }
}

// The same of one channel and its nearest pixels, as a plane.
template <typename T>
inline void scatter_nearest(std::int64_t n, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; ++k) ws.window[ws.column[k]] += ws.grads[k];
}

HARDFAST_END
