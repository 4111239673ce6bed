// CPU kernels of affine_warp: how the work is cut into items, and the entry points for each instruction set.
#pragma once

#include <cstdint>

#include "../warp_params.h"

namespace hardfast {

// Items are tiles of the output (forward, gradient to theta) or of the input (gradient to the image). Their number
// depends on the shapes alone, never on the threads, and so do all results.
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
inline Tiling output_tiling(const AffineWarpParams& p) { return split_evenly(p.out_height, p.out_width, 128, 128); }

// Wide tiles: a tile of the input is visited by whole runs of output rows. With its ring it fits a window.
inline Tiling input_tiling(const AffineWarpParams& p) {
  return p.dtype == DType::kFloat64 ? split_evenly(p.height, p.width, 48, 252)
                                    : split_evenly(p.height, p.width, 104, 252);
}

struct AffineWarpKernels {
  void (*forward_range)(const AffineWarpParams&, std::int64_t begin, std::int64_t end);
  void (*grad_theta_range)(const AffineWarpParams&, std::int64_t begin, std::int64_t end);
  void (*reduce_theta_range)(const AffineWarpParams&, std::int64_t begin, std::int64_t end);  // items are samples
  void (*grad_image_range)(const AffineWarpParams&, std::int64_t begin, std::int64_t end);
};

}  // namespace hardfast
