// Cubic kernels along one axis: four taps from the pixel before the position's own. 0 <= t < 1 is the place within.
#pragma once

#include "macros.h"

HARDFAST_BEGIN

template <typename T>
struct CubicWeights {
  T at[4];
};

// Keys' interpolating kernel with a = -0.75.
template <typename T>
HARDFAST_HD CubicWeights<T> keys_weights(T t) {
  const T a = T(-0.75), s = T(1) - t;
  return {{a * t * s * s, ((a + T(2)) * t - (a + T(3))) * t * t + T(1), ((a + T(2)) * s - (a + T(3))) * s * s + T(1),
           a * s * t * t}};
}

// d keys_weights / d t.
template <typename T>
HARDFAST_HD CubicWeights<T> grad_keys_weights(T t) {
  const T a = T(-0.75), s = T(1) - t;
  return {{a * s * (s - T(2) * t), (T(3) * (a + T(2)) * t - T(2) * (a + T(3))) * t,
           -(T(3) * (a + T(2)) * s - T(2) * (a + T(3))) * s, a * t * (T(2) * s - t)}};
}

// The uniform cubic B-spline: smooth to the second derivative, and not interpolating.
template <typename T>
HARDFAST_HD CubicWeights<T> bspline_weights(T t) {
  const T sixth = T(1) / T(6), s = T(1) - t;
  return {{sixth * s * s * s, sixth * ((T(3) * t - T(6)) * t * t + T(4)), sixth * ((T(3) * s - T(6)) * s * s + T(4)),
           sixth * t * t * t}};
}

HARDFAST_END
