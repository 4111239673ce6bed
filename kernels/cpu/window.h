// A window of the input, copied into cache with everything outside the image filled in, so that interpolation needs no
// bounds test.
//
// Up to four *channels* make a pixel of four lanes; a single channel is a *plane* of one element a pixel. Its gradient
// is accumulated in a third layout, the four bilinear *taps* of each cell (itself, right, below, below right).
#pragma once

#include <cstdint>

#include "../math/interpolation.h"
#include "../math/padding.h"
#include "rows.h"

HARDFAST_BEGIN

// Ring of outside pixels around the image: positions are clamped to [-kRing, length], where all taps lie outside.
constexpr std::int64_t kRing = 2;
constexpr std::int64_t kChunk = 512;               // output pixels handled at once
constexpr std::int64_t kPadded = kChunk + 16;      // with room for what the last vector writes beyond
constexpr std::int64_t kWindowBytes = 448 * 1024;  // fits the 512 kB second-level caches of current processors
constexpr std::int64_t kMaxWindowWidth = 2048;

struct Window {
  std::int64_t x, y, width, height;  // position in the image (may be negative), size in pixels

  std::int64_t area() const { return width * height; }
};

template <typename T>
constexpr std::int64_t kWindowElements = kWindowBytes / static_cast<std::int64_t>(sizeof(T));

constexpr std::int64_t kTilePositions = 128 * 128;  // of one tile, kept for all of its channels
constexpr std::int64_t kControlLine = 1024;         // control values that a run of output pixels lies between

// Scratch of one thread, allocated at its first use and kept.
template <typename T>
struct Workspace {
  alignas(64) T window[kWindowElements<T> + 8];              // with room for what fill_pixels() writes beyond
  alignas(64) T rows[4 * kMaxWindowWidth];                   // conversion
  alignas(64) T pixels[4 * kPadded];                         // one chunk of samples
  alignas(64) T mean[4 * kPadded];                           // of an output pixel's sub-samples
  alignas(64) T grads[4 * kPadded];                          // one chunk of the output's gradient
  alignas(64) T x[kPadded], y[kPadded];                      // position inside the cell
  alignas(64) T slope_x[kPadded], slope_y[kPadded];          // of the padding rule
  alignas(64) std::int32_t column[kPadded], row[kPadded];    // of the cell
  alignas(64) T weights_x[4][kChunk], weights_y[4][kChunk];  // of bicubic taps
  alignas(64) T slopes_x[4][kChunk], slopes_y[4][kChunk];    // their derivatives
  alignas(64) T grad_x[kPadded], grad_y[kPadded];            // gradient to the position
  alignas(64) T uncovered[kChunk];                           // weight of the taps outside the image
  alignas(64) double run_x[kPadded], run_y[kPadded];         // positions of one run, in pixels of the image
  alignas(64) double tile_x[kTilePositions + 16], tile_y[kTilePositions + 16];  // and of a tile
  alignas(64) T position_x[kTilePositions], position_y[kTilePositions];         // gradient to the positions of a tile
  alignas(64) T map_x[kPadded], map_y[kPadded], map_u[kChunk];                  // of a map that is evaluated
  alignas(64) T map_weights[4][kChunk];
  alignas(64) std::int32_t map_column[kPadded];
  alignas(64) T line_x[kControlLine + 16], line_y[kControlLine + 16];
  alignas(64) T control_x[4][kChunk], control_y[4][kChunk];  // gradients of a flow, by its rows

  static Workspace& of_this_thread() {
    thread_local Holder holder;
    if (!holder.workspace) holder.workspace = new Workspace;
    return *holder.workspace;
  }

 private:
  struct Holder {
    Workspace* workspace = nullptr;
    ~Holder() { delete workspace; }
  };
};

// One sample of a tensor with its sizes and what lies outside of it.
template <typename T>
struct Source {
  Padding padding;  // of single pixels, for bicubic taps; kConstant where positions are padded instead
  bool align_corners;
  ImageView<const void> view;
  std::int64_t offset;  // of the sample, in elements
  std::int64_t height, width;
  const T* fill;  // per channel, or null for zeros
  std::int64_t fill_stride;

  T outside(std::int64_t channel) const { return fill ? fill[channel * fill_stride] : T(0); }
};

// One pixel, or what stands for it outside of the image.
template <typename T>
inline Vec4<T> load_tap(const Source<T>& source, const ChannelBlock& block, std::int64_t x, std::int64_t y, T* buffer) {
  Vec4<T> pixel{};
  if (x < 0 || x >= source.width || y < 0 || y >= source.height) {
    for (std::int64_t k = 0; k < block.lanes; ++k) pixel[k] = source.outside(block.first + k);
    return pixel;
  }
  const std::int64_t at =
      source.offset + block.first * source.view.channel + y * source.view.row + x * source.view.column;
  for (std::int64_t k = 0; k < block.lanes; ++k) {
    pixel[k] = *row_as(block.dtype, source.view.data, at + k * source.view.channel, 1, 1, buffer);
  }
  return pixel;
}

