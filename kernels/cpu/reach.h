// Where a tile of output pixels reaches in the input, one axis at a time, and how much of that the image covers.
#pragma once

#include "../math/cubic.h"
#include "../math/padding.h"
#include "warp.h"
#include "window.h"

HARDFAST_BEGIN

inline double clamp_to(double value, double low, double high) {
  const double above = value > low ? value : low;  // NaN becomes the lower end
  return above < high ? above : high;
}

// A rectangle of output pixels.
struct Tile {
  std::int64_t x, y, width, height;

  std::int64_t area() const { return width * height; }
};

struct Range {
  double low, high;

  // False for NaN, and for the empty range that is left where every position is one.
  bool within(double limit) const { return low > -limit && low <= high && high < limit; }
};

inline void widen_range(double value, Range& range) {
  range.low = value < range.low ? value : range.low;
  range.high = value > range.high ? value : range.high;
}

// The least and the largest of many values, by lanes.
template <typename T>
struct Extremes {
  Vec8<T> least = splat8(static_cast<T>(__builtin_inf())), most = -least;
  decltype(least != least) unequal{};  // to itself: NaN

  void add(const T* values, std::int64_t n) {
    std::int64_t k = 0;
    // Four vectors are compared with each other first: each comparison with what was found waits for the last.
    for (; k < n - 31; k += 32) {
      const Vec8<T> a = load8(values + k), b = load8(values + k + 8);
      const Vec8<T> c = load8(values + k + 16), d = load8(values + k + 24);
      least = lesser(lesser(lesser(a, b), lesser(c, d)), least);
      most = greater(greater(greater(a, b), greater(c, d)), most);
      const Vec8<T> any = a * b + c * d;  // NaN where one of them is, or is too large
      unequal |= any != any;
    }
    for (; n >= 8 && k < n; k += 8) add(load8(values + (k < n - 8 ? k : n - 8)));
    for (; k < n; ++k) add(splat8(values[k]));
  }

  void add(Vec8<T> values) {
    least = lesser(values, least);
    most = greater(values, most);
    unequal |= values != values;
  }

  static Vec8<T> lesser(Vec8<T> a, Vec8<T> b) { return a < b ? a : b; }
  static Vec8<T> greater(Vec8<T> a, Vec8<T> b) { return a > b ? a : b; }

  Range range() const {
    Range range = {__builtin_inf(), -__builtin_inf()};
    for (int lane = 0; lane < 8; ++lane) {
      widen_range(static_cast<double>(least[lane]), range);
      widen_range(static_cast<double>(most[lane]), range);
    }
    return range;
  }

  bool unordered() const {
    bool any = false;
    for (int lane = 0; lane < 8; ++lane) any |= unequal[lane] != 0;
    return any;
  }
};

// Whether no padding rule bends a position of the range: strictly, for at its ends the rules may have a kink.
inline bool lies_inside(const Range& range, std::int64_t length) {
  return range.low > 0 && range.high < static_cast<double>(length - 1);
}

// Where the sub-samples of a pixel lie, from its centre.
inline double subsample_offset(std::int64_t index, std::int64_t count) {
  return (static_cast<double>(index) + 0.5) / static_cast<double>(count) - 0.5;
}

// The turn after which a reflected axis repeats; 0 where everything is one pixel.
inline double reflection_turn(std::int64_t length, bool align_corners) {
  return 2.0 * static_cast<double>(align_corners ? length - 1 : length);
}

// Where the positions of a range come to lie by reflection: between its mirrored ends, and up to the edge that it
// passes.
inline Range reflected(const Range& range, std::int64_t length, bool align_corners) {
  const double last = static_cast<double>(length - 1), span = 0.5 * reflection_turn(length, align_corners);
  const double edge = align_corners ? 0.0 : -0.5;
  if (!(span > 0) || !range.within(0x1p40)) return {0, last};
  const double first_span = __builtin_floor((range.low - edge) / span);
  const double last_span = __builtin_floor((range.high - edge) / span);
  if (last_span - first_span > 1) return {0, last};
  const Extent<double> axis = {0.0, static_cast<double>(length), align_corners, Padding::kReflection};
  Range result = {__builtin_inf(), -__builtin_inf()};
  widen_range(ReflectionPadding::apply(range.low, axis).position, result);
  widen_range(ReflectionPadding::apply(range.high, axis).position, result);
  const bool at_first = last_span - 2.0 * __builtin_floor(0.5 * last_span) == 0.0;
  if (last_span != first_span) widen_range(at_first ? 0.0 : last, result);
  return result;
}

