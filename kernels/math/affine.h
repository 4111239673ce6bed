// The affine coordinate map: normalised theta to pixels, and its gradient.
#pragma once

#include <cstdint>

#include "../warp_params.h"
#include "macros.h"

HARDFAST_BEGIN

HARDFAST_HD AxisScale axis_scale(std::int64_t length, std::int64_t out_height, std::int64_t out_width,
                                 bool align_corners) {
  if (!align_corners) {
    const double n = static_cast<double>(length);
    return {n / static_cast<double>(out_width), n / static_cast<double>(out_height), 0.5 * n, 0.5};
  }
  const double n = static_cast<double>(length - 1);
  return {out_width > 1 ? n / static_cast<double>(out_width - 1) : 0.0,
          out_height > 1 ? n / static_cast<double>(out_height - 1) : 0.0, 0.5 * n, 0.0};
}

// Normalised units per output pixel.
HARDFAST_HD double unit_scale(std::int64_t out_length, bool align_corners) {
  if (!align_corners) return 2.0 / static_cast<double>(out_length);
  return out_length > 1 ? 2.0 / static_cast<double>(out_length - 1) : 0.0;
}

// One row of theta in pixels. With u and v the output position in pixels from the output's centre,
//   input = column * u + row * v + centre.
// Measured from the centre the identity is exact: no rounding separates it from a copy.
struct AffineAxis {
  double column, row, centre;
};

template <typename Scalar>
HARDFAST_HD AffineAxis affine_axis(const Scalar* theta_row, std::int64_t stride, const AxisScale& scale) {
  return {static_cast<double>(theta_row[0]) * scale.per_column, static_cast<double>(theta_row[stride]) * scale.per_row,
          scale.half_extent * (static_cast<double>(theta_row[2 * stride]) + 1.0) - scale.offset};
}

// Sums over the output pixels of the gradient to the input position: plain, times u and times v.
struct AffineAxisSums {
  double plain, times_u, times_v;
};

template <typename Scalar>
HARDFAST_HD void grad_affine_axis(const AffineAxisSums& sums, const AxisScale& scale, Scalar* grad_theta_row) {
  grad_theta_row[0] = static_cast<Scalar>(sums.times_u * scale.per_column);
  grad_theta_row[1] = static_cast<Scalar>(sums.times_v * scale.per_row);
  grad_theta_row[2] = static_cast<Scalar>(sums.plain * scale.half_extent);
}

HARDFAST_END
