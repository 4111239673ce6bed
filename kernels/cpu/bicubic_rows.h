// The inner loops of bicubic sampling: weights of a run of output pixels, then interpolation, its gradient to the
// position, or its gradient to the taps. ws.column is the index of the cell's own pixel, with one tap before it and two
// after it on either axis.
#pragma once

#include "../math/cubic.h"
#include "../math/padding.h"
#include "window.h"

HARDFAST_BEGIN

template <bool kWithSlopes, typename T>
inline void bicubic_weights(std::int64_t n, Workspace<T>& ws) {
  const auto fill = [n](const T* __restrict t, T(*__restrict weights)[kChunk], T(*__restrict slopes)[kChunk])
                        __attribute__((always_inline)) {
#pragma omp simd
                          for (std::int64_t k = 0; k < n; ++k) {
                            const CubicWeights<T> w = keys_weights(t[k]);
                            for (int j = 0; j < 4; ++j) weights[j][k] = w.at[j];
                            if (kWithSlopes) {
                              const CubicWeights<T> d = grad_keys_weights(t[k]);
                              for (int j = 0; j < 4; ++j) slopes[j][k] = d.at[j];
                            }
                          }
                        };
  const std::int64_t padded = (n + 15) / 16 * 16;
  for (std::int64_t k = n; k < padded; ++k) ws.x[k] = ws.y[k] = T(0);
  n = padded;
  fill(ws.x, ws.weights_x, ws.slopes_x);
  fill(ws.y, ws.weights_y, ws.slopes_y);
}

// ws.pixels gets n pixels of four channels.
template <typename T>
inline void sample_bicubic_channels(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; ++k) {
    const T* first = ws.window + 4 * (std::int64_t{ws.column[k]} - pitch - 1);
    Vec4<T> value{};
    for (int j = 0; j < 4; ++j) {
      const T* row = first + 4 * j * pitch;
      Vec4<T> along = load4(row) * splat4(ws.weights_x[0][k]);
      for (int i = 1; i < 4; ++i) along += load4(row + 4 * i) * splat4(ws.weights_x[i][k]);
      value += along * splat4(ws.weights_y[j][k]);
    }
    store4(ws.pixels + 4 * k, value);
  }
}

// A run of four pixels of one channel: what each has left of its four rows, weighted by `weights`, as one vector for
// each of their columns. Four neighbours of a row are one load.
template <typename T>
HARDFAST_HD void sum_rows(std::int64_t k, std::int64_t pitch, const Workspace<T>& ws, const T (&weights)[4][kChunk],
                          Vec4<T> (&columns)[4]) {
  for (int i = 0; i < 4; ++i) {
    const T* first = ws.window + (std::int64_t{ws.column[k + i]} - pitch - 1);
    columns[i] = load4(first) * splat4(weights[0][k + i]);
    for (int j = 1; j < 4; ++j) columns[i] += load4(first + j * pitch) * splat4(weights[j][k + i]);
  }
  transpose_fours(columns[0], columns[1], columns[2], columns[3]);
}

template <typename T>
HARDFAST_HD Vec4<T> sum_columns(std::int64_t k, const Vec4<T> (&columns)[4], const T (&weights)[4][kChunk]) {
  return (columns[0] * load4(weights[0] + k) + columns[1] * load4(weights[1] + k)) +
         (columns[2] * load4(weights[2] + k) + columns[3] * load4(weights[3] + k));
}

template <typename T>
inline void sample_bicubic_plane(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; k += 4) {
    Vec4<T> columns[4];
    sum_rows(k, pitch, ws, ws.weights_y, columns);
    store4(ws.pixels + k, sum_columns(k, columns, ws.weights_x));
  }
}

