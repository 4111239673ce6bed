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

// The four weights of one pixel along x.
template <typename T>
HARDFAST_HD Vec4<T> column_weights(const T (&weights)[4][kChunk], std::int64_t k) {
  return Vec4<T>{weights[0][k], weights[1][k], weights[2][k], weights[3][k]};
}

// A single channel: four neighbours of a row are one load.
template <typename T>
inline void sample_bicubic_plane(std::int64_t n, std::int64_t pitch, Workspace<T>& ws) {
  for (std::int64_t k = 0; k < n; k += 4) {
    Vec4<T> sums[4];
    for (int i = 0; i < 4; ++i) {
      const T* first = ws.window + (std::int64_t{ws.column[k + i]} - pitch - 1);
      Vec4<T> column = load4(first) * splat4(ws.weights_y[0][k + i]);
      for (int j = 1; j < 4; ++j) column += load4(first + j * pitch) * splat4(ws.weights_y[j][k + i]);
      sums[i] = column * column_weights(ws.weights_x, k + i);
    }
    transpose_fours(sums[0], sums[1], sums[2], sums[3]);
    store4(ws.pixels + k, (sums[0] + sums[1]) + (sums[2] + sums[3]));
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
  for (std::int64_t k = 0; k < n; ++k) {
    const T* first = ws.window + (std::int64_t{ws.column[k]} - pitch - 1);
    Vec4<T> value{}, slope{};
    for (int j = 0; j < 4; ++j) {
      const Vec4<T> row = load4(first + j * pitch);
      value += row * splat4(ws.weights_y[j][k]);
      slope += row * splat4(ws.slopes_y[j][k]);
    }
    ws.grad_x[k] = sum4<T>(value * column_weights(ws.slopes_x, k)) * ws.grads[k];
    ws.grad_y[k] = sum4<T>(slope * column_weights(ws.weights_x, k)) * ws.grads[k];
  }
}

// Places of one axis's four taps in a tile of the image, after padding; `length` stands for elsewhere.
struct TapPlaces {
  std::int64_t at[4];
};

inline TapPlaces tap_places(std::int64_t pixel, std::int64_t image_length, Padding rule, bool align_corners,
                            std::int64_t origin, std::int64_t length) {
  TapPlaces places;
  for (int i = 0; i < 4; ++i) {
    const std::int64_t place = pad_index(pixel - 1 + i, image_length, rule, align_corners) - origin;
    places.at[i] = place >= 0 && place < length ? place : length;
  }
  return places;
}

// Gradient to a tile of the image, which ws.window holds with one row and column more for what falls elsewhere.
// ws.column and ws.row are pixels of the image; ws.grads has n pixels of four channels.
template <typename T>
inline void scatter_bicubic(std::int64_t n, const Source<T>& source, const Window& tile, Workspace<T>& ws) {
  const std::int64_t pitch = tile.width + 1;
  for (std::int64_t k = 0; k < n; ++k) {
    const TapPlaces columns =
        tap_places(ws.column[k], source.width, source.padding, source.align_corners, tile.x, tile.width);
    const TapPlaces rows =
        tap_places(ws.row[k], source.height, source.padding, source.align_corners, tile.y, tile.height);
    const Vec4<T> grad = load4(ws.grads + 4 * k);
    for (int j = 0; j < 4; ++j) {
      T* row = ws.window + 4 * rows.at[j] * pitch;
      const Vec4<T> part = grad * splat4(ws.weights_y[j][k]);
      for (int i = 0; i < 4; ++i) {
        T* pixel = row + 4 * columns.at[i];
        store4(pixel, load4(pixel) + part * splat4(ws.weights_x[i][k]));
      }
    }
  }
}

HARDFAST_END
