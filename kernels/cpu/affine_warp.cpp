// CPU driver of affine_warp, compiled once for each instruction set (HARDFAST_ISA names it).
#include "affine_warp.h"

#include "../math/affine.h"
#include "warp_rows.h"

HARDFAST_BEGIN

namespace {

using i64 = std::int64_t;

// A rectangle of output pixels.
struct Tile {
  i64 x, y, width, height;
};

struct Range {
  double low, high;
};

struct Span {
  i64 begin, end;
};

double clamp_to(double value, double low, double high) {
  const double above = value > low ? value : low;  // NaN becomes the lower end
  return above < high ? above : high;
}

template <typename T, typename Pad, bool kNearest>
class AffineWarp {
 public:
  AffineWarp(const AffineWarpParams& p, i64 sample)
      : p_(p),
        sample_(sample),
        scale_x_(axis_scale(p.width, p.out_height, p.out_width, p.align_corners)),
        scale_y_(axis_scale(p.height, p.out_height, p.out_width, p.align_corners)),
        ws_(Workspace<T>::of_this_thread()) {
    const T* theta = static_cast<const T*>(p.theta) + sample * p.theta_batch;
    x_ = affine_axis(theta, p.theta_column, scale_x_);
    y_ = affine_axis(theta + p.theta_row, p.theta_column, scale_y_);
    source_ = {p.image,
               sample * p.image.batch,
               p.height,
               p.width,
               p.fill ? static_cast<const T*>(p.fill) + sample * p.fill_batch : nullptr,
               p.fill_channel};
  }

  void forward(const Tile& tile) {
    visit(tile, [&](const ChannelBlock& block, i64 x, i64 y, i64 n, i64 pitch) {
      const i64 at = sample_ * p_.output.batch + y * p_.output.row + x * p_.output.column;
      if (block.lanes == 1) {
        sample_taps<kNearest>(n, ws_);
        store_plane(p_.output, block, at, n, ws_.pixels);
      } else if (is_interleaved(p_.output, p_.channels)) {
        sample_channels<kNearest>(n, pitch, ws_);
        store_pixels(p_.output, block, at, n, ws_.pixels, ws_.rows);
      } else {
        T* rows[4];
        block_rows(p_.output, block, at, n, ws_.rows, rows);
        sample_planes<kNearest>(n, pitch, ws_, rows);
        commit_rows(p_.output, block, at, n, rows);
      }
    });
  }

  // Adds the tile's part of the six sums: of x plain, times u, times v; of y the same.
  void grad_theta(const Tile& tile, double* sums) {
    visit(tile, [&](const ChannelBlock& block, i64 x, i64 y, i64 n, i64 pitch) {
      load_grad(block, x, y, n);
      const RowSums<T> row =
          block.lanes == 1 ? grad_position_taps<Pad>(n, ws_) : grad_position_channels<Pad>(n, pitch, ws_);
      const double u = static_cast<double>(x) - center_u(), v = static_cast<double>(y) - center_v();
      sums[0] += row.x;
      sums[1] += row.x_times_k + u * row.x;
      sums[2] += v * row.x;
      sums[3] += row.y;
      sums[4] += row.y_times_k + u * row.y;
      sums[5] += v * row.y;
    });
  }

  // Joins the tiles' sums in their order.
  void reduce_theta(const double* sums, i64 tiles) const {
    T* grad_theta = static_cast<T*>(p_.grad_theta) + 6 * sample_;
    double total[6] = {};
    for (i64 t = 0; t < tiles; ++t) {
      for (int k = 0; k < 6; ++k) total[k] += sums[6 * t + k];
    }
    grad_affine_axis({total[0], total[1], total[2]}, scale_x_, grad_theta);
    grad_affine_axis({total[3], total[4], total[5]}, scale_y_, grad_theta + 3);
  }