template <typename T>
inline Vec4<T> outside_pixel(const Source<T>& source, const ChannelBlock& block) {
  Vec4<T> pixel{};
  for (std::int64_t k = 0; k < block.lanes; ++k) pixel[k] = source.outside(block.first + k);
  return pixel;
}

// The part of a window's row, or column, that lies in the image: [begin, end), counted from the window.
struct Inside {
  std::int64_t begin, end;
};

inline Inside inside(std::int64_t first, std::int64_t count, std::int64_t length) {
  const std::int64_t begin = first < 0 ? (-first < count ? -first : count) : 0;
  const std::int64_t end = length - first < count ? length - first : count;
  return {begin, end > begin ? end : begin};
}

template <typename T>
inline void fill_pixels(T* target, std::int64_t count, Vec4<T> value) {
  for (std::int64_t i = 0; i < count; ++i) store4(target + 4 * i, value);
}

// Of one element each, and up to seven more: what belongs there is written later.
template <typename T>
inline void fill_pixels(T* target, std::int64_t count, Vec8<T> value) {
  for (std::int64_t i = 0; i < count; i += 8) store8(target + i, value);
}

// load_row(j, n, pixels) brings the n pixels of the window's row j that lie in the image, of kLanes elements each.
template <int kLanes, typename T, typename Outside, typename LoadRow>
inline void pack_rows(const Window& window, const Inside& rows, const Inside& columns, Outside outside, T* pixels,
                      const LoadRow& load_row) {
  const std::int64_t pitch = kLanes * window.width, n = columns.end - columns.begin;
  const Inside filled = n > 0 ? rows : Inside{window.height, window.height};
  fill_pixels<T>(pixels, filled.begin * window.width, outside);
  for (std::int64_t j = filled.begin; j < filled.end; ++j) {
    T* target = pixels + j * pitch;
    fill_pixels<T>(target, columns.begin, outside);
    load_row(j, n, target + kLanes * columns.begin);
    fill_pixels<T>(target + kLanes * columns.end, window.width - columns.end, outside);
  }
  fill_pixels<T>(pixels + filled.end * pitch, (window.height - filled.end) * window.width, outside);
}

template <int kLanes, typename T>
inline void interleave_planes(const T* row, std::int64_t plane, std::int64_t n, T* pixels) {
  const T* const rows[4] = {row, row + plane, row + 2 * plane, row + 3 * plane};
  interleave_rows<kLanes>(rows, n, pixels);
}

template <typename T>
inline void pack_channels(const Source<T>& source, const ChannelBlock& block, const Window& window, Workspace<T>& ws) {
  const Vec4<T> outside = outside_pixel(source, block);
  const Inside columns = inside(window.x, window.width, source.width);
  const Inside rows = inside(window.y, window.height, source.height);
  const ImageView<const void>& view = source.view;
  const std::int64_t first = source.offset + window.y * view.row + (window.x + columns.begin) * view.column;
  const auto pack = [&](const auto& load_row) __attribute__((always_inline)) {
    pack_rows<4>(window, rows, columns, outside, ws.window, load_row);
  };
  if (view.column != 1 || converts(block.dtype)) {
    return pack([&](std::int64_t j, std::int64_t n, T* pixels) {
      load_pixels(view, block, first + j * view.row, n, ws.rows, pixels);
    });
  }
  // What lies ready in memory is asked nothing row by row, which short ones feel.
  const T* const plane = static_cast<const T*>(view.data) + first + block.first * view.channel;
  switch (block.lanes) {
    case 2:
      return pack([&](std::int64_t j, std::int64_t n, T* pixels) {
        interleave_planes<2>(plane + j * view.row, view.channel, n, pixels);
      });
    case 3:
      return pack([&](std::int64_t j, std::int64_t n, T* pixels) {
        interleave_planes<3>(plane + j * view.row, view.channel, n, pixels);
      });
    default:
      return pack([&](std::int64_t j, std::int64_t n, T* pixels) {
        interleave_planes<4>(plane + j * view.row, view.channel, n, pixels);
      });
  }
}

