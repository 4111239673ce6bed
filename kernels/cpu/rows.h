// Rows of pixels between memory (any dtype, NCHW or channels last) and four-lane pixels in scratch.
#pragma once

#include <cstdint>

#include "../math/half.h"
#include "../warp_params.h"
#include "vectors.h"

HARDFAST_BEGIN

// Calls function(Storage{}) with the type that pixels have in memory, for arithmetic in T.
template <typename T, typename Function>
inline void with_storage(DType dtype, const Function& function) {
  if constexpr (sizeof(T) == sizeof(double)) {
    function(double{});
  } else {
    switch (dtype) {
      case DType::kFloat16: return function(Half{});
      case DType::kBFloat16: return function(BFloat16{});
      case DType::kUInt8: return function(std::uint8_t{});
      default: return function(float{});
    }
  }
}

// Widens n elements. Contiguous rows get a loop of their own, which vectorises.
template <typename T, typename Storage>
inline void widen_row(const Storage* source, std::int64_t stride, std::int64_t n, T* target) {
  if (stride == 1) {
    for (std::int64_t i = 0; i < n; ++i) target[i] = widen(source[i]);
  } else {
    for (std::int64_t i = 0; i < n; ++i) target[i] = widen(source[i * stride]);
  }
}

template <typename Storage, typename T>
inline void narrow_row(const T* source, std::int64_t n, Storage* target) {
  for (std::int64_t i = 0; i < n; ++i) target[i] = narrow<Storage>(source[i]);
}

// n elements as T: in place where the memory already holds them so, else converted into `buffer`.
inline const float* row_as(DType dtype, const void* data, std::int64_t offset, std::int64_t stride, std::int64_t n,
                           float* buffer) {
  switch (dtype) {
    case DType::kFloat16: widen_row(static_cast<const Half*>(data) + offset, stride, n, buffer); break;
    case DType::kBFloat16: widen_row(static_cast<const BFloat16*>(data) + offset, stride, n, buffer); break;
    case DType::kUInt8: widen_row(static_cast<const std::uint8_t*>(data) + offset, stride, n, buffer); break;
    default: {
      const float* source = static_cast<const float*>(data) + offset;
      if (stride == 1) return source;
      widen_row(source, stride, n, buffer);
    }
  }
  return buffer;
}

inline const double* row_as(DType /*dtype*/, const void* data, std::int64_t offset, std::int64_t stride, std::int64_t n,
                            double* buffer) {
  const double* source = static_cast<const double*>(data) + offset;
  if (stride == 1) return source;
  widen_row(source, stride, n, buffer);
  return buffer;
}

// A place to write n elements of T to; commit_row() then brings them to memory where that is elsewhere.
inline float* row_target(DType dtype, void* data, std::int64_t offset, float* buffer) {
  return dtype == DType::kFloat32 ? static_cast<float*>(data) + offset : buffer;
}

inline double* row_target(DType /*dtype*/, void* data, std::int64_t offset, double* /*buffer*/) {
  return static_cast<double*>(data) + offset;
}

inline void commit_row(DType dtype, void* data, std::int64_t offset, const float* row, std::int64_t n) {
  if (dtype == DType::kFloat16) narrow_row(row, n, static_cast<Half*>(data) + offset);
  if (dtype == DType::kBFloat16) narrow_row(row, n, static_cast<BFloat16*>(data) + offset);
  if (dtype == DType::kUInt8) narrow_row(row, n, static_cast<std::uint8_t*>(data) + offset);
}

inline void commit_row(DType /*dtype*/, void* /*data*/, std::int64_t /*offset*/, const double* /*row*/,
                       std::int64_t /*n*/) {}

// Calls function(i) for eight elements from i on, until all n were among them: the last eight overlap those before. Of
// fewer than eight there are eight all the same.
template <typename Function>
__attribute__((always_inline)) inline void for_each_eight(std::int64_t n, const Function& function) {
  for (std::int64_t i = 0; i < n - 7; i += 8) function(i);
  if (n % 8 != 0) function(n < 8 ? 0 : n - 8);
}

template <typename T>
inline void copy_row(const T* source, std::int64_t n, T* target) {
  if (n >= 8) return for_each_eight(n, [&](std::int64_t i) { store8(target + i, load8(source + i)); });
  for (std::int64_t i = 0; i < n; ++i) target[i] = source[i];
}

