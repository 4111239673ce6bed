// Positions of a tile of output pixels on the input, counted from a pixel nearby: the numbers of a frame are made in
// double, once a tile, and large images then lose no precision in T. Products that join sums are written out, so
// that every kernel which asks for a position gets the same bits.
#pragma once

#include <cstdint>

#include "../warp_params.h"
#include "affine.h"
#include "fixed_point.h"
#include "flow.h"
#include "macros.h"
#include "projective.h"
#include "rounding.h"
#include "thin_plate.h"

HARDFAST_BEGIN

HARDFAST_HD float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
HARDFAST_HD double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }

// Keeps a pointer to global memory as it is: told what it is made of, the compiler adds its parts up anew for every
// access.
template <typename T>
HARDFAST_HD T* kept(T* pointer) {
#if defined(__CUDA_ARCH__)
  asm("" : "+l"(pointer));
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

template <typename T>
struct Point {
  T x, y;
};

// start + column * dx + row * dy, with dx and dy in output pixels from the frame's first.
template <typename T>
struct Plane {
  T start, column, row;

  HARDFAST_HD T at(T dx, T dy) const { return fused(dx, column, fused(dy, row, start)); }

  // What these numbers lack of those that they were rounded from.
  HARDFAST_HD Plane remainder(double exact_start, double exact_column, double exact_row) const {
    return {static_cast<T>(exact_start - static_cast<double>(start)),
            static_cast<T>(exact_column - static_cast<double>(column)),
            static_cast<T>(exact_row - static_cast<double>(row))};
  }
};

// A plane with what its numbers and sums round off carried along: a divisor near zero keeps its digits.
template <typename T>
struct PrecisePlane {
  Plane<T> high, low;

  HARDFAST_HD T at(T dx, T dy) const {
    const T across = dx * high.column, down = dy * high.row, sum = down + high.start, all = across + sum;
    const T rounded = fused(dx, high.column, -across) + fused(dy, high.row, -down) + sum_error(down, high.start, sum) +
                      sum_error(across, sum, all);
    return all + (rounded + low.at(dx, dy));
  }

  static HARDFAST_HD PrecisePlane make(double start, double column, double row) {
    const Plane<T> high = {static_cast<T>(start), static_cast<T>(column), static_cast<T>(row)};
    return {high, high.remainder(start, column, row)};
  }

 private:
  // What a + b = sum rounded off, exactly (Knuth).
  static HARDFAST_HD T sum_error(T a, T b, T sum) {
    const T part = sum - a;
    return (a - (sum - part)) + (b - part);
  }
};

// The exponent of a power of two above all that a plane is within 32 pixels of its start.
HARDFAST_HD int plane_exponent(double start, double column, double row) {
  const double most = __builtin_fabs(start) + 32.0 * (__builtin_fabs(column) + __builtin_fabs(row));
  return exponent_above(double_to_bits(most));
}

// The same for whole dx and dy below 32: `high` has so few digits that its sums round nothing off.
template <typename T>
struct TilePlane {
  Plane<T> high, low;

  HARDFAST_HD T at(T dx, T dy) const { return high.at(dx, dy) + low.at(dx, dy); }

  static HARDFAST_HD TilePlane make(double start, double column, double row) {
    static_assert(sizeof(T) == sizeof(float), "the digits of a float");
    const int digits = 23 - plane_exponent(start, column, row);
    const Plane<T> high = {rounded(start, digits), rounded(column, digits), rounded(row, digits)};
    return {high, high.remainder(start, column, row)};
  }

 private:
  static HARDFAST_HD T rounded(double value, int digits) {
    return static_cast<T>(round_nearest(value * power_of_two(digits)) * power_of_two(-digits));
  }
};

// part / divisor as division rounds it, where several parts have one divisor and one reciprocal.
template <typename T>
HARDFAST_HD T divided(T part, T divisor, T inverse) {
  const T quotient = part * inverse, rounded = fused(fused(-quotient, divisor, part), inverse, quotient);
  return rounded == rounded ? rounded : quotient;  // infinities have no remainder
}

// A position x / w, y / w, with 1 / w of the homography as it is given.
template <typename T>
struct ProjectivePoint : Point<T> {
  T inverse;
};

// The first output pixel of a frame, counted from the output's centre.
HARDFAST_HD Point<double> from_centre(const WarpParams& p, std::int64_t x, std::int64_t y) {
  return {static_cast<double>(x) - 0.5 * static_cast<double>(p.out_width - 1),
          static_cast<double>(y) - 0.5 * static_cast<double>(p.out_height - 1)};
}

// A pixel of the image near a position. An even one keeps ties of "nearest" what they are in the image; NaN gives 0.
HARDFAST_HD std::int64_t frame_origin(double position, std::int64_t length) {
  const double last = static_cast<double>(length);
  const double clamped = position > 0 ? (position < last ? position : last) : 0;
  return static_cast<std::int64_t>(clamped) & ~std::int64_t{1};
}

template <typename T>
struct AffineFrame {
  Plane<T> x, y;
  std::int64_t origin_x, origin_y;

  static HARDFAST_HD AffineFrame make(const WarpParams& p, std::int64_t sample, std::int64_t first_x,
                                      std::int64_t first_y) {
    const T* theta = static_cast<const T*>(p.matrix.data) + sample * p.matrix.batch;
    const Point<double> first = from_centre(p, first_x, first_y);
    AffineFrame frame;
    axis(theta, p.matrix.column, p.scale.x, p.width, first, frame.x, frame.origin_x);
    axis(theta + p.matrix.row, p.matrix.column, p.scale.y, p.height, first, frame.y, frame.origin_y);
    return frame;
  }

  HARDFAST_HD Point<T> at(const WarpParams& /*p*/, std::int64_t /*sample*/, T dx, T dy) const {
    return {x.at(dx, dy), y.at(dx, dy)};
  }

 private:
  static HARDFAST_HD void axis(const T* theta_row, std::int64_t stride, const AxisScale& scale, std::int64_t length,
                               const Point<double>& first, Plane<T>& plane, std::int64_t& origin) {
    const AffineAxis map = affine_axis(theta_row, stride, scale);
    const double start = map.column * first.x + map.row * first.y + map.centre;
    origin = frame_origin(start, length);
    plane = {static_cast<T>(start - static_cast<double>(origin)), static_cast<T>(map.column), static_cast<T>(map.row)};
  }
};

template <typename T, typename Form = PrecisePlane<T>>
struct ProjectiveFrame {
  Form x, y, w;  // the position is x / w, y / w
  std::int64_t origin_x, origin_y;
  T shift_x, shift_y;  // from the image's centre, where the homography's zero lies, to the origin
  T scale;             // of the three forms, which a homography may have at any: float then holds them

  static HARDFAST_HD ProjectiveFrame make(const WarpParams& p, std::int64_t sample, std::int64_t first_x,
                                          std::int64_t first_y) {
    const T* homography = static_cast<const T*>(p.matrix.data) + sample * p.matrix.batch;
    const ProjectiveMap map = projective_map(homography, p.matrix.row, p.matrix.column, p.scale);
    const Point<double> first = from_centre(p, first_x, first_y);
    const Position start = projective_position(map, first.x, first.y);
    ProjectiveFrame frame;
    frame.origin_x = frame_origin(start.x, p.width);
    frame.origin_y = frame_origin(start.y, p.height);
    const double shift_x = static_cast<double>(frame.origin_x) - map.centre_x;
    const double shift_y = static_cast<double>(frame.origin_y) - map.centre_y;
    const LinearForm across = relative(map.x, map.w, shift_x), down = relative(map.y, map.w, shift_y);
    const double scale = scale_of(across, down, map.w, first);
    frame.x = plane(across, first, scale);
    frame.y = plane(down, first, scale);
    frame.w = plane(map.w, first, scale);
    frame.scale = static_cast<T>(scale);
    frame.shift_x = static_cast<T>(shift_x);
    frame.shift_y = static_cast<T>(shift_y);
    return frame;
  }

  HARDFAST_HD ProjectivePoint<T> at(const WarpParams& /*p*/, std::int64_t /*sample*/, T dx, T dy) const {
    const T divisor = w.at(dx, dy), inverse = T(1) / divisor;
    return {{divided(x.at(dx, dy), divisor, inverse), divided(y.at(dx, dy), divisor, inverse)}, inverse * scale};
  }

 private:
  // form / w - shift, as a numerator over w.
  static HARDFAST_HD LinearForm relative(const LinearForm& form, const LinearForm& w, double shift) {
    return {form.column - shift * w.column, form.row - shift * w.row, form.constant - shift * w.constant};
  }

  // Brings w to about 1, but no numerator beyond 2^100.
  static HARDFAST_HD double scale_of(const LinearForm& x, const LinearForm& y, const LinearForm& w,
                                     const Point<double>& first) {
    const int numerator = larger_of(exponent(x, first), exponent(y, first));
    return power_of_two(-larger_of(exponent(w, first), numerator - 100));
  }

  static HARDFAST_HD int larger_of(int a, int b) { return a > b ? a : b; }

  static HARDFAST_HD int exponent(const LinearForm& form, const Point<double>& first) {
    return plane_exponent(form.at(first.x, first.y), form.column, form.row);
  }

  static HARDFAST_HD Form plane(const LinearForm& form, const Point<double>& first, double scale) {
    return Form::make(scale * form.at(first.x, first.y), scale * form.column, scale * form.row);
  }
};

// Gradients to the three forms of the homography at one output pixel, as grad_projective_position has them.
template <typename T>
struct ProjectiveTerms {
  T x, y, w;
};

template <typename T, typename Form>
HARDFAST_HD ProjectiveTerms<T> grad_projective_frame(const ProjectiveFrame<T, Form>& frame,
                                                     const ProjectivePoint<T>& at, Point<T> grad) {
  // Beyond the edge of a border the position may be infinite.
  if (__builtin_isinf(at.inverse) || (grad.x == T(0) && grad.y == T(0))) return {T(0), T(0), T(0)};
  const T x = grad.x * at.inverse, y = grad.y * at.inverse;
  return {x, y, -(x * (at.x + frame.shift_x) + y * (at.y + frame.shift_y))};
}

// Where an output pixel lies in the control grid of a flow, along one axis.
template <typename T>
struct FlowFrameAxis {
  T start, step;
  std::int32_t cell, length;  // sides are below 2^31
  bool spline;

  static HARDFAST_HD FlowFrameAxis make(const FlowAxis& axis, std::int64_t first) {
    const double at = axis.per_pixel * static_cast<double>(first) + axis.offset, whole = __builtin_floor(at);
    return {static_cast<T>(at - whole), static_cast<T>(axis.per_pixel), static_cast<std::int32_t>(whole),
            static_cast<std::int32_t>(axis.length), axis.spline};
  }
};

// The cell of the control grid that an output pixel lies in.
template <typename T>
struct ControlCell {
  std::int32_t first;
  T within;
};

template <typename T>
HARDFAST_HD ControlCell<T> control_cell(const FlowFrameAxis<T>& axis, T d) {
  const T at = fused(d, axis.step, axis.start), whole = round_down(at);
  return {axis.cell + static_cast<std::int32_t>(whole) - (axis.spline ? 1 : 0), at - whole};
}

// What tap k of a cell weighs; of the spline, by the distance from the tap.
template <typename T>
HARDFAST_HD T control_tap(const FlowFrameAxis<T>& axis, const ControlCell<T>& cell, int k) {
  if (!axis.spline) return k == 0 ? T(1) - cell.within : cell.within;
  const T distance = (cell.within + static_cast<T>(1 - k)) * (k < 2 ? T(1) : T(-1)), rest = T(2) - distance;
  const T near = (T(3) * distance - T(6)) * distance * distance + T(4);
  return T(1) / T(6) * (k == 1 || k == 2 ? near : rest * rest * rest);
}

// Beyond the grid its border is repeated.
template <typename T>
HARDFAST_HD std::int32_t control_index(const FlowFrameAxis<T>& axis, const ControlCell<T>& cell, int k) {
  const std::int32_t index = cell.first + k, above = index > 0 ? index : 0;
  return above < axis.length ? above : axis.length - 1;
}

template <typename T>
struct FlowFrame {
  Plane<T> x, y;  // of the identity
  std::int64_t origin_x, origin_y;
  T half_x, half_y;  // input pixels per normalised unit
  FlowFrameAxis<T> column, row;

  static HARDFAST_HD FlowFrame make(const WarpParams& p, std::int64_t /*sample*/, std::int64_t first_x,
                                    std::int64_t first_y) {
    const AxisScale &scale_x = p.scale.x, &scale_y = p.scale.y;
    const Point<double> first = from_centre(p, first_x, first_y);
    const double start_x = scale_x.per_column * first.x + scale_x.half_extent - scale_x.offset;
    const double start_y = scale_y.per_row * first.y + scale_y.half_extent - scale_y.offset;
    FlowFrame frame;
    frame.origin_x = frame_origin(start_x, p.width);
    frame.origin_y = frame_origin(start_y, p.height);
    frame.x = {static_cast<T>(start_x - static_cast<double>(frame.origin_x)), static_cast<T>(scale_x.per_column), T(0)};
    frame.y = {static_cast<T>(start_y - static_cast<double>(frame.origin_y)), T(0), static_cast<T>(scale_y.per_row)};
    frame.half_x = static_cast<T>(scale_x.half_extent);
    frame.half_y = static_cast<T>(scale_y.half_extent);
    frame.column = FlowFrameAxis<T>::make(p.flow_columns, first_x);
    frame.row = FlowFrameAxis<T>::make(p.flow_rows, first_y);
    return frame;
  }

  HARDFAST_HD Point<T> at(const WarpParams& p, std::int64_t sample, T dx, T dy) const {
    const ControlCell<T> columns = control_cell(column, dx), rows = control_cell(row, dy);
    const T* flow = static_cast<const T*>(p.flow.data) + sample * p.flow.batch;
    const int count = column.spline ? 4 : 2;
    T flow_x = T(0), flow_y = T(0);
#pragma unroll 1
    for (int j = 0; j < count; ++j) {
      const T across = control_tap(row, rows, j);
      if (across == T(0)) continue;  // a dense flow has one tap
      const T* line = flow + control_index(row, rows, j) * p.flow.row;
#pragma unroll 1
      for (int i = 0; i < count; ++i) {
        const T weight = across * control_tap(column, columns, i);
        if (weight == T(0)) continue;
        const T* value = line + control_index(column, columns, i) * p.flow.column;
        flow_x = fused(weight, value[0], flow_x);
        flow_y = fused(weight, value[p.flow.channel], flow_y);
      }
    }
    return {fused(flow_x, half_x, x.at(dx, dy)), fused(flow_y, half_y, y.at(dx, dy))};
  }
};

// The same for offsets of 32 bits: the control points of a row are loaded together, then weighed.
template <typename T>
struct TileFlowFrame : FlowFrame<T> {
  static HARDFAST_HD TileFlowFrame make(const WarpParams& p, std::int64_t sample, std::int64_t first_x,
                                        std::int64_t first_y) {
    return {FlowFrame<T>::make(p, sample, first_x, first_y)};
  }

  HARDFAST_HD Point<T> at(const WarpParams& p, std::int64_t sample, T dx, T dy) const {
    const T* across = kept(static_cast<const T*>(p.flow.data) + sample * p.flow.batch);
    const T* down = kept(across + p.flow.channel);
    const Point<T> by =
        this->column.spline ? displacement<4>(p, across, down, dx, dy) : displacement<2>(p, across, down, dx, dy);
    return {fused(by.x, this->half_x, this->x.at(dx, dy)), fused(by.y, this->half_y, this->y.at(dx, dy))};
  }

 private:
  // The control points that a pixel lies between along one axis, in elements, and what they weigh.
  template <int kTaps>
  struct Taps {
    std::uint32_t places[kTaps];
    T weights[kTaps];

    HARDFAST_HD Taps(FlowFrameAxis<T> axis, T d, std::int64_t stride) {
      axis.spline = kTaps == 4;
      const ControlCell<T> cell = control_cell(axis, d);
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        // Of two, the second may weigh nothing: then it is the first again, for it may be NaN.
        const int tap = kTaps == 2 && cell.within == T(0) ? 0 : k;
        places[k] = static_cast<std::uint32_t>(control_index(axis, cell, tap) * static_cast<int>(stride));
      }
      if constexpr (kTaps == 4) {
        const CubicWeights<T> cubic = bspline_weights(cell.within);
#pragma unroll
        for (int k = 0; k < kTaps; ++k) weights[k] = cubic.at[k];
      } else {
        weights[0] = T(1) - cell.within;
        weights[1] = cell.within;
      }
    }
  };

  template <int kTaps>
  HARDFAST_HD Point<T> displacement(const WarpParams& p, const T* across, const T* down, T dx, T dy) const {
    const Taps<kTaps> columns(this->column, dx, p.flow.column), rows(this->row, dy, p.flow.row);
    Point<T> sum = {T(0), T(0)};
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      T x = T(0), y = T(0);
#pragma unroll
      for (int i = 0; i < kTaps; ++i) {
        const std::uint32_t place = rows.places[j] + columns.places[i];
        x = fused(columns.weights[i], across[place], x);
        y = fused(columns.weights[i], down[place], y);
      }
      sum = {fused(rows.weights[j], x, sum.x), fused(rows.weights[j], y, sum.y)};
    }
    return sum;
  }
};