// A single channel: rows of its pixels, each `window.width` elements from the next.
template <typename T>
inline void pack_plane(const Source<T>& source, const ChannelBlock& block, const Window& window, Workspace<T>& ws) {
  const Vec8<T> outside = splat8(source.outside(block.first));
  const Inside columns = inside(window.x, window.width, source.width);
  const Inside rows = inside(window.y, window.height, source.height);
  const ImageView<const void>& view = source.view;
  const std::int64_t first =
      source.offset + block.first * view.channel + window.y * view.row + (window.x + columns.begin) * view.column;
  if (view.column != 1 || converts(block.dtype)) {
    return pack_rows<1>(window, rows, columns, outside, ws.window, [&](std::int64_t j, std::int64_t n, T* pixels) {
      const T* row = row_as(block.dtype, view.data, first + j * view.row, view.column, n, pixels);
      if (row != pixels) copy_row(row, n, pixels);
    });
  }
  const T* const plane = static_cast<const T*>(view.data) + first;
  pack_rows<1>(window, rows, columns, outside, ws.window,
               [&](std::int64_t j, std::int64_t n, T* pixels) { copy_row(plane + j * view.row, n, pixels); });
}

// Places of the four taps around a cell along one axis.
struct TapPlaces {
  std::int64_t at[4];
};

// Pixels of the image, after padding; -1 for the constant.
inline TapPlaces padded_taps(std::int64_t cell, std::int64_t length, Padding rule, bool align_corners) {
  TapPlaces taps;
  for (int i = 0; i < 4; ++i) taps.at[i] = pad_index(cell - 1 + i, length, rule, align_corners);
  return taps;
}

// For bicubic taps the window holds padded content: pixels of [height, width], four lanes each, or one where the block
// has a single channel.
template <typename T>
inline void pack_padded(const Source<T>& source, const ChannelBlock& block, const Window& window, Workspace<T>& ws) {
  const std::int64_t lanes = block.lanes == 1 ? 1 : 4;
  const Inside columns = inside(window.x, window.width, source.width);
  const Vec4<T> outside = outside_pixel(source, block);
  const ImageView<const void>& view = source.view;
  for (std::int64_t j = 0; j < window.height; ++j) {
    T* target = ws.window + lanes * j * window.width;
    const auto store = [&](std::int64_t i, const Vec4<T>& pixel) {
      if (lanes == 1) {
        target[i] = pixel[0];
      } else {
        store4(target + 4 * i, pixel);
      }
    };
    const std::int64_t y = pad_index(window.y + j, source.height, source.padding, source.align_corners);
    const Inside packed = y < 0 ? Inside{window.width, window.width} : columns;
    const std::int64_t n = packed.end - packed.begin;
    if (n > 0) {
      const std::int64_t at = source.offset + y * view.row + (window.x + packed.begin) * view.column;
      if (lanes == 1) {
        copy_row(row_as(block.dtype, view.data, at + block.first * view.channel, view.column, n, ws.rows), n,
                 target + packed.begin);
      } else {
        load_pixels(view, block, at, n, ws.rows, target + 4 * packed.begin);
      }
    }
    // What a padding rule brings from the row itself lies there by now.
    const auto pad = [&](std::int64_t i) {
      const std::int64_t x = pad_index(window.x + i, source.width, source.padding, source.align_corners);
      const std::int64_t from = x - window.x;
      if (x < 0 || y < 0) return store(i, outside);
      if (from < packed.begin || from >= packed.end) return store(i, load_tap(source, block, x, y, ws.rows));
      store(i, lanes == 1 ? Vec4<T>{target[from]} : load4(target + 4 * from));
    };
    for (std::int64_t i = 0; i < packed.begin; ++i) pad(i);
    for (std::int64_t i = packed.end; i < window.width; ++i) pad(i);
  }
}

// pack_cells() for pixels of kLanes channels, the block's, from `first` on.
template <int kLanes, typename Storage, typename T>
inline void pack_cells_of(const Source<T>& source, const ChannelBlock& block, const Storage* first, std::int64_t n,
                          Workspace<T>& ws) {
  constexpr std::int64_t kElements = kLanes == 1 ? 4 : 16;  // of a cell
  const ImageView<const void> view = source.view;
  const Vec4<T> outside = outside_pixel(source, block);
  const auto tap = [&](std::int64_t x, std::int64_t y) __attribute__((always_inline)) {
    const bool inside = x >= 0 && x < source.width && y >= 0 && y < source.height;
    return inside ? read_pixel<kLanes, T>(first + y * view.row + x * view.column, view.channel) : outside;
  };
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t x = ws.column[i], y = ws.row[i];
    const Taps<Vec4<T>> taps = {tap(x, y), tap(x + 1, y), tap(x, y + 1), tap(x + 1, y + 1)};
    T* cell = ws.window + kElements * i;
    if (kLanes == 1) {
      store4(cell, Vec4<T>{taps.v00[0], taps.v01[0], taps.v10[0], taps.v11[0]});
    } else {
      store4(cell, taps.v00);
      store4(cell + 4, taps.v01);
      store4(cell + 8, taps.v10);
      store4(cell + 12, taps.v11);
    }
    ws.column[i] = static_cast<std::int32_t>(kElements * i);
  }
}

// A number of channels as a type.
template <int n>
struct Lanes {
  static constexpr int value = n;
};

