// The inner loops of every warp: positions of one run of output pixels, then interpolation, its gradient to the
// position, or its gradient to the taps, in either window layout.
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
  std::int32_t pitch;  // pixels from one row of the window to the next
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

// Fills ws.x, ws.y, ws.slope_* and ws.column with n cells; column is the pixel's index in the window.
template <typename Pad, bool kNearest, typename T, typename Positions>
inline void locate_cells(const Positions positions, std::int64_t n, const Frame frame, Workspace<T>& ws) {
  // Copies and restricted pointers: nothing that the loop reads can change under it, so it vectorises.
  T* __restrict x_within = ws.x, * __restrict y_within = ws.y;
  T* __restrict x_slope = ws.slope_x, * __restrict y_slope = ws.slope_y;
  std::int32_t* __restrict columns = ws.column;
  const std::int32_t count = static_cast<std::int32_t>(n);
#pragma omp simd
  for (std::int32_t k = 0; k < count; ++k) {
    const Padded<double> x = Pad::apply(positions.x(k), frame.x);
    const Padded<double> y = Pad::apply(positions.y(k), frame.y);
    const Cell<T> column = split_cell<T, kNearest>(x.position, frame.first, frame.last_x);
    const Cell<T> row = split_cell<T, kNearest>(y.position, frame.first, frame.last_y);
    x_within[k] = column.within;
    y_within[k] = row.within;
    columns[k] = row.first * frame.pitch + column.first;
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

// Repeats the last cell up to a whole vector: reads there stay in bounds, and their results count for nothing.
template <typename T>
inline void pad_cells(std::int64_t n, Workspace<T>& ws) {
  for (std::int64_t k = n; k % 4 != 0; ++k) {
    ws.column[k] = ws.column[n - 1];
    ws.x[k] = ws.x[n - 1];
    ws.y[k] = ws.y[n - 1];
    ws.slope_x[k] = ws.slope_y[k] = T(0);
  }
}

template <typename T>
HARDFAST_HD Taps<Vec4<T>> channel_taps(const T* cell, std::int64_t pitch) {
  return {load4(cell), load4(cell + 4), load4(cell + 4 * pitch), load4(cell + 4 * pitch + 4)};
}

// Four cells in tap layout, turned into one vector of pixels a tap.
template <typename T>
HARDFAST_HD Taps<Vec4<T>> pixel_taps(const T* window, const std::int32_t* index) {
  Vec4<T> a = load4(window + 4 * std::int64_t{index[0]}), b = load4(window + 4 * std::int64_t{index[1]});
  Vec4<T> c = load4(window + 4 * std::int64_t{index[2]}), d = load4(window + 4 * std::int64_t{index[3]});
  transpose4(a, b, c, d);
  return {a, b, c, d};
}

// Forward: ws.pixels gets n pixels of four channels.
template <bool kNearest, typename T>
inline void sample_channels(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; ++k) {
    const T* cell = ws.window + 4 * std::int64_t{ws.column[k]};
    const Vec4<T> value =
        kNearest ? load4(cell) : bilinear(channel_taps(cell, pitch), splat4(ws.x[k]), splat4(ws.y[k]));
    store4(ws.pixels + 4 * k, value);
  }
}

// Forward into four rows of one channel each; rows that are not wanted may alias a row of junk.
template <bool kNearest, typename T>
inline void sample_planes(std::int64_t n, std::int64_t pitch, const Workspace<T>& ws, T* const (&rows)[4]) {
  const auto sample = [&](std::int64_t k) __attribute__((always_inline)) {
    const T* cell = ws.window + 4 * std::int64_t{ws.column[k]};
    return kNearest ? load4(cell) : bilinear(channel_taps(cell, pitch), splat4(ws.x[k]), splat4(ws.y[k]));
  };
  std::int64_t k = 0;
  for (; k + 4 <= n; k += 4) {
    Vec4<T> a = sample(k), b = sample(k + 1), c = sample(k + 2), d = sample(k + 3);
    transpose4(a, b, c, d);
    store4(rows[0] + k, a);
    store4(rows[1] + k, b);
    store4(rows[2] + k, c);
    store4(rows[3] + k, d);
  }
  for (; k < n; ++k) {
    const Vec4<T> value = sample(k);
    for (int lane = 0; lane < 4; ++lane) rows[lane][k] = value[lane];
  }
}

// Forward, tap layout: n values of one channel.
template <bool kNearest, typename T>
inline void sample_taps(std::int64_t n, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; k += 4) {
    const Taps<Vec4<T>> taps = pixel_taps(ws.window, ws.column + k);
    store4(ws.pixels + k, kNearest ? taps.v00 : bilinear(taps, load4(ws.x + k), load4(ws.y + k)));
  }
}

// Sums over a run of the gradient to the position: plain, and times k.
template <typename T>
struct RowSums {
  T x, x_times_k, y, y_times_k;
};

template <typename T>
struct RowSumsVec {
  Vec4<T> x{}, x_times_k{}, y{}, y_times_k{};

  HARDFAST_HD void add(const PositionGradient<Vec4<T>>& gradient, Vec4<T> k) {
    x += gradient.x;
    x_times_k += gradient.x * k;
    y += gradient.y;
    y_times_k += gradient.y * k;
  }

  HARDFAST_HD void add(const RowSumsVec& other) {
    x += other.x;
    x_times_k += other.x_times_k;
    y += other.y;
    y_times_k += other.y_times_k;
  }

