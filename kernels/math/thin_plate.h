// The thin-plate spline: its radial function and the derivative, in normalised units.
#pragma once

#include "half.h"
#include "macros.h"

HARDFAST_BEGIN

// log(x) for normal x > 0, without a branch; below that some number near -87. Absolute error about 1e-7.
HARDFAST_HD float log_positive(float x) {
  // x = m 2^e with m between sqrt(1/2) and sqrt(2).
  const std::uint32_t shifted = float_to_bits(x) - 0x3f3504f3u;
  const float exponent = static_cast<float>(static_cast<std::int32_t>(shifted) >> 23);
  const float m = bits_to_float((shifted & 0x007fffffu) + 0x3f3504f3u);
  // log m = 2 atanh(z), |z| at most 0.172: five terms of the series leave 3e-9.
  const float z = (m - 1.0f) / (m + 1.0f), z2 = z * z;
  const float series = ((1.0f / 9 * z2 + 1.0f / 7) * z2 + 1.0f / 5) * z2 + 1.0f / 3;
  return exponent * 0.693147181f + 2.0f * z * (1.0f + z2 * series);
}

HARDFAST_HD double log_positive(double x) { return __builtin_log(x); }

// phi(r^2) = r^2 log(r^2), 0 at 0.
template <typename T>
HARDFAST_HD T thin_plate(T squared_distance) {
  return squared_distance > T(0) ? squared_distance * log_positive(squared_distance) : T(0);
}

// d phi / d (r^2). It is only ever multiplied by distances: 0 at 0.
template <typename T>
HARDFAST_HD T grad_thin_plate(T squared_distance) {
  return squared_distance > T(0) ? log_positive(squared_distance) + T(1) : T(0);
}

HARDFAST_END
