// Vectors of four, eight or sixteen lanes: the units of all arithmetic of the warps on the CPU. Four lanes are the
// channels of one pixel, or its taps. Compiler vectors, so the same source serves every instruction set.
#pragma once

#include <cstdint>

#include "../math/macros.h"

HARDFAST_BEGIN

template <typename T, int kLanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};

template <typename T>
using Vec4 = typename VectorOf<T, 4>::type;

// Two pixels that lie side by side in a window.
template <typename T>
using Vec8 = typename VectorOf<T, 8>::type;

template <typename Vector, typename T>
HARDFAST_HD Vector load_vector(const T* source) {
  Vector value;
  __builtin_memcpy(&value, source, sizeof value);
  return value;
}

template <typename Vector, typename T>
HARDFAST_HD void store_vector(T* target, Vector value) {
  __builtin_memcpy(target, &value, sizeof value);
}

template <typename T>
HARDFAST_HD Vec4<T> load4(const T* source) {
  return load_vector<Vec4<T>>(source);
}

template <typename T>
HARDFAST_HD void store4(T* target, Vec4<T> value) {
  store_vector(target, value);
}

template <typename T>
HARDFAST_HD void accumulate4(T* target, Vec4<T> value) {
  store4(target, load4(target) + value);
}

template <typename T>
HARDFAST_HD Vec8<T> load8(const T* source) {
  return load_vector<Vec8<T>>(source);
}

template <typename T>
HARDFAST_HD void store8(T* target, Vec8<T> value) {
  store_vector(target, value);
}

template <typename T>
HARDFAST_HD Vec4<T> splat4(T value) {
  return Vec4<T>{value, value, value, value};
}

template <typename T>
HARDFAST_HD T sum4(Vec4<T> value) {
  return (value[0] + value[1]) + (value[2] + value[3]);
}

template <typename T>
HARDFAST_HD Vec8<T> splat8(T value) {
  return Vec8<T>{value, value, value, value, value, value, value, value};
}

template <typename T>
HARDFAST_HD Vec8<T> twice(Vec4<T> value) {
  return __builtin_shufflevector(value, value, 0, 1, 2, 3, 0, 1, 2, 3);
}

// Four numbers, and the same again. The loading unit does it alone, which GCC 12 has to be told.
template <typename T>
HARDFAST_HD Vec8<T> load_twice(const T* source) {
  return twice<T>(load4(source));
}

#if defined(__AVX2__) && !defined(__clang__)
HARDFAST_HD Vec8<float> load_twice(const float* source) {
  return __builtin_ia32_vbroadcastf128_ps256(reinterpret_cast<const Vec4<float>*>(source));
}
#endif

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

typedef double FloatPair __attribute__((may_alias, aligned(4)));

// Two neighbours from each of four places. Two floats are loaded as a double: that is one instruction, or half of one.
HARDFAST_HD Vec8<float> load_pairs(const float* a, const float* b, const float* c, const float* d) {
  const auto pair = [](const float* source) { return *reinterpret_cast<const FloatPair*>(source); };
  return reinterpret_cast<Vec8<float>>(Vec4<double>{pair(a), pair(b), pair(c), pair(d)});
}

HARDFAST_HD Vec8<double> load_pairs(const double* a, const double* b, const double* c, const double* d) {
  return Vec8<double>{a[0], a[1], b[0], b[1], c[0], c[1], d[0], d[1]};
}

// Of every four lanes of a and of b, those that are named: 0 to 3 are a's, 4 to 7 b's.
template <int i, int j, int k, int l, typename V>
HARDFAST_HD V within_fours(V a, V b) {
  constexpr int lanes = static_cast<int>(sizeof a / sizeof a[0]);
  constexpr int I = i < 4 ? i : i - 4 + lanes, J = j < 4 ? j : j - 4 + lanes;
  constexpr int K = k < 4 ? k : k - 4 + lanes, L = l < 4 ? l : l - 4 + lanes;
  if constexpr (lanes == 4) {
    return __builtin_shufflevector(a, b, I, J, K, L);
  } else if constexpr (lanes == 8) {
    return __builtin_shufflevector(a, b, I, J, K, L, I + 4, J + 4, K + 4, L + 4);
  } else {
    return __builtin_shufflevector(a, b, I, J, K, L, I + 4, J + 4, K + 4, L + 4, I + 8, J + 8, K + 8, L + 8, I + 12,
                                   J + 12, K + 12, L + 12);
  }
}

// Every four lanes of four vectors: lane j of vector i becomes lane i of vector j.
template <typename V>
HARDFAST_HD void transpose_fours(V& a, V& b, V& c, V& d) {
  const V ab_low = within_fours<0, 4, 1, 5>(a, b), ab_high = within_fours<2, 6, 3, 7>(a, b);
  const V cd_low = within_fours<0, 4, 1, 5>(c, d), cd_high = within_fours<2, 6, 3, 7>(c, d);
  a = within_fours<0, 1, 4, 5>(ab_low, cd_low);
  b = within_fours<2, 3, 6, 7>(ab_low, cd_low);
  c = within_fours<0, 1, 4, 5>(ab_high, cd_high);
  d = within_fours<2, 3, 6, 7>(ab_high, cd_high);
}

// Eight vectors of eight: lane j of vector i becomes lane i of vector j.
template <typename V>
HARDFAST_HD void transpose8(V (&v)[8]) {
  transpose_fours(v[0], v[1], v[2], v[3]);
  transpose_fours(v[4], v[5], v[6], v[7]);
  for (int i = 0; i < 4; ++i) {
    const V first = v[i], second = v[i + 4];
    v[i] = __builtin_shufflevector(first, second, 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(first, second, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// As many floats as a register holds, but no fewer than eight: below AVX those are two registers.
#if defined(__AVX512F__)
constexpr int kWideLanes = 16;
#else
constexpr int kWideLanes = 8;
#endif
typedef VectorOf<float, kWideLanes>::type WideFloat;
typedef VectorOf<std::int32_t, kWideLanes>::type WideInt;

HARDFAST_HD WideFloat load_wide(const float* source) { return load_vector<WideFloat>(source); }

// One instruction where there is one: the compiler sees the loop for what it is.
HARDFAST_HD WideFloat floor_of(WideFloat value) {
  WideFloat floor;
  for (int lane = 0; lane < kWideLanes; ++lane) floor[lane] = __builtin_floorf(value[lane]);
  return floor;
}

// Keeps 32 loaded bytes in their register: GCC 12 reads memory again for every use that has room for an address.
template <typename V>
HARDFAST_HD void hold(V& value) {
#if defined(__AVX2__)
  if constexpr (sizeof value == 32) asm("" : "+x"(value));
#endif
  static_cast<void>(value);
}

HARDFAST_END
