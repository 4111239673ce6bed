// The taps of one output pixel along one axis of the image: where they lie, what they weigh, and how the weights
// change with the position.
#pragma once

#include <cstdint>

#include "macros.h"
#include "padding.h"
#include "rounding.h"

HARDFAST_BEGIN

// One axis of the image, with positions counted from the pixel `origin`.
struct TapRule {
  std::int64_t origin, length;
  Mode mode;
  Padding padding;
  bool align_corners;
};

// Written so that NaN gives `low`.
template <typename T>
HARDFAST_HD T clamp_position(T position, T low, T high) {
  const T above = position > low ? position : low;
  return above < high ? above : high;
}

template <typename T>
HARDFAST_HD Padded<T> pad_position(T position, const TapRule& rule) {
  const Extent<T> extent = {static_cast<T>(rule.origin), static_cast<T>(rule.length), rule.align_corners, rule.padding};
  // Inside all rules agree, and no digit is lost to the folding.
  const bool inside = position > -extent.origin && position < static_cast<T>(rule.length - 1 - rule.origin);
  return inside ? Padded<T>{position, T(1)} : AnyPadding::apply(position, extent);
}

// Where the taps begin, and the place between the two that enclose the position. Sides are below 2^31, so an index
// fits 32 bits.
template <typename T>
struct AxisCell {
  std::int32_t first;  // may lie outside of the image
  T within, slope;     // 0 <= within < 1; slope is that of the padding rule
};

// Of "nearest" and "bilinear", whose positions are padded.
template <typename T>
HARDFAST_HD AxisCell<T> linear_cell(T position, const TapRule& rule) {
  const Padded<T> padded = pad_position(position, rule);
  // Two pixels beyond either edge all taps lie outside.
  const T clamped =
      clamp_position(padded.position, static_cast<T>(-2 - rule.origin), static_cast<T>(rule.length - rule.origin));
  const bool nearest = rule.mode == Mode::kNearest;
  const T whole = nearest ? round_nearest(clamped) : round_down(clamped);
  return {static_cast<std::int32_t>(rule.origin + static_cast<std::int64_t>(whole)), nearest ? T(0) : clamped - whole,
          nearest ? T(0) : padded.slope};
}

// Of "bicubic": the padding rule applies to each tap, and the position stays as it is.
template <typename T>
HARDFAST_HD AxisCell<T> cubic_cell(T position, const TapRule& rule) {
  const std::int64_t far = std::int64_t{1} << 30, most = (std::int64_t{1} << 31) - 16;
  const std::int64_t high = rule.length + far < most ? rule.length + far : most;
  const T clamped = clamp_position(position, static_cast<T>(-far - rule.origin), static_cast<T>(high - rule.origin));
  const T whole = round_down(clamped);
  const std::int64_t first = rule.origin + static_cast<std::int64_t>(whole) - 1;  // T may have rounded the limits up
  return {static_cast<std::int32_t>(first < most ? first : most), clamped - whole, T(1)};
}

// The pixel that stands for pixel `index`, or -1 where the constant does: pad_index() in 32 bits.
HARDFAST_HD std::int32_t tap_index(std::int32_t index, std::int64_t length, Padding padding, bool align_corners) {
  if (index >= 0 && index < length) return index;
  if (padding == Padding::kConstant) return -1;
  if (padding == Padding::kBorder || length == 1) return index < 0 ? 0 : static_cast<std::int32_t>(length - 1);
  const std::uint32_t repeated = align_corners ? 0u : 1u;  // the outermost pixel is met twice in a turn
  const std::uint32_t side = static_cast<std::uint32_t>(length), period = 2u * (side - 1u + repeated);
  const std::uint32_t mirrored =
      index < 0 ? 0u - static_cast<std::uint32_t>(index) - repeated : static_cast<std::uint32_t>(index);
  const std::uint32_t turn = mirrored % period;
  return static_cast<std::int32_t>(turn < side ? turn : period - repeated - turn);
}

// What tap k of four weighs at `within`, and the derivative: Keys' kernel, a = -0.75, by the distance from the tap.
template <typename T>
struct TapWeight {
  T value, slope;
};

template <typename T>
HARDFAST_HD TapWeight<T> keys_weight(int k, T within) {
  const T a = T(-0.75), signed_distance = within + static_cast<T>(1 - k);
  const T side = k < 2 ? T(1) : T(-1), d = signed_distance * side;
  const T inner = ((a + T(2)) * d - (a + T(3))) * d * d + T(1), outer = a * (((d - T(5)) * d + T(8)) * d - T(4));
  const T inner_slope = (T(3) * (a + T(2)) * d - T(2) * (a + T(3))) * d;
  const T outer_slope = a * ((T(3) * d - T(10)) * d + T(8));
  const bool near = k == 1 || k == 2;
  return {near ? inner : outer, side * (near ? inner_slope : outer_slope)};
}

template <typename T>
HARDFAST_HD TapWeight<T> linear_weight(int k, const AxisCell<T>& cell) {
  return k == 0 ? TapWeight<T>{T(1) - cell.within, -cell.slope} : TapWeight<T>{cell.within, cell.slope};
}

// One tap of one axis.
template <typename T>
struct Tap {
  std::int32_t index;  // in the image, or -1 where the constant outside is read
  T weight, slope;
};

// kTaps = 2 serves the linear modes alone, 4 serves all.
template <int kTaps, typename T>
HARDFAST_HD AxisCell<T> axis_cell(T position, const TapRule& rule) {
  if (kTaps == 4 && rule.mode == Mode::kBicubic) return cubic_cell(position, rule);
  return linear_cell(position, rule);
}

HARDFAST_HD int tap_count(Mode mode) { return mode == Mode::kBicubic ? 4 : (mode == Mode::kBilinear ? 2 : 1); }

template <int kTaps, typename T>
HARDFAST_HD Tap<T> tap_at(const AxisCell<T>& cell, const TapRule& rule, int k) {
  const bool cubic = kTaps == 4 && rule.mode == Mode::kBicubic;
  const TapWeight<T> weight = cubic ? keys_weight(k, cell.within) : linear_weight(k, cell);
  return {tap_index(cell.first + k, rule.length, cubic ? rule.padding : Padding::kConstant, rule.align_corners),
          weight.value, weight.slope};
}

HARDFAST_END
