// Gradient of every warp to the image, compiled once for each instruction set. A tile of the *input* is owned by one
// item, which visits the output pixels that touch it, in their order, of all samples that share the image.
#include "by_sampler.h"
#include "warp_color.h"
#include "warp_kernels.h"

HARDFAST_BEGIN

namespace {

using i64 = std::int64_t;

struct Span {
  i64 begin, end;
};

// First and last pixel along one axis that positions in `range` can touch, after padding.
template <Mode kMode>
Span reach_axis(const WarpParams& p, Range range, i64 length) {
  const double last = static_cast<double>(length - 1), before = kMode == Mode::kBicubic ? 3 : 2;
  double low = range.low - before, high = range.high + before + 1;
  if (p.padding == Padding::kReflection) {
    const Range taps = reflected({low, high}, length, p.align_corners);
    low = taps.low - 1;
    high = taps.high + 1;
  }
  if (p.padding == Padding::kConstant) {
    return {static_cast<i64>(clamp_to(low, -8, last + 8)), static_cast<i64>(clamp_to(high, -8, last + 8))};
  }
  return {static_cast<i64>(clamp_to(low, 0, last)), static_cast<i64>(clamp_to(high, 0, last))};
}

// Elements of a pixel of a tile's gradient: four channels, or the four taps of a single one's cell.
template <Mode kMode>
constexpr std::int32_t elements(const ChannelBlock& block) {
  return block.lanes == 1 && kMode != Mode::kBilinear ? 1 : 4;
}

template <typename Sampler>
class ImageGradient;

template <typename T, typename Pad, Mode kMode>
class ImageGradient<Sampler<T, Pad, kMode>> {
 public:
  static constexpr bool kNearest = kMode == Mode::kNearest, kBicubic = kMode == Mode::kBicubic;

  ImageGradient(const WarpParams& p, i64 sample)
      : p_(p), sample_(sample), sampler_(p, sample, false), ws_(sampler_.workspace()) {}

  // Which pixels of the image a tile of the output can touch.
  Reach reach(const Tile& tile) {
    Range x, y;
    const bool between_centres = sampler_.subsamples() > 1 && p_.map != Map::kAffine;
    if (between_centres || !sampler_.map().bounds(tile, x, y)) range_of(tile, x, y);
    const Span columns = reach_axis<kMode>(p_, x, p_.width), rows = reach_axis<kMode>(p_, y, p_.height);
    return {static_cast<std::int32_t>(columns.begin), static_cast<std::int32_t>(columns.end),
            static_cast<std::int32_t>(rows.begin), static_cast<std::int32_t>(rows.end)};
  }

  // Adds the sample's part of the gradient to a tile, which ws.window accumulates with what falls around it.
  void add_sample(const ChannelBlock& block, const Window& tile, const Reach* reaches) {
    tile_ = tile;
    window_ = {tile.x - kRing, tile.y - kRing, tile.width + 2 * kRing, tile.height + 2 * kRing};
    frame_ = sampler_.frame_of(window_, elements<kMode>(block));
    if (inverts_map(p_)) return add_rows(block);
    const Tiling tiling = reach_tiling(p_);
    for (i64 i = 0; i < tiling.count(); ++i) {
      if (reaches && !touches(reaches[i])) continue;
      const Tile at = tile_at(tiling, i, p_.out_height, p_.out_width);
      for (i64 y = at.y; y < at.y + at.height; ++y) {
        for (i64 s = 0; s < sampler_.subsamples(); ++s) add_run(block, at.x, y, at.width, s);
      }
    }
  }

 private:
  // Where the positions of a tile lie, from each of them. One that is NaN may be anywhere at the edges: then all of the
  // image is in reach.
  void range_of(const Tile& tile, Range& x, Range& y) {
    Extremes<double> along_x, along_y;
    for (i64 row = tile.y; row < tile.y + tile.height; ++row) {
      for (i64 s = 0; s < sampler_.subsamples(); ++s) {
        sampler_.map().positions(sampler_.column_of(tile.x, s), sampler_.row_of(row, s), tile.width, ws_.run_x,
                                 ws_.run_y);
        along_x.add(ws_.run_x, tile.width);
        along_y.add(ws_.run_y, tile.width);
      }
    }
    const Range anywhere = {-__builtin_inf(), __builtin_inf()};
    x = along_x.unordered() ? anywhere : along_x.range();
    y = along_y.unordered() ? anywhere : along_y.range();
  }

