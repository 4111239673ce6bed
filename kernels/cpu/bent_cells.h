// The padding rules in cells: a mirrored position lies in the cell on the other side of the edge, at the same distance
// from that one's other end. No fold in double is needed then, where positions lie no further out than a mirror image.
#pragma once

#include "../math/padding.h"
#include "reach.h"
#include "vectors.h"

HARDFAST_BEGIN

// Whether no position of a range needs more than one mirror, or is further off than float counts.
template <typename Pad>
inline bool bends_once(const Range& range, double length) {
  const double last = length - 1.0;
  return range.within(0x1p19) && (!Pad::kMirrors || (range.low > -last && range.high < 2.0 * last));
}

// One axis of the image, counted from a window with cells from window_first to window_last.
template <typename Pad>
struct BentAxis {
  float first, last;            // pixels of the image
  float least, most;            // those of them that are cells of the window
  float from_first, from_last;  // what a cell mirrored at either end is taken from

  BentAxis(const Extent<double>& axis, double window_first, double window_last)
      : first(static_cast<float>(-axis.origin)), last(static_cast<float>(axis.length - 1.0 - axis.origin)) {
    const float lower = static_cast<float>(window_first), upper = static_cast<float>(window_last);
    least = first > lower ? first : lower;
    most = last < upper ? last : upper;
    const float edge = axis.align_corners ? 0.0f : 1.0f;  // the outermost pixel is met twice
    from_first = 2.0f * first - 1.0f - edge;
    from_last = 2.0f * last - 1.0f + edge;
  }

  // Cells that hold whole numbers, with the places within them; returns where they come to lie, and the rule's slope.
  __attribute__((always_inline)) WideFloat apply(WideFloat cell, WideFloat& within, WideFloat& slope) const {
    const WideFloat one = WideFloat{} + 1.0f, zero{};
    slope = one;
    if (Pad::kMirrors) {
      const WideInt low = cell < first, turned = low | (cell >= last);
      const WideFloat from = low ? from_first + zero : from_last + zero, rest = one - within;
      const WideInt whole = rest >= 1.0f;  // on a pixel, which is the first of its own cell
      cell = turned ? from - cell + (whole ? one : zero) : cell;
      within = turned ? (whole ? zero : rest) : within;
      slope = turned ? -one : one;
    }
    const WideInt inside = (cell >= first) & (cell < last);
    slope = inside & ((cell > first) | (within > 0.0f)) ? slope : zero;
    within = inside ? within : zero;
    const WideFloat above = cell > least ? cell : least + zero;
    return above < most ? above : most + zero;
  }
};

HARDFAST_END