// The same where the grid has a point for each output pixel: its own is the only one that counts.
template <typename T>
struct DenseFlowFrame {
  Plane<T> x, y;
  std::int64_t origin_x, origin_y, first;  // the last is the first pixel's place in the flow, in elements
  T half_x, half_y;

  static HARDFAST_HD DenseFlowFrame make(const WarpParams& p, std::int64_t sample, std::int64_t first_x,
                                         std::int64_t first_y) {
    const FlowFrame<T> frame = FlowFrame<T>::make(p, sample, first_x, first_y);
    const std::int64_t first = sample * p.flow.batch + first_y * p.flow.row + first_x * p.flow.column;
    return {frame.x, frame.y, frame.origin_x, frame.origin_y, first, frame.half_x, frame.half_y};
  }

  HARDFAST_HD Point<T> at(const WarpParams& p, std::int64_t /*sample*/, int dx, int dy) const {
    const std::uint32_t place =
        static_cast<std::uint32_t>(dy * static_cast<int>(p.flow.row) + dx * static_cast<int>(p.flow.column));
    const T* flow = static_cast<const T*>(p.flow.data) + first + place;
    const T across = static_cast<T>(dx), down = static_cast<T>(dy);
    return {fused(flow[0], half_x, x.at(across, down)), fused(flow[p.flow.channel], half_y, y.at(across, down))};
  }
};

