// What most calls ask for, in a fifth of the general kernels' instructions: bilinear samples at one position a pixel,
// of channels that are planes with contiguous rows or lie side by side, and offsets that fit 32 bits. Padding rules and
// constants are left to the pixels that have a tap outside of the image.
#pragma once

#include "pixels.h"

HARDFAST_BEGIN

// How the channels of a pixel lie: each in a plane of its own, or all side by side.
enum class Layout { kPlanes, kPixels };

// So many channels at once: all there are, or four of a multiple of four.
template <typename Stored, Layout kLies, int kCount>
struct PlainVariant {
  using Storage = Stored;
  static constexpr Layout kLayout = kLies;
  static constexpr int kLanes = kCount;
};

constexpr i64 kPlainElements = i64{1} << 30;    // of one sample, and of the taps beyond its edges
constexpr i64 kPlainSide = (i64{1} << 22) - 4;  // floor_cell() takes no larger positions

// A projective frame would take some twenty registers.
template <typename Frame>
constexpr bool kLargeFrame = sizeof(Frame) > 90;
// Blocks that a multiprocessor must hold: they leave 64 registers to a thread, and to gradients 80.
template <typename Frame>
constexpr int kPlainBlocks = kLargeFrame<Frame> ? 3 : 4;
template <typename Frame>
constexpr int kPlainGradBlocks = kPlainBlocks<Frame> - 1;

// Elements from one channel, row or pixel to the next. Those that the layout fixes are constants to the compiler.
template <Layout kLayout>
struct PlainStrides {
  int own_channel, row, own_column;

  template <typename Void>
  static __device__ __forceinline__ PlainStrides of(const ImageView<Void>& view) {
    return {static_cast<int>(view.channel), static_cast<int>(view.row), static_cast<int>(view.column)};
  }

  __device__ __forceinline__ int channel() const { return kLayout == Layout::kPlanes ? own_channel : 1; }
  __device__ __forceinline__ int column() const { return kLayout == Layout::kPlanes ? 1 : own_column; }
};

// A tile of one sample, and what positions on its image are measured against.
template <typename Frame>
struct alignas(16) PlainTile {
  // Positions between these have all taps in the image.
  float low_x, end_x, low_y, end_y;
  int origin_x, origin_y;                  // from which positions are counted
  int first_x, first_y;                    // of the output
  i64 sample, image, output, grad_output;  // where the sample begins in each, in elements
  Frame frame;
};

// How a thread holds its block's tile: in registers, or where it is shared.
template <typename Frame>
using HeldTile = std::conditional_t<kLargeFrame<Frame>, const PlainTile<Frame>&, const PlainTile<Frame>>;

template <typename Frame>
__device__ __noinline__ void make_plain_tile(PlainTile<Frame>* tile, const WarpParams* p, i64 sample, int first_x,
                                             int first_y) {
  tile->frame = Frame::make(*p, sample, first_x, first_y);
  tile->sample = sample;
  tile->image = sample * p->image.batch;
  tile->output = sample * p->output.batch;
  tile->grad_output = sample * p->grad_output.batch;
  tile->first_x = first_x;
  tile->first_y = first_y;
  tile->origin_x = static_cast<int>(tile->frame.origin_x);
  tile->origin_y = static_cast<int>(tile->frame.origin_y);
  tile->low_x = static_cast<float>(-tile->origin_x);
  tile->low_y = static_cast<float>(-tile->origin_y);
  tile->end_x = static_cast<float>(static_cast<int>(p->width) - 1 - tile->origin_x);
  tile->end_y = static_cast<float>(static_cast<int>(p->height) - 1 - tile->origin_y);
}

// The tile of a block that has one.
template <typename Frame>
__device__ __forceinline__ void make_own_tile(PlainTile<Frame>* tile, const WarpParams& p, const OutputTiling& tiling) {
  const unsigned columns = static_cast<unsigned>(tiling.columns), tiles = columns * static_cast<unsigned>(tiling.rows);
  const unsigned index = blockIdx.x % tiles;
  make_plain_tile(tile, &p, blockIdx.x / tiles, static_cast<int>(index % columns) * kTileWidth,
                  static_cast<int>(index / columns) * tiling.height);
}