// A position less whole turns; 0 for one so large that what is left of it was rounded away, and for NaN.
inline double fold_turns(double position, double turn) {
  const double rest = position - turn * __builtin_rint(position * (1.0 / turn));
  return rest >= -turn && rest <= turn ? rest : 0.0;
}

inline void fold_run(double* positions, std::int64_t n, double turn) {
  for (std::int64_t k = 0; k < n; ++k) positions[k] = fold_turns(positions[k], turn);
}

// Gives NaN a place among the positions of a tile along one axis, takes whole turns off reflected ones, and returns
// what they reach.
template <Mode kMode>
inline Range settle_positions(const WarpParams& p, double* positions, std::int64_t n, std::int64_t length) {
  const bool reflects = p.padding == Padding::kReflection;
  const double turn = reflection_turn(length, p.align_corners);
  if (reflects && kMode == Mode::kBicubic) {
    // The same for all of the tile: taps are reflected one by one.
    const double first = positions[0] == positions[0] ? positions[0] : 0.0, turns = first - fold_turns(first, turn);
    for (std::int64_t k = 0; k < n; ++k) positions[k] -= turns;
  } else if (reflects) {
    fold_run(positions, n, turn);
  }
  Extremes<double> extremes;
  extremes.add(positions, n);
  if (!extremes.unordered()) return extremes.range();
  const double for_nan = reflects ? 0.0 : -3.0;
  for (std::int64_t k = 0; k < n; ++k) positions[k] = positions[k] == positions[k] ? positions[k] : for_nan;
  extremes = {};
  extremes.add(positions, n);
  return extremes.range();
}

// The weight, along one axis, of the taps inside the image.
template <Mode kMode>
inline double covered(double position, std::int64_t length) {
  const double last = static_cast<double>(length - 1);
  if (kMode == Mode::kNearest) {
    const double pixel = __builtin_rint(position);
    return pixel >= 0 && pixel <= last ? 1.0 : 0.0;
  }
  if (kMode != Mode::kBicubic) {
    const double begin = position + 1.0, end = last + 1.0 - position;
    return clamp_to(begin < end ? begin : end, 0.0, 1.0);
  }
  if (!(position > -3.0 && position < last + 3.0)) return 0.0;
  const double whole = __builtin_floor(position);
  const CubicWeights<double> weights = keys_weights(position - whole);
  double sum = 0;
  for (int i = 0; i < 4; ++i) {
    const double tap = whole - 1.0 + i;
    if (tap >= 0 && tap <= last) sum += weights.at[i];
  }
  return sum;
}

// First pixel and length of a window along one axis, after padding; whether there is one at all.
template <Mode kMode>
inline bool window_axis(const WarpParams& p, Range range, std::int64_t length, std::int64_t& first,
                        std::int64_t& count) {
  const double last = static_cast<double>(length - 1);
  if (!(range.low <= range.high)) range = {0, 0};  // every position is NaN
  if (kMode == Mode::kBicubic) {
    if (p.padding == Padding::kReflection) {
      if (!(range.low > -0x1p40 && range.high < 0x1p40)) return false;
    } else {
      range = {clamp_to(range.low, -3, last + 2), clamp_to(range.high, -3, last + 2)};
    }
    first = static_cast<std::int64_t>(__builtin_floor(range.low - 2)) & ~std::int64_t{1};
    count = static_cast<std::int64_t>(__builtin_floor(range.high + 1)) + 4 - first;
    return true;
  }
  if (p.padding != Padding::kConstant) {
    if (p.padding == Padding::kReflection) range = reflected(range, length, p.align_corners);
    range = {clamp_to(range.low, 0, last), clamp_to(range.high, 0, last)};
  }
  // A pixel of margin for rounding. An even first pixel keeps ties of "nearest" what they are in the image.
  const double low = clamp_to(range.low - 1, -double{kRing}, last + 1);
  const double high = clamp_to(range.high + 1, low, last + 1);
  first = static_cast<std::int64_t>(__builtin_floor(low)) & ~std::int64_t{1};
  count = static_cast<std::int64_t>(__builtin_floor(high)) + 2 - first;
  return true;
}

// Whether a window holds the bilinear taps of all positions of a range, with half a pixel for their rounding.
inline bool holds_cells(std::int64_t first, std::int64_t count, const Range& range) {
  return range.low - 0.5 >= static_cast<double>(first) && range.high + 0.5 < static_cast<double>(first + count - 1);
}

HARDFAST_END