// Two numbers that lie side by side, read at once.
template <typename T>
struct alignas(2 * sizeof(T)) Pair {
  T x, y;
};

template <typename T>
struct ThinPlateFrame {
  Plane<T> x, y;  // the affine part
  std::int64_t origin_x, origin_y;
  Plane<T> norm_x, norm_y;  // the output position in normalised units
  T half_x, half_y;         // input pixels per normalised unit

  static HARDFAST_HD ThinPlateFrame make(const WarpParams& p, std::int64_t sample, std::int64_t first_x,
                                         std::int64_t first_y) {
    const Pair<T>* affine = weights(p, sample) + p.control_points;
    const AxisScale &scale_x = p.scale.x, &scale_y = p.scale.y;
    const double unit_x = p.scale.unit_x, unit_y = p.scale.unit_y;
    const Point<double> first = from_centre(p, first_x, first_y);
    ThinPlateFrame frame;
    axis(affine[0].x, affine[1].x * unit_x, affine[2].x * unit_y, scale_x, first, p.width, frame.x, frame.origin_x);
    axis(affine[0].y, affine[1].y * unit_x, affine[2].y * unit_y, scale_y, first, p.height, frame.y, frame.origin_y);
    frame.norm_x = {static_cast<T>(unit_x * first.x), static_cast<T>(unit_x), T(0)};
    frame.norm_y = {static_cast<T>(unit_y * first.y), T(0), static_cast<T>(unit_y)};
    frame.half_x = static_cast<T>(scale_x.half_extent);
    frame.half_y = static_cast<T>(scale_y.half_extent);
    return frame;
  }