// Rows become n pixels of four lanes; lanes beyond the rows are zero.
template <int kRows, typename T>
inline void interleave_rows(const T* const (&rows)[4], std::int64_t n, T* pixels) {
  const T *const a = rows[0], *const b = rows[1], *const c = rows[2], *const d = rows[3];
  const Vec8<T> zero{};
  // Even pixels before odd ones: each vector then is two neighbours, and half as many are stored.
  const auto load = [](const T* row) __attribute__((always_inline)) {
    const Vec8<T> values = load8(row);
    return Vec8<T>(__builtin_shufflevector(values, values, 0, 2, 4, 6, 1, 3, 5, 7));
  };
  const auto interleave = [&](std::int64_t i) __attribute__((always_inline)) {
    Vec8<T> v[4] = {load(a + i), load(b + i), kRows > 2 ? load(c + i) : zero, kRows > 3 ? load(d + i) : zero};
    transpose_fours(v[0], v[1], v[2], v[3]);
    for (int k = 0; k < 4; ++k) store8(pixels + 4 * i + 8 * k, v[k]);
  };
  if (n >= 8) return for_each_eight(n, interleave);
  for (std::int64_t i = 0; i < n; ++i) {
    store4(pixels + 4 * i, Vec4<T>{a[i], b[i], kRows > 2 ? c[i] : T(0), kRows > 3 ? d[i] : T(0)});
  }
}

// The reverse. Rows that are not wanted may alias a row of junk.
template <typename T>
inline void deinterleave4(const T* pixels, std::int64_t n, T* a, T* b, T* c, T* d) {
  std::int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    Vec4<T> va = load4(pixels + 4 * i), vb = load4(pixels + 4 * i + 4);
    Vec4<T> vc = load4(pixels + 4 * i + 8), vd = load4(pixels + 4 * i + 12);
    transpose_fours(va, vb, vc, vd);
    store4(a + i, va);
    store4(b + i, vb);
    store4(c + i, vc);
    store4(d + i, vd);
  }
  for (; i < n; ++i) {
    a[i] = pixels[4 * i];
    b[i] = pixels[4 * i + 1];
    c[i] = pixels[4 * i + 2];
    d[i] = pixels[4 * i + 3];
  }
}

// Whether pixels have another type in memory than in the arithmetic.
inline bool converts(DType dtype) { return dtype != DType::kFloat32 && dtype != DType::kFloat64; }

// A pixel in memory as four lanes, of which it has kLanes.
template <int kLanes, typename T, typename Storage>
HARDFAST_HD Vec4<T> read_pixel(const Storage* pixel, std::int64_t channel) {
  Vec4<T> lanes{};
  for (int k = 0; k < kLanes; ++k) lanes[k] = widen(pixel[k * channel]);
  return lanes;
}

// The first lanes of a pixel, to channels side by side in memory.
template <typename T, typename Storage>
HARDFAST_HD void write_pixel(Vec4<T> pixel, std::int64_t lanes, Storage* target) {
  Storage values[4];
  for (int k = 0; k < 4; ++k) values[k] = narrow<Storage>(pixel[k]);
  if (lanes == 4) {
    __builtin_memcpy(target, values, sizeof values);
  } else {
    for (std::int64_t k = 0; k < lanes; ++k) target[k] = values[k];
  }
}

// Up to four channels of one tensor, and how to reach them.
struct ChannelBlock {
  DType dtype;
  std::int64_t first;     // channel
  std::int64_t lanes;     // 1 to 4
  std::int64_t channels;  // of the whole tensor
};

// Pixels stored with their channels side by side.
template <typename Void>
inline bool is_interleaved(const ImageView<Void>& view, std::int64_t channels) {
  return channels > 1 && view.channel == 1 && view.column == channels;
}

// n elements of each of a block's channels, in place where memory holds them so, else in `rows`, of 4 * n elements. The
// rows beyond the block's are not to be read.
template <typename T>
inline void channel_rows(const ImageView<const void>& view, const ChannelBlock& block, std::int64_t offset,
                         std::int64_t n, T* rows, const T* (&lane)[4]) {
  if (view.column == 1 && !converts(block.dtype)) {
    const T* first = static_cast<const T*>(view.data) + offset;
    for (int k = 0; k < 4; ++k) lane[k] = first + k * view.channel;
    return;
  }
  for (std::int64_t k = 0; k < block.lanes; ++k) {
    lane[k] = row_as(block.dtype, view.data, offset + k * view.channel, view.column, n, rows + k * n);
  }
}

