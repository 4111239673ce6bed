// Cells of a run of positions on a line, in fixed point: 32 bits of whole pixels and 32 of a pixel's parts. The place
// within a cell is off by less than 2^-32 for each pixel from the run's first, which at the longest run is two of a
// float's last digits, and a vector of positions takes a few integer additions.
#pragma once

#include "bent_cells.h"
#include "flow_rows.h"
#include "warp_rows.h"

HARDFAST_BEGIN

typedef std::int64_t WideFixed __attribute__((vector_size(4 * kWideLanes)));  // half as many lanes
typedef std::uint32_t WideUnsigned __attribute__((vector_size(4 * kWideLanes)));

// The sum, which may wrap: NaN, and what stands behind a run's last position, become the smallest number, and are
// clamped to either end of the window.
inline WideInt add(WideInt a, WideInt b) {
  return reinterpret_cast<WideInt>(reinterpret_cast<WideUnsigned>(a) + reinterpret_cast<WideUnsigned>(b));
}

// 0, 1, 2 and so on.
inline WideInt lane_numbers() {
  WideInt numbers;
  for (int lane = 0; lane < kWideLanes; ++lane) numbers[lane] = lane;
  return numbers;
}

constexpr double kFixedOne = 4294967296.0;  // 2^32
constexpr double kFixedLimit = 1048576.0;   // of positions and steps, in pixels: their products stay in range

inline bool fits_fixed(double value) { return value > -kFixedLimit && value < kFixedLimit; }  // false for NaN
inline std::int64_t to_fixed(double value) { return static_cast<std::int64_t>(value * kFixedOne); }

// Multiples of a step, in the order in which their halves interleave: 0 1 4 5 and so on, 2 3 6 7 and so on.
struct FixedSteps {
  WideFixed outer, inner, stride;

  static FixedSteps of(double step) {
    const std::int64_t one = fits_fixed(step) ? to_fixed(step) : 0;
    FixedSteps steps;
    for (int lane = 0; lane < kWideLanes / 2; ++lane) {
      steps.outer[lane] = (2 * lane - lane % 2) * one;
      steps.inner[lane] = steps.outer[lane] + 2 * one;
      steps.stride[lane] = kWideLanes * one;
    }
    return steps;
  }
};

// The next positions of one axis, one a lane.
struct FixedRun {
  WideFixed outer, inner;

  FixedRun(double start, const FixedSteps& steps)
      : outer(to_fixed(start) + steps.outer), inner(to_fixed(start) + steps.inner) {}

  void advance(const FixedSteps& steps) {
    outer += steps.stride;
    inner += steps.stride;
  }

  // The shuffles are those of floats: each is one instruction then.
  WideInt whole() const {
    return reinterpret_cast<WideInt>(
        within_fours<1, 3, 5, 7>(reinterpret_cast<WideFloat>(outer), reinterpret_cast<WideFloat>(inner)));
  }

  WideFloat within() const {
    const WideInt part = reinterpret_cast<WideInt>(
        within_fours<0, 2, 4, 6>(reinterpret_cast<WideFloat>(outer), reinterpret_cast<WideFloat>(inner)));
    // Conversions are of signed numbers: half a pixel is taken off, and added again.
    return __builtin_convertvector(part ^ std::int32_t{-0x7fffffff - 1}, WideFloat) * 0x1p-32f + 0.5f;
  }
};

// The cells of positions; those beyond the window's ends are its outermost cells.
inline WideInt clamp_cells(WideInt whole, std::int32_t first, std::int32_t last, WideFloat& within) {
  const WideInt low = first + WideInt{}, high = last + WideInt{};  // each choice is one instruction of vectors then
  const WideInt above = whole > low ? whole : low, cell = above < high ? above : high;
  within = reinterpret_cast<WideFloat>(reinterpret_cast<WideInt>(within) & (cell == whole));
  return cell;
}

// What may become of a run's positions.
enum class Ends {
  kInside,   // all lie in the window
  kClamped,  // those beyond it become its outermost cells
  kBent      // the padding rule brings them into the image
};

// What cells are stored by: the window's ends, how its pixels lie, and the image.
template <typename Pad>
struct CellStore {
  std::int32_t first, last_x, last_y, pitch, unit;
  BentAxis<Pad> x, y;

  explicit CellStore(const Frame& frame)
      : first(static_cast<std::int32_t>(frame.first)),
        last_x(static_cast<std::int32_t>(frame.last_x)),
        last_y(static_cast<std::int32_t>(frame.last_y)),
        pitch(frame.pitch),
        unit(frame.unit),
        x(frame.x, frame.first, frame.last_x),
        y(frame.y, frame.first, frame.last_y) {}

