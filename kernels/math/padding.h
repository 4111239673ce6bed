// Padding rules: where a position outside the image takes its value from. Positions are in pixels, `origin` is
// the pixel that they are counted from. Each rule returns the new position and its derivative (-1, 0 or 1).
#pragma once

#include "macros.h"

HARDFAST_BEGIN

template <typename T>
struct Padded {
  T position, slope;
};

// Outside the image lies a constant: the position stays, and whoever reads there finds the constant.
struct ConstantPadding {
  static constexpr bool kBends = false;

  template <typename T>
  static HARDFAST_HD Padded<T> apply(T position, T /*origin*/, T /*length*/, bool /*align_corners*/) {
    return {position, T(1)};
  }
};

// Positions are clipped to the first and the last pixel; the slope is zero there, the limits included.
struct BorderPadding {
  static constexpr bool kBends = true;

  template <typename T>
  static HARDFAST_HD Padded<T> apply(T position, T origin, T length, bool /*align_corners*/) {
    const T first = -origin, last = length - T(1) - origin;
    const T slope = (position > first && position < last) ? T(1) : T(0);
    const T above = position > first ? position : first;  // NaN becomes the first pixel
    return {above < last ? above : last, slope};
  }
};

// Positions are mirrored at the edges of the image (at the centres of its outer pixels with align_corners).
struct ReflectionPadding {
  static constexpr bool kBends = true;

  template <typename T>
  static HARDFAST_HD Padded<T> apply(T position, T origin, T length, bool align_corners) {
    const T low = align_corners ? T(0) : T(-0.5);
    const T span = align_corners ? length - T(1) : length;
    const T signed_distance = position + origin - low;
    const T distance = signed_distance < T(0) ? -signed_distance : signed_distance;
    const T turns = __builtin_floor(distance / span);
    const bool odd = turns - T(2) * __builtin_floor(turns * T(0.5)) != T(0);
    const T rest = distance - turns * span;
    const T mirrored = (odd ? span - rest : rest) + low - origin;
    const T direction = (odd != (signed_distance < T(0))) ? T(-1) : T(1);
    const Padded<T> clipped = BorderPadding::apply(mirrored, origin, length, align_corners);
    return {clipped.position, clipped.slope * direction};
  }
};

HARDFAST_END
