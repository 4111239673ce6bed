// What the passes over output tiles share: where a tile's positions lie, the window of the input that they reach, and
// the cells of one run of output pixels.
#pragma once

#include "bicubic_rows.h"
#include "warp_maps.h"
#include "warp_rows.h"

HARDFAST_BEGIN

// A rectangle of output pixels.
struct Tile {
  std::int64_t x, y, width, height;

  std::int64_t area() const { return width * height; }
};

struct Range {
  double low, high;
};

inline Tile tile_at(const Tiling& tiling, std::int64_t index, std::int64_t height, std::int64_t width) {
  const std::int64_t y = index / tiling.columns * tiling.tile_height, x = index % tiling.columns * tiling.tile_width;
  const std::int64_t rows = height - y, columns = width - x;
  return {x, y, columns < tiling.tile_width ? columns : tiling.tile_width,
          rows < tiling.tile_height ? rows : tiling.tile_height};
}

// Four channels at a time; one left over, and a single one, use the tap layout.
template <typename Function>
inline void for_each_block(const WarpParams& p, const Function& function) {
  for (std::int64_t first = 0; first < p.channels; first += 4) {
    const std::int64_t left = p.channels - first;
    function(ChannelBlock{p.dtype, first, left < 4 ? left : 4, p.channels});
  }
}

// Where the sub-samples of a pixel lie, from its centre.
inline double subsample_offset(std::int64_t index, std::int64_t count) {
  return (static_cast<double>(index) + 0.5) / static_cast<double>(count) - 0.5;
}

// The turn after which a reflected axis repeats; 0 where everything is one pixel.
inline double reflection_turn(std::int64_t length, bool align_corners) {
  return 2.0 * static_cast<double>(align_corners ? length - 1 : length);
}

// A position less whole turns; 0 for one so large that what is left of it was rounded away, and for NaN.
inline double fold_turns(double position, double turn) {
  const double rest = position - turn * __builtin_rint(position / turn);
  return rest >= -turn && rest <= turn ? rest : 0.0;
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
  for (std::int64_t k = 0; k < n; ++k) ws.grads[k] = row[k];
  for (std::int64_t k = n; k % 4 != 0; ++k) ws.grads[k] = T(0);
}

template <typename T, typename Pad, Mode kMode>
class Sampler {
 public:
  static constexpr bool kNearest = kMode == Mode::kNearest, kBicubic = kMode == Mode::kBicubic;
  using i64 = std::int64_t;