  // A vector of cells from k on.
  template <Ends kEnds>
  __attribute__((always_inline)) void store(WideInt column, WideFloat within_x, WideInt row, WideFloat within_y,
                                            std::int64_t k, Workspace<float>& ws) const {
    if (kEnds == Ends::kBent) {
      return store_bent(__builtin_convertvector(column, WideFloat), within_x, __builtin_convertvector(row, WideFloat),
                        within_y, k, ws);
    }
    if (kEnds == Ends::kClamped) {
      column = clamp_cells(column, first, last_x, within_x);
      row = clamp_cells(row, first, last_y, within_y);
    }
    const WideFloat straight = WideFloat{} + 1.0f;
    store(row * pitch + column * unit, within_x, within_y, straight, straight, k, ws);
  }

  // Cells that float holds, as it does those of a window.
  __attribute__((always_inline)) void store_bent(WideFloat column, WideFloat within_x, WideFloat row,
                                                 WideFloat within_y, std::int64_t k, Workspace<float>& ws) const {
    WideFloat slope_x, slope_y;
    const WideInt bent_column = __builtin_convertvector(x.apply(column, within_x, slope_x), WideInt);
    const WideInt bent_row = __builtin_convertvector(y.apply(row, within_y, slope_y), WideInt);
    store(bent_row * pitch + bent_column * unit, within_x, within_y, slope_x, slope_y, k, ws);
  }

  __attribute__((always_inline)) static void store(WideInt place, WideFloat within_x, WideFloat within_y,
                                                   WideFloat slope_x, WideFloat slope_y, std::int64_t k,
                                                   Workspace<float>& ws) {
    store_vector(ws.x + k, within_x);
    store_vector(ws.y + k, within_y);
    store_vector(ws.column + k, place);
    if (Pad::kBends) {
      store_vector(ws.slope_x + k, slope_x);
      store_vector(ws.slope_y + k, slope_y);
    }
  }
};

// Whether no position of a run is bent by the padding rule, which then holds for both of its ends.
template <typename Pad>
inline bool ends_straight(double start, double end, const Extent<double>& axis) {
  if (!fits_fixed(start) || !fits_fixed(end)) return false;
  if (!Pad::kBends) return true;
  const double low = start < end ? start : end, high = start < end ? end : start;
  return low > -axis.origin && high < axis.length - 1.0 - axis.origin;
}

// Whether none is further out than the rule bends in cells.
template <typename Pad>
inline bool ends_bend_once(double start, double end, const Extent<double>& axis) {
  Range range = {start + axis.origin, start + axis.origin};
  widen_range(end + axis.origin, range);
  return Pad::kBends && bends_once<Pad>(range, axis.length);
}

// Both ends of a run, and so all of it: strictly, for in fixed point they may lie a little lower.
inline bool lies_between(double start, double end, double low, double high) {
  return start > low && end > low && start < high && end < high;
}

// Fills ws.x, ws.y, ws.slope_* and ws.column for rows of n pixels, the first at `at`: line_of(r) is row r.
template <typename Pad, Ends kEnds, typename LineOf>
inline void locate_fixed(const LineOf& line_of, const FixedSteps steps_x, const FixedSteps steps_y, std::int64_t n,
                         std::int64_t rows, std::int64_t at, const Frame& frame, Workspace<float>& ws) {
  const CellStore<Pad> cells(frame);
  for (std::int64_t r = 0; r < rows; ++r, at += n) {
    const LinePositions line = line_of(static_cast<std::int32_t>(r));
    FixedRun x(line.start_x, steps_x), y(line.start_y, steps_y);
    for (std::int64_t k = at; k < at + n; k += kWideLanes) {
      cells.template store<kEnds>(x.whole(), x.within(), y.whole(), y.within(), k, ws);
      x.advance(steps_x);
      y.advance(steps_y);
    }
  }
}

// The same, none of which the padding rule bends. The rows are parallel lines: what lies between the ends of the
// outermost ones lies in the window.
template <typename Pad, typename LineOf>
inline void locate_rows(const LineOf& line_of, const FixedSteps steps_x, const FixedSteps steps_y, std::int64_t n,
                        std::int64_t rows, std::int64_t at, const Frame frame, Workspace<float>& ws) {
  const auto lies_in_window = [&](std::int64_t r) {
    const LinePositions line = line_of(static_cast<std::int32_t>(r));
    const std::int32_t last = static_cast<std::int32_t>(n - 1);
    return lies_between(line.start_x, line.x(last), frame.first, frame.last_x) &&
           lies_between(line.start_y, line.y(last), frame.first, frame.last_y);
  };
  if (lies_in_window(0) && (rows == 1 || lies_in_window(rows - 1))) {
    locate_fixed<Pad, Ends::kInside>(line_of, steps_x, steps_y, n, rows, at, frame, ws);
  } else {
    locate_fixed<Pad, Ends::kClamped>(line_of, steps_x, steps_y, n, rows, at, frame, ws);
  }
}