// How many rows of a tile lie in the output; none for a thread right of it.
template <typename Frame>
__device__ __forceinline__ int plain_rows(const WarpParams& p, const PlainTile<Frame>& tile, int height) {
  const int left = static_cast<int>(p.out_height) - tile.first_y, rows = height < left ? height : left;
  return tile.first_x + thread_column() < static_cast<int>(p.out_width) ? rows : 0;
}

// Calls function(dx, dy, position) for this thread's pixels of a tile, which are counted from its first.
template <typename Frame, typename Function>
__device__ __forceinline__ void for_each_plain_pixel(const WarpParams& p, const PlainTile<Frame>& tile, int height,
                                                     const Function& function) {
  const int dx = thread_column(), rows = plain_rows(p, tile, height);
#pragma unroll 1
  for (int dy = thread_row(); dy < rows; dy += kBlockRows) {
    function(dx, dy, tile.frame.at(p, tile.sample, dx, dy));
  }
}

// The whole and the rest of a position below 2^22: the unit that rounds takes eight times as long as the one that adds.
struct FlooredPosition {
  int whole;
  float rest;
};

__device__ __forceinline__ FlooredPosition floor_cell(float position) {
#if defined(__CUDA_ARCH__)
  const float shift = 12582912.0f, shifted = __fadd_rd(position, shift);  // 1.5 * 2^23: its last digit is a one
  return {__float_as_int(shifted) - __float_as_int(shift), position - (shifted - shift)};
#else
  const float whole = round_down(position);
  return {static_cast<int>(whole), position - whole};
#endif
}

// Whether all four taps of a position lie in the image, and no padding rule acts; false for NaN.
template <typename Frame>
__device__ __forceinline__ bool lies_within(const PlainTile<Frame>& tile, Point<float> at) {
  // All at once, for each && would be a branch.
  return (at.x > tile.low_x) & (at.x < tile.end_x) & (at.y > tile.low_y) & (at.y < tile.end_y);
}

// Whether none does, and no padding rule brings any there. A tap of weight 0 counts: it has a slope.
template <typename Frame>
__device__ __forceinline__ bool lies_outside(const WarpParams& p, const PlainTile<Frame>& tile, Point<float> at) {
  const bool near =
      at.x >= tile.low_x - 1.0f && at.x < tile.end_x + 1.0f && at.y >= tile.low_y - 1.0f && at.y < tile.end_y + 1.0f;
  return !near && p.padding == Padding::kConstant;
}

// One axis of a position under its padding rule: linear_cell() for positions that float tells from the tile's own ends.
__device__ __forceinline__ AxisCell<float> edge_cell(const WarpParams& p, float position, float low, float end,
                                                     int origin) {
  Padded<float> padded = {position, 1.0f};
  if (p.padding != Padding::kConstant && !(position > low && position < end)) {
    padded = AnyPadding::apply(position, Extent<float>{-low, end - low + 1.0f, p.align_corners, p.padding});
  }
  // Two pixels beyond either edge all taps lie outside.
  const FlooredPosition floored = floor_cell(clamp_position(padded.position, low - 2.0f, end + 1.0f));
  return {origin + floored.whole, floored.rest, padded.slope};
}

// What one access of so many bytes brings.
template <int kBytes>
struct WordsOf {
  using type = uint4;
};
template <>
struct WordsOf<8> {
  using type = uint2;
};
template <>
struct WordsOf<4> {
  using type = unsigned;
};

// From global memory, which a pointer that is kept does not tell.
__device__ __forceinline__ float load_global(const float* at) { return __ldg(at); }
__device__ __forceinline__ float load_global(const std::uint8_t* at) { return widen(__ldg(at)); }

template <typename Narrow>
__device__ __forceinline__ float load_global(const Narrow* at) {
  return widen(Narrow{__ldg(&at->bits)});
}

// Elements of one sample, by their places from its first.
template <typename V>
class PlainImage {
 public:
  using Storage = typename V::Storage;

  __device__ __forceinline__ PlainImage(const WarpParams& p, i64 begin) {
    const auto strides = PlainStrides<V::kLayout>::of(p.image);
    const Storage* first = static_cast<const Storage*>(p.image.data) + begin;
#pragma unroll
    for (int k = 0; k < kPointers; ++k, first += strides.channel()) channels_[k] = kept(first);
  }

