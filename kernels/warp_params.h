// What a warp kernel is told: raw pointers, sizes and strides, no tensor.
#pragma once

#include <cstdint>

namespace hardfast {

enum class DType { kFloat32, kFloat64, kFloat16, kBFloat16, kUInt8 };
enum class Mode { kBilinear, kNearest, kBicubic };
enum class Padding { kConstant, kBorder, kReflection };
enum class Map { kAffine, kProjective, kFlow, kThinPlate };

// [B, C, H, W] in any memory format; strides in elements.
template <typename Void>
struct ImageView {
  Void* data = nullptr;
  std::int64_t batch = 0, channel = 0, row = 0, column = 0;
};

// [B, rows, columns]; strides in elements.
struct MatrixView {
  const void* data = nullptr;
  std::int64_t batch = 0, row = 0, column = 0;
};

// Sizes of one axis of the input against both axes of the output, as PyTorch's affine_grid and grid_sample
// relate them.
struct AxisScale {
  double per_column;   // input pixels per output column, at theta = 1
  double per_row;      // input pixels per output row, at theta = 1
  double half_extent;  // half the image, in input pixels
  double offset;       // from the image's edge to the centre of its first pixel
};

struct MapScale {
  AxisScale x, y;
  double unit_x, unit_y;  // normalised units per output pixel
};

// How control points lie along one axis of the output, as F.interpolate places them.
struct FlowAxis {
  double per_pixel, offset;  // control position = per_pixel * output position + offset
  std::int64_t length;       // control points
  bool spline;
};

struct WarpParams {
  std::int64_t batch, channels, height, width, out_height, out_width;
  std::int64_t samples_y, samples_x;  // sub-samples of an output pixel, whose mean it is
  DType dtype;  // of image, output and their gradients; all else is float64 for float64 and float32 otherwise
  Mode mode;
  Padding padding;
  Map map;
  bool align_corners;
  MapScale scale;  // of these sizes, by set_scales(): divisions that no block of a GPU need repeat

  // How many there are: `batch`, or 1 where all samples share one. A shared one has batch stride 0, and its gradient
  // is the sum over the batch.
  std::int64_t image_count, map_count, fill_count, color_count;

  MatrixView matrix;                      // theta [B, 2, 3] or homography [B, 3, 3]
  ImageView<const void> flow;             // [B, 2, flow_height, flow_width], channel 0 is x
  std::int64_t flow_height, flow_width;   // of the control grid
  bool spline;                            // flow between control values: cubic B-spline, else bilinear
  FlowAxis flow_columns, flow_rows;       // by set_scales()
  std::int64_t control_points;            // K of the thin-plate spline
  MatrixView points;                      // [B, K, 2]
  MatrixView weights;                     // [B, K + 3, 2], the last three rows those of 1, x and y
  const void* fill;                       // [B, C], or null for zeros
  std::int64_t fill_batch, fill_channel;  // strides
  MatrixView color;                       // [B, C, C + 1], C <= 4, or null data

  ImageView<const void> image;        // [B, C, H, W]
  ImageView<void> output;             // [B, C, H_out, W_out], contiguous or channels last
  ImageView<const void> grad_output;  // [B, C, H_out, W_out]

  // Gradients, null where not asked for. All but that of the image are contiguous, of the shape of their input.
  ImageView<void> grad_image;  // [image_count, C, H, W], contiguous or channels last
  void* grad_matrix;           // [map_count, 2 or 3, 3]
  void* grad_flow;             // [map_count, 2, flow_height, flow_width]
  void* grad_points;           // [map_count, K, 2]
  void* grad_weights;          // [map_count, K + 3, 2]
  void* grad_fill;             // [fill_count, C]
  void* grad_color;            // [color_count, C, C + 1]
};

}  // namespace hardfast