inline WideInt displaced_cells(const FixedRun& run, WideFloat by, WideFloat& within) {
  const WideFloat from_cell = by + run.within(), whole = floor_of(from_cell);
  within = from_cell - whole;
  return add(run.whole(), __builtin_convertvector(whole, WideInt));
}

// The same with a displacement of its own for each position, in units of half_x and half_y pixels. The parts of a pixel
// and the displacement are summed in float, which is exact to a displacement's last digit.
template <typename Pad, Ends kEnds>
inline void locate_displaced(const LinePositions& line, const FixedSteps steps_x, const FixedSteps steps_y,
                             const Displacements<float>& by, float half_x, float half_y, std::int64_t n,
                             std::int64_t at, const Frame& frame, Workspace<float>& ws) {
  FixedRun x(line.start_x, steps_x), y(line.start_y, steps_y);
  const CellStore<Pad> cells(frame);
  for (std::int64_t k = 0; k < n; k += kWideLanes) {
    WideFloat within_x, within_y;
    const WideInt column = displaced_cells(x, load_wide(by.x + k) * half_x, within_x);
    const WideInt row = displaced_cells(y, load_wide(by.y + k) * half_y, within_y);
    cells.template store<kEnds>(column, within_x, row, within_y, at + k, ws);
    x.advance(steps_x);
    y.advance(steps_y);
  }
}

// Whether a line's positions are pixels side by side, as those of a flow of the image's own size are.
inline bool lies_on_pixels(const LinePositions& line) {
  return line.step_x == 1.0 && line.step_y == 0.0 && fits_fixed(line.start_x) && fits_fixed(line.start_y) &&
         line.start_x == __builtin_floor(line.start_x) && line.start_y == __builtin_floor(line.start_y);
}

// One axis of displacements: held to the ends that it may reach, and the cells' distance from where they start. What is
// held back lands in a cell with both taps beyond the image, or beyond the tile of it that a window is for, wherever
// within that cell; NaN is held to the low end.
template <Ends kEnds>
inline WideFloat cells_away(WideFloat by, WideFloat low, WideFloat high, WideFloat& within) {
  if (kEnds == Ends::kClamped) {
    by = by > low ? by : low;
    by = by < high ? by : high;
  }
  const WideFloat whole = floor_of(by);
  within = by - whole;
  return whole;
}

// locate_displaced() for such a line and those below it, one pixel apart: a displacement's own whole pixels and parts
// are those of its cell. In float, which holds the pixels of a window. displacements_of(r) are those of row r.
template <typename Pad, Ends kEnds, typename DisplacementsOf>
inline void locate_around_pixels(const LinePositions& line, const DisplacementsOf& displacements_of, float half_x,
                                 float half_y, std::int64_t n, std::int64_t rows, const Frame& frame,
                                 Workspace<float>& ws) {
  const CellStore<Pad> cells(frame);
  const float first = static_cast<float>(frame.first), pitch = static_cast<float>(frame.pitch);
  const float unit = static_cast<float>(frame.unit), step = static_cast<float>(kWideLanes);
  const float start_x = static_cast<float>(line.start_x), start_y = static_cast<float>(line.start_y);
  // Half a pixel short of where the window ends: no position lies there but those beyond the image, or its tile.
  const float end_x = static_cast<float>(frame.last_x) + 0.5f, end_y = static_cast<float>(frame.last_y) + 0.5f;
  const WideFloat lanes = __builtin_convertvector(lane_numbers(), WideFloat), straight = WideFloat{} + 1.0f;
  for (std::int64_t r = 0, at = 0; r < rows; ++r, at += n) {
    const Displacements<float> by = displacements_of(r);
    const WideFloat y = start_y + static_cast<float>(r) + WideFloat{}, above = first - y, below = end_y - y;
    WideFloat x = start_x + lanes, low = first - x, high = end_x - x, from = x * unit;
    for (std::int64_t k = 0; k < n; k += kWideLanes) {
      WideFloat within_x, within_y;
      const WideFloat columns = cells_away<kEnds>(load_wide(by.x + k) * half_x, low, high, within_x);
      const WideFloat row = y + cells_away<kEnds>(load_wide(by.y + k) * half_y, above, below, within_y);
      if (kEnds == Ends::kBent) {
        cells.store_bent(x + columns, within_x, row, within_y, at + k, ws);
      } else {
        const WideInt place = __builtin_convertvector(row * pitch + (columns * unit + from), WideInt);
        cells.store(place, within_x, within_y, straight, straight, at + k, ws);
      }
      x += step;
      low -= step;
      high -= step;
      from += step * unit;
    }
  }
}

HARDFAST_END
