#include "../kernels/cpu/isa.h"
#include "result_memory.h"
#include "warp_args.h"

namespace hardfast {
namespace {

using OptionalTensor = std::optional<Tensor>;
using Sizes = std::vector<int64_t>;

// Output pixels that are worth a thread of their own.
constexpr int64_t kGrainPixels = 8192;

void run(const WarpParams& p, const WarpScratch& scratch, WarpRange* range, int64_t items, int64_t pixels) {
  const int64_t per_item = pixels / items + 1, grain = per_item >= kGrainPixels ? 1 : kGrainPixels / per_item;
  torch::stable::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) { range(p, scratch, begin, end); });
}

Tensor forward(WarpParams p, const Tensor& image) {
  const Tensor output = empty_image_result(image, p.batch, p.out_height, p.out_width);
  if (output.numel() == 0) return output;
  p.output = mutable_image_view(output);
  const int64_t pixels = output.numel() * p.samples_y * p.samples_x;
  run(p, {}, cpu_kernels().warp.forward, p.batch * output_tiling(p).count(), pixels);
  return output;
}

// The gradient of a parameter: uninitialised; of no elements where it is not wanted.
Tensor empty_grad(const Tensor& parameter, bool wanted) {
  if (!wanted) return empty_vector(parameter, {0}, parameter.scalar_type());
  return empty_result(parameter, Sizes(parameter.sizes().begin(), parameter.sizes().end()));
}

Tensor empty_grad(const OptionalTensor& parameter, bool wanted, const Tensor& image) {
  if (parameter) return empty_grad(*parameter, wanted);
  return empty_vector(image, {0}, compute_type(image));
}

// Where a gradient goes; null if it has no elements.
void* target(const Tensor& grad) { return grad.numel() > 0 ? grad.mutable_data_ptr() : nullptr; }

void zero(const Tensor& tensor) {
  Tensor same = tensor;
  torch::stable::zero_(same);
}

Tensor grad_image(WarpParams& p, const Tensor& image, bool wanted, int64_t pixels) {
  if (!wanted) return empty_vector(image, {0}, image.scalar_type());
  const Tensor grad = empty_image_result(image, p.image_count, p.height, p.width);
  if (grad.numel() == 0 || pixels == 0) {
    zero(grad);
    return grad;
  }
  p.grad_image = mutable_image_view(grad);
  const WarpKernels& kernels = cpu_kernels().warp;
  std::vector<Reach> reaches;
  WarpScratch scratch;
  if (needs_reaches(p)) {
    reaches.resize(static_cast<size_t>(p.batch * reach_tiling(p).count()));
    scratch.reaches = reaches.data();
    run(p, scratch, kernels.reaches, p.batch, pixels);
  }
  run(p, scratch, kernels.grad_image, p.image_count * input_tiling(p).count(), pixels);
  return grad;
}

// Writes the gradients that `p` has targets for; all others, where the map's are zero, were written before.
void grad_parameters(WarpParams& p, int64_t pixels) {
  const WarpKernels& kernels = cpu_kernels().warp;
  const FlowGradient flow = p.grad_flow ? flow_gradient(p) : FlowGradient::kStrips;
  if (item_sums(p) > 0 || flow == FlowGradient::kDirect) {
    const int64_t items = p.batch * strips(p);
    std::vector<double> sums(static_cast<size_t>(items * item_sums(p)));
    WarpScratch scratch;
    scratch.sums = sums.data();
    run(p, scratch, kernels.grad_parameters, items, pixels);
    kernels.join(p, scratch, 0, 1);
  }
  if (flow == FlowGradient::kBands) run(p, {}, kernels.grad_flow, p.map_count * bands(p), pixels);
}

struct Gradients {
  Tensor image, fill, color;
};

// `map_grads` are the gradients to the map's tensors, which `p` already has as targets.
Gradients backward(WarpParams& p, const Tensor& image, const WarpOptions& options, const std::vector<bool>& mask,
                   const std::vector<Tensor>& map_grads) {
  const size_t after = 1 + map_grads.size();
  const int64_t pixels = p.batch * p.channels * p.out_height * p.out_width * p.samples_y * p.samples_x;
  Gradients grads{grad_image(p, image, mask.at(0), pixels), empty_grad(options.fill, mask.at(after), image),
                  empty_grad(options.color, mask.at(after + 1), image)};
  const bool outside = p.padding == Padding::kConstant;
  if (pixels == 0 || p.mode == Mode::kNearest) {
    for (const Tensor& grad : map_grads) zero(grad);
    p.grad_matrix = p.grad_flow = p.grad_points = p.grad_weights = nullptr;
  }
  if (pixels == 0 || !outside) zero(grads.fill);
  if (pixels == 0) {
    zero(grads.color);
    return grads;
  }
  p.grad_fill = outside ? target(grads.fill) : nullptr;
  p.grad_color = target(grads.color);
  grad_parameters(p, pixels);
  return grads;
}

