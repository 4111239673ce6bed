#include "../kernels/cpu/isa.h"
#include "affine_warp_args.h"
#include "large_pages.h"

namespace hardfast {
namespace {

// Output pixels that are worth a thread of their own.
constexpr int64_t kGrainPixels = 8192;

int64_t grain(int64_t pixels_per_item) {
  return pixels_per_item >= kGrainPixels ? 1 : kGrainPixels / (pixels_per_item > 0 ? pixels_per_item : 1);
}

template <typename Range>
void run(const AffineWarpParams& p, Range range, int64_t items, int64_t pixels_per_item) {
  torch::stable::parallel_for(0, items, grain(pixels_per_item),
                              [&](int64_t begin, int64_t end) { range(p, begin, end); });
}

Tensor affine_warp(const Tensor& image, const Tensor& theta, const std::optional<Tensor>& fill,
                   const std::vector<int64_t>& size, const std::string& mode, const std::string& padding_mode,
                   bool align_corners) {
  AffineWarpParams p =
      affine_warp_params(image, theta, fill, size.at(0), size.at(1), mode, padding_mode, align_corners);
  Tensor output = empty_image(image, p.batch, p.out_height, p.out_width);
  if (output.numel() == 0) return output;
  ask_for_large_pages(output);
  p.output = mutable_image_view(output);
  const int64_t items = p.batch * output_tiling(p).count();
  run(p, cpu_kernels().affine_warp.forward_range, items, output.numel() / items);
  return output;
}

std::tuple<Tensor, Tensor> affine_warp_backward(const Tensor& grad, const Tensor& image, const Tensor& theta,
                                                const std::optional<Tensor>& fill, const std::string& mode,
                                                const std::string& padding_mode, bool align_corners,
                                                const std::vector<bool>& output_mask) {
  AffineWarpParams p =
      affine_warp_params(image, theta, fill, grad.size(2), grad.size(3), mode, padding_mode, align_corners);
  set_grad_output(p, grad, image);
  const AffineWarpKernels& kernels = cpu_kernels().affine_warp;

  Tensor grad_image = output_mask.at(0) ? empty_image(image, p.batch, p.height, p.width)
                                        : empty_vector(image, {0}, image.scalar_type());
  if (output_mask.at(0) && grad_image.numel() > 0) {
    ask_for_large_pages(grad_image);
    p.grad_image = mutable_image_view(grad_image);
    const int64_t items = p.batch * input_tiling(p).count();
    run(p, kernels.grad_image_range, items, grad.numel() / items + 1);
  }

  Tensor grad_theta = empty_vector(
      theta, output_mask.at(1) ? std::vector<int64_t>{p.batch, 2, 3} : std::vector<int64_t>{0}, theta.scalar_type());
  if (!output_mask.at(1) || p.batch == 0) return {grad_image, grad_theta};
  if (p.mode == Mode::kNearest || grad.numel() == 0) {
    torch::stable::zero_(grad_theta);
    return {grad_image, grad_theta};
  }
  const int64_t items = p.batch * output_tiling(p).count();
  std::vector<double> sums(static_cast<size_t>(6 * items));
  p.grad_theta = grad_theta.mutable_data_ptr();
  p.grad_theta_sums = sums.data();
  run(p, kernels.grad_theta_range, items, grad.numel() / items);
  kernels.reduce_theta_range(p, 0, p.batch);
  return {grad_image, grad_theta};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("affine_warp", TORCH_BOX(&affine_warp));
  library.impl("_affine_warp_backward", TORCH_BOX(&affine_warp_backward));
}

}  // namespace hardfast