  bool touches(const Reach& reach) const {
    return reach.last_x >= tile_.x && reach.first_x < tile_.x + tile_.width && reach.last_y >= tile_.y &&
           reach.first_y < tile_.y + tile_.height;
  }

  void add_rows(const ChannelBlock& block) {
    const Span rows = rows_touching();
    for (i64 y = rows.begin; y < rows.end; ++y) {
      for (i64 s = 0; s < sampler_.subsamples(); ++s) {
        const Span columns = columns_touching(sampler_.column_of(0, s), sampler_.row_of(y, s));
        for (i64 x = columns.begin; x < columns.end; x += kChunk) {
          const i64 left = columns.end - x;
          add_run(block, x, y, left < kChunk ? left : kChunk, s);
        }
      }
    }
  }

  void add_run(const ChannelBlock& block, i64 x, i64 y, i64 n, i64 s) {
    const double column = sampler_.column_of(x, s), row = sampler_.row_of(y, s);
    load_run_grads(block, x, y, n);
    if constexpr (kBicubic) {
      sampler_.locate_in_image(column, row, n);
      pad_cells<4>(n, ws_);
      bicubic_weights<false>(n, ws_);
      if (block.lanes == 1) {
        scatter_bicubic<true>(n, sampler_.source(), tile_, ws_);
      } else {
        scatter_bicubic<false>(n, sampler_.source(), tile_, ws_);
      }
    } else {
      if (p_.map == Map::kAffine) {
        sampler_.locate_line(sampler_.line(column, row, window_), n, 0, frame_);
      } else if (!locate_displaced_pixels(x, y, column, row, n)) {
        locate_cells<Pad, kNearest>(listed(block, x, y, n, s), n, 0, frame_, ws_);
      }
      pad_cells<4>(n, ws_);
      if (block.lanes == 1) {
        kNearest ? scatter_nearest(n, ws_) : scatter_taps(n, ws_);
      } else {
        scatter_channels<kNearest>(n, window_.width, ws_);
      }
    }
  }

  // Cells of a run of a flow that displaces pixels; false for other maps, and where positions need more than one
  // mirror.
  bool locate_displaced_pixels(i64 x, i64 y, double column, double row, i64 n) {
    if constexpr (Sampler<T, Pad, kMode>::kFixed) {
      if (p_.map != Map::kFlow) return false;
      const LinePositions line = sampler_.line(column, row, window_);
      if (!lies_on_pixels(line)) return false;
      CoordinateMap<T>& map = sampler_.map();
      const auto by = [&](i64) { return map.flow().evaluate(column, row, n); };
      if (!Pad::kBends) {
        locate_around_pixels<Pad, Ends::kClamped>(line, by, map.half_x(), map.half_y(), n, 1, frame_, ws_);
        return true;
      }
      Range x_range, y_range;
      if (!map.bounds({x, y, n, 1}, x_range, y_range) || !bends_once<Pad>(x_range, frame_.x.length) ||
          !bends_once<Pad>(y_range, frame_.y.length)) {
        return false;
      }
      locate_around_pixels<Pad, Ends::kBent>(line, by, map.half_x(), map.half_y(), n, 1, frame_, ws_);
      return true;
    }
    return false;
  }

  // Positions of a run of any map. Where an output has few pixels but many channels, its first channels keep them.
  ListedPositions listed(const ChannelBlock& block, i64 x, i64 y, i64 n, i64 s) {
    const i64 subsamples = sampler_.subsamples(), pixels = p_.out_height * p_.out_width;
    const bool keeps = p_.channels > 4 && p_.batch == p_.image_count && subsamples <= kTilePositions / pixels;
    const i64 at = keeps ? (y * subsamples + s) * p_.out_width + x : 0;
    double *const xs = keeps ? ws_.tile_x + at : ws_.run_x, *const ys = keeps ? ws_.tile_y + at : ws_.run_y;
    if (!keeps || block.first == 0) list_positions(sampler_.column_of(x, s), sampler_.row_of(y, s), n, xs, ys);
    return {xs, ys, -static_cast<double>(window_.x), -static_cast<double>(window_.y)};
  }

