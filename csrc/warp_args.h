// The arguments of the warps as WarpParams, for every device.
#pragma once

#include "../kernels/math/scales.h"
#include "tensor_args.h"

namespace hardfast {

// What all warps are told besides the image and their map.
struct WarpOptions {
  const std::optional<Tensor>& fill;
  const std::optional<Tensor>& color;
  const std::vector<int64_t>& samples;
  const std::string& mode;
  const std::string& padding_mode;
  bool align_corners;
};

// The batch size that a tensor brings to those so far: 1 goes with any.
inline int64_t join_batch(int64_t batch, const Tensor& tensor, const char* name) {
  const int64_t count = tensor.size(0);
  STD_TORCH_CHECK(batch == count || batch == 1 || count == 1, name, " has batch size ", count, ", and others ", batch);
  return batch == 1 ? count : batch;
}

inline int64_t batch_stride(const Tensor& tensor) { return tensor.size(0) == 1 ? 0 : tensor.stride(0); }

inline MatrixView matrix_view(const Tensor& tensor) {
  return {tensor.const_data_ptr(), batch_stride(tensor), tensor.stride(1), tensor.stride(2)};
}

inline Mode mode_of(const std::string& mode) {
  if (mode == "nearest") return Mode::kNearest;
  return mode == "bicubic" ? Mode::kBicubic : Mode::kBilinear;
}

inline Padding padding_of(const std::string& padding_mode) {
  if (padding_mode == "border") return Padding::kBorder;
  return padding_mode == "reflection" ? Padding::kReflection : Padding::kConstant;
}

inline void check_parameter(const Tensor& tensor, const Tensor& image, int64_t dim, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == dim && tensor.scalar_type() == compute_type(image), name, " must have ", dim,
                  " dimensions, in float64 for a float64 image and float32 otherwise");
}

// Everything but the map with its scales, the outputs and the gradients. `batch` is that of the map's tensors.
inline WarpParams warp_params(Map map, const Tensor& image, int64_t map_batch, const WarpOptions& options,
                              int64_t out_height, int64_t out_width) {
  constexpr int64_t kMaxSide = (int64_t{1} << 31) - 8;
  STD_TORCH_CHECK(image.dim() == 4 && image.size(2) > 0 && image.size(3) > 0, "image must be [B, C, H, W]");
  STD_TORCH_CHECK(image.size(2) < kMaxSide && image.size(3) < kMaxSide && out_height < kMaxSide && out_width < kMaxSide,
                  "image sides must be below 2^31 - 8 pixels");
  STD_TORCH_CHECK(out_height >= 0 && out_width >= 0, "sizes must not be negative");
  WarpParams p{};
  p.map = map;
  p.batch = join_batch(map_batch, image, "image");
  p.image_count = image.size(0);
  p.map_count = map_batch;
  p.fill_count = p.color_count = 1;
  p.channels = image.size(1);
  p.height = image.size(2);
  p.width = image.size(3);
  p.out_height = out_height;
  p.out_width = out_width;
  p.samples_y = options.samples.at(0);
  p.samples_x = options.samples.at(1);
  STD_TORCH_CHECK(p.samples_y > 0 && p.samples_x > 0 && p.samples_y < kMaxSide && p.samples_x < kMaxSide,
                  "samples must be positive");
  p.dtype = image_dtype_of(image);
  p.mode = mode_of(options.mode);
  p.padding = padding_of(options.padding_mode);
  p.align_corners = options.align_corners;
  if (options.fill) {
    const Tensor& fill = *options.fill;
    check_parameter(fill, image, 2, "fill");
    STD_TORCH_CHECK(fill.size(1) == p.channels, "fill must be [1 or B, C]");
    p.batch = join_batch(p.batch, fill, "fill");
    p.fill_count = fill.size(0);
    p.fill = fill.const_data_ptr();
    p.fill_batch = batch_stride(fill);
    p.fill_channel = fill.stride(1);
  }
  if (options.color) {
    const Tensor& color = *options.color;
    check_parameter(color, image, 3, "color");
    STD_TORCH_CHECK(p.channels <= 4 && color.size(1) == p.channels && color.size(2) == p.channels + 1,
                    "color must be [1 or B, C, C + 1] with C <= 4");
    p.batch = join_batch(p.batch, color, "color");
    p.color_count = color.size(0);
    p.color = matrix_view(color);
  }
  p.image = image_view(image);
  p.image.batch = batch_stride(image);
  return p;
}

inline WarpParams matrix_warp_params(Map map, const Tensor& image, const Tensor& matrix, const WarpOptions& options,
                                     int64_t out_height, int64_t out_width) {
  check_parameter(matrix, image, 3, "the matrix of the map");
  STD_TORCH_CHECK(matrix.size(1) == (map == Map::kAffine ? 2 : 3) && matrix.size(2) == 3,
                  "theta must be [1 or B, 2, 3], homography [1 or B, 3, 3]");
  WarpParams p = warp_params(map, image, matrix.size(0), options, out_height, out_width);
  p.matrix = matrix_view(matrix);
  set_scales(p);
  return p;
}

inline WarpParams flow_warp_params(const Tensor& image, const Tensor& flow, const WarpOptions& options,
                                   const std::string& interpolation, int64_t out_height, int64_t out_width) {
  check_parameter(flow, image, 4, "flow");
  STD_TORCH_CHECK(flow.size(1) == 2 && flow.size(2) > 0 && flow.size(3) > 0, "flow must be [1 or B, 2, h, w]");
  WarpParams p = warp_params(Map::kFlow, image, flow.size(0), options, out_height, out_width);
  p.flow = image_view(flow);
  p.flow.batch = batch_stride(flow);
  p.flow_height = flow.size(2);
  p.flow_width = flow.size(3);
  p.spline = interpolation == "cubic_bspline";
  set_scales(p);
  return p;
}

inline WarpParams thin_plate_warp_params(const Tensor& image, const Tensor& points, const Tensor& weights,
                                         const WarpOptions& options, int64_t out_height, int64_t out_width) {
  check_parameter(points, image, 3, "points");
  check_parameter(weights, image, 3, "weights");
  STD_TORCH_CHECK(points.size(2) == 2 && weights.size(2) == 2 && weights.size(1) == points.size(1) + 3 &&
                      weights.size(0) == points.size(0),
                  "points must be [1 or B, K, 2] and weights [1 or B, K + 3, 2], of one batch size");
  WarpParams p = warp_params(Map::kThinPlate, image, points.size(0), options, out_height, out_width);
  p.control_points = points.size(1);
  p.points = matrix_view(points);
  p.weights = matrix_view(weights);
  set_scales(p);
  return p;
}

inline void set_grad_output(WarpParams& p, const Tensor& grad, const Tensor& image) {
  STD_TORCH_CHECK(p.dtype != DType::kUInt8, "a uint8 image has no gradients");
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == p.batch && grad.size(1) == p.channels &&
                      grad.size(2) == p.out_height && grad.size(3) == p.out_width &&
                      grad.scalar_type() == image.scalar_type(),
                  "grad must be [B, C, H_out, W_out] of the dtype of image");
  p.grad_output = image_view(grad);
}

}  // namespace hardfast
