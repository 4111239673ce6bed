// Bilinear samples of several channels, and their gradients to the position, by sixteen pixels at once on processors
// whose registers hold as many floats.
#pragma once

#if defined(__AVX512DQ__)
#include <immintrin.h>
#endif

#include "warp_rows.h"

HARDFAST_BEGIN

#if defined(__AVX512DQ__)

// Eight numbers from each of two places. GCC 12 has to be told that the second are an operand in memory.
HARDFAST_HD WideFloat load_two(const float* first, const float* second) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(load8(first)), load8(second), 1);
}

// Of the four pixels that each of a and b holds, those that are named, a's first.
template <int i, int j, int k, int l>
HARDFAST_HD WideFloat choose_pixels(WideFloat a, WideFloat b) {
  return __builtin_shufflevector(a, b, 4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3, 4 * j, 4 * j + 1, 4 * j + 2, 4 * j + 3,
                                 4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3, 4 * l, 4 * l + 1, 4 * l + 2, 4 * l + 3);
}

// The left and the right taps of pixels k + i and k + i + 4, blended from their upper to their lower ones; `down` are
// the places of eight pixels from k on, four of them twice and then the other four.
template <int i>
HARDFAST_HD WideFloat blend_two(const Workspace<float>& ws, std::int64_t k, WideFloat down,
                                const CellRows<float>& rows) {
  const std::int64_t a = ws.column[k + i], b = ws.column[k + i + 4];
  const WideFloat upper = load_two(rows.upper + a, rows.upper + b);
  return upper + (load_two(rows.lower + a, rows.lower + b) - upper) * within_fours<i, i, i, i>(down, down);
}

// The places within their cells of sixteen pixels.
struct Places {
  WideFloat across, first_down, last_down;  // for blend_two(): of the first eight, and of the other eight
};

HARDFAST_HD Places load_places(const Workspace<float>& ws, std::int64_t k) {
  const WideFloat down = load_wide(ws.y + k);
  return {load_wide(ws.x + k), choose_pixels<0, 0, 1, 1>(down, down), choose_pixels<2, 2, 3, 3>(down, down)};
}

// Pixels k + i, k + i + 4, k + i + 8 and k + i + 12.
template <int i>
HARDFAST_HD WideFloat sample_four(const Workspace<float>& ws, std::int64_t k, const Places& at,
                                  const CellRows<float>& rows) {
  const WideFloat first = blend_two<i>(ws, k, at.first_down, rows), last = blend_two<i>(ws, k + 8, at.last_down, rows);
  const WideFloat left = choose_pixels<0, 2, 4, 6>(first, last), right = choose_pixels<1, 3, 5, 7>(first, last);
  return left + (right - left) * within_fours<i, i, i, i>(at.across, at.across);
}

// Calls function(k) for sixteen pixels from k on, until all n, at least sixteen, were among them.
template <typename Function>
HARDFAST_HD void for_each_sixteen(std::int64_t n, const Function& function) {
  for (std::int64_t k = 0; k < n - 15; k += 16) function(k);
  if (n % 16 != 0) function(n - 16);
}

// Forward into kLanes rows of one channel each.
template <int kLanes>
inline void sample_planes_by_sixteen(std::int64_t n, std::int64_t pitch, const Workspace<float>& ws,
                                     float* const (&targets)[4]) {
  const CellRows<float> rows(ws, pitch);
  float *const red = targets[0], *const green = targets[1], *const blue = targets[2], *const alpha = targets[3];
  for_each_sixteen(n, [&](std::int64_t k) __attribute__((always_inline)) {
    const Places at = load_places(ws, k);
    WideFloat a = sample_four<0>(ws, k, at, rows), b = sample_four<1>(ws, k, at, rows);
    WideFloat c = sample_four<2>(ws, k, at, rows), d = sample_four<3>(ws, k, at, rows);
    transpose_fours(a, b, c, d);
    store_vector(red + k, a);
    store_vector(green + k, b);
    if (kLanes > 2) store_vector(blue + k, c);
    if (kLanes > 3) store_vector(alpha + k, d);
  });
}

