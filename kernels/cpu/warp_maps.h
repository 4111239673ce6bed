// The coordinate maps along a run of output pixels: their input positions, and the sums that the gradient to a map's
// parameters is made of. Positions are in double, in pixels of the image.
#pragma once

#include "../math/affine.h"
#include "../math/projective.h"
#include "../math/thin_plate.h"
#include "flow_rows.h"

HARDFAST_BEGIN

template <typename T>
class CoordinateMap {
 public:
  CoordinateMap(const WarpParams& p, std::int64_t sample, Workspace<T>& ws)
      : p_(p),
        ws_(ws),
        flow_(p, p.map_count == 1 ? 0 : sample, ws),
        scale_(p.scale),
        center_u_(0.5 * static_cast<double>(p.out_width - 1)),
        center_v_(0.5 * static_cast<double>(p.out_height - 1)) {
    const std::int64_t map = p.map_count == 1 ? 0 : sample;
    switch (p.map) {
      case Map::kAffine:
        matrix_ = static_cast<const T*>(p.matrix.data) + map * p.matrix.batch;
        x_ = affine_axis(matrix_, p.matrix.column, scale_.x);
        y_ = affine_axis(matrix_ + p.matrix.row, p.matrix.column, scale_.y);
        break;
      case Map::kProjective:
        matrix_ = static_cast<const T*>(p.matrix.data) + map * p.matrix.batch;
        projective_ = projective_map(matrix_, p.matrix.row, p.matrix.column, scale_);
        break;
      case Map::kFlow:
        x_ = {scale_.x.per_column, 0.0, scale_.x.half_extent - scale_.x.offset};
        y_ = {0.0, scale_.y.per_row, scale_.y.half_extent - scale_.y.offset};
        break;
      case Map::kThinPlate:
        points_ = static_cast<const T*>(p.points.data) + map * p.points.batch;
        weights_ = static_cast<const T*>(p.weights.data) + map * p.weights.batch;
        x_ = spline_axis(0, scale_.x);
        y_ = spline_axis(1, scale_.y);
        break;
    }
  }

  const AffineAxis& x() const { return x_; }
  const AffineAxis& y() const { return y_; }
  double center_u() const { return center_u_; }
  double center_v() const { return center_v_; }

  static double position(const AffineAxis& axis, double u, double v) {
    return axis.column * u + axis.row * v + axis.centre;
  }

  // Of n output pixels from (column, row) rightwards, which need not be whole.
  void positions(double column, double row, std::int64_t n, double* __restrict x, double* __restrict y) const {
    const double u = column - center_u_, v = row - center_v_;
    const std::int32_t count = static_cast<std::int32_t>(n);  // 64-bit counters become doubles one at a time
    if (p_.map == Map::kProjective) {
      const ProjectiveMap map = projective_;
      for (std::int32_t k = 0; k < count; ++k) {
        const Position at = projective_position(map, u + static_cast<double>(k), v);
        x[k] = at.x;
        y[k] = at.y;
      }
      return;
    }
    const double start_x = position(x_, u, v), start_y = position(y_, u, v);
    const double step_x = x_.column, step_y = y_.column;
    for (std::int32_t k = 0; k < count; ++k) {
      x[k] = start_x + static_cast<double>(k) * step_x;
      y[k] = start_y + static_cast<double>(k) * step_y;
    }
    if (p_.map == Map::kAffine) return;
    const Displacements<T> by = p_.map == Map::kFlow ? flow_.evaluate(column, row, n) : evaluate_spline(u, v, n);
    const double half_x = scale_.x.half_extent, half_y = scale_.y.half_extent;
    const T* __restrict map_x = by.x, * __restrict map_y = by.y;
    for (std::int32_t k = 0; k < count; ++k) {
      x[k] += half_x * static_cast<double>(map_x[k]);
      y[k] += half_y * static_cast<double>(map_y[k]);
    }
  }

  // What a tile reaches under an affine map, with all sub-samples of its pixels.
  void affine_bounds(const Tile& tile, Range& x, Range& y) const {
    const double spread_u = 0.5 - 0.5 / static_cast<double>(p_.samples_x);
    const double spread_v = 0.5 - 0.5 / static_cast<double>(p_.samples_y);
    x = y = {__builtin_inf(), -__builtin_inf()};
    for (int corner = 0; corner < 4; ++corner) {
      const double right = static_cast<double>(tile.width - 1) + spread_u;
      const double bottom = static_cast<double>(tile.height - 1) + spread_v;
      const double u = static_cast<double>(tile.x) + (corner & 1 ? right : -spread_u) - center_u_;
      const double v = static_cast<double>(tile.y) + (corner & 2 ? bottom : -spread_v) - center_v_;
      widen_range(position(x_, u, v), x);
      widen_range(position(y_, u, v), y);
    }
  }

