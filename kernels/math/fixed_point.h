// Sums in fixed point do not depend on their order. A sum of floats takes one 64-bit word, a sum of doubles two: what
// the first rounds off goes into the second.
#pragma once

#include <cstdint>

#include "half.h"
#include "macros.h"

HARDFAST_BEGIN

// How many bits below the largest summand's leading one a word keeps, if at most `count` summands, each of them at
// most twice the largest, are added: the rest of 62 bits.
HARDFAST_HD int fixed_point_bits(std::int64_t count) {
  int bits = 61;
  for (std::int64_t n = 1; n < count && bits > 1; n *= 2) --bits;
  return bits;
}

// The exponent e of 2^(e - 1) <= value < 2^e, for normal positive numbers; less for smaller ones.
HARDFAST_HD int exponent_above(std::uint64_t double_bits) {
  return static_cast<int>((double_bits >> 52) & 0x7ffu) - 1022;
}

HARDFAST_HD double bits_to_double(std::uint64_t bits) {
  double value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

HARDFAST_HD std::uint64_t double_to_bits(double value) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

// 2^exponent, kept to normal numbers.
HARDFAST_HD double power_of_two(int exponent) {
  const int kept = exponent < -1022 ? -1022 : (exponent > 1023 ? 1023 : exponent);
  return bits_to_double(static_cast<std::uint64_t>(kept + 1023) << 52);
}

// value * 2^shift to the nearest whole number, for finite values whose result fits 62 bits. Integer arithmetic:
// converting to 64 bits is slow on the GPUs that people have at home.
HARDFAST_HD std::int64_t to_fixed(float value, int shift) {
  const std::uint32_t bits = float_to_bits(value), exponent = (bits >> 23) & 0xffu;
  const std::uint64_t mantissa = exponent ? ((bits & 0x7fffffu) | 0x800000u) : (bits & 0x7fffffu);
  const int left = static_cast<int>(exponent ? exponent : 1u) - 150 + shift;
  const int right = left < -32 ? 32 : -left;  // by 32 and more nothing is left of 24 bits
  const std::uint64_t size =
      left >= 0 ? mantissa << (left & 63) : (mantissa + (std::uint64_t{1} << ((right - 1) & 63))) >> (right & 63);
  return static_cast<std::int64_t>(bits >> 31 ? 0 - size : size);
}

// A whole number of 64 bits.
struct FixedHalves {
  std::uint32_t upper, lower;
};

// value * 2^32 to the nearest whole number, for values up to 2^22. By additions that round, for GPUs convert numbers at
// an eighth of the rate; what each leaves is exact.
HARDFAST_HD FixedHalves to_fixed_halves(float value) {
  const float shift = 12582912.0f;  // 1.5 * 2^23: its last digit is a one
  const auto digits = [=](float shifted) { return float_to_bits(shifted) - float_to_bits(shift); };
  const float whole = value + shift, rest = value - (whole - shift);
  const float high = __builtin_fmaf(rest, 0x1p22f, shift), left = __builtin_fmaf(rest, 0x1p22f, shift - high);
  const float low = __builtin_fmaf(left, 0x1p10f, shift);
  const std::uint32_t lower = (digits(high) << 10) + digits(low);
  return {digits(whole) - ((lower & float_to_bits(rest)) >> 31), lower};  // less one if the lower half is negative
}

// The summand in units of 2^-shift, and what remains in units of 2^-(shift + extra).
struct FixedPair {
  std::int64_t high, low;
};

HARDFAST_HD FixedPair to_fixed_pair(double value, int shift, int extra) {
  const double scaled = value * power_of_two(shift), whole = __builtin_rint(scaled);
  return {static_cast<std::int64_t>(whole),
          static_cast<std::int64_t>(__builtin_rint((scaled - whole) * power_of_two(extra)))};
}

// 2^exponent as two factors, since it may leave the range of float.
struct FloatPower {
  float first, second;

  static HARDFAST_HD FloatPower of(int exponent) {
    const int half = exponent / 2;
    return {static_cast<float>(power_of_two(half)), static_cast<float>(power_of_two(exponent - half))};
  }
};

HARDFAST_HD float from_fixed(std::int64_t sum, const FloatPower& unit) {
  return static_cast<float>(sum) * unit.first * unit.second;
}

HARDFAST_HD double from_fixed_pair(std::int64_t high, std::int64_t low, int shift, int extra) {
  const double sum = static_cast<double>(high) + static_cast<double>(low) * power_of_two(-extra);
  const int half = shift / 2;
  return sum * power_of_two(-half) * power_of_two(half - shift);
}

HARDFAST_END
