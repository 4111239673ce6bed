// Four lanes of float or double: the unit of all warp arithmetic on the CPU. A lane is a channel of one pixel, or
// one tap of it. Compiler vectors, so the same source serves every instruction set.
#pragma once

#include "../math/macros.h"

HARDFAST_BEGIN

template <typename T>
struct Vec4Of {
  typedef T type __attribute__((vector_size(4 * sizeof(T))));
};

template <typename T>
using Vec4 = typename Vec4Of<T>::type;

template <typename T>
HARDFAST_HD Vec4<T> load4(const T* source) {
  Vec4<T> value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}

template <typename T>
HARDFAST_HD void store4(T* target, Vec4<T> value) {
  __builtin_memcpy(target, &value, sizeof value);
}

template <typename T>
HARDFAST_HD Vec4<T> splat4(T value) {
  return Vec4<T>{value, value, value, value};
}

template <typename T>
HARDFAST_HD T sum4(Vec4<T> value) {
  return (value[0] + value[1]) + (value[2] + value[3]);
}

// Two pixels that lie side by side in a window.
template <typename T>
struct Vec8Of {
  typedef T type __attribute__((vector_size(8 * sizeof(T))));
};

template <typename T>
using Vec8 = typename Vec8Of<T>::type;

template <typename T>
HARDFAST_HD Vec8<T> load8(const T* source) {
  Vec8<T> value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}

template <typename T>
HARDFAST_HD void store8(T* target, Vec8<T> value) {
  __builtin_memcpy(target, &value, sizeof value);
}

template <typename T>
HARDFAST_HD Vec8<T> splat8(T value) {
  return Vec8<T>{value, value, value, value, value, value, value, value};
}

template <typename T>
HARDFAST_HD Vec8<T> twice(Vec4<T> value) {
  return __builtin_shufflevector(value, value, 0, 1, 2, 3, 0, 1, 2, 3);
}

template <typename T>
HARDFAST_HD Vec8<T> join(Vec4<T> first, Vec4<T> second) {
  return __builtin_shufflevector(first, second, 0, 1, 2, 3, 4, 5, 6, 7);
}

template <typename T>
HARDFAST_HD Vec4<T> first_half(Vec8<T> value) {
  return __builtin_shufflevector(value, value, 0, 1, 2, 3);
}

template <typename T>
HARDFAST_HD Vec4<T> second_half(Vec8<T> value) {
  return __builtin_shufflevector(value, value, 4, 5, 6, 7);
}

template <typename T>
HARDFAST_HD T sum8(Vec8<T> value) {
  return sum4<T>(first_half<T>(value) + second_half<T>(value));
}

// One instruction where there is one: the compiler sees the loop for what it is.
inline Vec8<float> floor8(Vec8<float> value) {
  Vec8<float> floor;
  for (int lane = 0; lane < 8; ++lane) floor[lane] = __builtin_floorf(value[lane]);
  return floor;
}

typedef double FloatPair __attribute__((may_alias, aligned(4)));

// Two neighbours from each of four places. Two floats are loaded as a double: that is one instruction, or half of one.
HARDFAST_HD Vec8<float> load_pairs(const float* a, const float* b, const float* c, const float* d) {
  const auto pair = [](const float* source) { return *reinterpret_cast<const FloatPair*>(source); };
  return reinterpret_cast<Vec8<float>>(Vec4<double>{pair(a), pair(b), pair(c), pair(d)});
}

HARDFAST_HD Vec8<double> load_pairs(const double* a, const double* b, const double* c, const double* d) {
  return Vec8<double>{a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]};
}

// transpose4 of the first halves, and of the second ones.
template <typename V>
HARDFAST_HD void transpose_halves(V& a, V& b, V& c, V& d) {
  const V ab_low = __builtin_shufflevector(a, b, 0, 8, 1, 9, 4, 12, 5, 13);
  const V ab_high = __builtin_shufflevector(a, b, 2, 10, 3, 11, 6, 14, 7, 15);
  const V cd_low = __builtin_shufflevector(c, d, 0, 8, 1, 9, 4, 12, 5, 13);
  const V cd_high = __builtin_shufflevector(c, d, 2, 10, 3, 11, 6, 14, 7, 15);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 8, 9, 4, 5, 12, 13);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 10, 11, 6, 7, 14, 15);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 8, 9, 4, 5, 12, 13);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 10, 11, 6, 7, 14, 15);
}

// Eight vectors of eight: lane j of vector i becomes lane i of vector j.
template <typename V>
HARDFAST_HD void transpose8(V (&v)[8]) {
  transpose_halves(v[0], v[1], v[2], v[3]);
  transpose_halves(v[4], v[5], v[6], v[7]);
  for (int i = 0; i < 4; ++i) {
    const V first = v[i], second = v[i + 4];
    v[i] = __builtin_shufflevector(first, second, 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(first, second, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

template <typename V>
HARDFAST_HD void transpose4(V& a, V& b, V& c, V& d) {
  const V ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const V cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

HARDFAST_END
