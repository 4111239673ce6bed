// CPU kernels of the warps: how the work is cut into items, and the entry points for each instruction set.
#pragma once

#include <cstdint>

#include "../warp_params.h"

namespace hardfast {

// Items are tiles of the output (forward), strips of it (gradients to parameters) or tiles of the input (gradient to
// the image). Their number depends on the shapes alone, never on the threads, and so do all results.
struct Tiling {
  std::int64_t rows, columns;  // tiles of a sample
  std::int64_t tile_height, tile_width;

  std::int64_t count() const { return rows * columns; }
};

inline Tiling split_evenly(std::int64_t height, std::int64_t width, std::int64_t max_height, std::int64_t max_width) {
  const std::int64_t rows = (height + max_height - 1) / max_height, columns = (width + max_width - 1) / max_width;
  // Even sides: tiles then begin at even pixels, and ties of "nearest" round as they do in the whole image.
  const std::int64_t tile_height = ((height + rows - 1) / rows + 1) / 2 * 2;
  const std::int64_t tile_width = ((width + columns - 1) / columns + 1) / 2 * 2;
  return {(height + tile_height - 1) / tile_height, (width + tile_width - 1) / tile_width, tile_height, tile_width};
}

// Square tiles read the fewest pixels twice under rotation. At 128 the window of one still fits the second-level
// cache; 64 was 1.6 times and 32 twice as slow, for the pixels around each tile that are packed again.
inline Tiling output_tiling(const WarpParams& p) { return split_evenly(p.out_height, p.out_width, 128, 128); }

// Wide tiles: a tile of the input is visited by whole runs of output rows. With its ring it fits a window.
inline Tiling input_tiling(const WarpParams& p) {
  return p.dtype == DType::kFloat64 ? split_evenly(p.height, p.width, 48, 252)
                                    : split_evenly(p.height, p.width, 104, 252);
}

// Tiles of the output whose reach into the input is noted (16 bytes each), for the gradient to the image: of fewer
// pixels where these lie further apart there.
inline Tiling reach_tiling(const WarpParams& p) {
  const auto side = [](std::int64_t most, std::int64_t least, std::int64_t output, std::int64_t input) {
    const std::int64_t scaled = output < input ? most * output / input : most;
    return scaled > least ? scaled : least;
  };
  return split_evenly(p.out_height, p.out_width, side(32, 4, p.out_height, p.height),
                      side(64, 16, p.out_width, p.width));
}

// Whether the output rows that touch a tile of the input follow from the map: from an affine one, which no reflection
// folds.
inline bool inverts_map(const WarpParams& p) { return p.map == Map::kAffine && p.padding != Padding::kReflection; }

// Where one tile owns all of the input every output tile is visited.
inline bool needs_reaches(const WarpParams& p) { return !inverts_map(p) && input_tiling(p).count() > 1; }

// First and last pixel, both inclusive, that a tile of the output can touch.
struct Reach {
  std::int32_t first_x, last_x, first_y, last_y;
};

// Few strips a sample, so that their partial sums are small beside the image.
inline std::int64_t strips(const WarpParams& p) {
  const std::int64_t rows = output_tiling(p).rows;
  return rows < 16 ? rows : 16;
}

// How the gradient to a flow comes about.
enum class FlowGradient {
  kDirect,  // a control point for every output pixel: each pixel writes its own
  kStrips,  // a small grid: partial sums, as for the other maps
  kBands    // else a band of control rows is owned by one item, which visits the output rows that touch it
};

inline FlowGradient flow_gradient(const WarpParams& p) {
  const bool dense = p.flow_height == p.out_height && p.flow_width == p.out_width;
  if (dense && !p.spline && p.samples_y * p.samples_x == 1 && p.map_count == p.batch) return FlowGradient::kDirect;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : p.dtype == DType::kFloat32 ? 4 : 2;
  const bool small =
      2 * 8 * 32 * p.flow_height * p.flow_width * strips(p) <= element * p.channels * p.out_height * p.out_width;
  return p.map_count == 1 && small ? FlowGradient::kStrips : FlowGradient::kBands;
}

// Control rows of a band: 64 KiB of sums or one row, and no less than four times what neighbours share.
inline std::int64_t band_rows(const WarpParams& p) {
  const std::int64_t fitting = 4096 / p.flow_width, least = fitting > 16 ? fitting : 16;
  const std::int64_t scratch_limit = (std::int64_t{1} << 20) / p.flow_width;
  const std::int64_t rows = least < scratch_limit ? least : scratch_limit;
  return rows > 1 ? (rows < p.flow_height ? rows : p.flow_height) : 1;
}

inline std::int64_t bands(const WarpParams& p) { return (p.flow_height + band_rows(p) - 1) / band_rows(p); }

// Doubles of an item's partial sums: the map's, then those of fill and of color.
inline std::int64_t map_sums(const WarpParams& p) {
  switch (p.map) {
    case Map::kAffine: return p.grad_matrix ? 6 : 0;
    case Map::kProjective: return p.grad_matrix ? 9 : 0;
    case Map::kThinPlate: return p.grad_points || p.grad_weights ? 4 * p.control_points + 6 : 0;
    default: return p.grad_flow && flow_gradient(p) == FlowGradient::kStrips ? 2 * p.flow_height * p.flow_width : 0;
  }
}

inline std::int64_t fill_sums(const WarpParams& p) { return p.grad_fill ? p.channels : 0; }
inline std::int64_t color_sums(const WarpParams& p) { return p.grad_color ? p.channels * (p.channels + 1) : 0; }
inline std::int64_t item_sums(const WarpParams& p) { return map_sums(p) + fill_sums(p) + color_sums(p); }

struct WarpScratch {
  double* sums = nullptr;    // [B, strips, item_sums]
  Reach* reaches = nullptr;  // [B, tiles of reach_tiling]
};

typedef void WarpRange(const WarpParams&, const WarpScratch&, std::int64_t begin, std::int64_t end);

struct WarpKernels {
  WarpRange* forward;          // items: samples x output tiles
  WarpRange* grad_parameters;  // items: samples x strips. Sums of map, fill and color; a flow that is kDirect
  WarpRange* join;             // one item: the sums become the gradients
  WarpRange* grad_flow;        // items: flows x bands, for kBands
  WarpRange* reaches;          // items: samples
  WarpRange* grad_image;       // items: images x input tiles
};

}  // namespace hardfast