  // A pixel's channels.
  __device__ __forceinline__ Channels<float> load(unsigned place) const {
    Channels<float> value = {};
    if constexpr (V::kLayout == Layout::kPixels && V::kLanes == kChannelBlock) {
      const Words words = __ldg(reinterpret_cast<const Words*>(channels_[0] + place));
      Storage elements[kChannelBlock];
      __builtin_memcpy(elements, &words, sizeof elements);
#pragma unroll
      for (int c = 0; c < kChannelBlock; ++c) value.at[c] = widen(elements[c]);
    } else {
#pragma unroll
      for (int c = 0; c < V::kLanes; ++c) {
        value.at[c] = load_global(V::kLayout == Layout::kPlanes ? channels_[c] + place : channels_[0] + place + c);
      }
    }
    return value;
  }

  // The channels of the pixel `column` elements on. In planes that is one, which the access itself adds.
  __device__ __forceinline__ Channels<float> load_beside(unsigned place, unsigned column) const {
    if constexpr (V::kLayout == Layout::kPixels) {
      return load(place + column);
    } else {
      Channels<float> value = {};
#pragma unroll
      for (int c = 0; c < kPointers; ++c) value.at[c] = load_global(channels_[c] + place + 1);
      return value;
    }
  }

 private:
  static constexpr int kPointers = V::kLayout == Layout::kPlanes ? V::kLanes : 1;
  using Words = typename WordsOf<kChannelBlock * sizeof(Storage)>::type;  // of a packed pixel

  const Storage* channels_[kPointers];
};

template <typename V>
__device__ __forceinline__ void store_lanes(const Channels<float>& value, typename V::Storage* pixel,
                                            const PlainStrides<V::kLayout>& strides) {
  using Storage = typename V::Storage;
  if constexpr (V::kLayout == Layout::kPixels && V::kLanes == kChannelBlock) {
    Packed<Storage> all;
#pragma unroll
    for (int c = 0; c < kChannelBlock; ++c) all.at[c] = narrow<Storage>(value.at[c]);
    *reinterpret_cast<Packed<Storage>*>(pixel) = all;
  } else {
#pragma unroll
    for (int c = 0; c < V::kLanes; ++c, pixel += strides.channel()) *pixel = narrow<Storage>(value.at[c]);
  }
}

// Calls function(first, place) for each block of channels: its first, and where that lies in the image.
template <typename V, typename Function>
__device__ __forceinline__ void for_each_plain_block(const WarpParams& p, const Function& function) {
  if constexpr (V::kLanes < kChannelBlock) {
    function(0, 0u);
  } else {
    const int step = kChannelBlock * PlainStrides<V::kLayout>::of(p.image).channel();
    int place = 0;
#pragma unroll 1
    for (int first = 0; first < static_cast<int>(p.channels); first += kChannelBlock, place += step) {
      function(first, static_cast<unsigned>(place));
    }
  }
}

// A cell whose four taps lie in the image.
template <typename V>
struct InnerCell {
  unsigned upper, lower;  // where its left taps lie, in elements from the sample's first
  float across, down;     // the place within

  template <typename Frame>
  __device__ __forceinline__ InnerCell(const WarpParams& p, const PlainTile<Frame>& tile, Point<float> at) {
    const auto strides = PlainStrides<V::kLayout>::of(p.image);
    const FlooredPosition x = floor_cell(at.x), y = floor_cell(at.y);
    upper =
        static_cast<unsigned>((tile.origin_y + y.whole) * strides.row + (tile.origin_x + x.whole) * strides.column());
    lower = upper + static_cast<unsigned>(strides.row);
    across = x.rest;
    down = y.rest;
  }

  // Calls function(tap, x, y) for the taps of a block of channels, `block` elements from the sample's first; all of
  // them are loaded before the first call.
  template <typename Frame, typename Function>
  __device__ __forceinline__ void for_each_tap(const WarpParams& p, const PlainTile<Frame>& /*tile*/,
                                               const PlainImage<V>& image, int /*first*/, unsigned block,
                                               const Function& function) const {
    const unsigned column = static_cast<unsigned>(PlainStrides<V::kLayout>::of(p.image).column());
    const unsigned above = block + upper, below = block + lower;
    const Channels<float> taps[4] = {image.load(above), image.load_beside(above, column), image.load(below),
                                     image.load_beside(below, column)};
    const TapWeight<float> left = {1.0f - across, -1.0f}, right = {across, 1.0f}, up = {1.0f - down, -1.0f},
                           under = {down, 1.0f};
    function(taps[0], left, up);
    function(taps[1], right, up);
    function(taps[2], left, under);
    function(taps[3], right, under);
  }
};

