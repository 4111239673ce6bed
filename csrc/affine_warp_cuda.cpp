#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "../kernels/cuda/affine_warp.h"
#include "affine_warp_args.h"

namespace hardfast {
namespace {

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check(cudaError_t error, const AffineWarpParams& p) {
  STD_TORCH_CHECK(error == cudaSuccess, "hardfast::affine_warp for [", p.batch, ", ", p.channels, ", ", p.height, ", ",
                  p.width, "] -> [", p.out_height, ", ", p.out_width,
                  "] failed on this GPU: ", cudaGetErrorString(error));
}

void check_grid(const AffineWarpParams& p) {
  STD_TORCH_CHECK(p.batch * affine_warp_blocks(p) < (int64_t{1} << 31) &&
                      p.batch * p.channels * p.height * p.width < (int64_t{1} << 38),
                  "image is too large for one launch: split the batch");
}

Tensor affine_warp(const Tensor& image, const Tensor& theta, const std::optional<Tensor>& fill,
                   const std::optional<Tensor>& color, const std::vector<int64_t>& size,
                   const std::vector<int64_t>& samples, const std::string& mode, const std::string& padding_mode,
                   bool align_corners) {
  check_supported(color, samples, mode);
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  AffineWarpParams p =
      affine_warp_params(image, theta, fill, size.at(0), size.at(1), mode, padding_mode, align_corners);
  check_grid(p);
  Tensor output = empty_image(image, p.batch, p.out_height, p.out_width);
  if (output.numel() == 0) return output;
  p.output = mutable_image_view(output);
  check(launch_affine_warp(p, current_stream(image)), p);
  return output;
}

Tensor zeros(const Tensor& like, std::vector<int64_t> size, ScalarType type) {
  Tensor tensor = empty_vector(like, std::move(size), type);
  return torch::stable::zero_(tensor);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> affine_warp_backward(
    const Tensor& grad, const Tensor& image, const Tensor& theta, const std::optional<Tensor>& fill,
    const std::optional<Tensor>& color, const std::vector<int64_t>& samples, const std::string& mode,
    const std::string& padding_mode, bool align_corners, const std::vector<bool>& output_mask) {
  check_supported(color, samples, mode);
  STD_TORCH_CHECK(!output_mask.at(2), "affine_warp has no gradient to fill yet");
  const Tensor grad_fill = empty_vector(theta, {0}, theta.scalar_type());
  const Tensor grad_color = empty_vector(theta, {0}, theta.scalar_type());
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  AffineWarpParams p =
      affine_warp_params(image, theta, fill, grad.size(2), grad.size(3), mode, padding_mode, align_corners);
  check_grid(p);
  set_grad_output(p, grad, image);
  const cudaStream_t stream = current_stream(image);

  Tensor grad_image = output_mask.at(0) ? empty_image(image, p.batch, p.height, p.width)
                                        : empty_vector(image, {0}, image.scalar_type());
  if (output_mask.at(0) && grad_image.numel() > 0) {
    p.grad_image = mutable_image_view(grad_image);
    STD_TORCH_CHECK(p.out_height * p.out_width <= (int64_t{1} << 24),
                    "the gradient to image holds at most 2^24 output pixels a sample on a GPU");
    if (grad.numel() == 0) {
      torch::stable::zero_(grad_image);
    } else {
      const Tensor accumulators = zeros(image, {grad_image.numel()}, ScalarType::Long);
      const Tensor largest = zeros(image, {1}, ScalarType::Int);
      check(launch_affine_warp_grad_image(p, static_cast<unsigned long long*>(accumulators.mutable_data_ptr()),
                                          static_cast<unsigned*>(largest.mutable_data_ptr()), stream),
            p);
    }
  }

  Tensor grad_theta = empty_vector(
      theta, output_mask.at(1) ? std::vector<int64_t>{p.batch, 2, 3} : std::vector<int64_t>{0}, theta.scalar_type());
  if (!output_mask.at(1) || p.batch == 0) return {grad_image, grad_theta, grad_fill, grad_color};
  if (p.mode == Mode::kNearest || grad.numel() == 0) {
    torch::stable::zero_(grad_theta);
    return {grad_image, grad_theta, grad_fill, grad_color};
  }
  const Tensor sums = empty_vector(theta, {p.batch * affine_warp_blocks(p), 6}, ScalarType::Double);
  p.grad_theta = grad_theta.mutable_data_ptr();
  p.grad_theta_sums = static_cast<double*>(sums.mutable_data_ptr());
  check(launch_affine_warp_grad_theta(p, stream), p);
  return {grad_image, grad_theta, grad_fill, grad_color};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CUDA, library) {
  library.impl("affine_warp", TORCH_BOX(&affine_warp));
  library.impl("_affine_warp_backward", TORCH_BOX(&affine_warp_backward));
}

}  // namespace hardfast
