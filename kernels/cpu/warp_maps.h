// The coordinate maps along a run of output pixels: their input positions, and the sums that the gradient to a map's
// parameters is made of. Positions are in double, in pixels of the image.
#pragma once

#include "../math/affine.h"
#include "../math/flow.h"
#include "../math/projective.h"
#include "../math/thin_plate.h"
#include "warp.h"
#include "window.h"

HARDFAST_BEGIN

inline double clamp_to(double value, double low, double high) {
  const double above = value > low ? value : low;  // NaN becomes the lower end
  return above < high ? above : high;
}

// Control rows whose sums an item collects.
struct ControlRows {
  std::int64_t begin, end;
};

template <typename T>
class CoordinateMap {
 public:
  CoordinateMap(const WarpParams& p, std::int64_t sample, Workspace<T>& ws)
      : p_(p),
        ws_(ws),
        scale_(projective_scale(p.height, p.width, p.out_height, p.out_width, p.align_corners)),
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
      case Map::kFlow: {
        flow_ = static_cast<const T*>(p.flow.data) + map * p.flow.batch;
        columns_ = flow_axis(p.flow_width, p.out_width, p.align_corners, p.spline);
        rows_ = flow_axis(p.flow_height, p.out_height, p.align_corners, p.spline);
        dense_ =
            p.flow_width == p.out_width && p.flow_height == p.out_height && !p.spline && p.samples_x * p.samples_y == 1;
        x_ = {scale_.x.per_column, 0.0, scale_.x.half_extent - scale_.x.offset};
        y_ = {0.0, scale_.y.per_row, scale_.y.half_extent - scale_.y.offset};
        break;
      }
      case Map::kThinPlate: {
        points_ = static_cast<const T*>(p.points.data) + map * p.points.batch;
        weights_ = static_cast<const T*>(p.weights.data) + map * p.weights.batch;
        x_ = spline_axis(0, scale_.x);
        y_ = spline_axis(1, scale_.y);
        break;
      }
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
    if (p_.map == Map::kProjective) {
      const ProjectiveMap map = projective_;
      for (std::int64_t k = 0; k < n; ++k) {
        const Position at = projective_position(map, u + static_cast<double>(k), v);
        x[k] = at.x;
        y[k] = at.y;
      }
      return;
    }
    const double start_x = position(x_, u, v), start_y = position(y_, u, v);
    const double step_x = x_.column, step_y = y_.column;
    for (std::int64_t k = 0; k < n; ++k) {
      x[k] = start_x + static_cast<double>(k) * step_x;
      y[k] = start_y + static_cast<double>(k) * step_y;
    }
    if (p_.map == Map::kAffine) return;
    if (p_.map == Map::kFlow) {
      evaluate_flow(column, row, n);
    } else {
      evaluate_spline(u, v, n);
    }
    const double half_x = scale_.x.half_extent, half_y = scale_.y.half_extent;
    const T* __restrict map_x = ws_.map_x, * __restrict map_y = ws_.map_y;
    for (std::int64_t k = 0; k < n; ++k) {
      x[k] += half_x * static_cast<double>(map_x[k]);
      y[k] += half_y * static_cast<double>(map_y[k]);
    }
  }

  // Adds the run's part: its gradients to the position stand in ws.grad_x and ws.grad_y.
  void accumulate(double column, double row, std::int64_t n, const ControlRows& control, double* sums) const {
    const double u = column - center_u_, v = row - center_v_;
    switch (p_.map) {
      case Map::kAffine: accumulate_affine(u, v, n, sums); break;
      case Map::kProjective: accumulate_projective(u, v, n, sums); break;
      case Map::kFlow: accumulate_flow(column, row, n, control, sums); break;
      case Map::kThinPlate: accumulate_spline(u, v, n, sums); break;
    }
  }

  // A dense flow: every output pixel is a control point of its own.
  void store_dense(std::int64_t sample, std::int64_t x, std::int64_t y, std::int64_t n, bool first) const {
    const std::int64_t area = p_.flow_height * p_.flow_width;
    T* target_x = static_cast<T*>(p_.grad_flow) + 2 * sample * area + y * p_.flow_width + x;
    T* target_y = target_x + area;
    const T half_x = static_cast<T>(scale_.x.half_extent), half_y = static_cast<T>(scale_.y.half_extent);
    for (std::int64_t k = 0; k < n; ++k) {
      target_x[k] = half_x * ws_.grad_x[k] + (first ? T(0) : target_x[k]);
      target_y[k] = half_y * ws_.grad_y[k] + (first ? T(0) : target_y[k]);
    }
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

  // The output rows whose taps reach some of the control rows.
  ControlRows output_rows(const ControlRows& control) const {
    if (rows_.per_pixel == 0.0) return {0, p_.out_height};
    const double support = p_.spline ? 2.5 : 1.5;
    const double low = control.begin == 0 ? -1.0 : (static_cast<double>(control.begin) - support - rows_.offset);
    const double high = (static_cast<double>(control.end - 1) + support - rows_.offset) / rows_.per_pixel + 1.0;
    const double last = static_cast<double>(p_.out_height);
    const double first = control.begin == 0 ? 0.0 : low / rows_.per_pixel - 1.0;
    const double end = control.end == p_.flow_height || high > last ? last : high;
    return {static_cast<std::int64_t>(first > 0.0 ? first : 0.0),
            static_cast<std::int64_t>(end > 0.0 ? __builtin_ceil(end) : 0.0)};
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

  // Weights and first taps of the control columns of a run, from the first column that any of it touches.
  struct ControlColumns {
    std::int64_t first, count;
  };

  ControlColumns locate_columns(double column, std::int64_t n) const {
    const FlowTaps left = flow_taps(columns_, column);
    const std::int64_t last = flow_taps(columns_, column + static_cast<double>(n - 1)).first + left.count;
    const std::int64_t count = last - left.first, before = p_.spline ? 1 : 0;
    const double per_pixel = columns_.per_pixel, offset = columns_.offset - static_cast<double>(left.first + before);
    const double last_cell = static_cast<double>(count - left.count);
    std::int32_t* __restrict first = ws_.map_column;
    T(*__restrict weights)[kChunk] = ws_.map_weights;
    for (std::int64_t k = 0; k < n; ++k) {
      const double at = per_pixel * (column + static_cast<double>(k)) + offset;
      // A position on a control point may be rounded to before it, and so before the line: the cell is what decides
      // the weights, or they would go to the wrong points.
      const double whole = clamp_to(__builtin_floor(at), 0.0, last_cell);
      const T t = static_cast<T>(at - whole);
      if (p_.spline) {
        const CubicWeights<T> w = bspline_weights(t);
        for (int j = 0; j < 4; ++j) weights[j][k] = w.at[j];
      } else {
        weights[0][k] = T(1) - t;
        weights[1][k] = t;
      }
      first[k] = static_cast<std::int32_t>(whole);
    }
    return {left.first, count};
  }

  // Displacements of a run in normalised units: ws.map_x, ws.map_y.
  void evaluate_flow(double column, double row, std::int64_t n) const {
    if (dense_) {
      const T* at =
          flow_ + static_cast<std::int64_t>(row) * p_.flow.row + static_cast<std::int64_t>(column) * p_.flow.column;
      widen_row(at, p_.flow.column, n, ws_.map_x);
      widen_row(at + p_.flow.channel, p_.flow.column, n, ws_.map_y);
      return;
    }
    for (std::int64_t k = 0; k < n;) {
      const std::int64_t part = line_length(n - k);
      evaluate_line(column + static_cast<double>(k), row, part, ws_.map_x + k, ws_.map_y + k);
      k += part;
    }
  }

  // So many output pixels that their control values fit a line.
  std::int64_t line_length(std::int64_t n) const {
    const double fitting = static_cast<double>(kControlLine - 8) / (columns_.per_pixel + 1e-30);
    return fitting >= static_cast<double>(n) ? n : fitting < 1.0 ? 1 : static_cast<std::int64_t>(fitting);
  }

  void evaluate_line(double column, double row, std::int64_t n, T* __restrict x, T* __restrict y) const {
    const ControlColumns line = locate_columns(column, n);
    const FlowTaps taps = flow_taps(rows_, row);
    T* __restrict line_x = ws_.line_x, * __restrict line_y = ws_.line_y;
    for (std::int64_t i = 0; i < line.count; ++i) line_x[i] = line_y[i] = T(0);
    for (int j = 0; j < taps.count; ++j) {
      const T* at = flow_ + flow_index(rows_, taps.first + j) * p_.flow.row;
      const T weight = static_cast<T>(taps.weights[j]);
      for (std::int64_t i = 0; i < line.count; ++i) {
        const T* control = at + flow_index(columns_, line.first + i) * p_.flow.column;
        line_x[i] += weight * control[0];
        line_y[i] += weight * control[p_.flow.channel];
      }
    }
    const std::int32_t* __restrict first = ws_.map_column;
    for (std::int64_t k = 0; k < n; ++k) {
      T sum_x = T(0), sum_y = T(0);
      for (int j = 0; j < taps.count; ++j) {
        sum_x += ws_.map_weights[j][k] * line_x[first[k] + j];
        sum_y += ws_.map_weights[j][k] * line_y[first[k] + j];
      }
      x[k] = sum_x;
      y[k] = sum_y;
    }
  }

  void evaluate_spline(double u, double v, std::int64_t n) const {
    T* __restrict x = ws_.map_x, * __restrict y = ws_.map_y, * __restrict across = ws_.map_u;
    for (std::int64_t k = 0; k < n; ++k) {
      across[k] = static_cast<T>((u + static_cast<double>(k)) * scale_.unit_x);
      x[k] = y[k] = T(0);
    }
    const T down = static_cast<T>(v * scale_.unit_y);
    for (std::int64_t j = 0; j < p_.control_points; ++j) {
      const T *point = points_ + j * p_.points.row, *weight = weights_ + j * p_.weights.row;
      const T point_x = point[0], weight_x = weight[0], weight_y = weight[p_.weights.column];
      const T dy = down - point[p_.points.column], dy2 = dy * dy;
#pragma omp simd
      for (std::int64_t k = 0; k < n; ++k) {
        const T dx = across[k] - point_x;
        const T value = thin_plate(dx * dx + dy2);
        x[k] += weight_x * value;
        y[k] += weight_y * value;
      }
    }
  }

  // The sums of three forms: plain, times u, times v.
  static void add_form(double plain, double times_k, double u, double v, double* sums) {
    sums[0] += plain;
    sums[1] += times_k + u * plain;
    sums[2] += v * plain;
  }

  void accumulate_affine(double u, double v, std::int64_t n, double* sums) const {
    double x = 0, x_times_k = 0, y = 0, y_times_k = 0;
    for (std::int64_t k = 0; k < n; ++k) {
      x += static_cast<double>(ws_.grad_x[k]);
      x_times_k += static_cast<double>(ws_.grad_x[k]) * static_cast<double>(k);
      y += static_cast<double>(ws_.grad_y[k]);
      y_times_k += static_cast<double>(ws_.grad_y[k]) * static_cast<double>(k);
    }
    add_form(x, x_times_k, u, v, sums);
    add_form(y, y_times_k, u, v, sums + 3);
  }

  void accumulate_projective(double u, double v, std::int64_t n, double* sums) const {
    const ProjectiveMap map = projective_;
    const T* __restrict grad_x = ws_.grad_x, * __restrict grad_y = ws_.grad_y;
    double x = 0, xk = 0, y = 0, yk = 0, w = 0, wk = 0;
#pragma omp simd reduction(+ : x, xk, y, yk, w, wk)
    for (std::int64_t k = 0; k < n; ++k) {
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

  void accumulate_spline(double u, double v, std::int64_t n, double* sums) const {
    T* __restrict across = ws_.map_u, * __restrict x = ws_.map_x, * __restrict y = ws_.map_y;
    const T half_x = static_cast<T>(scale_.x.half_extent), half_y = static_cast<T>(scale_.y.half_extent);
    T plain_x = 0, plain_y = 0, u_x = 0, u_y = 0;
    for (std::int64_t k = 0; k < n; ++k) {
      across[k] = static_cast<T>((u + static_cast<double>(k)) * scale_.unit_x);
      x[k] = half_x * ws_.grad_x[k];
      y[k] = half_y * ws_.grad_y[k];
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
      for (std::int64_t k = 0; k < n; ++k) {
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

  void accumulate_flow(double column, double row, std::int64_t n, const ControlRows& control, double* sums) const {
    for (std::int64_t k = 0; k < n;) {
      const std::int64_t part = line_length(n - k);
      accumulate_line(column + static_cast<double>(k), row, part, k, control, sums);
      k += part;
    }
  }

  void accumulate_line(double column, double row, std::int64_t n, std::int64_t from, const ControlRows& control,
                       double* sums) const {
    const ControlColumns line = locate_columns(column, n);
    const FlowTaps taps = flow_taps(rows_, row);
    const std::int64_t plane = (control.end - control.begin) * p_.flow_width;
    T *line_x = ws_.line_x, *line_y = ws_.line_y;
    for (std::int64_t i = 0; i < line.count; ++i) line_x[i] = line_y[i] = T(0);
    for (std::int64_t k = 0; k < n; ++k) {
      for (int j = 0; j < taps.count; ++j) {
        line_x[ws_.map_column[k] + j] += ws_.map_weights[j][k] * ws_.grad_x[from + k];
        line_y[ws_.map_column[k] + j] += ws_.map_weights[j][k] * ws_.grad_y[from + k];
      }
    }
    for (int j = 0; j < taps.count; ++j) {
      const std::int64_t at = flow_index(rows_, taps.first + j);
      if (at < control.begin || at >= control.end) continue;
      double* target = sums + (at - control.begin) * p_.flow_width;
      for (std::int64_t i = 0; i < line.count; ++i) {
        const std::int64_t place = flow_index(columns_, line.first + i);
        target[place] += taps.weights[j] * static_cast<double>(line_x[i]);
        target[plane + place] += taps.weights[j] * static_cast<double>(line_y[i]);
      }
    }
  }

  const WarpParams& p_;
  Workspace<T>& ws_;
  ProjectiveScale scale_;
  double center_u_, center_v_;
  const T *matrix_ = nullptr, *flow_ = nullptr, *points_ = nullptr, *weights_ = nullptr;
  AffineAxis x_{}, y_{};  // the affine map, or the affine part of another
  ProjectiveMap projective_{};
  FlowAxis columns_{}, rows_{};
  bool dense_ = false;
};

HARDFAST_END