  // In pixels of the image.
  void list_positions(double column, double row, i64 n, double* xs, double* ys) {
    sampler_.map().positions(column, row, n, xs, ys);
    if (p_.padding != Padding::kReflection) return;
    fold_run(xs, n, reflection_turn(p_.width, p_.align_corners));
    fold_run(ys, n, reflection_turn(p_.height, p_.align_corners));
  }

  // Of the samples: past the colour map, and each sub-sample's part.
  void load_run_grads(const ChannelBlock& block, i64 x, i64 y, i64 n) {
    load_grad(p_, sample_, block, x, y, n, ws_);
    if (p_.color.data) grad_color_input(p_, sample_, n, ws_.grads);
    if (sampler_.subsamples() > 1) {
      const T scale = T(1) / static_cast<T>(sampler_.subsamples());
      for (i64 k = 0; k < n * (block.lanes == 1 ? 1 : 4); ++k) ws_.grads[k] *= scale;
    }
  }

  // The output rows, and the columns of one row, that can touch a tile of the input. Too many are harmless: positions
  // outside of the tile fall into its ring, which is dropped.
  Span rows_touching() const {
    // Half a pixel more on all sides, where sub-samples lie beyond the outermost centres.
    Range range = {-0.5, static_cast<double>(p_.out_height) - 0.5};
    const CoordinateMap<T>& map = sampler_.map();
    const auto intersect_rows = [&](const AffineAxis& axis, const Range& reach) {
      const double across = (axis.column < 0 ? -axis.column : axis.column) * (map.center_u() + 0.5);
      intersect(map.position(axis, 0, -map.center_v()), axis.row, {reach.low - across, reach.high + across}, range);
    };
    intersect_rows(map.x(), reach(tile_.x, tile_.width, p_.width));
    intersect_rows(map.y(), reach(tile_.y, tile_.height, p_.height));
    return span(range, p_.out_height);
  }

  Span columns_touching(double first_column, double row) const {
    Range range = {0, static_cast<double>(p_.out_width - 1)};
    const CoordinateMap<T>& map = sampler_.map();
    const double u = first_column - map.center_u(), v = row - map.center_v();
    intersect(map.position(map.x(), u, v), map.x().column, reach(tile_.x, tile_.width, p_.width), range);
    intersect(map.position(map.y(), u, v), map.y().column, reach(tile_.y, tile_.height, p_.height), range);
    return span(range, p_.out_width);
  }

  // Positions whose taps lie in [first, first + count) of an axis, with half a pixel of margin.
  Range reach(i64 first, i64 count, i64 length) const {
    const bool clips = p_.padding == Padding::kBorder;  // beyond the border everything lands on the outermost pixels
    const double more = kBicubic ? 1 : 0;
    return {clips && first == 0 ? -__builtin_inf() : static_cast<double>(first) - 1.5 - more,
            clips && first + count == length ? __builtin_inf() : static_cast<double>(first + count) + 0.5 + more};
  }

  // Leaves of `range` the k for which start + k * step can lie in `limits`.
  static void intersect(double start, double step, const Range& limits, Range& range) {
    if (step == 0) {
      if (start < limits.low || start > limits.high) range = {1, 0};
      return;
    }
    double a = (limits.low - start) / step, b = (limits.high - start) / step;
    if (a > b) {
      const double swap = a;
      a = b;
      b = swap;
    }
    // Written so that NaN leaves the range as it is.
    if (a > range.low) range.low = a;
    if (b < range.high) range.high = b;
  }

  static Span span(const Range& range, i64 length) {
    if (range.low > range.high) return {0, 0};
    const double last = static_cast<double>(length - 1);
    const i64 begin = static_cast<i64>(clamp_to(__builtin_floor(range.low) - 1, 0, last));
    return {begin, static_cast<i64>(clamp_to(__builtin_ceil(range.high) + 1, 0, last)) + 1};
  }

