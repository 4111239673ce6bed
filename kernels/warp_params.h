// What a warp kernel is told: raw pointers, sizes and strides, no tensor.
#pragma once

#include <cstdint>

namespace hardfast {

enum class DType { kFloat32, kFloat64, kFloat16, kBFloat16 };
enum class Mode { kBilinear, kNearest };
enum class Padding { kConstant, kBorder, kReflection };

// [B, C, H, W] in any memory format; strides in elements.
template <typename Void>
struct ImageView {
  Void* data = nullptr;
  std::int64_t batch = 0, channel = 0, row = 0, column = 0;
};

struct AffineWarpParams {
  std::int64_t batch, channels, height, width, out_height, out_width;
  DType dtype;  // of image, output and their gradients; theta and fill are float64 for float64 and float32 otherwise
  Mode mode;
  Padding padding;
  bool align_corners;

  const void* theta;  // [B, 2, 3]
  std::int64_t theta_batch, theta_row, theta_column;
  const void* fill;  // [B, C], or null for zeros
  std::int64_t fill_batch, fill_channel;

  ImageView<const void> image;        // [B, C, H, W]
  ImageView<void> output;             // [B, C, H_out, W_out], contiguous or channels last
  ImageView<const void> grad_output;  // [B, C, H_out, W_out]
  ImageView<void> grad_image;         // [B, C, H, W], contiguous or channels last
  void* grad_theta;                   // [B, 2, 3], contiguous
  double* grad_theta_sums;            // [B, tiles, 6], scratch: partial sums in a fixed order
};

}  // namespace hardfast