  // Writes the gradient of one tile of the *input*: all output pixels that touch it, in their order.
  void grad_image(const Window& tile) {
    const Window window = {tile.x - kRing, tile.y - kRing, tile.width + 2 * kRing, tile.height + 2 * kRing};
    const Frame<T> frame = frame_of(window);
    for_each_block([&](const ChannelBlock& block) {
      for (i64 i = 0; i < 4 * window.area(); ++i) ws_.window[i] = T(0);
      const Span rows = rows_touching(tile);
      for (i64 y = rows.begin; y < rows.end; ++y) {
        const Span columns = columns_touching(tile, y);
        for (i64 x = columns.begin; x < columns.end; x += kChunk) {
          const i64 left = columns.end - x, n = left < kChunk ? left : kChunk;
          locate<Pad, kNearest, false>(row_positions(x, y, window), n, frame, ws_);
          pad_cells(n, ws_);
          load_grad(block, x, y, n);
          if (block.lanes == 1) {
            scatter_taps<kNearest>(n, ws_);
          } else {
            scatter_channels<kNearest>(n, window.width, ws_);
          }
        }
      }
      const i64 at = sample_ * p_.grad_image.batch;
      if (block.lanes == 1) {
        unpack_taps(window, p_.grad_image, block, at, tile, ws_);
      } else {
        unpack_channels(window, p_.grad_image, block, at, tile, ws_);
      }
    });
  }

 private:
  double center_u() const { return 0.5 * static_cast<double>(p_.out_width - 1); }
  double center_v() const { return 0.5 * static_cast<double>(p_.out_height - 1); }

  // Four channels at a time; one left over, and a single one, use the tap layout.
  template <typename Function>
  void for_each_block(const Function& function) {
    for (i64 first = 0; first < p_.channels; first += 4) {
      const i64 left = p_.channels - first;
      function(ChannelBlock{p_.dtype, first, left < 4 ? left : 4, p_.channels});
    }
  }

  static double position(const AffineAxis& axis, double u, double v) {
    return axis.column * u + axis.row * v + axis.centre;
  }

  // Relative to the window, in double: what is rounded to T is small, so large images lose nothing.
  RowPositions<T> row_positions(i64 x, i64 y, const Window& window) const {
    const double u = static_cast<double>(x) - center_u(), v = static_cast<double>(y) - center_v();
    return {static_cast<T>(position(x_, u, v) - static_cast<double>(window.x)), static_cast<T>(x_.column),
            static_cast<T>(position(y_, u, v) - static_cast<double>(window.y)), static_cast<T>(y_.column)};
  }

  Frame<T> frame_of(const Window& window) const {
    const auto extent = [&](i64 origin, i64 length) {
      return Extent<T>{static_cast<T>(origin), static_cast<T>(length), p_.align_corners, p_.padding};
    };
    return {extent(window.x, p_.width), extent(window.y, p_.height), static_cast<T>(window.width - 2),
            static_cast<T>(window.height - 2), static_cast<std::int32_t>(window.width)};
  }

  // Input positions that a tile reaches along one axis, after padding, as first pixel and length of a window.
  void window_axis(const AffineAxis& axis, const Tile& tile, i64 length, i64& first, i64& count) const {
    Range range = {__builtin_inf(), -__builtin_inf()};
    for (int corner = 0; corner < 4; ++corner) {
      const double u = static_cast<double>(tile.x + (corner & 1 ? tile.width - 1 : 0)) - center_u();
      const double v = static_cast<double>(tile.y + (corner & 2 ? tile.height - 1 : 0)) - center_v();
      const double at = position(axis, u, v);
      range = {at < range.low ? at : range.low, at > range.high ? at : range.high};
    }
    const double last = static_cast<double>(length - 1);
    if (!(range.low <= range.high)) range = {0, 0};  // every corner is NaN
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
  }