  const WarpParams& p_;
  i64 sample_;
  Sampler<T, Pad, kMode> sampler_;
  Workspace<T>& ws_;
  Window tile_{}, window_{};
  Frame frame_{};
};

// Writes what ws.window has accumulated for a tile.
template <typename T, Mode kMode>
void store_tile(const WarpParams& p, i64 image, const ChannelBlock& block, const Window& tile, Workspace<T>& ws) {
  const i64 at = image * p.grad_image.batch;
  const Window ring = {tile.x - kRing, tile.y - kRing, tile.width + 2 * kRing, tile.height + 2 * kRing};
  const Window window = kMode == Mode::kBicubic ? Window{tile.x, tile.y, tile.width + 1, tile.height + 1} : ring;
  if (block.lanes > 1) return unpack_channels(window, p.grad_image, block, at, tile, ws);
  if (kMode == Mode::kBilinear) return unpack_taps(window, p.grad_image, block, at, tile, ws);
  unpack_plane(window, p.grad_image, block, at, tile, ws);
}

template <typename T, typename Pad, Mode kMode>
void grad_image_tile(const WarpParams& p, const WarpScratch& scratch, i64 image, const Window& tile,
                     Tag<Sampler<T, Pad, kMode>>) {
  Workspace<T>& ws = Workspace<T>::of_this_thread();
  const i64 samples = p.image_count == 1 ? p.batch : 1;
  const i64 area = (tile.width + 2 * kRing) * (tile.height + 2 * kRing);
  // Of many samples each is summed by itself: one long sum of floats would lose what the later ones bring. Those with
  // fewer outputs than an eighth of the tile share a sum, or passing over the tile would take most of the time.
  double* totals = samples > 1 ? new double[static_cast<unsigned long>(4 * area)] : nullptr;
  const i64 outputs = p.out_height * p.out_width, together = area / (8 * outputs) + 1;
  for_each_block(p, [&](const ChannelBlock& block) {
    const i64 values = elements<kMode>(block) * area;
    for (i64 i = 0; i < values; ++i) ws.window[i] = T(0);
    for (i64 i = 0; totals && i < values; ++i) totals[i] = 0;
    for (i64 k = 0; k < samples; ++k) {
      const i64 sample = image * samples + k;
      const Reach* reaches = scratch.reaches ? scratch.reaches + sample * reach_tiling(p).count() : nullptr;
      ImageGradient<Sampler<T, Pad, kMode>>(p, sample).add_sample(block, tile, reaches);
      if (!totals || (k + 1) % together != 0) continue;
      for (i64 i = 0; i < values; ++i) {
        totals[i] += static_cast<double>(ws.window[i]);
        ws.window[i] = T(0);
      }
    }
    for (i64 i = 0; totals && i < values; ++i) {
      ws.window[i] = static_cast<T>(totals[i] + static_cast<double>(ws.window[i]));
    }
    store_tile<T, kMode>(p, image, block, tile, ws);
  });
  delete[] totals;
}

}  // namespace

void reaches_range(const WarpParams& p, const WarpScratch& scratch, i64 begin, i64 end) {
  const Tiling tiling = reach_tiling(p);
  by_sampler(p, [&](auto tag) {
    for (i64 sample = begin; sample < end; ++sample) {
      ImageGradient<typename decltype(tag)::Type> gradient(p, sample);
      for (i64 i = 0; i < tiling.count(); ++i) {
        scratch.reaches[sample * tiling.count() + i] = gradient.reach(tile_at(tiling, i, p.out_height, p.out_width));
      }
    }
  });
}

void grad_image_range(const WarpParams& p, const WarpScratch& scratch, i64 begin, i64 end) {
  const Tiling tiling = input_tiling(p);
  by_sampler(p, [&](auto tag) {
    for (i64 item = begin; item < end; ++item) {
      const Tile at = tile_at(tiling, item % tiling.count(), p.height, p.width);
      grad_image_tile(p, scratch, item / tiling.count(), {at.x, at.y, at.width, at.height}, tag);
    }
  });
}

HARDFAST_END
