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