  RowSums<T> total() const { return {sum4<T>(x), sum4<T>(x_times_k), sum4<T>(y), sum4<T>(y_times_k)}; }
};

// Gradient to the position; ws.grads holds the gradient of the output, [n] pixels of four channels.
template <typename Pad, typename T>
inline RowSums<T> sum_grad_position_channels(std::int64_t n, std::int64_t pitch, const Workspace<T>& ws) {
  const auto gradient = [&](std::int64_t k) __attribute__((always_inline)) {
    const Taps<Vec4<T>> taps = channel_taps(ws.window + 4 * std::int64_t{ws.column[k]}, pitch);
    PositionGradient<Vec4<T>> result =
        grad_bilinear_position(taps, splat4(ws.x[k]), splat4(ws.y[k]), load4(ws.grads + 4 * k));
    if (Pad::kBends) {
      result.x *= splat4(ws.slope_x[k]);
      result.y *= splat4(ws.slope_y[k]);
    }
    return result;
  };
  RowSumsVec<T> even, odd;  // two chains of additions, to hide their latency
  std::int64_t k = 0;
  for (; k + 2 <= n; k += 2) {
    even.add(gradient(k), splat4(static_cast<T>(k)));
    odd.add(gradient(k + 1), splat4(static_cast<T>(k + 1)));
  }
  if (k < n) even.add(gradient(k), splat4(static_cast<T>(k)));
  even.add(odd);
  return even.total();
}

// The same in tap layout; ws.grads holds [n] values, and zeros up to a whole vector.
template <typename Pad, typename T>
inline RowSums<T> sum_grad_position_taps(std::int64_t n, const Workspace<T>& ws) {
  RowSumsVec<T> sums;
  const Vec4<T> lane = {0, 1, 2, 3};
  for (std::int64_t k = 0; k < n; k += 4) {
    const Taps<Vec4<T>> taps = pixel_taps(ws.window, ws.column + k);
    PositionGradient<Vec4<T>> gradient =
        grad_bilinear_position(taps, load4(ws.x + k), load4(ws.y + k), load4(ws.grads + k));
    if (Pad::kBends) {
      gradient.x *= load4(ws.slope_x + k);
      gradient.y *= load4(ws.slope_y + k);
    }
    sums.add(gradient, splat4(static_cast<T>(k)) + lane);
  }
  return sums.total();
}

// Gradient to each position, summed over the channels, before the slope of the padding rule: ws.grad_x, ws.grad_y.
template <typename T>
inline void grad_position_channels(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; k += 4) {
    Vec4<T> x[4], y[4];
    for (int i = 0; i < 4; ++i) {
      const Taps<Vec4<T>> taps = channel_taps(ws.window + 4 * std::int64_t{ws.column[k + i]}, pitch);
      const PositionGradient<Vec4<T>> gradient =
          grad_bilinear_position(taps, splat4(ws.x[k + i]), splat4(ws.y[k + i]), load4(ws.grads + 4 * (k + i)));
      x[i] = gradient.x;
      y[i] = gradient.y;
    }
    transpose4(x[0], x[1], x[2], x[3]);
    transpose4(y[0], y[1], y[2], y[3]);
    store4(ws.grad_x + k, (x[0] + x[1]) + (x[2] + x[3]));
    store4(ws.grad_y + k, (y[0] + y[1]) + (y[2] + y[3]));
  }
}

template <typename T>
inline void grad_position_taps(std::int64_t n, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; k += 4) {
    const PositionGradient<Vec4<T>> gradient = grad_bilinear_position(
        pixel_taps(ws.window, ws.column + k), load4(ws.x + k), load4(ws.y + k), load4(ws.grads + k));
    store4(ws.grad_x + k, gradient.x);
    store4(ws.grad_y + k, gradient.y);
  }
}

template <typename T>
HARDFAST_HD void accumulate4(T* target, Vec4<T> value) {
  store4(target, load4(target) + value);
}

// Gradient to the window; ws.grads holds the gradient of the output.
template <bool kNearest, typename T>
inline void scatter_channels(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; ++k) {
    T* cell = ws.window + 4 * std::int64_t{ws.column[k]};
    const Vec4<T> grad = load4(ws.grads + 4 * k);
    if (kNearest) {
      accumulate4(cell, grad);
      continue;
    }
    const Taps<Vec4<T>> taps = grad_bilinear_taps(splat4(ws.x[k]), splat4(ws.y[k]), grad);
    accumulate4(cell, taps.v00);
    accumulate4(cell + 4, taps.v01);
    accumulate4(cell + 4 * pitch, taps.v10);
    accumulate4(cell + 4 * pitch + 4, taps.v11);
  }
}

template <bool kNearest, typename T>
inline void scatter_taps(std::int64_t n, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; k += 4) {
    const Vec4<T> grad = load4(ws.grads + k);
    Taps<Vec4<T>> taps{grad, Vec4<T>{}, Vec4<T>{}, Vec4<T>{}};
    if (!kNearest) taps = grad_bilinear_taps(load4(ws.x + k), load4(ws.y + k), grad);
    transpose4(taps.v00, taps.v01, taps.v10, taps.v11);
    accumulate4(ws.window + 4 * std::int64_t{ws.column[k]}, taps.v00);
    accumulate4(ws.window + 4 * std::int64_t{ws.column[k + 1]}, taps.v01);
    accumulate4(ws.window + 4 * std::int64_t{ws.column[k + 2]}, taps.v10);
    accumulate4(ws.window + 4 * std::int64_t{ws.column[k + 3]}, taps.v11);
  }
}

HARDFAST_END