// Calls function(Lanes<n>{}, first) for a block of n channels; `first` is the image's first pixel of them, in the type
// of its memory.
template <typename T, typename Function>
inline void with_pixels(const Source<T>& source, const ChannelBlock& block, const Function& function) {
  with_storage<T>(block.dtype, [&](auto storage) {
    const auto* first =
        static_cast<const decltype(storage)*>(source.view.data) + source.offset + block.first * source.view.channel;
    switch (block.lanes) {
      case 1: return function(Lanes<1>{}, first);
      case 2: return function(Lanes<2>{}, first);
      case 3: return function(Lanes<3>{}, first);
      default: return function(Lanes<4>{}, first);
    }
  });
}

// Where output pixels lie too far apart for a window, each brings its own cell, and ws.column then tells the place of
// the cells in ws.window. Bilinear: two rows of two taps.
template <typename T>
inline void pack_cells(const Source<T>& source, const ChannelBlock& block, std::int64_t n, Workspace<T>& ws) {
  with_pixels(source, block, [&](auto lanes, const auto* first) {
    pack_cells_of<decltype(lanes)::value>(source, block, first, n, ws);
  });
}

// pack_padded_cells() for pixels of kLanes channels, the block's, from `first` on.
template <int kLanes, typename Storage, typename T>
inline void pack_padded_cells_of(const Source<T>& source, const ChannelBlock& block, const Storage* first,
                                 std::int64_t n, Workspace<T>& ws) {
  constexpr std::int64_t kElements = kLanes == 1 ? 1 : 4;  // of a tap
  const ImageView<const void> view = source.view;
  const Vec4<T> outside = outside_pixel(source, block);
  for (std::int64_t i = 0; i < n; ++i) {
    const TapPlaces xs = padded_taps(ws.column[i], source.width, source.padding, source.align_corners);
    const TapPlaces ys = padded_taps(ws.row[i], source.height, source.padding, source.align_corners);
    T* cell = ws.window + 16 * kElements * i;
    for (int tap = 0; tap < 16; ++tap) {
      const std::int64_t x = xs.at[tap % 4], y = ys.at[tap / 4];
      const bool inside = x >= 0 && y >= 0;
      const Vec4<T> value =
          inside ? read_pixel<kLanes, T>(first + y * view.row + x * view.column, view.channel) : outside;
      if (kLanes == 1) {
        cell[tap] = value[0];
      } else {
        store4(cell + 4 * tap, value);
      }
    }
    ws.column[i] = static_cast<std::int32_t>(16 * i + 5);
  }
}

// Bicubic: four rows of four taps, the second of the second being the cell's own pixel.
template <typename T>
inline void pack_padded_cells(const Source<T>& source, const ChannelBlock& block, std::int64_t n, Workspace<T>& ws) {
  with_pixels(source, block, [&](auto lanes, const auto* first) {
    pack_padded_cells_of<decltype(lanes)::value>(source, block, first, n, ws);
  });
}

// The gradient of a window goes back the same way: channel layout.
template <typename T>
inline void unpack_channels(const Window& window, const ImageView<void>& view, const ChannelBlock& block,
                            std::int64_t offset, const Window& tile, Workspace<T>& ws) {
  for (std::int64_t y = tile.y; y < tile.y + tile.height; ++y) {
    const T* pixels = ws.window + 4 * ((y - window.y) * window.width + (tile.x - window.x));
    store_pixels(view, block, offset + y * view.row + tile.x * view.column, tile.width, pixels, ws.rows);
  }
}

template <typename T>
inline void unpack_plane(const Window& window, const ImageView<void>& view, const ChannelBlock& block,
                         std::int64_t offset, const Window& tile, Workspace<T>& ws) {
  for (std::int64_t y = tile.y; y < tile.y + tile.height; ++y) {
    T* row = ws.window + (y - window.y) * window.width + (tile.x - window.x);
    store_plane(view, block, offset + y * view.row + tile.x * view.column, tile.width, row);
  }
}

// Tap layout: a pixel's gradient is the sum of what its four cells hold for it.
template <typename T>
inline void unpack_taps(const Window& window, const ImageView<void>& view, const ChannelBlock& block,
                        std::int64_t offset, const Window& tile, Workspace<T>& ws) {
  for (std::int64_t y = tile.y; y < tile.y + tile.height; ++y) {
    const T* cell = ws.window + 4 * ((y - window.y) * window.width + (tile.x - window.x));
    const T* above = cell - 4 * window.width;
    for (std::int64_t i = 0; i < tile.width; ++i) {
      ws.rows[i] = (cell[4 * i] + cell[4 * i - 3]) + (above[4 * i + 2] + above[4 * i - 1]);
    }
    store_plane(view, block, offset + y * view.row + tile.x * view.column, tile.width, ws.rows);
  }
}

HARDFAST_END
