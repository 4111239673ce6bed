// The projective coordinate map: a normalised homography to pixels, and its gradient.
#pragma once

#include <cstdint>

#include "affine.h"
#include "macros.h"

HARDFAST_BEGIN

// column * u + row * v + constant, with u and v as in affine.h.
struct LinearForm {
  double column, row, constant;

  HARDFAST_HD double at(double u, double v) const { return column * u + row * v + constant; }
};

// Input position in pixels: x / w + centre_x, y / w + centre_y. Numerators are in pixels from the image's centre, so
// the identity is exact.
struct ProjectiveMap {
  LinearForm x, y, w;
  double centre_x, centre_y;
};

template <typename Scalar>
HARDFAST_HD ProjectiveMap projective_map(const Scalar* homography, std::int64_t row, std::int64_t column,
                                         const MapScale& scale) {
  const auto at = [&](int i, int j) { return static_cast<double>(homography[i * row + j * column]); };
  return {{at(0, 0) * scale.x.per_column, at(0, 1) * scale.x.per_row, at(0, 2) * scale.x.half_extent},
          {at(1, 0) * scale.y.per_column, at(1, 1) * scale.y.per_row, at(1, 2) * scale.y.half_extent},
          {at(2, 0) * scale.unit_x, at(2, 1) * scale.unit_y, at(2, 2)},
          scale.x.half_extent - scale.x.offset,
          scale.y.half_extent - scale.y.offset};
}

struct Position {
  double x, y;
};

HARDFAST_HD Position projective_position(const ProjectiveMap& map, double u, double v) {
  const double inverse = 1.0 / map.w.at(u, v);
  return {map.x.at(u, v) * inverse + map.centre_x, map.y.at(u, v) * inverse + map.centre_y};
}

// Gradients to the three forms at one pixel, from those to the input position. On the horizon itself they are zero.
struct ProjectiveGradient {
  double x, y, w;
};

HARDFAST_HD ProjectiveGradient grad_projective_position(const ProjectiveMap& map, double u, double v, double grad_x,
                                                        double grad_y) {
  const double w = map.w.at(u, v), inverse = w != 0.0 ? 1.0 / w : 0.0;
  const double x = grad_x * inverse, y = grad_y * inverse;
  return {x, y, -(x * map.x.at(u, v) + y * map.y.at(u, v)) * inverse};
}

// Sums over the output pixels of those gradients, to the homography [3, 3].
template <typename Scalar>
HARDFAST_HD void grad_projective_map(const AffineAxisSums (&sums)[3], const MapScale& scale, Scalar* grad_homography) {
  grad_affine_axis(sums[0], scale.x, grad_homography);
  grad_affine_axis(sums[1], scale.y, grad_homography + 3);
  grad_homography[6] = static_cast<Scalar>(sums[2].times_u * scale.unit_x);
  grad_homography[7] = static_cast<Scalar>(sums[2].times_v * scale.unit_y);
  grad_homography[8] = static_cast<Scalar>(sums[2].plain);
}

HARDFAST_END
