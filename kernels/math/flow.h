// The flow map: a control grid of displacements, evaluated between its points. It is linear in the control values, so
// the gradient to them has the same taps and weights.
#pragma once

#include <cstdint>

#include "../warp_params.h"
#include "cubic.h"
#include "macros.h"

HARDFAST_BEGIN

// How `length` control points lie along `out_length` pixels.
HARDFAST_HD FlowAxis flow_axis(std::int64_t length, std::int64_t out_length, bool align_corners, bool spline) {
  if (align_corners) {
    const double last = static_cast<double>(length - 1);
    return {out_length > 1 ? last / static_cast<double>(out_length - 1) : 0.0, 0.0, length, spline};
  }
  const double per_pixel = static_cast<double>(length) / static_cast<double>(out_length);
  return {per_pixel, 0.5 * per_pixel - 0.5, length, spline};
}

// Taps `first` to `first + count - 1`. Those beyond the grid repeat its border: flow_index() says which one that is.
struct FlowTaps {
  std::int64_t first;
  int count;  // 4 for the spline, else 2
  double weights[4];
};

HARDFAST_HD FlowTaps flow_taps(const FlowAxis& axis, double output_position) {
  const double at = axis.per_pixel * output_position + axis.offset;
  const double whole = __builtin_floor(at), t = at - whole;
  const std::int64_t cell = static_cast<std::int64_t>(whole);
  if (!axis.spline) return {cell, 2, {1.0 - t, t, 0.0, 0.0}};
  const CubicWeights<double> w = bspline_weights(t);
  return {cell - 1, 4, {w.at[0], w.at[1], w.at[2], w.at[3]}};
}

HARDFAST_HD std::int64_t flow_index(const FlowAxis& axis, std::int64_t tap) {
  const std::int64_t above = tap > 0 ? tap : 0;
  return above < axis.length ? above : axis.length - 1;
}

HARDFAST_END
