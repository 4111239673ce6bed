// Which calls are plain, and their launches.
#pragma once

#include "launching.h"
#include "plain_forward.h"
#include "plain_grad.h"

HARDFAST_BEGIN

// Whether the places of all pixels, and of what a tile or a tap has beyond the edges, fit 32 bits.
template <typename Void>
inline bool fits_plain(const ImageView<Void>& view, i64 channels, i64 height, i64 width) {
  return (channels - 1) * view.channel + (height + kTallTile) * view.row + (width + kTileWidth) * view.column <
         kPlainElements;
}

inline bool is_plain(const WarpParams& p) {
  const bool sides = larger(larger(p.height, p.width), larger(p.out_height, p.out_width)) <= kPlainSide;
  return sides && p.mode == Mode::kBilinear && p.dtype != DType::kFloat64 && p.samples_y * p.samples_x == 1 &&
         !p.color.data && fits_plain(p.image, p.channels, p.height, p.width) &&
         fits_plain(p.output, p.channels, p.out_height, p.out_width) &&
         fits_plain(p.grad_output, p.channels, p.out_height, p.out_width) &&
         fits_plain(p.grad_image, p.channels, p.height, p.width) &&
         fits_plain(p.flow, 2, p.flow_height, p.flow_width) && p.batch * output_tiling(p).count() <= kMaxBlocks;
}

// The frame that plain kernels take in place of a general one: their positions are those of whole pixels of a tile.
static_assert(kTileWidth <= 32 && kTallTile <= 32, "TilePlane");
template <typename Frame>
struct PlainFrame {
  using type = Frame;
};
template <>
struct PlainFrame<FlowFrame<float>> {
  using type = TileFlowFrame<float>;
};
template <>
struct PlainFrame<ProjectiveFrame<float>> {
  using type = ProjectiveFrame<float, TilePlane<float>>;
};

inline bool is_dense_flow(const WarpParams& p) {
  return p.map == Map::kFlow && !p.spline && p.flow_height == p.out_height && p.flow_width == p.out_width;
}

// Whether one access may bring four channels of a pixel.
template <typename Void>
inline bool is_packed(const ImageView<Void>& view, DType dtype) {
  const std::uintptr_t bytes = dtype == DType::kFloat32 ? 16 : (dtype == DType::kUInt8 ? 4 : 8);
  return (view.batch | view.row | view.column) % kChannelBlock == 0 &&
         reinterpret_cast<std::uintptr_t>(view.data) % bytes == 0;
}

// Calls function(PlainVariant) for the layout of image and output, if there is one; else returns false.
template <typename Storage, typename Function>
bool with_layout(const WarpParams& p, const Function& function) {
  const bool planes = p.image.column == 1 && (!p.output.data || p.output.column == 1);
  const bool pixels = p.image.channel == 1 && (!p.output.data || p.output.channel == 1);
  const bool fours = p.channels % kChannelBlock == 0;
  if (planes && p.channels == 1) return function(PlainVariant<Storage, Layout::kPlanes, 1>{}), true;
  if (planes && p.channels == 3) return function(PlainVariant<Storage, Layout::kPlanes, 3>{}), true;
  if (planes && fours) return function(PlainVariant<Storage, Layout::kPlanes, 4>{}), true;
  if (pixels && p.channels == 3) return function(PlainVariant<Storage, Layout::kPixels, 3>{}), true;
  if (pixels && fours && is_packed(p.image, p.dtype) && is_packed(p.output, p.dtype)) {
    return function(PlainVariant<Storage, Layout::kPixels, 4>{}), true;
  }
  return false;
}

// Calls function(PlainVariant) for a plain call, and returns false for another.
template <bool kBytes, typename Function>
bool with_plain(const WarpParams& p, const Function& function) {
  if (!is_plain(p)) return false;
  switch (p.dtype) {
    case DType::kFloat16: return with_layout<Half>(p, function);
    case DType::kBFloat16: return with_layout<BFloat16>(p, function);
    case DType::kUInt8:
      if constexpr (kBytes) return with_layout<std::uint8_t>(p, function);
      return false;
    default: return with_layout<float>(p, function);
  }
}

inline unsigned tile_blocks(const WarpParams& p) { return grid_size(p.batch * output_tiling(p).count()); }

// Each returns whether there was a kernel to launch.
template <typename Frame>
bool launch_plain_forward(const WarpParams& p, cudaStream_t stream) {
  return with_plain<true>(p, [&](auto variant) {
    launch(warp_plain_forward_kernel<Frame, decltype(variant)>, tile_blocks(p), stream, p, output_tiling(p));
  });
}

template <typename Frame, int kForms>
bool launch_plain_grad_matrix(const WarpParams& p, double* sums, cudaStream_t stream) {
  const OutputTiling tiling = output_tiling(p);
  const Strips cut = strips(p, tiling.count(), 3 * kForms);
  return with_plain<false>(p, [&](auto variant) {
    launch(warp_plain_grad_matrix_kernel<Frame, decltype(variant), kForms>, grid_size(p.batch * cut.count), stream, p,
           tiling, cut, sums);
  });
}

HARDFAST_END
