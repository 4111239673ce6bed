// What the passes over output tiles share: where a tile's positions lie, the window of the input that they reach, and
// the cells of one run of output pixels.
#pragma once

#include "bicubic_rows.h"
#include "line_cells.h"
#include "sixteen_pixels.h"
#include "warp_maps.h"
#include "warp_rows.h"

HARDFAST_BEGIN

inline Tile tile_at(const Tiling& tiling, std::int64_t index, std::int64_t height, std::int64_t width) {
  const std::int64_t y = index / tiling.columns * tiling.tile_height, x = index % tiling.columns * tiling.tile_width;
  const std::int64_t rows = height - y, columns = width - x;
  return {x, y, columns < tiling.tile_width ? columns : tiling.tile_width,
          rows < tiling.tile_height ? rows : tiling.tile_height};
}

// Four channels at a time; one left over, and a single one, are a plane.
template <typename Function>
inline void for_each_block(const WarpParams& p, const Function& function) {
  for (std::int64_t first = 0; first < p.channels; first += 4) {
    const std::int64_t left = p.channels - first;
    function(ChannelBlock{p.dtype, first, left < 4 ? left : 4, p.channels});
  }
}

// The gradient of one run of output pixels in ws.grads; zeros up to a whole vector.
template <typename T>
inline void load_grad(const WarpParams& p, std::int64_t sample, const ChannelBlock& block, std::int64_t x,
                      std::int64_t y, std::int64_t n, Workspace<T>& ws) {
  const ImageView<const void>& view = p.grad_output;
  const std::int64_t at = sample * view.batch + y * view.row + x * view.column;
  if (block.lanes > 1) {
    load_pixels(view, block, at, n, ws.rows, ws.grads);
    for (std::int64_t k = n; k % 4 != 0; ++k) store4(ws.grads + 4 * k, Vec4<T>{});
    return;
  }
  const T* row = row_as(block.dtype, view.data, at + block.first * view.channel, view.column, n, ws.rows);
  copy_row(row, n, ws.grads);
  for (std::int64_t k = n; k % 8 != 0; ++k) ws.grads[k] = T(0);
}

template <typename T, typename Pad, Mode kMode>
class Sampler {
 public:
  static constexpr bool kNearest = kMode == Mode::kNearest, kBicubic = kMode == Mode::kBicubic;
  static constexpr bool kFixed = sizeof(T) == sizeof(float) && !kNearest;
  using i64 = std::int64_t;

  // Positions are computed where they are used, if what the tile reaches is known without them, and kept otherwise.
  Sampler(const WarpParams& p, i64 sample, bool keep_positions)
      : ws_(Workspace<T>::of_this_thread()),
        p_(p),
        sample_(sample),
        map_(p, sample, ws_),
        keep_positions_(keep_positions),
        steps_x_(FixedSteps::of(map_.x().column)),
        steps_y_(FixedSteps::of(map_.y().column)),
        subsamples_(p.samples_y * p.samples_x) {
    const bool padded_taps = kBicubic;
    source_ = {padded_taps ? p.padding : Padding::kConstant,
               p.align_corners,
               p.image,
               sample * p.image.batch,
               p.height,
               p.width,
               p.fill ? static_cast<const T*>(p.fill) + sample * p.fill_batch : nullptr,
               p.fill_channel};
  }

  // Calls row(block, x, y, n) for every run of output pixels of a tile and every block of channels; locate() then
  // brings the cells and taps of one sub-sample of them.
  template <typename Row>
  void visit(const Tile& tile, const Row& row) {
    Range x, y;
    tile_ = tile;
    located_ = {};
    computed_ = !keep_positions_ && bounds(x, y);
    if (!computed_) {
      if (subsamples_ > kTilePositions / tile.area()) {
        return tile.area() > 1 ? visit_halves(tile, row) : visit_cells(row);
      }
      keep_positions(x, y);
    }
    const double pixels = static_cast<double>(tile.area()) * static_cast<double>(subsamples_);
    const bool bounded = window_axis<kMode>(p_, x, p_.width, window_.x, window_.width) &&
                         window_axis<kMode>(p_, y, p_.height, window_.y, window_.height);
    window_.width += window_.width % 2;  // so that no row begins between the two pixels of a vector
    in_window_ =
        computed_ && !kBicubic && holds_cells(window_.x, window_.width, x) && holds_cells(window_.y, window_.height, y);
    // Eight pixels packed for each one computed cost about as much as four scattered loads a channel.
    const double area = static_cast<double>(window_.width) * static_cast<double>(window_.height);
    if (!bounded || area > 8 * pixels + 1024) return visit_cells(row);
    const i64 lanes = p_.channels == 1 ? 1 : 4;
    if (window_.width > kMaxWindowWidth || lanes * window_.area() > kWindowElements<T>) {
      return tile.area() > 1 ? visit_halves(tile, row) : visit_cells(row);
    }
    visit_window(row);
  }

