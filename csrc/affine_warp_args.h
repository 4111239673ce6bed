// The arguments of hardfast::affine_warp as AffineWarpParams, for every device.
#pragma once

#include "tensor_args.h"

namespace hardfast {

inline void check_supported(const std::optional<Tensor>& color, const std::vector<int64_t>& samples,
                            const std::string& mode) {
  STD_TORCH_CHECK(!color && samples.at(0) == 1 && samples.at(1) == 1 && mode != "bicubic",
                  "affine_warp has no color, antialias or bicubic mode yet");
}

inline AffineWarpParams affine_warp_params(const Tensor& image, const Tensor& theta, const std::optional<Tensor>& fill,
                                           int64_t out_height, int64_t out_width, const std::string& mode,
                                           const std::string& padding_mode, bool align_corners) {
  STD_TORCH_CHECK(image.dim() == 4 && image.size(2) > 0 && image.size(3) > 0, "image must be [B, C, H, W]");
  STD_TORCH_CHECK(image.size(2) < (int64_t{1} << 31) - 4 && image.size(3) < (int64_t{1} << 31) - 4,
                  "image sides must be below 2^31 - 4 pixels");
  STD_TORCH_CHECK(theta.dim() == 3 && theta.size(0) == image.size(0) && theta.size(1) == 2 && theta.size(2) == 3 &&
                      theta.scalar_type() == compute_type(image),
                  "theta must be [B, 2, 3], float64 for a float64 image and float32 otherwise");
  STD_TORCH_CHECK(!fill || (fill->dim() == 2 && (fill->size(0) == 1 || fill->size(0) == image.size(0)) &&
                            fill->size(1) == image.size(1) && fill->scalar_type() == compute_type(image)),
                  "fill must be [1, C] or [B, C] of the dtype of theta");
  AffineWarpParams p{};
  p.batch = image.size(0);
  p.channels = image.size(1);
  p.height = image.size(2);
  p.width = image.size(3);
  p.out_height = out_height;
  p.out_width = out_width;
  p.dtype = dtype_of(image);
  p.mode = mode == "nearest" ? Mode::kNearest : Mode::kBilinear;
  p.padding = padding_mode == "border"       ? Padding::kBorder
              : padding_mode == "reflection" ? Padding::kReflection
                                             : Padding::kConstant;
  p.align_corners = align_corners;
  p.theta = theta.const_data_ptr();
  p.theta_batch = theta.stride(0);
  p.theta_row = theta.stride(1);
  p.theta_column = theta.stride(2);
  if (fill) {
    p.fill = fill->const_data_ptr();
    p.fill_batch = fill->size(0) == 1 ? 0 : fill->stride(0);
    p.fill_channel = fill->stride(1);
  }
  p.image = image_view(image);
  return p;
}

inline void set_grad_output(AffineWarpParams& p, const Tensor& grad, const Tensor& image) {
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == p.batch && grad.size(1) == p.channels &&
                      grad.scalar_type() == image.scalar_type(),
                  "grad must be [B, C, H_out, W_out] of the dtype of image");
  p.grad_output = image_view(grad);
}

}  // namespace hardfast
