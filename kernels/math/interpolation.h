// Bilinear interpolation between four taps and its two gradients. Value is a number, or a vector of channels or
// of pixels; x and y are the position inside the cell, 0 <= x, y < 1.
#pragma once

#include "macros.h"

HARDFAST_BEGIN

template <typename Value>
struct Taps {
  Value v00, v01, v10, v11;  // v<row><column>
};

template <typename Value, typename Weight>
HARDFAST_HD Value bilinear(const Taps<Value>& taps, Weight x, Weight y) {
  const Weight left = 1 - x, top = 1 - y;
  const Value upper = taps.v00 * left + taps.v01 * x;
  const Value lower = taps.v10 * left + taps.v11 * x;
  return upper * top + lower * y;
}

template <typename Value>
struct PositionGradient {
  Value x, y;
};

// d bilinear / d (x, y), times the gradient of the value.
template <typename Value, typename Weight>
HARDFAST_HD PositionGradient<Value> grad_bilinear_position(const Taps<Value>& taps, Weight x, Weight y, Value grad) {
  const Weight left = 1 - x, top = 1 - y;
  const Value along_x = (taps.v01 - taps.v00) * top + (taps.v11 - taps.v10) * y;
  const Value along_y = (taps.v10 - taps.v00) * left + (taps.v11 - taps.v01) * x;
  return {grad * along_x, grad * along_y};
}

// d bilinear / d taps, times the gradient of the value.
template <typename Value, typename Weight>
HARDFAST_HD Taps<Value> grad_bilinear_taps(Weight x, Weight y, Value grad) {
  const Value upper = grad * (1 - y), lower = grad * y;
  return {upper * (1 - x), upper * x, lower * (1 - x), lower * x};
}

HARDFAST_END