// One row of eight cells, times the output's gradient and summed over the channels: the left taps of the first four
// cells, their right ones, then those of the other four.
template <int kLanes>
HARDFAST_HD WideFloat grad_times_row(const float* window, const std::int32_t* column, const WideFloat (&grads)[4]) {
  const auto pair = [&](int i) __attribute__((always_inline)) {
    return load_two(window + std::int64_t{column[i]}, window + std::int64_t{column[i + 4]});
  };
  WideFloat a = pair(0), b = pair(1), c = pair(2), d = pair(3);
  transpose_fours(a, b, c, d);
  WideFloat sum = a * grads[0] + b * grads[1];
  if (kLanes > 2) sum += c * grads[2];
  if (kLanes > 3) sum += d * grads[3];
  return sum;
}

template <int kLanes, bool kScaled>
inline void grad_position_by_sixteen(std::int64_t n, std::int64_t pitch, const float* const (&grads)[4],
                                     const Workspace<float>& ws, const PositionTarget<float, kScaled> target) {
  const CellRows<float> cells(ws, pitch);
  const float* const rows[4] = {grads[0], grads[1], grads[2], grads[3]};  // a copy: no store can change it
  for_each_sixteen(n, [&](std::int64_t k) __attribute__((always_inline)) {
    WideFloat low[4] = {}, high[4] = {};
    for (int lane = 0; lane < kLanes; ++lane) {
      const WideFloat row = load_wide(rows[lane] + k);
      low[lane] = choose_pixels<0, 0, 1, 1>(row, row);
      high[lane] = choose_pixels<2, 2, 3, 3>(row, row);
    }
    const std::int32_t* column = ws.column + k;
    const WideFloat upper_a = grad_times_row<kLanes>(cells.upper, column, low);
    const WideFloat lower_a = grad_times_row<kLanes>(cells.lower, column, low);
    const WideFloat upper_b = grad_times_row<kLanes>(cells.upper, column + 8, high);
    const WideFloat lower_b = grad_times_row<kLanes>(cells.lower, column + 8, high);
    const Taps<WideFloat> taps = {
        choose_pixels<0, 2, 4, 6>(upper_a, upper_b), choose_pixels<1, 3, 5, 7>(upper_a, upper_b),
        choose_pixels<0, 2, 4, 6>(lower_a, lower_b), choose_pixels<1, 3, 5, 7>(lower_a, lower_b)};
    target.store(k, grad_bilinear_position(taps, load_wide(ws.x + k), load_wide(ws.y + k), WideFloat{} + 1.0f));
  });
}

#endif

// sample_planes(), by as many pixels as the processor takes.
template <bool kNearest, int kLanes, typename T>
inline void sample_planes_widest(std::int64_t n, std::int64_t pitch, const Workspace<T>& ws, T* const (&targets)[4]) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(T) == sizeof(float) && !kNearest) {
    if (n >= 16) return sample_planes_by_sixteen<kLanes>(n, pitch, ws, targets);
  }
#endif
  sample_planes<kNearest, kLanes>(n, pitch, ws, targets);
}

// grad_position_channels(), by as many pixels as the processor takes.
template <int kLanes, bool kScaled, typename T>
inline void grad_position_widest(std::int64_t n, std::int64_t pitch, const T* const (&grads)[4], const Workspace<T>& ws,
                                 const PositionTarget<T, kScaled>& target) {
#if defined(__AVX512DQ__)
  if constexpr (sizeof(T) == sizeof(float)) {
    if (n >= 16) return grad_position_by_sixteen<kLanes>(n, pitch, grads, ws, target);
  }
#endif
  grad_position_channels<kLanes>(n, pitch, grads, ws, target);
}

HARDFAST_END
