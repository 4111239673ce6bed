// The arithmetic of kernels/math behind C functions, for tests/test_math_headers.py.
#include "../kernels/math/cubic.h"
#include "../kernels/math/fixed_point.h"
#include "../kernels/math/frame.h"
#include "../kernels/math/half.h"
#include "../kernels/math/padding.h"
#include "../kernels/math/rounding.h"
#include "../kernels/math/scales.h"
#include "../kernels/math/taps.h"
#include "../kernels/math/thin_plate.h"

using namespace hardfast;

// The frame that begins at (first_x, first_y), at every pixel of 32 columns and 8 rows: [256, 2] on the whole image.
template <typename Form>
void positions_by(const float* homography, std::int64_t side, std::int64_t first_x, std::int64_t first_y,
                  double* positions) {
  using Frame = ProjectiveFrame<float, Form>;
  WarpParams p{};
  p.height = p.width = p.out_height = p.out_width = side;
  set_scales(p);
  p.matrix = {homography, 0, 3, 1};
  const Frame frame = Frame::make(p, 0, first_x, first_y);
  for (int k = 0; k < 256; ++k) {
    const Point<float> at = frame.at(p, 0, static_cast<float>(k % 32), static_cast<float>(k / 32));
    positions[2 * k] = static_cast<double>(frame.origin_x) + static_cast<double>(at.x);
    positions[2 * k + 1] = static_cast<double>(frame.origin_y) + static_cast<double>(at.y);
  }
}

extern "C" {

void padded_indices(const std::int64_t* index, std::int64_t count, std::int64_t length, int padding, bool align_corners,
                    std::int64_t* wide, std::int32_t* narrow) {
  for (std::int64_t i = 0; i < count; ++i) {
    wide[i] = pad_index(index[i], length, static_cast<Padding>(padding), align_corners);
    narrow[i] = tap_index(static_cast<std::int32_t>(index[i]), length, static_cast<Padding>(padding), align_corners);
  }
}

// [count, 4] weights and slopes: as a set, and tap by tap as GPUs take them.
void keys(const double* t, std::int64_t count, double* weights, double* slopes, double* tap_weights,
          double* tap_slopes) {
  for (std::int64_t i = 0; i < count; ++i) {
    const CubicWeights<double> w = keys_weights(t[i]), g = grad_keys_weights(t[i]);
    for (int k = 0; k < 4; ++k) {
      weights[4 * i + k] = w.at[k];
      slopes[4 * i + k] = g.at[k];
      const TapWeight<double> tap = keys_weight(k, t[i]);
      tap_weights[4 * i + k] = tap.value;
      tap_slopes[4 * i + k] = tap.slope;
    }
  }
}

void bspline(const float* t, std::int64_t count, float* weights) {
  for (std::int64_t i = 0; i < count; ++i) {
    const CubicWeights<float> w = bspline_weights(t[i]);
    for (int k = 0; k < 4; ++k) weights[4 * i + k] = w.at[k];
  }
}

void projective_positions(const float* homography, std::int64_t side, std::int64_t first_x, std::int64_t first_y,
                          bool of_tile, double* positions) {
  const auto by = of_tile ? positions_by<TilePlane<float>> : positions_by<PrecisePlane<float>>;
  by(homography, side, first_x, first_y, positions);
}

// One row of controls upsampled to `out_length`, as the CPU's taps have it and as the GPUs' cells do.
void upsampled(const double* controls, std::int64_t length, std::int64_t out_length, bool align_corners, bool spline,
               double* by_taps, double* by_cells) {
  const FlowAxis axis = flow_axis(length, out_length, align_corners, spline);
  const FlowFrameAxis<double> frame = FlowFrameAxis<double>::make(axis, 0);
  for (std::int64_t i = 0; i < out_length; ++i) {
    const FlowTaps taps = flow_taps(axis, static_cast<double>(i));
    const ControlCell<double> cell = control_cell(frame, static_cast<double>(i));
    by_taps[i] = by_cells[i] = 0;
    for (int k = 0; k < taps.count; ++k) {
      by_taps[i] += taps.weights[k] * controls[flow_index(axis, taps.first + k)];
      by_cells[i] += control_tap(frame, cell, k) * controls[control_index(frame, cell, k)];
    }
  }
}

void radial(const float* squared, std::int64_t count, float* value, float* slope) {
  for (std::int64_t i = 0; i < count; ++i) {
    value[i] = thin_plate(squared[i]);
    slope[i] = grad_thin_plate(squared[i]);
  }
}

void narrowed(const float* value, std::int64_t count, std::uint16_t* half, std::uint16_t* bfloat, std::uint8_t* byte) {
  for (std::int64_t i = 0; i < count; ++i) {
    half[i] = narrow<Half>(value[i]).bits;
    bfloat[i] = narrow<BFloat16>(value[i]).bits;
    byte[i] = narrow<std::uint8_t>(value[i]);
  }
}

void widened(const std::uint16_t* bits, std::int64_t count, float* half, float* bfloat) {
  for (std::int64_t i = 0; i < count; ++i) {
    half[i] = widen(Half{bits[i]});
    bfloat[i] = widen(BFloat16{bits[i]});
  }
}

void rounded(const float* value, std::int64_t count, float* down, float* nearest) {
  for (std::int64_t i = 0; i < count; ++i) {
    down[i] = round_down(value[i]);
    nearest[i] = round_nearest(value[i]);
  }
}

// Sums in fixed point, in units that suit the largest.
float fixed_sum(const float* value, std::int64_t count, double largest) {
  const int shift = fixed_point_bits(count) - exponent_above(double_to_bits(largest));
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += to_fixed(value[i], shift);
  return from_fixed(sum, FloatPower::of(-shift));
}

void fixed_halves(const float* value, std::int64_t count, std::int64_t* whole) {
  for (std::int64_t i = 0; i < count; ++i) {
    const FixedHalves halves = to_fixed_halves(value[i]);
    whole[i] = static_cast<std::int64_t>(std::uint64_t{halves.upper} << 32 | halves.lower);
  }
}

double fixed_pair_sum(const double* value, std::int64_t count, double largest) {
  const int extra = fixed_point_bits(count), shift = extra - exponent_above(double_to_bits(largest));
  std::int64_t high = 0, low = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const FixedPair pair = to_fixed_pair(value[i], shift, extra);
    high += pair.high;
    low += pair.low;
  }
  return from_fixed_pair(high, low, shift, extra);
}
}