  // Calls row(block, x, y, n, pitch) for every run of output pixels, its cells located and its taps in the window.
  template <typename Row>
  void visit(const Tile& tile, const Row& row) {
    Window window;
    window_axis(x_, tile, p_.width, window.x, window.width);
    window_axis(y_, tile, p_.height, window.y, window.height);
    const i64 pixels = tile.width * tile.height;
    // Eight pixels packed for each one computed cost about as much as four scattered loads a channel.
    if (window.width > kMaxWindowWidth || window.area() > 8 * pixels + 1024) {
      visit_cells(tile, row);
    } else if (window.area() > kWindowPixels<T>) {
      visit_halves(tile, row);
    } else {
      visit_window(tile, window, row);
    }
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
  void visit_window(const Tile& tile, const Window& window, const Row& row) {
    const Frame<T> frame = frame_of(window);
    for_each_block([&](const ChannelBlock& block) {
      if (block.lanes == 1) {
        pack_taps(source_, block, window, ws_);
      } else {
        pack_channels(source_, block, window, ws_);
      }
      for (i64 y = tile.y; y < tile.y + tile.height; ++y) {
        locate<Pad, kNearest, false>(row_positions(tile.x, y, window), tile.width, frame, ws_);
        pad_cells(tile.width, ws_);
        row(block, tile.x, y, tile.width, window.width);
      }
    });
  }

  // Strong reduction: the pixels between the cells are never read.
  template <typename Row>
  void visit_cells(const Tile& tile, const Row& row) {
    const Window image = {-kRing, -kRing, p_.width + 2 * kRing, p_.height + 2 * kRing};
    const Frame<T> frame = frame_of(image);
    for_each_block([&](const ChannelBlock& block) {
      for (i64 y = tile.y; y < tile.y + tile.height; ++y) {
        locate<Pad, kNearest, true>(row_positions(tile.x, y, image), tile.width, frame, ws_);
        pack_cells(source_, block, tile.width, ws_);
        for (i64 k = 0; k < tile.width; ++k) ws_.column[k] = static_cast<std::int32_t>(block.lanes == 1 ? k : 4 * k);
        pad_cells(tile.width, ws_);
        row(block, tile.x, y, tile.width, 2);
      }
    });
  }

  void load_grad(const ChannelBlock& block, i64 x, i64 y, i64 n) {
    const ImageView<const void>& view = p_.grad_output;
    const i64 at = sample_ * view.batch + y * view.row + x * view.column;
    if (block.lanes > 1) {
      load_pixels(view, block, at, n, ws_.rows, ws_.pixels);
      return;
    }
    const T* row = row_as(block.dtype, view.data, at + block.first * view.channel, view.column, n, ws_.rows);
    for (i64 k = 0; k < n; ++k) ws_.pixels[k] = row[k];
    for (i64 k = n; k % 4 != 0; ++k) ws_.pixels[k] = T(0);
  }

  // The output rows, and the columns of one row, that can touch a tile of the input. Too many are harmless: positions
  // outside of the tile fall into its ring, which is dropped.
  Span rows_touching(const Window& tile) const {
    Range range = {0, static_cast<double>(p_.out_height - 1)};
    if (p_.padding != Padding::kReflection) {
      const auto intersect_rows = [&](const AffineAxis& axis, const Range& reach) {
        const double across = (axis.column < 0 ? -axis.column : axis.column) * center_u();
        intersect(position(axis, 0, -center_v()), axis.row, {reach.low - across, reach.high + across}, range);
      };
      intersect_rows(x_, reach(tile.x, tile.width, p_.width));
      intersect_rows(y_, reach(tile.y, tile.height, p_.height));
    }
    return span(range, p_.out_height);
  }

  Span columns_touching(const Window& tile, i64 y) const {
    Range range = {0, static_cast<double>(p_.out_width - 1)};
    const double v = static_cast<double>(y) - center_v();
    if (p_.padding != Padding::kReflection || (stays_inside(x_, v, p_.width) && stays_inside(y_, v, p_.height))) {
      intersect(position(x_, -center_u(), v), x_.column, reach(tile.x, tile.width, p_.width), range);
      intersect(position(y_, -center_u(), v), y_.column, reach(tile.y, tile.height, p_.height), range);
    }
    return span(range, p_.out_width);
  }

  // Whether no position of an output row is mirrored.
  bool stays_inside(const AffineAxis& axis, double v, i64 length) const {
    const double a = position(axis, -center_u(), v), b = position(axis, center_u(), v);
    const double last = static_cast<double>(length - 1);
    return a >= 0 && a <= last && b >= 0 && b <= last;
  }

  // Positions whose taps lie in [first, first + count) of an axis, with half a pixel of margin.
  Range reach(i64 first, i64 count, i64 length) const {
    const bool clips = p_.padding == Padding::kBorder;  // beyond the border everything lands on the outermost pixels
    return {clips && first == 0 ? -__builtin_inf() : static_cast<double>(first) - 1.5,
            clips && first + count == length ? __builtin_inf() : static_cast<double>(first + count) + 0.5};
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

  const AffineWarpParams& p_;
  i64 sample_;
  AxisScale scale_x_, scale_y_;
  AffineAxis x_, y_;
  Source<T> source_;
  Workspace<T>& ws_;
};

Tile tile_at(const Tiling& tiling, i64 index, i64 height, i64 width) {
  const i64 y = index / tiling.columns * tiling.tile_height, x = index % tiling.columns * tiling.tile_width;
  const i64 rows = height - y, columns = width - x;
  return {x, y, columns < tiling.tile_width ? columns : tiling.tile_width,
          rows < tiling.tile_height ? rows : tiling.tile_height};
}

template <typename T>
struct Tag {
  using Type = T;
};

// Calls function(Tag<AffineWarp<...>>) with the type that the parameters ask for. float64 is for checking gradients
// rather than for speed: there one type serves all padding rules, which halves the time to compile this file.
template <bool kNearest, typename Function>
void by_type(const AffineWarpParams& p, const Function& function) {
  if (p.dtype == DType::kFloat64) return function(Tag<AffineWarp<double, AnyPadding, kNearest>>{});
  switch (p.padding) {
    case Padding::kBorder: return function(Tag<AffineWarp<float, BorderPadding, kNearest>>{});
    case Padding::kReflection: return function(Tag<AffineWarp<float, ReflectionPadding, kNearest>>{});
    default: return function(Tag<AffineWarp<float, ConstantPadding, kNearest>>{});
  }
}

template <typename Function>
void by_mode_and_type(const AffineWarpParams& p, const Function& function) {
  return p.mode == Mode::kNearest ? by_type<true>(p, function) : by_type<false>(p, function);
}

void forward_range(const AffineWarpParams& p, i64 begin, i64 end) {
  const Tiling tiling = output_tiling(p);
  by_mode_and_type(p, [&](auto tag) {
    using Warp = typename decltype(tag)::Type;
    for (i64 item = begin; item < end; ++item) {
      const Tile tile = tile_at(tiling, item % tiling.count(), p.out_height, p.out_width);
      Warp(p, item / tiling.count()).forward(tile);
    }
  });
}

// Only for bilinear interpolation: under "nearest" the gradient is zero.
void grad_theta_range(const AffineWarpParams& p, i64 begin, i64 end) {
  const Tiling tiling = output_tiling(p);
  by_type<false>(p, [&](auto tag) {
    using Warp = typename decltype(tag)::Type;
    for (i64 item = begin; item < end; ++item) {
      const Tile tile = tile_at(tiling, item % tiling.count(), p.out_height, p.out_width);
      double* sums = p.grad_theta_sums + 6 * item;
      for (int k = 0; k < 6; ++k) sums[k] = 0;
      Warp(p, item / tiling.count()).grad_theta(tile, sums);
    }
  });
}

void reduce_theta_range(const AffineWarpParams& p, i64 begin, i64 end) {
  const i64 tiles = output_tiling(p).count();
  by_type<false>(p, [&](auto tag) {
    using Warp = typename decltype(tag)::Type;
    for (i64 sample = begin; sample < end; ++sample) {
      Warp(p, sample).reduce_theta(p.grad_theta_sums + 6 * sample * tiles, tiles);
    }
  });
}

void grad_image_range(const AffineWarpParams& p, i64 begin, i64 end) {
  const Tiling tiling = input_tiling(p);
  by_mode_and_type(p, [&](auto tag) {
    using Warp = typename decltype(tag)::Type;
    for (i64 item = begin; item < end; ++item) {
      const Tile tile = tile_at(tiling, item % tiling.count(), p.height, p.width);
      Warp(p, item / tiling.count()).grad_image({tile.x, tile.y, tile.width, tile.height});
    }
  });
}

}  // namespace

extern const AffineWarpKernels affine_warp_kernels;
const AffineWarpKernels affine_warp_kernels = {forward_range, grad_theta_range, reduce_theta_range, grad_image_range};

HARDFAST_END
