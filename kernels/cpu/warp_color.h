// The colour map of a sampled pixel, output = color[:, :C] @ sampled + color[:, C], and its gradients. Up to four
// channels: one block, in four lanes, or in one where the image has a single channel.
#pragma once

#include "window.h"

HARDFAST_BEGIN

template <typename T>
struct Color {
  const T* data;
  std::int64_t row, column, channels;

  Color(const WarpParams& p, std::int64_t sample)
      : data(static_cast<const T*>(p.color.data) + sample * p.color.batch),
        row(p.color.row),
        column(p.color.column),
        channels(p.channels) {}

  T at(std::int64_t i, std::int64_t j) const { return data[i * row + j * column]; }

  // Lane i: color[i, j], or color[j, i] of the transpose.
  Vec4<T> lanes(std::int64_t j, bool transposed) const {
    Vec4<T> result{};
    for (std::int64_t i = 0; i < channels; ++i) result[i] = transposed ? at(j, i) : at(i, j);
    return result;
  }
};

// n values of one channel, or n pixels of four lanes, in place.
template <typename T>
inline void apply_color(const WarpParams& p, std::int64_t sample, std::int64_t n, T* pixels) {
  const Color<T> color(p, sample);
  if (p.channels == 1) {
    for (std::int64_t k = 0; k < n; ++k) pixels[k] = color.at(0, 0) * pixels[k] + color.at(0, 1);
    return;
  }
  Vec4<T> columns[4] = {};
  for (std::int64_t j = 0; j < p.channels; ++j) columns[j] = color.lanes(j, false);
  const Vec4<T> constant = color.lanes(p.channels, false);
  for (std::int64_t k = 0; k < n; ++k) {
    const T* pixel = pixels + 4 * k;
    const Vec4<T> first = columns[0] * splat4(pixel[0]) + columns[1] * splat4(pixel[1]);
    const Vec4<T> second = columns[2] * splat4(pixel[2]) + columns[3] * splat4(pixel[3]);
    store4(pixels + 4 * k, (first + second) + constant);
  }
}

// From the gradient of the output to that of the sampled pixels, in place.
template <typename T>
inline void grad_color_input(const WarpParams& p, std::int64_t sample, std::int64_t n, T* grads) {
  const Color<T> color(p, sample);
  if (p.channels == 1) {
    for (std::int64_t k = 0; k < n; ++k) grads[k] *= color.at(0, 0);
    return;
  }
  Vec4<T> rows[4] = {};
  for (std::int64_t j = 0; j < p.channels; ++j) rows[j] = color.lanes(j, true);
  for (std::int64_t k = 0; k < n; ++k) {
    const T* grad = grads + 4 * k;
    const Vec4<T> first = rows[0] * splat4(grad[0]) + rows[1] * splat4(grad[1]);
    store4(grads + 4 * k, first + (rows[2] * splat4(grad[2]) + rows[3] * splat4(grad[3])));
  }
}

// Adds a run's part of the gradient to the colour map itself, [C, C + 1].
template <typename T>
inline void sum_grad_color(const WarpParams& p, std::int64_t n, const T* sampled, const T* grads, double* sums) {
  const std::int64_t lanes = p.channels == 1 ? 1 : 4;
  for (std::int64_t i = 0; i < p.channels; ++i) {
    for (std::int64_t j = 0; j <= p.channels; ++j) {
      T sum = 0;
      for (std::int64_t k = 0; k < n; ++k) {
        sum += grads[lanes * k + i] * (j < p.channels ? sampled[lanes * k + j] : T(1));
      }
      sums[i * (p.channels + 1) + j] += static_cast<double>(sum);
    }
  }
}

HARDFAST_END