  // Cells and taps of one sub-sample of a run that visit() has announced.
  void locate(const ChannelBlock& block, i64 y, i64 subsample) {
    const double column = column_of(tile_.x, subsample), row = row_of(y, subsample);
    if (in_cells_) {
      locate_in_image(column, row, run());
      if (kBicubic) {
        pack_padded_cells(source_, block, run(), ws_);
      } else {
        pack_cells(source_, block, run(), ws_);
      }
      pitch_ = kBicubic ? 4 : 2;
    } else {
      // Where one run is all of the tile, the other blocks of its channels have the same cells.
      const Located cells = {y, subsample, frame_.unit};
      if (cells == located_) return;
      located_ = cells;
      if (computed_) {
        locate_computed(column, row);
      } else {
        locate_cells<Pad, kNearest>(listed(y, subsample), run(), 0, frame_, ws_);
      }
    }
    pad_cells<8>(run(), ws_);
  }

  // The weight of the taps that lie outside the image, for the run located last: ws.uncovered.
  void find_uncovered(i64 y, i64 subsample) {
    const i64 n = run();
    if (!in_cells_) {
      const ListedPositions positions = listed(y, subsample);
      for (i64 k = 0; k < n; ++k) {
        ws_.run_x[k] = positions.xs[k];
        ws_.run_y[k] = positions.ys[k];
      }
    }
    for (i64 k = 0; k < n; ++k) {
      ws_.uncovered[k] =
          static_cast<T>(1.0 - covered<kMode>(ws_.run_x[k], p_.width) * covered<kMode>(ws_.run_y[k], p_.height));
    }
  }

  // ws.pixels gets the samples of the run located last: n of one channel, or n pixels of four.
  void sample(const ChannelBlock& block) {
    const i64 n = run();
    if constexpr (kBicubic) {
      bicubic_weights<false>(n, ws_);
      if (block.lanes == 1) {
        sample_bicubic_plane(n, pitch_, ws_);
      } else {
        sample_bicubic_channels(n, pitch_, ws_);
      }
    } else if (block.lanes == 1) {
      sample_plane<kNearest>(n, pitch_, ws_, ws_.pixels);
    } else {
      sample_channels<kNearest, 4>(n, pitch_, ws_, ws_.pixels);
    }
  }

  // Fills ws.grad_x and ws.grad_y for the run located last. The output's gradient is in `rows`, one a channel, or for
  // bicubic taps in ws.grads.
  void grad_position(const ChannelBlock& block, const T* const (&rows)[4]) {
    const i64 n = run();
    if constexpr (kBicubic) {
      bicubic_weights<true>(n, ws_);
      if (block.lanes == 1) {
        grad_position_bicubic_plane(n, pitch_, ws_);
      } else {
        grad_position_bicubic_channels(n, pitch_, ws_);
      }
    } else {
      grad_position(block, rows, PositionTarget<T, false>{ws_.grad_x, ws_.grad_y, T(1), T(1)});
    }
    if (Pad::kBends) {
      for (i64 k = 0; k < n; ++k) {
        ws_.grad_x[k] *= ws_.slope_x[k];
        ws_.grad_y[k] *= ws_.slope_y[k];
      }
    }
  }

  // The same from bilinear taps, to anywhere with room for eight numbers, and before the slope of the padding rule.
  template <bool kScaled>
  void grad_position(const ChannelBlock& block, const T* const (&rows)[4], const PositionTarget<T, kScaled>& target) {
    const i64 n = run();
    switch (block.lanes) {
      case 1: return grad_position_plane(n, pitch_, rows[0], ws_, target);
      case 2: return grad_position_widest<2>(n, pitch_, rows, ws_, target);
      case 3: return grad_position_widest<3>(n, pitch_, rows, ws_, target);
      default: return grad_position_widest<4>(n, pitch_, rows, ws_, target);
    }
  }