  // The positions that a tile reaches, from the map's parameters alone; false where those do not tell. Those of an
  // affine map lie between its corners, those of a flow between the extremes of its control points, and a homography
  // keeps a tile convex in front of the horizon.
  bool bounds(const Tile& tile, Range& x, Range& y) const {
    const double u[2] = {static_cast<double>(tile.x) - center_u_,
                         static_cast<double>(tile.x + tile.width - 1) - center_u_};
    const double v[2] = {static_cast<double>(tile.y) - center_v_,
                         static_cast<double>(tile.y + tile.height - 1) - center_v_};
    if (p_.map == Map::kAffine) {
      affine_bounds(tile, x, y);
      return x.within(kFarthest) && y.within(kFarthest);
    }
    if (p_.map == Map::kProjective) {
      Range w = {__builtin_inf(), -__builtin_inf()};
      x = y = w;
      for (int corner = 0; corner < 4; ++corner) {
        const double at_u = u[corner & 1], at_v = v[corner >> 1];
        const Position at = projective_position(projective_, at_u, at_v);
        widen_range(projective_.w.at(at_u, at_v), w);
        widen_range(at.x, x);
        widen_range(at.y, y);
      }
      return (w.low > 0 || w.high < 0) && x.within(kFarthest) && y.within(kFarthest);
    }
    if (p_.map != Map::kFlow) return false;
    Range along_x, along_y;
    if (!flow_.bounds(tile, along_x, along_y)) return false;
    const double half_x = scale_.x.half_extent, half_y = scale_.y.half_extent;
    x = {position(x_, u[0], 0) + half_x * along_x.low, position(x_, u[1], 0) + half_x * along_x.high};
    y = {position(y_, 0, v[0]) + half_y * along_y.low, position(y_, 0, v[1]) + half_y * along_y.high};
    return x.within(kFarthest) && y.within(kFarthest);
  }

  FlowRows<T>& flow() { return flow_; }
  const FlowRows<T>& flow() const { return flow_; }
  T half_x() const { return static_cast<T>(scale_.x.half_extent); }
  T half_y() const { return static_cast<T>(scale_.y.half_extent); }

