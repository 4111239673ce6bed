// Storage types of 8 and 16 bits, and their conversion to and from float: on GPUs by an instruction each, else without
// a branch, so that loops vectorise.
#pragma once

#include <cstdint>

#include "macros.h"

HARDFAST_BEGIN

struct Half {
  std::uint16_t bits;
};

struct BFloat16 {
  std::uint16_t bits;
};

HARDFAST_HD float bits_to_float(std::uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

HARDFAST_HD std::uint32_t float_to_bits(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

HARDFAST_HD float widen(float value) { return value; }
HARDFAST_HD double widen(double value) { return value; }
HARDFAST_HD float widen(std::uint8_t value) { return static_cast<float>(value); }
HARDFAST_HD float widen(BFloat16 value) { return bits_to_float(std::uint32_t{value.bits} << 16); }

HARDFAST_HD float widen(Half value) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const std::uint32_t magnitude = value.bits & 0x7fffu;
  // Shifting exponent and mantissa into place leaves the exponent 112 too small; the product restores it,
  // exactly, for subnormals too.
  const float finite = bits_to_float(magnitude << 13) * 0x1p112f;
  const std::uint32_t special = magnitude >= 0x7c00u ? 0x7f800000u : 0u;
  const std::uint32_t sign = std::uint32_t{value.bits & 0x8000u} << 16;
  return bits_to_float(float_to_bits(finite) | special | sign);
#endif
}

template <typename Storage>
HARDFAST_HD Storage narrow(float value);
template <typename Storage>
HARDFAST_HD Storage narrow(double value);

template <>
HARDFAST_HD float narrow<float>(float value) {
  return value;
}

template <>
HARDFAST_HD double narrow<double>(double value) {
  return value;
}

// Round to nearest, ties to even; NaN stays a quiet NaN.
template <>
HARDFAST_HD BFloat16 narrow<BFloat16>(float value) {
#if defined(__CUDA_ARCH__)
  BFloat16 narrowed;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(value));
  return narrowed;
#else
  const std::uint32_t bits = float_to_bits(value);
  const std::uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const std::uint32_t result = value == value ? rounded : (bits | 0x400000u);
  return {static_cast<std::uint16_t>(result >> 16)};
#endif
}

template <>
HARDFAST_HD Half narrow<Half>(float value) {
#if defined(__CUDA_ARCH__)
  Half narrowed;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrowed.bits) : "f"(value));
  return narrowed;
#else
  const std::uint32_t sign = float_to_bits(value) & 0x80000000u;
  const std::uint32_t magnitude = float_to_bits(value) ^ sign;
  // Normal halves: rebias the exponent and round in integer arithmetic. A carry into the exponent is right,
  // and ends at infinity. Subnormal halves: adding 0.5 aligns the last bit with the float's, which rounds.
  const std::uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const std::uint32_t subnormal = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  const std::uint32_t infinite_or_nan = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const std::uint32_t result = magnitude >= 0x47800000u ? infinite_or_nan : finite;
  return {static_cast<std::uint16_t>(result | (sign >> 16))};
#endif
}

// Bytes: round to nearest, ties to even, and saturate; NaN becomes 0.
template <>
HARDFAST_HD std::uint8_t narrow<std::uint8_t>(float value) {
  const float above = value > 0.0f ? value : 0.0f;
  return static_cast<std::uint8_t>(static_cast<std::int32_t>(__builtin_rintf(above < 255.0f ? above : 255.0f)));
}

HARDFAST_END