  Workspace<T>& workspace() { return ws_; }
  const CoordinateMap<T>& map() const { return map_; }
  CoordinateMap<T>& map() { return map_; }
  const Source<T>& source() const { return source_; }
  i64 subsamples() const { return subsamples_; }
  i64 rows() const { return rows_; }               // of the run
  i64 width() const { return tile_.width; }        // of each of them
  i64 run() const { return rows_ * tile_.width; }  // pixels in all
  i64 pitch() const { return pitch_; }
  i64 place_of(i64 y) const { return (y - tile_.y) * tile_.width; }  // of a run, in pixels from the tile's first

  // Where a sub-sample of an output pixel lies.
  double column_of(i64 x, i64 subsample) const {
    return static_cast<double>(x) + (subsamples_ == 1 ? 0.0 : subsample_offset(subsample % p_.samples_x, p_.samples_x));
  }

  double row_of(i64 y, i64 subsample) const {
    return static_cast<double>(y) + (subsamples_ == 1 ? 0.0 : subsample_offset(subsample / p_.samples_x, p_.samples_y));
  }

  // Cells of a row of an affine map.
  void locate_line(const LinePositions& line, i64 n, i64 at, const Frame& frame) {
    if constexpr (kFixed) {
      const double end_x = line.x(static_cast<std::int32_t>(n - 1)), end_y = line.y(static_cast<std::int32_t>(n - 1));
      if (ends_straight<Pad>(line.start_x, end_x, frame.x) && ends_straight<Pad>(line.start_y, end_y, frame.y)) {
        return locate_rows<Pad>([&](std::int32_t) { return line; }, steps_x_, steps_y_, n, 1, at, frame, ws_);
      }
      if (ends_bend_once<Pad>(line.start_x, end_x, frame.x) && ends_bend_once<Pad>(line.start_y, end_y, frame.y)) {
        return locate_fixed<Pad, Ends::kBent>([&](std::int32_t) { return line; }, steps_x_, steps_y_, n, 1, at, frame,
                                              ws_);
      }
    }
    locate_cells<Pad, kNearest>(line, n, at, frame, ws_);
  }

  // Positions on a line, in pixels of the window.
  LinePositions line(double column, double row, const Window& window) const {
    const double u = column - map_.center_u(), v = row - map_.center_v();
    const double x = near(CoordinateMap<T>::position(map_.x(), u, v), p_.width);
    const double y = near(CoordinateMap<T>::position(map_.y(), u, v), p_.height);
    return {x - static_cast<double>(window.x), map_.x().column, y - static_cast<double>(window.y), map_.y().column};
  }

  // A reflected position some turns nearer to the image, where a double holds it well.
  double near(double position, i64 length) const {
    if (kBicubic || p_.padding != Padding::kReflection) return position;
    const double turn = reflection_turn(length, p_.align_corners);
    return position > -turn && position < turn ? position : fold_turns(position, turn);
  }

  // For a window whose pixels lie `unit` elements apart.
  Frame frame_of(const Window& window, std::int32_t unit) const {
    const auto extent = [&](i64 origin, i64 length) {
      return Extent<double>{static_cast<double>(origin), static_cast<double>(length), p_.align_corners, p_.padding};
    };
    const i64 after = kBicubic ? 3 : 2;
    return {extent(window.x, p_.width),
            extent(window.y, p_.height),
            kBicubic ? 1.0 : 0.0,
            static_cast<double>(window.width - after),
            static_cast<double>(window.height - after),
            unit * static_cast<std::int32_t>(window.width),
            unit};
  }

  // Positions of a run anywhere, in double: cells in pixels of the image.
  void locate_in_image(double column, double row, i64 n) {
    map_.positions(column, row, n, ws_.run_x, ws_.run_y);
    if (p_.padding == Padding::kReflection) {
      fold_run(ws_.run_x, n, reflection_turn(p_.width, p_.align_corners));
      fold_run(ws_.run_y, n, reflection_turn(p_.height, p_.align_corners));
    }
    const auto extent = [&](i64 length) {
      return Extent<double>{0.0, static_cast<double>(length), p_.align_corners, p_.padding};
    };
    if (kBicubic && p_.padding == Padding::kReflection) {
      locate_turned(ws_.run_x, n, ws_.column, ws_.x);
      locate_turned(ws_.run_y, n, ws_.row, ws_.y);
      return;
    }
    locate_axis<Pad, kNearest>(ws_.run_x, n, extent(p_.width), ws_.column, ws_.x, ws_.slope_x);
    locate_axis<Pad, kNearest>(ws_.run_y, n, extent(p_.height), ws_.row, ws_.y, ws_.slope_y);
  }