  // Adds the part of some rows of n pixels each: their gradients to the position stand in ws.grad_x and ws.grad_y.
  void accumulate(double column, double row, std::int64_t n, std::int64_t rows, const ControlRows& control,
                  double* sums) {
    const double u = column - center_u_, v = row - center_v_;
    if (p_.map == Map::kAffine) return accumulate_affine(u, v, n, rows, sums);
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t at = r * n;
      const double down = static_cast<double>(r);
      if (p_.map == Map::kProjective) accumulate_projective(u, v + down, n, at, sums);
      if (p_.map == Map::kFlow) flow_.accumulate(column, row + down, n, at, control, sums);
      if (p_.map == Map::kThinPlate) accumulate_spline(u, v + down, n, at, sums);
    }
  }

  // The gradient to a dense flow, from output pixel (x, y) on: each pixel is a control point of its own.
  PositionTarget<T, true> dense_target(std::int64_t sample, std::int64_t x, std::int64_t y) const {
    const std::int64_t area = p_.flow_height * p_.flow_width;
    T* target = static_cast<T*>(p_.grad_flow) + 2 * sample * area + y * p_.flow_width + x;
    return {target, target + area, half_x(), half_y()};
  }

  // Turns the sums of a map into the gradients to its parameters, and those of a band of a flow.
  void finish(const double* sums, std::int64_t map) const {
    if (p_.map == Map::kAffine) {
      T* grad = static_cast<T*>(p_.grad_matrix) + 6 * map;
      grad_affine_axis({sums[0], sums[1], sums[2]}, scale_.x, grad);
      grad_affine_axis({sums[3], sums[4], sums[5]}, scale_.y, grad + 3);
    } else if (p_.map == Map::kProjective) {
      const AffineAxisSums forms[3] = {
          {sums[0], sums[1], sums[2]}, {sums[3], sums[4], sums[5]}, {sums[6], sums[7], sums[8]}};
      // The forms of x and y carry the sizes of the image: see projective_map().
      grad_projective_map(forms, scale_, static_cast<T*>(p_.grad_matrix) + 9 * map);
    } else if (p_.map == Map::kFlow) {
      finish_flow(sums, map, {0, p_.flow_height});
    } else {
      const std::int64_t points = p_.control_points;
      copy_sums(sums, 2 * points, p_.grad_points, map);
      copy_sums(sums + 2 * points, 2 * (points + 3), p_.grad_weights, map);
    }
  }

  void finish_flow(const double* sums, std::int64_t map, const ControlRows& control) const {
    const std::int64_t count = (control.end - control.begin) * p_.flow_width;
    T* grad = static_cast<T*>(p_.grad_flow) + (2 * map * p_.flow_height + control.begin) * p_.flow_width;
    for (std::int64_t i = 0; i < count; ++i) {
      grad[i] = static_cast<T>(scale_.x.half_extent * sums[i]);
      grad[p_.flow_height * p_.flow_width + i] = static_cast<T>(scale_.y.half_extent * sums[count + i]);
    }
  }

 private:
  // The spline's linear part along one axis, in pixels.
  AffineAxis spline_axis(std::int64_t axis, const AxisScale& scale) const {
    const T* row = weights_ + p_.control_points * p_.weights.row + axis * p_.weights.column;
    const double one = static_cast<double>(row[0]), by_x = static_cast<double>(row[p_.weights.row]);
    const double by_y = static_cast<double>(row[2 * p_.weights.row]);
    return {by_x * scale_.unit_x * scale.half_extent, by_y * scale_.unit_y * scale.half_extent,
            scale.half_extent * (one + 1.0) - scale.offset};
  }

  static void copy_sums(const double* sums, std::int64_t count, void* target, std::int64_t map) {
    if (!target) return;
    T* values = static_cast<T*>(target) + map * count;
    for (std::int64_t i = 0; i < count; ++i) values[i] = static_cast<T>(sums[i]);
  }

  Displacements<T> evaluate_spline(double u, double v, std::int64_t n) const {
    T* __restrict x = ws_.map_x, * __restrict y = ws_.map_y, * __restrict across = ws_.map_u;
    const std::int32_t count = static_cast<std::int32_t>(n);
    for (std::int32_t k = 0; k < count; ++k) {
      across[k] = static_cast<T>((u + static_cast<double>(k)) * scale_.unit_x);
      x[k] = y[k] = T(0);
    }
    const T down = static_cast<T>(v * scale_.unit_y);
    for (std::int64_t j = 0; j < p_.control_points; ++j) {
      const T *point = points_ + j * p_.points.row, *weight = weights_ + j * p_.weights.row;
      const T point_x = point[0], weight_x = weight[0], weight_y = weight[p_.weights.column];
      const T dy = down - point[p_.points.column], dy2 = dy * dy;
#pragma omp simd
      for (std::int32_t k = 0; k < count; ++k) {
        const T dx = across[k] - point_x;
        const T value = thin_plate(dx * dx + dy2);
        x[k] += weight_x * value;
        y[k] += weight_y * value;
      }
    }
    return {x, y};
  }

  // The sums of three forms: plain, times u, times v; counted from u and v they were plain, times column, times row.
  static void add_form(double plain, double times_k, double u, double v, double* sums, double times_row = 0) {
    sums[0] += plain;
    sums[1] += times_k + u * plain;
    sums[2] += times_row + v * plain;
  }

  // The sums of all rows are taken together: they are short where they are several, and a sum over lanes costs as much
  // as sixteen pixels.
  void accumulate_affine(double u, double v, std::int64_t n, std::int64_t rows, double* sums) const {
    struct Totals {
      Vec8<T> plain, times_k, times_row;
    };
    Totals x{}, y{};
    for (std::int64_t r = 0; r < rows; ++r) {
      const T *const grad_x = ws_.grad_x + r * n, *const grad_y = ws_.grad_y + r * n;
      Vec8<T> place = {0, 1, 2, 3, 4, 5, 6, 7}, row_x{}, row_y{};
      const auto add = [&](Vec8<T> in_x, Vec8<T> in_y) __attribute__((always_inline)) {
        row_x += in_x;
        x.times_k += in_x * place;
        row_y += in_y;
        y.times_k += in_y * place;
      };
      std::int64_t k = 0;
      for (; k < n - 7; k += 8, place += T(8)) add(load8(grad_x + k), load8(grad_y + k));
      if (k < n) {
        const auto wanted = place < static_cast<T>(n);
        add(wanted ? load8(grad_x + k) : Vec8<T>{}, wanted ? load8(grad_y + k) : Vec8<T>{});
      }
      x.plain += row_x;
      x.times_row += row_x * static_cast<T>(r);
      y.plain += row_y;
      y.times_row += row_y * static_cast<T>(r);
    }
    add_form(sum8<T>(x.plain), sum8<T>(x.times_k), u, v, sums, sum8<T>(x.times_row));
    add_form(sum8<T>(y.plain), sum8<T>(y.times_k), u, v, sums + 3, sum8<T>(y.times_row));
  }

  void accumulate_projective(double u, double v, std::int64_t n, std::int64_t at, double* sums) const {
    const ProjectiveMap map = projective_;
    const T* __restrict grad_x = ws_.grad_x + at, * __restrict grad_y = ws_.grad_y + at;
    double x = 0, xk = 0, y = 0, yk = 0, w = 0, wk = 0;
    const std::int32_t count = static_cast<std::int32_t>(n);
#pragma omp simd reduction(+ : x, xk, y, yk, w, wk)
    for (std::int32_t k = 0; k < count; ++k) {
      const double place = static_cast<double>(k);
      const ProjectiveGradient gradient =
          grad_projective_position(map, u + place, v, static_cast<double>(grad_x[k]), static_cast<double>(grad_y[k]));
      x += gradient.x;
      xk += gradient.x * place;
      y += gradient.y;
      yk += gradient.y * place;
      w += gradient.w;
      wk += gradient.w * place;
    }
    add_form(x, xk, u, v, sums);
    add_form(y, yk, u, v, sums + 3);
    add_form(w, wk, u, v, sums + 6);
  }

  void accumulate_spline(double u, double v, std::int64_t n, std::int64_t at, double* sums) const {
    T* __restrict across = ws_.map_u, * __restrict x = ws_.map_x, * __restrict y = ws_.map_y;
    const T half_x = static_cast<T>(scale_.x.half_extent), half_y = static_cast<T>(scale_.y.half_extent);
    const std::int32_t count = static_cast<std::int32_t>(n);
    T plain_x = 0, plain_y = 0, u_x = 0, u_y = 0;
#pragma omp simd reduction(+ : plain_x, plain_y, u_x, u_y)
    for (std::int32_t k = 0; k < count; ++k) {
      across[k] = static_cast<T>((u + static_cast<double>(k)) * scale_.unit_x);
      x[k] = half_x * ws_.grad_x[at + k];
      y[k] = half_y * ws_.grad_y[at + k];
      plain_x += x[k];
      plain_y += y[k];
      u_x += x[k] * across[k];
      u_y += y[k] * across[k];
    }
    const double down = v * scale_.unit_y;
    const std::int64_t points = p_.control_points;
    double *grad_points = sums, *grad_weights = sums + 2 * points, *linear = grad_weights + 2 * points;
    const double terms[6] = {plain_x, plain_y, u_x, u_y, down * plain_x, down * plain_y};
    for (int i = 0; i < 6; ++i) linear[i] += terms[i];
    for (std::int64_t j = 0; j < points; ++j) {
      const T *point = points_ + j * p_.points.row, *weight = weights_ + j * p_.weights.row;
      const T point_x = point[0], weight_x = weight[0], weight_y = weight[p_.weights.column];
      const T dy = static_cast<T>(down) - point[p_.points.column], dy2 = dy * dy;
      T sum_x = 0, sum_y = 0, along_x = 0, along = 0;
#pragma omp simd reduction(+ : sum_x, sum_y, along_x, along)
      for (std::int32_t k = 0; k < count; ++k) {
        const T dx = across[k] - point_x, r2 = dx * dx + dy2;
        const T value = thin_plate(r2);
        const T slope = (x[k] * weight_x + y[k] * weight_y) * grad_thin_plate(r2);
        sum_x += x[k] * value;
        sum_y += y[k] * value;
        along_x += slope * dx;
        along += slope;
      }
      grad_points[2 * j] -= 2.0 * static_cast<double>(along_x);
      grad_points[2 * j + 1] -= 2.0 * static_cast<double>(along) * static_cast<double>(dy);
      grad_weights[2 * j] += static_cast<double>(sum_x);
      grad_weights[2 * j + 1] += static_cast<double>(sum_y);
    }
  }

  static constexpr double kFarthest = 1e6;  // positions beyond are none of the fast paths'
  const WarpParams& p_;
  Workspace<T>& ws_;
  FlowRows<T> flow_;
  MapScale scale_;
  double center_u_, center_v_;
  const T *matrix_ = nullptr, *points_ = nullptr, *weights_ = nullptr;
  AffineAxis x_{}, y_{};  // the affine map, or the affine part of another
  ProjectiveMap projective_{};
};

HARDFAST_END