// A cell some of whose taps lie outside.
template <typename V>
struct EdgeCell {
  AxisCell<float> x, y;

  template <typename Frame>
  __device__ __forceinline__ EdgeCell(const WarpParams& p, const PlainTile<Frame>& tile, Point<float> at)
      : x(edge_cell(p, at.x, tile.low_x, tile.end_x, tile.origin_x)),
        y(edge_cell(p, at.y, tile.low_y, tile.end_y, tile.origin_y)) {}

  template <typename Frame, typename Function>
  __device__ __forceinline__ void for_each_tap(const WarpParams& p, const PlainTile<Frame>& tile,
                                               const PlainImage<V>& image, int first, unsigned block,
                                               const Function& function) const {
    const auto strides = PlainStrides<V::kLayout>::of(p.image);
    const Channels<float> outside = outside_channels<float>(p, tile.sample, first, V::kLanes);
#pragma unroll 1
    for (int tap = 0; tap < 4; ++tap) {
      const int right = tap % 2, under = tap / 2, column = x.first + right, row = y.first + under;
      const bool inside = static_cast<unsigned>(column) < static_cast<unsigned>(p.width) &&
                          static_cast<unsigned>(row) < static_cast<unsigned>(p.height);
      const unsigned place = block + static_cast<unsigned>(row * strides.row + column * strides.column());
      function(inside ? image.load(place) : outside, linear_weight(right, x), linear_weight(under, y));
    }
  }
};

// Calls function(cell) for the cell of a position; not where all its taps lie outside, which is told.
template <typename V, typename Frame, typename Function>
__device__ __forceinline__ bool visit_cell(const WarpParams& p, const PlainTile<Frame>& tile, Point<float> at,
                                           const Function& function) {
  if (lies_within(tile, at)) {
    function(InnerCell<V>(p, tile, at));
  } else if (lies_outside(p, tile, at)) {
    return false;
  } else {
    function(EdgeCell<V>(p, tile, at));
  }
  return true;
}

// A pixel of a tile, counted from its first, and its position.
template <typename Position>
struct PlainPixel {
  int dx, dy;
  Position at;
};

// Calls inside(cell, pixel) for this thread's pixels of a tile, or outside(pixel) where all taps lie outside. Two that
// lie within the image are done at once: what one of them loads is too little to wait for.
template <typename V, typename Frame, typename Inside, typename Outside>
__device__ __forceinline__ void for_each_cell(const WarpParams& p, const PlainTile<Frame>& tile, int height,
                                              const Inside& inside, const Outside& outside) {
  const int dx = thread_column(), rows = plain_rows(p, tile, height);
  const auto pixel = [&](int dy) {
    const auto at = tile.frame.at(p, tile.sample, dx, dy);
    return PlainPixel<std::remove_const_t<decltype(at)>>{dx, dy, at};
  };
#pragma unroll 1
  for (int dy = thread_row(); dy < rows; dy += 2 * kBlockRows) {
    const int below = dy + kBlockRows;
    if (below < rows) {
      const auto one = pixel(dy), other = pixel(below);
      if (lies_within(tile, one.at) & lies_within(tile, other.at)) {
        inside(InnerCell<V>(p, tile, one.at), one);
        inside(InnerCell<V>(p, tile, other.at), other);
        continue;
      }
    }
#pragma unroll 1
    for (int row = dy; row <= below && row < rows; row += kBlockRows) {
      const auto one = pixel(row);
      if (!visit_cell<V>(p, tile, one.at, [&](const auto& cell) { inside(cell, one); })) outside(one);
    }
  }
}

// Where the gradient of an output pixel lies, from its first channel on.
template <typename Frame>
__device__ __forceinline__ i64 grad_place(const WarpParams& p, const PlainTile<Frame>& tile, int dx, int dy) {
  const int row = static_cast<int>(p.grad_output.row), column = static_cast<int>(p.grad_output.column);
  return tile.grad_output + static_cast<unsigned>((tile.first_y + dy) * row + (tile.first_x + dx) * column);
}

HARDFAST_END