// Gradient to each position, summed over the channels: ws.grad_x, ws.grad_y.
template <typename T>
inline void grad_position_bicubic_channels(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; ++k) {
    const T* first = ws.window + 4 * (std::int64_t{ws.column[k]} - pitch - 1);
    Vec4<T> x{}, y{};
    for (int j = 0; j < 4; ++j) {
      const T* row = first + 4 * j * pitch;
      Vec4<T> value{}, slope{};
      for (int i = 0; i < 4; ++i) {
        const Vec4<T> tap = load4(row + 4 * i);
        value += tap * splat4(ws.weights_x[i][k]);
        slope += tap * splat4(ws.slopes_x[i][k]);
      }
      x += slope * splat4(ws.weights_y[j][k]);
      y += value * splat4(ws.slopes_y[j][k]);
    }
    const Vec4<T> grad = load4(ws.grads + 4 * k);
    ws.grad_x[k] = sum4<T>(x * grad);
    ws.grad_y[k] = sum4<T>(y * grad);
  }
}

template <typename T>
inline void grad_position_bicubic_plane(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; k += 4) {
    const Vec4<T> grad = load4(ws.grads + k);
    Vec4<T> values[4], slopes[4];
    sum_rows(k, pitch, ws, ws.weights_y, values);
    sum_rows(k, pitch, ws, ws.slopes_y, slopes);
    store4(ws.grad_x + k, sum_columns(k, values, ws.slopes_x) * grad);
    store4(ws.grad_y + k, sum_columns(k, slopes, ws.weights_x) * grad);
  }
}

// Places in a tile of the image; `length` stands for elsewhere.
inline TapPlaces tap_places(std::int64_t pixel, std::int64_t image_length, Padding rule, bool align_corners,
                            std::int64_t origin, std::int64_t length) {
  const std::int64_t first = pixel - 1 - origin;
  if (first >= 0 && first + 3 < length) return {{first, first + 1, first + 2, first + 3}};
  TapPlaces places = padded_taps(pixel, image_length, rule, align_corners);
  for (std::int64_t& place : places.at) {
    place -= origin;
    if (place < 0 || place >= length) place = length;
  }
  return places;
}

// Gradient to a tile of the image, which ws.window holds with one row and column more for what falls elsewhere.
// ws.column and ws.row are pixels of the image; ws.grads has n pixels of four channels, or with kPlane of one.
template <bool kPlane, typename T>
inline void scatter_bicubic(std::int64_t n, const Source<T>& source, const Window& tile, Workspace<T>& ws) {
  const std::int64_t pitch = tile.width + 1;
  for (std::int64_t k = 0; k < n; ++k) {
    const TapPlaces columns =
        tap_places(ws.column[k], source.width, source.padding, source.align_corners, tile.x, tile.width);
    const TapPlaces rows =
        tap_places(ws.row[k], source.height, source.padding, source.align_corners, tile.y, tile.height);
    if constexpr (kPlane) {
      const Vec4<T> across =
          ws.grads[k] * Vec4<T>{ws.weights_x[0][k], ws.weights_x[1][k], ws.weights_x[2][k], ws.weights_x[3][k]};
      const bool neighbours = columns.at[3] == columns.at[0] + 3 && columns.at[3] < tile.width;
      for (int j = 0; j < 4; ++j) {
        T* row = ws.window + rows.at[j] * pitch;
        const Vec4<T> part = across * splat4(ws.weights_y[j][k]);
        if (neighbours) {
          accumulate4(row + columns.at[0], part);
        } else {
          for (int i = 0; i < 4; ++i) row[columns.at[i]] += part[i];
        }
      }
    } else {
      const Vec4<T> grad = load4(ws.grads + 4 * k);
      for (int j = 0; j < 4; ++j) {
        T* row = ws.window + 4 * rows.at[j] * pitch;
        const Vec4<T> part = grad * splat4(ws.weights_y[j][k]);
        for (int i = 0; i < 4; ++i) accumulate4(row + 4 * columns.at[i], part * splat4(ws.weights_x[i][k]));
      }
    }
  }
}

HARDFAST_END