// n pixels of a block as four lanes each; lanes beyond the block's are zero. `rows` holds 4 * n elements.
template <typename T>
inline void load_pixels(const ImageView<const void>& view, const ChannelBlock& block, std::int64_t offset,
                        std::int64_t n, T* rows, T* pixels) {
  offset += block.first * view.channel;
  if (is_interleaved(view, block.channels) && (!converts(block.dtype) || block.channels <= 4)) {
    // One widened run of all channels; each pixel is then one load. The last ones would read past the run.
    const std::int64_t run = (n - 1) * block.channels + block.lanes;
    const T* source = row_as(block.dtype, view.data, offset, 1, run, rows);
    typedef decltype(Vec4<T>{} < Vec4<T>{}) Mask;
    const Mask lane = {0, 1, 2, 3};
    const Mask used = lane < static_cast<decltype(lane[0] + 0)>(block.lanes);
    const std::int64_t fitting = run < 4 ? 0 : (run - 4) / block.channels + 1, whole = fitting < n ? fitting : n;
    const auto load = [&](std::int64_t i) __attribute__((always_inline)) {
      return used ? load4(source + i * block.channels) : Vec4<T>{};
    };
    std::int64_t i = 0;
    for (; i + 4 <= whole; i += 4) {
      for (int k = 0; k < 4; ++k) store4(pixels + 4 * (i + k), load(i + k));
    }
    for (; i < whole; ++i) store4(pixels + 4 * i, load(i));
    for (; i < n; ++i) {
      Vec4<T> last{};
      for (std::int64_t k = 0; k < block.lanes; ++k) last[k] = source[i * block.channels + k];
      store4(pixels + 4 * i, last);
    }
    return;
  }
  if (view.channel == 1 && block.lanes == 4) {
    return with_storage<T>(block.dtype, [&](auto storage) {
      const auto* first = static_cast<const decltype(storage)*>(view.data) + offset;
      for (std::int64_t i = 0; i < n; ++i) store4(pixels + 4 * i, read_pixel<4, T>(first + i * view.column, 1));
    });
  }
  const T* lane[4] = {};
  channel_rows(view, block, offset, n, rows, lane);
  switch (block.lanes) {
    case 2: return interleave_rows<2>(lane, n, pixels);
    case 3: return interleave_rows<3>(lane, n, pixels);
    default: return interleave_rows<4>(lane, n, pixels);
  }
}

// Where n elements of each of a block's channels go; the rows beyond its lanes are junk. `rows` holds 4 * n elements.
template <typename T>
inline void block_rows(const ImageView<void>& view, const ChannelBlock& block, std::int64_t at, std::int64_t n, T* rows,
                       T* (&lane)[4]) {
  for (std::int64_t k = 0; k < 4; ++k) {
    T* buffer = rows + k * n;
    lane[k] =
        k < block.lanes ? row_target(block.dtype, view.data, at + (block.first + k) * view.channel, buffer) : buffer;
  }
}

template <typename T>
inline void commit_rows(const ImageView<void>& view, const ChannelBlock& block, std::int64_t at, std::int64_t n,
                        T* const (&lane)[4]) {
  if (!converts(block.dtype)) return;
  for (std::int64_t k = 0; k < block.lanes; ++k) {
    commit_row(block.dtype, view.data, at + (block.first + k) * view.channel, lane[k], n);
  }
}

// The reverse of load_pixels, into contiguous rows or channels-last pixels. `rows` holds 4 * n elements.
template <typename T>
inline void store_pixels(const ImageView<void>& view, const ChannelBlock& block, std::int64_t at, std::int64_t n,
                         const T* pixels, T* rows) {
  const std::int64_t offset = at + block.first * view.channel;
  if (is_interleaved(view, block.channels)) {
    if (block.channels == block.lanes) {
      T* run = row_target(block.dtype, view.data, offset, rows);
      std::int64_t i = 0;
      // Four lanes are stored for fewer channels: the next pixel overwrites the rest.
      for (; (i + 1) * block.channels + 4 <= n * block.channels; ++i) {
        store4(run + i * block.channels, load4(pixels + 4 * i));
      }
      for (; i < n; ++i) {
        for (std::int64_t k = 0; k < block.lanes; ++k) run[i * block.channels + k] = pixels[4 * i + k];
      }
      commit_row(block.dtype, view.data, offset, run, n * block.channels);
    } else {
      with_storage<T>(block.dtype, [&](auto storage) {
        auto* const first = static_cast<decltype(storage)*>(view.data) + offset;
        for (std::int64_t i = 0; i < n; ++i) {
          write_pixel<T>(load4(pixels + 4 * i), block.lanes, first + i * view.column);
        }
      });
    }
    return;
  }
  T* lane[4];
  block_rows(view, block, at, n, rows, lane);
  deinterleave4(pixels, n, lane[0], lane[1], lane[2], lane[3]);
  commit_rows(view, block, at, n, lane);
}

// n values of the block's only channel, from where they may be narrowed in place.
template <typename T>
inline void store_plane(const ImageView<void>& view, const ChannelBlock& block, std::int64_t at, std::int64_t n,
                        T* values) {
  const std::int64_t offset = at + block.first * view.channel;
  const std::int64_t runs = view.column == 1 ? 1 : n, length = view.column == 1 ? n : 1;
  for (std::int64_t run = 0; run < runs; ++run) {
    T* source = values + run * length;
    T* target = row_target(block.dtype, view.data, offset + run * view.column, source);
    for (std::int64_t k = 0; k < length; ++k) target[k] = source[k];
    commit_row(block.dtype, view.data, offset + run * view.column, target, length);
  }
}

HARDFAST_END
