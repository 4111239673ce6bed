// exp and log for loops that vectorise: no branch, no library call in float. Accurate to about one unit in the last
// place; double uses the library. Where products may join sums is written out, by mul_add: left to the compiler, it
// would depend on what else the loop computes, and the last bit with it.
#pragma once

#include <cstdint>

#include "half.h"
#include "macros.h"

HARDFAST_BEGIN

HARDFAST_HD float mul_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

HARDFAST_HD double mul_add(double a, double b, double c) {
#if defined(__FMA__) || defined(__CUDA_ARCH__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

// exp(x) for x <= 0; exactly 0 below -87 (where float leaves the normal numbers), NaN for NaN.
HARDFAST_HD float exp_nonpositive(float x) {
  // x = n ln 2 + r: adding 1.5 * 2^23 rounds to a whole n and leaves it in the low bits, with the exponent's bias.
  constexpr float kRounding = 12582912.0f + 127.0f;
  const float shifted = mul_add(x, 1.44269504f, kRounding);
  const float n = shifted - kRounding;
  const float high = mul_add(n, -0.693145752f, x);  // ln 2 in two parts, the first exact in products with n
  const float r = mul_add(n, -1.42860677e-6f, high);
  // Minimax polynomial of relative error 3e-9 on [-ln 2 / 2, ln 2 / 2].
  float p = 0.00138145986f;
  p = mul_add(p, r, 0.00836871689f);
  p = mul_add(p, r, 0.0416683880f);
  p = mul_add(p, r, 0.166665206f);
  p = mul_add(p, r, 0.499999934f);
  p = mul_add(p, r, 1.0f);
  p = mul_add(p, r, 1.0f);
  const float scale = bits_to_float(float_to_bits(shifted) << 23);
  return x < -87.0f ? 0.0f : p * scale;
}

HARDFAST_HD double exp_nonpositive(double x) { return __builtin_exp(x); }

// log(1 + x) for 0 <= x <= 1.
HARDFAST_HD float log1p_unit(float x) {
  // log((1 + z) / (1 - z)) = 2 atanh(z), z at most 1/3; minimax in z^2, relative error 4e-9.
  const float z = x / (2.0f + x), z2 = z * z;
  float p = 0.280119859f;
  p = mul_add(p, z2, 0.280018055f);
  p = mul_add(p, z2, 0.400215272f);
  p = mul_add(p, z2, 0.666664163f);
  return z * mul_add(p, z2, 2.0f);
}

HARDFAST_HD double log1p_unit(double x) { return __builtin_log1p(x); }

HARDFAST_END