 private:
  // Bicubic taps are reflected one by one: the position itself only had whole turns taken off.
  static void locate_turned(const double* positions, i64 n, std::int32_t* pixel, T* within) {
    for (i64 k = 0; k < n; ++k) {
      const double whole = __builtin_floor(positions[k]);
      pixel[k] = static_cast<std::int32_t>(whole);
      within[k] = static_cast<T>(positions[k] - whole);
    }
  }

  // Cells of the run's output rows, the first at `row`.
  void locate_computed(double column, double row) {
    const i64 n = tile_.width;
    if constexpr (kFixed) {
      if (p_.map == Map::kAffine && straight_) {
        const LinePositions first = line(column, row, window_);
        const double down_x = map_.x().row, down_y = map_.y().row;
        const auto line_of = [=](std::int32_t r) {
          const double down = static_cast<double>(r);
          return LinePositions{first.start_x + down * down_x, first.step_x, first.start_y + down * down_y,
                               first.step_y};
        };
        return locate_rows<Pad>(line_of, steps_x_, steps_y_, n, rows_, 0, frame_, ws_);
      }
      if (p_.map == Map::kFlow && (straight_ || bends_once_)) return locate_flow(column, row);
    }
    if (p_.map == Map::kAffine) {
      for (i64 r = 0; r < rows_; ++r) {
        locate_line(line(column, row + static_cast<double>(r), window_), n, r * n, frame_);
      }
      return;
    }
    for (i64 r = 0; r < rows_; ++r) {
      map_.positions(column, row + static_cast<double>(r), n, ws_.run_x + r * n, ws_.run_y + r * n);
    }
    const ListedPositions positions = {ws_.run_x, ws_.run_y, -static_cast<double>(window_.x),
                                       -static_cast<double>(window_.y)};
    locate_cells<Pad, kNearest>(positions, run(), 0, frame_, ws_);
  }

  __attribute__((noinline)) void locate_flow(double column, double row) {
    if (!straight_) return locate_flow<Ends::kBent>(column, row);
    if (!in_window_) return locate_flow<Ends::kClamped>(column, row);
    locate_flow<Ends::kInside>(column, row);
  }

  template <Ends kEnds>
  void locate_flow(double column, double row) {
    const i64 n = tile_.width;
    const float half_x = map_.half_x(), half_y = map_.half_y();
    const LinePositions first = line(column, row, window_);
    const auto by = [&](i64 r) { return map_.flow().evaluate(column, row + static_cast<double>(r), n); };
    if (runs_on_pixels(first)) {
      return locate_around_pixels<Pad, kEnds>(first, by, half_x, half_y, n, rows_, frame_, ws_);
    }
    // Clamped in any case: what stands behind the last displacement may be anything.
    constexpr Ends kAtMost = kEnds == Ends::kInside ? Ends::kClamped : kEnds;
    for (i64 r = 0; r < rows_; ++r) {
      const LinePositions undisplaced = line(column, row + static_cast<double>(r), window_);
      locate_displaced<Pad, kAtMost>(undisplaced, steps_x_, steps_y_, by(r), half_x, half_y, n, r * n, frame_, ws_);
    }
  }

  // Whether a flow displaces pixels, rows of them one below the other.
  bool runs_on_pixels(const LinePositions& first) const { return lies_on_pixels(first) && map_.y().row == 1.0; }

  // Whether the tile is all of a flow of the image's own size: its window is the image with the ring around it.
  bool is_whole_flow() const {
    return kFixed && !Pad::kBends && p_.map == Map::kFlow && map_.flow().dense() && tile_.height == p_.height &&
           tile_.width == p_.width && runs_on_pixels(line(0, 0, Window{}));
  }

  // What the tile reaches of the input, if that is known before its positions are: they are computed run by run then.
  bool bounds(Range& x, Range& y) {
    if (p_.map == Map::kAffine) {
      map_.affine_bounds(tile_, x, y);
      straight_ = runs_straight(x, y);
      return true;
    }
    // Bicubic taps are reflected one by one, which needs whole turns taken off before.
    if ((kBicubic && p_.padding == Padding::kReflection) || subsamples_ > 1) return false;
    x = y = {-__builtin_inf(), __builtin_inf()};
    straight_ = is_whole_flow();
    if (straight_) return true;
    const bool known = map_.bounds(tile_, x, y);
    straight_ = known && runs_straight(x, y);
    bends_once_ = known && Pad::kBends && bends_once<Pad>(x, static_cast<double>(p_.width)) &&
                  bends_once<Pad>(y, static_cast<double>(p_.height));
    return known;
  }

