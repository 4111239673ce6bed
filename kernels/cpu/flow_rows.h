// The flow map along a run of output pixels: the displacements between control points, and the gradient to these.
#pragma once

#include "../math/flow.h"
#include "reach.h"

HARDFAST_BEGIN

// Displacements of a run of output pixels, in normalised units.
template <typename T>
struct Displacements {
  const T *x, *y;
};

// Control rows whose sums an item collects.
struct ControlRows {
  std::int64_t begin, end;
};

template <typename T>
class FlowRows {
 public:
  FlowRows(const WarpParams& p, std::int64_t map, Workspace<T>& ws)
      : p_(p),
        ws_(ws),
        flow_(static_cast<const T*>(p.flow.data) + map * p.flow.batch),
        columns_(p.flow_columns),
        rows_(p.flow_rows),
        dense_(p.flow_width == p.out_width && p.flow_height == p.out_height && !p.spline &&
               p.samples_x * p.samples_y == 1),
        dense_end_(flow_ + (p.flow_height - 1) * p.flow.row + p.flow_width) {}

  bool dense() const { return dense_; }

  // The extremes of the control values that a tile lies between; false if one is NaN, or if there are so many that the
  // positions themselves are found as fast.
  bool bounds(const Tile& tile, Range& x, Range& y) const {
    const auto ends = [](const FlowAxis& axis, std::int64_t first, std::int64_t count) {
      const FlowTaps low = flow_taps(axis, static_cast<double>(first));
      const FlowTaps high = flow_taps(axis, static_cast<double>(first + count - 1));
      return ControlRows{flow_index(axis, low.first), flow_index(axis, high.first + high.count - 1) + 1};
    };
    const ControlRows columns = dense_ ? ControlRows{tile.x, tile.x + tile.width} : ends(columns_, tile.x, tile.width);
    const ControlRows rows = dense_ ? ControlRows{tile.y, tile.y + tile.height} : ends(rows_, tile.y, tile.height);
    const std::int64_t count = columns.end - columns.begin;
    if (count > kChunk || 4 * count * (rows.end - rows.begin) > 5 * tile.area()) return false;
    Extremes<T> along[2];
    for (int axis = 0; axis < 2; ++axis) {
      for (std::int64_t i = rows.begin; i < rows.end; ++i) {
        const T* row = flow_ + axis * p_.flow.channel + i * p_.flow.row + columns.begin * p_.flow.column;
        // A flow is in the type of the arithmetic.
        along[axis].add(row_as(DType::kFloat32, row, 0, p_.flow.column, count, ws_.map_x), count);
      }
    }
    x = along[0].range();
    y = along[1].range();
    return !along[0].unordered() && !along[1].unordered();
  }

  // Of a run: in place where memory holds them so and whole vectors of them, else in ws.map_x and ws.map_y.
  __attribute__((always_inline)) Displacements<T> evaluate(double column, double row, std::int64_t n) const {
    if (dense_ && p_.flow.column == 1) {
      const std::int64_t read = (n + kWideLanes - 1) / kWideLanes * kWideLanes;
      const T* at = dense_at(column, row);
      if (dense_end_ - at >= read) return {at, at + p_.flow.channel};
    }
    return evaluate_points(column, row, n);
  }

  // Rows first: the weights along a column of the output differ from row to row, those along a row do not. What falls
  // to a control row is summed over output rows, and taken apart along it once.
  void accumulate(double column, double row, std::int64_t n, std::int64_t at, const ControlRows& control,
                  double* sums) {
    if (column != rows_at_ || n != rows_length_) flush(control, sums);
    rows_at_ = column;
    rows_length_ = n;
    const FlowTaps taps = flow_taps(rows_, row);
    for (int j = 0; j < taps.count; ++j) {
      const std::int64_t control_row = taps.first + j;
      const int slot = static_cast<int>(control_row & 3);
      T *to_x = ws_.control_x[slot], *to_y = ws_.control_y[slot];
      const bool fresh = control_row != slot_rows_[slot];
      if (fresh) {
        flush_row(slot, control, sums);
        slot_rows_[slot] = control_row;
      }
      const T weight = static_cast<T>(taps.weights[j]);
      add_weighted(weight, ws_.grad_x + at, n, fresh, to_x);
      add_weighted(weight, ws_.grad_y + at, n, fresh, to_y);
    }
  }

