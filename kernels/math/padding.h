// Padding rules: where a position outside the image takes its value from. Each returns the new position and its
// derivative (-1, 0 or 1).
#pragma once

#include <cstdint>

#include "../warp_params.h"
#include "macros.h"
#include "rounding.h"

HARDFAST_BEGIN

// One axis of the image. Positions are in pixels, counted from the pixel `origin`.
template <typename T>
struct Extent {
  T origin, length;
  bool align_corners;
  Padding rule;
};

template <typename T>
struct Padded {
  T position, slope;
};

// Outside the image lies a constant: the position stays, and whoever reads there finds the constant.
struct ConstantPadding {
  static constexpr bool kBends = false, kMirrors = false;

  template <typename T>
  static HARDFAST_HD Padded<T> apply(T position, const Extent<T>& /*axis*/) {
    return {position, T(1)};
  }
};

// Positions are clipped to the first and the last pixel; the slope is zero there, the limits included.
struct BorderPadding {
  static constexpr bool kBends = true, kMirrors = false;

  template <typename T>
  static HARDFAST_HD Padded<T> apply(T position, const Extent<T>& axis) {
    const T first = -axis.origin, last = axis.length - T(1) - axis.origin;
    const T slope = (position > first && position < last) ? T(1) : T(0);
    const T above = position > first ? position : first;  // NaN becomes the first pixel
    return {above < last ? above : last, slope};
  }
};

// Positions are mirrored at the edges of the image (at the centres of its outer pixels with align_corners).
struct ReflectionPadding {
  static constexpr bool kBends = true, kMirrors = true;

  template <typename T>
  static HARDFAST_HD Padded<T> apply(T position, const Extent<T>& axis) {
    const T low = axis.align_corners ? T(0) : T(-0.5);
    const T span = axis.align_corners ? axis.length - T(1) : axis.length;
    const T signed_distance = position + axis.origin - low;
    const T distance = signed_distance < T(0) ? -signed_distance : signed_distance;
    const T turns = round_down(distance / span);
    const T odd = turns - T(2) * round_down(turns * T(0.5));  // 0 or 1
    const T rest = distance - turns * span;
    const T mirrored = (odd != T(0) ? span - rest : rest) + low - axis.origin;
    const Padded<T> clipped = BorderPadding::apply(mirrored, axis);
    const T forwards = odd != T(0) ? -clipped.slope : clipped.slope;
    return {clipped.position, signed_distance < T(0) ? -forwards : forwards};
  }
};

// The rule that the axis names, for code that is not compiled once for each.
struct AnyPadding {
  static constexpr bool kBends = true, kMirrors = true;

  template <typename T>
  static HARDFAST_HD Padded<T> apply(T position, const Extent<T>& axis) {
    if (axis.rule == Padding::kBorder) return BorderPadding::apply(position, axis);
    if (axis.rule == Padding::kReflection) return ReflectionPadding::apply(position, axis);
    return ConstantPadding::apply(position, axis);
  }
};

// The pixel of the image that stands for pixel `index`, or -1 where the constant does: the rule of each tap of bicubic
// sampling, whose positions stay unpadded.
HARDFAST_HD std::int64_t pad_index(std::int64_t index, std::int64_t length, Padding rule, bool align_corners) {
  if (index >= 0 && index < length) return index;
  if (rule == Padding::kConstant) return -1;
  if (rule == Padding::kBorder) return index < 0 ? 0 : length - 1;
  if (length == 1) return 0;
  const std::int64_t repeated = align_corners ? 0 : 1;  // the outermost pixel is met twice in a turn
  const std::int64_t period = 2 * (length - 1 + repeated), rest = index % period;
  const std::int64_t turn = rest < 0 ? rest + period : rest;
  return turn < length ? turn : period - repeated - turn;
}

HARDFAST_END