template <Map kMap>
Tensor matrix_warp(const Tensor& image, const Tensor& matrix, const OptionalTensor& fill, const OptionalTensor& color,
                   const Sizes& size, const Sizes& samples, const std::string& mode, const std::string& padding_mode,
                   bool align_corners) {
  const WarpOptions options{fill, color, samples, mode, padding_mode, align_corners};
  return forward(matrix_warp_params(kMap, image, matrix, options, size.at(0), size.at(1)), image);
}

template <Map kMap>
std::tuple<Tensor, Tensor, Tensor, Tensor> matrix_warp_backward(const Tensor& grad, const Tensor& image,
                                                                const Tensor& matrix, const OptionalTensor& fill,
                                                                const OptionalTensor& color, const Sizes& samples,
                                                                const std::string& mode,
                                                                const std::string& padding_mode, bool align_corners,
                                                                const std::vector<bool>& mask) {
  const WarpOptions options{fill, color, samples, mode, padding_mode, align_corners};
  WarpParams p = matrix_warp_params(kMap, image, matrix, options, grad.size(2), grad.size(3));
  set_grad_output(p, grad, image);
  const Tensor grad_matrix = empty_grad(matrix, mask.at(1));
  p.grad_matrix = target(grad_matrix);
  const Gradients grads = backward(p, image, options, mask, {grad_matrix});
  return {grads.image, grad_matrix, grads.fill, grads.color};
}

Tensor flow_warp(const Tensor& image, const Tensor& flow, const OptionalTensor& fill, const OptionalTensor& color,
                 const Sizes& size, const Sizes& samples, const std::string& mode, const std::string& padding_mode,
                 bool align_corners, const std::string& interpolation) {
  const WarpOptions options{fill, color, samples, mode, padding_mode, align_corners};
  return forward(flow_warp_params(image, flow, options, interpolation, size.at(0), size.at(1)), image);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> flow_warp_backward(const Tensor& grad, const Tensor& image,
                                                              const Tensor& flow, const OptionalTensor& fill,
                                                              const OptionalTensor& color, const Sizes& samples,
                                                              const std::string& mode, const std::string& padding_mode,
                                                              bool align_corners, const std::string& interpolation,
                                                              const std::vector<bool>& mask) {
  const WarpOptions options{fill, color, samples, mode, padding_mode, align_corners};
  WarpParams p = flow_warp_params(image, flow, options, interpolation, grad.size(2), grad.size(3));
  set_grad_output(p, grad, image);
  const Tensor grad_flow = empty_grad(flow, mask.at(1));
  p.grad_flow = target(grad_flow);
  const Gradients grads = backward(p, image, options, mask, {grad_flow});
  return {grads.image, grad_flow, grads.fill, grads.color};
}

Tensor thin_plate_warp(const Tensor& image, const Tensor& points, const Tensor& weights, const OptionalTensor& fill,
                       const OptionalTensor& color, const Sizes& size, const Sizes& samples, const std::string& mode,
                       const std::string& padding_mode, bool align_corners) {
  const WarpOptions options{fill, color, samples, mode, padding_mode, align_corners};
  return forward(thin_plate_warp_params(image, points, weights, options, size.at(0), size.at(1)), image);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> thin_plate_warp_backward(
    const Tensor& grad, const Tensor& image, const Tensor& points, const Tensor& weights, const OptionalTensor& fill,
    const OptionalTensor& color, const Sizes& samples, const std::string& mode, const std::string& padding_mode,
    bool align_corners, const std::vector<bool>& mask) {
  const WarpOptions options{fill, color, samples, mode, padding_mode, align_corners};
  WarpParams p = thin_plate_warp_params(image, points, weights, options, grad.size(2), grad.size(3));
  set_grad_output(p, grad, image);
  const Tensor grad_points = empty_grad(points, mask.at(1)), grad_weights = empty_grad(weights, mask.at(2));
  p.grad_points = target(grad_points);
  p.grad_weights = target(grad_weights);
  const Gradients grads = backward(p, image, options, mask, {grad_points, grad_weights});
  return {grads.image, grad_points, grad_weights, grads.fill, grads.color};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("affine_warp", TORCH_BOX(&matrix_warp<Map::kAffine>));
  library.impl("_affine_warp_backward", TORCH_BOX(&matrix_warp_backward<Map::kAffine>));
  library.impl("projective_warp", TORCH_BOX(&matrix_warp<Map::kProjective>));
  library.impl("_projective_warp_backward", TORCH_BOX(&matrix_warp_backward<Map::kProjective>));
  library.impl("flow_warp", TORCH_BOX(&flow_warp));
  library.impl("_flow_warp_backward", TORCH_BOX(&flow_warp_backward));
  library.impl("thin_plate_warp", TORCH_BOX(&thin_plate_warp));
  library.impl("_thin_plate_warp_backward", TORCH_BOX(&thin_plate_warp_backward));
}

}  // namespace hardfast