  // Whether the padding rule bends no position of the tile.
  bool runs_straight(const Range& x, const Range& y) const {
    if (Pad::kBends && !(lies_inside(x, p_.width) && lies_inside(y, p_.height))) return false;
    return x.within(0.5 * kFixedLimit) && y.within(0.5 * kFixedLimit);
  }

  // Fills ws.tile_x and ws.tile_y, for all sub-samples of the tile, and finds their ranges.
  void keep_positions(Range& x, Range& y) {
    const i64 n = tile_.width, count = tile_.area() * subsamples_;
    double *to_x = ws_.tile_x, *to_y = ws_.tile_y;
    for (i64 row = 0; row < tile_.height; ++row) {
      for (i64 s = 0; s < subsamples_; ++s, to_x += n, to_y += n) {
        map_.positions(column_of(tile_.x, s), row_of(tile_.y + row, s), n, to_x, to_y);
      }
    }
    x = settle_positions<kMode>(p_, ws_.tile_x, count, p_.width);
    y = settle_positions<kMode>(p_, ws_.tile_y, count, p_.height);
  }

  ListedPositions listed(i64 y, i64 subsample) const {
    const i64 at = ((y - tile_.y) * subsamples_ + subsample) * tile_.width;
    return {ws_.tile_x + at, ws_.tile_y + at, -static_cast<double>(window_.x), -static_cast<double>(window_.y)};
  }

  template <typename Row>
  void visit_halves(const Tile& tile, const Row& row) {
    Tile a = tile, b = tile;
    if (tile.height > tile.width) {
      a.height /= 2;
      b.height -= a.height;
      b.y += a.height;
    } else {
      a.width /= 2;
      b.width -= a.width;
      b.x += a.width;
    }
    visit(a, row);
    visit(b, row);
  }

  template <typename Row>
  void visit_window(const Row& row) {
    in_cells_ = false;
    pitch_ = window_.width;
    for_each_block(p_, [&](const ChannelBlock& block) {
      frame_ = frame_of(window_, kBicubic || block.lanes == 1 ? 1 : 4);
      if (kBicubic) {
        pack_padded(source_, block, window_, ws_);
      } else if (block.lanes == 1) {
        pack_plane(source_, block, window_, ws_);
      } else {
        pack_channels(source_, block, window_, ws_);
      }
      const i64 end = tile_.y + tile_.height, together = rows_together();
      for (i64 y = tile_.y; y < end; y += together) {
        rows_ = end - y < together ? end - y : together;
        row(block, tile_.x, y, run());
      }
    });
  }

  // Rows of output that lie one behind the other in memory, and are short, make one run.
  i64 rows_together() const {
    const bool whole = tile_.width == p_.out_width && subsamples_ == 1;
    const auto joined = [&](i64 row, i64 column) { return row == column * p_.out_width; };
    if (!whole || !joined(p_.output.row, p_.output.column) || !joined(p_.grad_output.row, p_.grad_output.column)) {
      return 1;
    }
    return tile_.width < kChunk ? kChunk / tile_.width : 1;
  }

  // Strong reduction: the pixels between the cells are never read.
  template <typename Row>
  void visit_cells(const Row& row) {
    in_cells_ = true;
    rows_ = 1;
    for_each_block(p_, [&](const ChannelBlock& block) {
      for (i64 y = tile_.y; y < tile_.y + tile_.height; ++y) row(block, tile_.x, y, tile_.width);
    });
  }

  Workspace<T>& ws_;
  const WarpParams& p_;
  i64 sample_;
  CoordinateMap<T> map_;
  Source<T> source_;
  bool keep_positions_;
  FixedSteps steps_x_, steps_y_;
  i64 subsamples_;

  // A run of cells, as they stand in the workspace.
  struct Located {
    i64 y = -1, subsample = 0;
    std::int32_t unit = 0;

    bool operator==(const Located& other) const {
      return y == other.y && subsample == other.subsample && unit == other.unit;
    }
  };

  // Of the tile in hand.
  Tile tile_{};
  Located located_;
  Window window_{};
  Frame frame_{};
  i64 pitch_ = 0, rows_ = 1;
  bool in_cells_ = false, computed_ = false, straight_ = false, bends_once_ = false, in_window_ = false;
};

HARDFAST_END