  // Adds what a flow's runs have left in their control rows: after the last run of a tile.
  void flush(const ControlRows& control, double* sums) {
    for (int slot = 0; slot < 4; ++slot) flush_row(slot, control, sums);
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
  __attribute__((always_inline)) const T* dense_at(double column, double row) const {
    return flow_ + static_cast<std::int64_t>(row) * p_.flow.row + static_cast<std::int64_t>(column) * p_.flow.column;
  }

  __attribute__((noinline)) Displacements<T> evaluate_points(double column, double row, std::int64_t n) const {
    if (dense_) {
      widen_row(dense_at(column, row), p_.flow.column, n, ws_.map_x);
      widen_row(dense_at(column, row) + p_.flow.channel, p_.flow.column, n, ws_.map_y);
      return {ws_.map_x, ws_.map_y};
    }
    for (std::int64_t k = 0; k < n;) {
      const std::int64_t part = line_length(n - k);
      evaluate_line(column + static_cast<double>(k), row, part, ws_.map_x + k, ws_.map_y + k);
      k += part;
    }
    return {ws_.map_x, ws_.map_y};
  }

  // Weights and first taps of the control columns of a run, from the first column that any of it touches.
  struct ControlColumns {
    std::int64_t first, count;
  };

  ControlColumns locate_columns(double column, std::int64_t n) const {
    // The same for every row of a tile.
    if (column == columns_at_ && n == columns_located_) return columns_line_;
    columns_at_ = column;
    columns_located_ = n;
    const FlowTaps left = flow_taps(columns_, column);
    const std::int64_t last = flow_taps(columns_, column + static_cast<double>(n - 1)).first + left.count;
    const std::int64_t count = last - left.first, before = p_.spline ? 1 : 0;
    const double per_pixel = columns_.per_pixel, offset = columns_.offset - static_cast<double>(left.first + before);
    const double last_cell = static_cast<double>(count - left.count);
    std::int32_t* __restrict first = ws_.map_column;
    T(*__restrict weights)[kChunk] = ws_.map_weights;
    for (std::int32_t k = 0; k < static_cast<std::int32_t>(n); ++k) {
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
    return columns_line_ = {left.first, count};
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
    if constexpr (sizeof(T) == sizeof(float)) {
      if (columns_.per_pixel <= kPermutedStep) {
        for (std::int64_t k = 0; k < n; k += 8) blend_eight(taps.count, k, x + k, y + k);
        return;
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

  // Eight pixels of a flow that is coarser than the output: their taps lie within eight control points of the first.
  void blend_eight(int count, std::int64_t k, T* x, T* y) const {
    typedef std::int32_t Index __attribute__((vector_size(8 * sizeof(std::int32_t))));
    const std::int32_t start = ws_.map_column[k];
    Index from;
    __builtin_memcpy(&from, ws_.map_column + k, sizeof from);
    from -= start;
    Vec8<float> sum_x{}, sum_y{};
    for (int j = 0; j < count; ++j) {
      const Vec8<float> weight = load8<float>(ws_.map_weights[j] + k);
      sum_x += weight * __builtin_shuffle(load8<float>(ws_.line_x + start + j), from);
      sum_y += weight * __builtin_shuffle(load8<float>(ws_.line_y + start + j), from);
    }
    store8<float>(x, sum_x);
    store8<float>(y, sum_y);
  }

  static void add_weighted(T weight, const T* __restrict from, std::int64_t n, bool fresh, T* __restrict to) {
    if (fresh) {
      for (std::int64_t k = 0; k < n; ++k) to[k] = weight * from[k];
    } else {
      for (std::int64_t k = 0; k < n; ++k) to[k] += weight * from[k];
    }
  }

  void flush_row(int slot, const ControlRows& control, double* sums) {
    if (slot_rows_[slot] == kNoRow) return;
    const std::int64_t at = flow_index(rows_, slot_rows_[slot]);
    slot_rows_[slot] = kNoRow;
    if (at < control.begin || at >= control.end) return;
    const std::int64_t plane = (control.end - control.begin) * p_.flow_width;
    double* target = sums + (at - control.begin) * p_.flow_width;
    for (std::int64_t from = 0; from < rows_length_;) {
      const std::int64_t part = line_length(rows_length_ - from);
      const ControlColumns line = gather_line(slot, from, part);
      for (std::int64_t i = 0; i < line.count; ++i) {
        const std::int64_t place = flow_index(columns_, line.first + i);
        target[place] += static_cast<double>(ws_.line_x[i]);
        target[plane + place] += static_cast<double>(ws_.line_y[i]);
      }
      from += part;
    }
  }

  // What a part of a row gives to each of its control columns: ws.line_x, ws.line_y.
  ControlColumns gather_line(int slot, std::int64_t from, std::int64_t n) {
    const ControlColumns line = locate_columns(rows_at_ + static_cast<double>(from), n);
    const int taps = p_.spline ? 4 : 2;
    const T *grad_x = ws_.control_x[slot] + from, *grad_y = ws_.control_y[slot] + from;
    T *line_x = ws_.line_x, *line_y = ws_.line_y;
    for (std::int64_t i = 0; i < line.count; ++i) line_x[i] = line_y[i] = T(0);
    for (std::int64_t k = 0; k < n; ++k) {
      for (int j = 0; j < taps; ++j) {
        line_x[ws_.map_column[k] + j] += ws_.map_weights[j][k] * grad_x[k];
        line_y[ws_.map_column[k] + j] += ws_.map_weights[j][k] * grad_y[k];
      }
    }
    return line;
  }

  static constexpr double kPermutedStep = 0.9;  // control points from one output pixel to the next
  static constexpr std::int64_t kNoRow = -(std::int64_t{1} << 62);

  const WarpParams& p_;
  Workspace<T>& ws_;
  const T* flow_;
  FlowAxis columns_, rows_;
  bool dense_;          // a control point for every output pixel
  const T* dense_end_;  // of what may be read of its first channel

  // Of the columns located last, which stand in ws.map_column and ws.map_weights.
  mutable double columns_at_ = -1.0;
  mutable std::int64_t columns_located_ = 0;
  mutable ControlColumns columns_line_{};

  // Of the runs that ws.control_x and ws.control_y sum: where they begin, their length, and the row of each slot.
  double rows_at_ = -1.0;
  std::int64_t rows_length_ = 0, slot_rows_[4] = {kNoRow, kNoRow, kNoRow, kNoRow};
};

HARDFAST_END