  // Affine positions are computed in the loop that uses them, unless they are needed besides.
  Sampler(const WarpParams& p, i64 sample, bool keep_positions)
      : ws_(Workspace<T>::of_this_thread()),
        p_(p),
        sample_(sample),
        map_(p, sample, ws_),
        fused_(p.map == Map::kAffine && !keep_positions),
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
    if (fused_) {
      x = corner_range(map_.x());
      y = corner_range(map_.y());
    } else if (subsamples_ > kTilePositions / tile.area()) {
      return tile.area() > 1 ? visit_halves(tile, row) : visit_cells(row);
    } else {
      keep_positions(x, y);
    }
    const double pixels = static_cast<double>(tile.area()) * static_cast<double>(subsamples_);
    const bool bounded =
        window_axis(x, p_.width, window_.x, window_.width) && window_axis(y, p_.height, window_.y, window_.height);
    // Eight pixels packed for each one computed cost about as much as four scattered loads a channel.
    const double area = static_cast<double>(window_.width) * static_cast<double>(window_.height);
    if (!bounded || area > 8 * pixels + 1024) return visit_cells(row);
    if (window_.width > kMaxWindowWidth || window_.area() > kWindowPixels<T>) {
      return tile.area() > 1 ? visit_halves(tile, row) : visit_cells(row);
    }
    visit_window(row);
  }

  // Cells and taps of one sub-sample of a run that visit() has announced.
  void locate(const ChannelBlock& block, i64 y, i64 subsample) {
    const double column = static_cast<double>(tile_.x) + subsample_offset(subsample % p_.samples_x, p_.samples_x);
    const double row = static_cast<double>(y) + subsample_offset(subsample / p_.samples_x, p_.samples_y);
    const i64 n = tile_.width;
    if (in_cells_) {
      locate_in_image(column, row, n);
      if (kBicubic) {
        pack_padded_cells(source_, block, n, ws_);
      } else {
        pack_cells(source_, block, n, ws_);
      }
      pitch_ = kBicubic ? 4 : 2;
    } else if (fused_) {
      locate_cells<Pad, kNearest>(line(column, row), n, frame_, ws_);
    } else {
      locate_cells<Pad, kNearest>(listed(y, subsample), n, frame_, ws_);
    }
    pad_cells(n, ws_);
  }

  // The weight of the taps that lie outside the image, for the run located last: ws.uncovered.
  void find_uncovered(i64 y, i64 subsample) {
    const i64 n = tile_.width;
    if (!in_cells_) {
      const ListedPositions positions = listed(y, subsample);
      for (i64 k = 0; k < n; ++k) {
        ws_.run_x[k] = positions.xs[k];
        ws_.run_y[k] = positions.ys[k];
      }
    }
    for (i64 k = 0; k < n; ++k) {
      ws_.uncovered[k] = static_cast<T>(1.0 - covered(ws_.run_x[k], p_.width) * covered(ws_.run_y[k], p_.height));
    }
  }

  // ws.pixels gets the samples of the run located last: n of one channel, or n pixels of four.
  void sample(const ChannelBlock& block) {
    const i64 n = tile_.width;
    if constexpr (kBicubic) {
      bicubic_weights<false>(n, ws_);
      if (block.lanes == 1) {
        sample_bicubic_plane(n, pitch_, ws_);
      } else {
        sample_bicubic_channels(n, pitch_, ws_);
      }
    } else if (block.lanes == 1) {
      sample_taps<kNearest>(n, ws_);
    } else {
      sample_channels<kNearest>(n, pitch_, ws_);
    }
  }

  // From ws.grads to ws.grad_x and ws.grad_y, for the run located last.
  void grad_position(const ChannelBlock& block) {
    const i64 n = tile_.width;
    if constexpr (kBicubic) {
      bicubic_weights<true>(n, ws_);
      if (block.lanes == 1) {
        grad_position_bicubic_plane(n, pitch_, ws_);
      } else {
        grad_position_bicubic_channels(n, pitch_, ws_);
      }
    } else if (block.lanes == 1) {
      grad_position_taps(n, ws_);
    } else {
      grad_position_channels(n, pitch_, ws_);
    }
    if (Pad::kBends) {
      for (i64 k = 0; k < n; ++k) {
        ws_.grad_x[k] *= ws_.slope_x[k];
        ws_.grad_y[k] *= ws_.slope_y[k];
      }
    }
  }

  Workspace<T>& workspace() { return ws_; }
  const CoordinateMap<T>& map() const { return map_; }
  const Source<T>& source() const { return source_; }
  bool fused() const { return fused_; }
  i64 subsamples() const { return subsamples_; }
  i64 pitch() const { return pitch_; }

  // Positions on a line, in pixels of the window.
  LinePositions line(double column, double row) const { return line(column, row, window_); }

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

  Frame frame_of(const Window& window) const {
    const auto extent = [&](i64 origin, i64 length) {
      return Extent<double>{static_cast<double>(origin), static_cast<double>(length), p_.align_corners, p_.padding};
    };
    const i64 after = kBicubic ? 3 : 2;
    return {extent(window.x, p_.width),
            extent(window.y, p_.height),
            kBicubic ? 1.0 : 0.0,
            static_cast<double>(window.width - after),
            static_cast<double>(window.height - after),
            static_cast<std::int32_t>(window.width)};
  }

  // Positions of a run anywhere, in double: cells in pixels of the image.
  void locate_in_image(double column, double row, i64 n) {
    map_.positions(column, row, n, ws_.run_x, ws_.run_y);
    if (p_.padding == Padding::kReflection) {
      fold_run(ws_.run_x, n, p_.width);
      fold_run(ws_.run_y, n, p_.height);
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
  void fold_run(double* positions, i64 n, i64 length) const {
    const double turn = reflection_turn(length, p_.align_corners);
    for (i64 k = 0; k < n; ++k) positions[k] = fold_turns(positions[k], turn);
  }

  // Bicubic taps are reflected one by one: the position itself only had whole turns taken off.
  static void locate_turned(const double* positions, i64 n, std::int32_t* pixel, T* within) {
    for (i64 k = 0; k < n; ++k) {
      const double whole = __builtin_floor(positions[k]);
      pixel[k] = static_cast<std::int32_t>(whole);
      within[k] = static_cast<T>(positions[k] - whole);
    }
  }

  // The weight, along one axis, of the taps inside the image.
  static double covered(double position, i64 length) {
    const double last = static_cast<double>(length - 1);
    if (kNearest) {
      const double pixel = __builtin_rint(position);
      return pixel >= 0 && pixel <= last ? 1.0 : 0.0;
    }
    if (!kBicubic) {
      const double begin = position + 1.0, end = last + 1.0 - position;
      return clamp_to(begin < end ? begin : end, 0.0, 1.0);
    }
    if (!(position > -3.0 && position < last + 3.0)) return 0.0;
    const double whole = __builtin_floor(position);
    const CubicWeights<double> weights = keys_weights(position - whole);
    double sum = 0;
    for (int i = 0; i < 4; ++i) {
      const double tap = whole - 1.0 + i;
      if (tap >= 0 && tap <= last) sum += weights.at[i];
    }
    return sum;
  }

  // Input positions that the tile reaches along one axis under an affine map.
  Range corner_range(const AffineAxis& axis) const {
    const double spread_u = 0.5 - 0.5 / static_cast<double>(p_.samples_x);
    const double spread_v = 0.5 - 0.5 / static_cast<double>(p_.samples_y);
    Range range = {__builtin_inf(), -__builtin_inf()};
    for (int corner = 0; corner < 4; ++corner) {
      const double right = static_cast<double>(tile_.width - 1) + spread_u;
      const double bottom = static_cast<double>(tile_.height - 1) + spread_v;
      const double u = static_cast<double>(tile_.x) + (corner & 1 ? right : -spread_u) - map_.center_u();
      const double v = static_cast<double>(tile_.y) + (corner & 2 ? bottom : -spread_v) - map_.center_v();
      const double at = CoordinateMap<T>::position(axis, u, v);
      range = {at < range.low ? at : range.low, at > range.high ? at : range.high};
    }
    return range;
  }

  // Fills ws.tile_x and ws.tile_y, for all sub-samples of the tile, and finds their ranges.
  void keep_positions(Range& x, Range& y) {
    x = y = {__builtin_inf(), -__builtin_inf()};
    const bool reflects = p_.padding == Padding::kReflection;
    const i64 n = tile_.width;
    double *to_x = ws_.tile_x, *to_y = ws_.tile_y;
    double turns_x = 0, turns_y = 0;
    for (i64 row = 0; row < tile_.height; ++row) {
      for (i64 s = 0; s < subsamples_; ++s, to_x += n, to_y += n) {
        map_.positions(static_cast<double>(tile_.x) + subsample_offset(s % p_.samples_x, p_.samples_x),
                       static_cast<double>(tile_.y + row) + subsample_offset(s / p_.samples_x, p_.samples_y), n,
                       ws_.run_x, ws_.run_y);
        const bool first = row == 0 && s == 0;
        if (reflects && kBicubic) {
          // The same whole turns for all of the tile: taps are reflected one by one.
          const double turn_x = reflection_turn(p_.width, p_.align_corners);
          const double turn_y = reflection_turn(p_.height, p_.align_corners);
          if (first) {
            turns_x = ws_.run_x[0] - fold_turns(ws_.run_x[0], turn_x);
            turns_y = ws_.run_y[0] - fold_turns(ws_.run_y[0], turn_y);
          }
          for (i64 k = 0; k < n; ++k) {
            ws_.run_x[k] -= turns_x;
            ws_.run_y[k] -= turns_y;
          }
        } else if (reflects) {
          fold_run(ws_.run_x, n, p_.width);
          fold_run(ws_.run_y, n, p_.height);
        }
        keep_run(ws_.run_x, n, to_x, x);
        keep_run(ws_.run_y, n, to_y, y);
      }
    }
  }

  void keep_run(const double* __restrict positions, i64 n, double* __restrict target, Range& range) const {
    double low = range.low, high = range.high;
    const double for_nan = p_.padding == Padding::kReflection ? 0.0 : -3.0;
#pragma omp simd reduction(min : low) reduction(max : high)
    for (i64 k = 0; k < n; ++k) {
      const double at = positions[k] == positions[k] ? positions[k] : for_nan;
      low = at < low ? at : low;
      high = at > high ? at : high;
      target[k] = at;
    }
    range = {low, high};
  }

  ListedPositions listed(i64 y, i64 subsample) const {
    const i64 at = ((y - tile_.y) * subsamples_ + subsample) * tile_.width;
    return {ws_.tile_x + at, ws_.tile_y + at, -static_cast<double>(window_.x), -static_cast<double>(window_.y)};
  }

  // First pixel and length of a window along one axis, after padding; whether there is one at all.
  bool window_axis(Range range, i64 length, i64& first, i64& count) const {
    const double last = static_cast<double>(length - 1);
    if (!(range.low <= range.high)) range = {0, 0};  // every position is NaN
    if (kBicubic) {
      if (p_.padding == Padding::kReflection) {
        if (!(range.low > -0x1p40 && range.high < 0x1p40)) return false;
      } else {
        range = {clamp_to(range.low, -3, last + 2), clamp_to(range.high, -3, last + 2)};
      }
      first = static_cast<i64>(__builtin_floor(range.low - 2)) & ~i64{1};
      count = static_cast<i64>(__builtin_floor(range.high + 1)) + 4 - first;
      return true;
    }
    if (p_.padding != Padding::kConstant) {
      const bool mirrored = range.low < 0 || range.high > last;
      if (mirrored && p_.padding == Padding::kReflection) range = {0, last};
      range = {clamp_to(range.low, 0, last), clamp_to(range.high, 0, last)};
    }
    // A pixel of margin for rounding. An even first pixel keeps ties of "nearest" what they are in the image.
    const double low = clamp_to(range.low - 1, -double{kRing}, last + 1);
    const double high = clamp_to(range.high + 1, low, last + 1);
    first = static_cast<i64>(__builtin_floor(low)) & ~i64{1};
    count = static_cast<i64>(__builtin_floor(high)) + 2 - first;
    return true;
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
    frame_ = frame_of(window_);
    pitch_ = window_.width;
    for_each_block(p_, [&](const ChannelBlock& block) {
      if (kBicubic) {
        pack_padded(source_, block, window_, ws_);
      } else if (block.lanes == 1) {
        pack_taps(source_, block, window_, ws_);
      } else {
        pack_channels(source_, block, window_, ws_);
      }
      for (i64 y = tile_.y; y < tile_.y + tile_.height; ++y) row(block, tile_.x, y, tile_.width);
    });
  }

  // Strong reduction: the pixels between the cells are never read.
  template <typename Row>
  void visit_cells(const Row& row) {
    in_cells_ = true;
    for_each_block(p_, [&](const ChannelBlock& block) {
      for (i64 y = tile_.y; y < tile_.y + tile_.height; ++y) row(block, tile_.x, y, tile_.width);
    });
  }

  Workspace<T>& ws_;
  const WarpParams& p_;
  i64 sample_;
  CoordinateMap<T> map_;
  Source<T> source_;
  bool fused_;
  i64 subsamples_;

  // Of the tile in hand.
  Tile tile_{};
  Window window_{};
  Frame frame_{};
  i64 pitch_ = 0;
  bool in_cells_ = false;
};

template <typename S>
struct Tag {
  using Type = S;
};

// Calls function(Tag<Sampler<...>>) with the type that the parameters ask for. Bicubic taps are padded one by one, so
// one type serves all rules there. float64 is for checking gradients rather than for speed: one type serves all rules
// there too, which halves the time to compile.
template <typename Function>
inline void by_sampler(const WarpParams& p, const Function& function) {
  if (p.dtype == DType::kFloat64) {
    switch (p.mode) {
      case Mode::kNearest: return function(Tag<Sampler<double, AnyPadding, Mode::kNearest>>{});
      case Mode::kBicubic: return function(Tag<Sampler<double, ConstantPadding, Mode::kBicubic>>{});
      default: return function(Tag<Sampler<double, AnyPadding, Mode::kBilinear>>{});
    }
  }
  if (p.mode == Mode::kBicubic) return function(Tag<Sampler<float, ConstantPadding, Mode::kBicubic>>{});
  const bool nearest = p.mode == Mode::kNearest;
  switch (p.padding) {
    case Padding::kBorder:
      return nearest ? function(Tag<Sampler<float, BorderPadding, Mode::kNearest>>{})
                     : function(Tag<Sampler<float, BorderPadding, Mode::kBilinear>>{});
    case Padding::kReflection:
      return nearest ? function(Tag<Sampler<float, ReflectionPadding, Mode::kNearest>>{})
                     : function(Tag<Sampler<float, ReflectionPadding, Mode::kBilinear>>{});
    default:
      return nearest ? function(Tag<Sampler<float, ConstantPadding, Mode::kNearest>>{})
                     : function(Tag<Sampler<float, ConstantPadding, Mode::kBilinear>>{});
  }
}

HARDFAST_END