  HARDFAST_HD Point<T> at(const WarpParams& p, std::int64_t sample, T dx, T dy) const {
    const Pair<T>* target = points(p, sample);
    const Pair<T>* weight = weights(p, sample);
    const T place_x = norm_x.at(dx, dy), place_y = norm_y.at(dx, dy);
    T bend_x = T(0), bend_y = T(0);
#pragma unroll 2
    for (std::int64_t k = 0; k < p.control_points; ++k) {
      const T from_x = place_x - target[k].x, from_y = place_y - target[k].y;
      const T phi = thin_plate(fused(from_x, from_x, from_y * from_y));
      bend_x = fused(weight[k].x, phi, bend_x);
      bend_y = fused(weight[k].y, phi, bend_y);
    }
    return {fused(bend_x, half_x, x.at(dx, dy)), fused(bend_y, half_y, y.at(dx, dy))};
  }

  // Contiguous, as the host code sees to.
  static HARDFAST_HD const Pair<T>* points(const WarpParams& p, std::int64_t sample) {
    return static_cast<const Pair<T>*>(p.points.data) + sample * (p.points.batch / 2);
  }
  static HARDFAST_HD const Pair<T>* weights(const WarpParams& p, std::int64_t sample) {
    return static_cast<const Pair<T>*>(p.weights.data) + sample * (p.weights.batch / 2);
  }

 private:
  static HARDFAST_HD void axis(double constant, double column, double row, const AxisScale& scale,
                               const Point<double>& first, std::int64_t length, Plane<T>& plane, std::int64_t& origin) {
    const double norm = constant + column * first.x + row * first.y;
    const double start = scale.half_extent * (norm + 1.0) - scale.offset;
    origin = frame_origin(start, length);
    plane = {static_cast<T>(start - static_cast<double>(origin)), static_cast<T>(scale.half_extent * column),
             static_cast<T>(scale.half_extent * row)};
  }
};

HARDFAST_END
