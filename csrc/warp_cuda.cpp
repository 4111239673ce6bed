// The four warps on CUDA: allocates outputs and scratch, and launches. Nothing is computed here.
#include "../kernels/cuda/warp.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "warp_args.h"

namespace hardfast {
namespace {

cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check(cudaError_t error, const WarpParams& p, const char* op) {
  if (error == cudaSuccess) return;
  if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorUnsupportedPtxVersion ||
      error == cudaErrorInvalidDeviceFunction) {
    int device = 0, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    STD_TORCH_CHECK(false, "hardfast::", op, " has no kernel for this GPU of compute capability ", major, ".", minor,
                    ": hardfast was built for ", HARDFAST_CUDA_ARCHITECTURES, " (", cudaGetErrorString(error),
                    "). Rebuild with HARDFAST_CUDA_ARCHITECTURES=", major, minor,
                    " in the environment, or set HARDFAST_BACKEND=triton");
  }
  STD_TORCH_CHECK(false, "hardfast::", op, " for image [", p.image_count, ", ", p.channels, ", ", p.height, ", ",
                  p.width, "] -> [", p.batch, ", ", p.channels, ", ", p.out_height, ", ", p.out_width,
                  "] failed on this GPU: ", cudaGetErrorString(error));
}

// What a tensor of a map, fill or color has to be for the kernels: contiguous, and aligned for pairs of numbers.
Tensor packed(const Tensor& tensor) {
  const Tensor whole = torch::stable::contiguous(tensor);
  const auto address = reinterpret_cast<std::uintptr_t>(whole.const_data_ptr());
  return address % (2 * whole.element_size()) == 0 ? whole : torch::stable::clone(whole);
}

std::optional<Tensor> packed(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional<Tensor>(packed(*tensor)) : std::nullopt;
}

Tensor forward(WarpParams& p, const Tensor& image, const char* op) {
  Tensor output = empty_image(image, p.batch, p.out_height, p.out_width);
  if (output.numel() == 0) return output;
  p.output = mutable_image_view(output);
  check(warp_kernels(p.map).forward(p, current_stream(image)), p, op);
  return output;
}

// The gradient that is asked for, of the shape of its input, or one of no elements.
Tensor empty_gradient(const Tensor& like, bool wanted) {
  std::vector<int64_t> size = {0};
  if (wanted) size.assign(like.sizes().begin(), like.sizes().end());
  return empty_vector(like, size, like.scalar_type());
}

Tensor scratch_doubles(const Tensor& like, int64_t count) { return empty_vector(like, {count}, ScalarType::Double); }

// Where to write a gradient: null where none is asked for, or where it has no elements.
void* target(const Tensor& gradient) { return gradient.numel() > 0 ? gradient.mutable_data_ptr() : nullptr; }

void zero(const Tensor& gradient) {
  Tensor tensor = gradient;
  torch::stable::zero_(tensor);
}

struct Backward {
  WarpParams& p;
  const Tensor& image;
  const char* op;
  const WarpKernels& kernels;
  cudaStream_t stream;

  Backward(WarpParams& p, const Tensor& image, const char* op)
      : p(p), image(image), op(op), kernels(warp_kernels(p.map)), stream(current_stream(image)) {}

  bool empty() const { return p.batch * p.channels * p.out_height * p.out_width == 0; }

  Tensor grad_image(bool wanted) const {
    Tensor gradient =
        wanted ? empty_image(image, p.image_count, p.height, p.width) : empty_vector(image, {0}, image.scalar_type());
    if (gradient.numel() == 0) return gradient;
    if (empty()) return torch::stable::zero_(gradient);
    p.grad_image = mutable_image_view(gradient);
    GradImageScratch scratch{};
    const ScratchSize size = grad_image_scratch(p, nullptr, scratch);
    const Tensor memory = empty_vector(image, {size.all}, ScalarType::Long);
    auto* begin = static_cast<unsigned long long*>(memory.mutable_data_ptr());
    grad_image_scratch(p, begin, scratch);
    check(cudaMemsetAsync(begin, 0, static_cast<size_t>(size.zeros) * sizeof(*begin), stream), p, op);
    check(kernels.grad_image(p, scratch, stream), p, op);
    return gradient;
  }

  // The targets in `p` are set; `gradients` are their tensors.
  void grad_map(const std::vector<Tensor>& gradients) const {
    bool wanted = false;
    for (const Tensor& gradient : gradients) wanted = wanted || gradient.numel() > 0;
    if (!wanted) return;
    if (empty() || p.mode == Mode::kNearest) {
      for (const Tensor& gradient : gradients) zero(gradient);
      return;
    }
    const Tensor sums = scratch_doubles(image, strip_count(p, map_sums(p)) * map_sums(p));
    check(kernels.grad_map(p, static_cast<double*>(sums.mutable_data_ptr()), stream), p, op);
  }

  void grad_constants(const Tensor& grad_fill, const Tensor& grad_color) const {
    p.grad_fill = target(grad_fill);
    p.grad_color = target(grad_color);
    if (!p.grad_fill && !p.grad_color) return;
    if (empty()) {
      zero(grad_fill);
      zero(grad_color);
      return;
    }
    const Tensor sums = scratch_doubles(image, strip_count(p, constant_sums(p)) * constant_sums(p));
    check(kernels.grad_constants(p, static_cast<double*>(sums.mutable_data_ptr()), stream), p, op);
  }
};

Tensor gradient_of(const std::optional<Tensor>& input, const Tensor& image, bool wanted) {
  return input ? empty_gradient(*input, wanted) : empty_vector(image, {0}, compute_type(image));
}

template <Map kMap>
constexpr const char* kName = kMap == Map::kAffine ? "affine_warp" : "projective_warp";

template <Map kMap>
Tensor matrix_warp(const Tensor& image, const Tensor& matrix, const std::optional<Tensor>& fill,
                   const std::optional<Tensor>& color, const std::vector<int64_t>& size,
                   const std::vector<int64_t>& samples, const std::string& mode, const std::string& padding_mode,
                   bool align_corners) {
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const std::optional<Tensor> packed_color = packed(color);
  const WarpOptions options = {fill, packed_color, samples, mode, padding_mode, align_corners};
  WarpParams p = matrix_warp_params(kMap, image, matrix, options, size.at(0), size.at(1));
  return forward(p, image, kName<kMap>);
}

template <Map kMap>
std::tuple<Tensor, Tensor, Tensor, Tensor> matrix_warp_backward(
    const Tensor& grad, const Tensor& image, const Tensor& matrix, const std::optional<Tensor>& fill,
    const std::optional<Tensor>& color, const std::vector<int64_t>& samples, const std::string& mode,
    const std::string& padding_mode, bool align_corners, const std::vector<bool>& output_mask) {
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const std::optional<Tensor> packed_color = packed(color);
  const WarpOptions options = {fill, packed_color, samples, mode, padding_mode, align_corners};
  WarpParams p = matrix_warp_params(kMap, image, matrix, options, grad.size(2), grad.size(3));
  set_grad_output(p, grad, image);
  const Backward backward(p, image, kName<kMap>);
  const Tensor grad_image = backward.grad_image(output_mask.at(0));
  const Tensor grad_matrix = empty_gradient(matrix, output_mask.at(1));
  p.grad_matrix = target(grad_matrix);
  backward.grad_map({grad_matrix});
  const Tensor grad_fill = gradient_of(fill, image, output_mask.at(2));
  const Tensor grad_color = gradient_of(color, image, output_mask.at(3));
  backward.grad_constants(grad_fill, grad_color);
  return {grad_image, grad_matrix, grad_fill, grad_color};
}

Tensor flow_warp(const Tensor& image, const Tensor& flow, const std::optional<Tensor>& fill,
                 const std::optional<Tensor>& color, const std::vector<int64_t>& size,
                 const std::vector<int64_t>& samples, const std::string& mode, const std::string& padding_mode,
                 bool align_corners, const std::string& interpolation) {
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const std::optional<Tensor> packed_color = packed(color);
  const WarpOptions options = {fill, packed_color, samples, mode, padding_mode, align_corners};
  WarpParams p = flow_warp_params(image, flow, options, interpolation, size.at(0), size.at(1));
  return forward(p, image, "flow_warp");
}

std::tuple<Tensor, Tensor, Tensor, Tensor> flow_warp_backward(const Tensor& grad, const Tensor& image,
                                                              const Tensor& flow, const std::optional<Tensor>& fill,
                                                              const std::optional<Tensor>& color,
                                                              const std::vector<int64_t>& samples,
                                                              const std::string& mode, const std::string& padding_mode,
                                                              bool align_corners, const std::string& interpolation,
                                                              const std::vector<bool>& output_mask) {
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const std::optional<Tensor> packed_color = packed(color);
  const WarpOptions options = {fill, packed_color, samples, mode, padding_mode, align_corners};
  WarpParams p = flow_warp_params(image, flow, options, interpolation, grad.size(2), grad.size(3));
  set_grad_output(p, grad, image);
  const Backward backward(p, image, "flow_warp");
  const Tensor grad_image = backward.grad_image(output_mask.at(0));
  const Tensor grad_flow = empty_gradient(flow, output_mask.at(1));
  p.grad_flow = target(grad_flow);
  backward.grad_map({grad_flow});
  const Tensor grad_fill = gradient_of(fill, image, output_mask.at(2));
  const Tensor grad_color = gradient_of(color, image, output_mask.at(3));
  backward.grad_constants(grad_fill, grad_color);
  return {grad_image, grad_flow, grad_fill, grad_color};
}

Tensor thin_plate_warp(const Tensor& image, const Tensor& points, const Tensor& weights,
                       const std::optional<Tensor>& fill, const std::optional<Tensor>& color,
                       const std::vector<int64_t>& size, const std::vector<int64_t>& samples, const std::string& mode,
                       const std::string& padding_mode, bool align_corners) {
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const std::optional<Tensor> packed_color = packed(color);
  const Tensor packed_points = packed(points), packed_weights = packed(weights);
  const WarpOptions options = {fill, packed_color, samples, mode, padding_mode, align_corners};
  WarpParams p = thin_plate_warp_params(image, packed_points, packed_weights, options, size.at(0), size.at(1));
  return forward(p, image, "thin_plate_warp");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> thin_plate_warp_backward(
    const Tensor& grad, const Tensor& image, const Tensor& points, const Tensor& weights,
    const std::optional<Tensor>& fill, const std::optional<Tensor>& color, const std::vector<int64_t>& samples,
    const std::string& mode, const std::string& padding_mode, bool align_corners,
    const std::vector<bool>& output_mask) {
  const torch::stable::accelerator::DeviceGuard guard(image.get_device_index());
  const std::optional<Tensor> packed_color = packed(color);
  const Tensor packed_points = packed(points), packed_weights = packed(weights);
  const WarpOptions options = {fill, packed_color, samples, mode, padding_mode, align_corners};
  WarpParams p = thin_plate_warp_params(image, packed_points, packed_weights, options, grad.size(2), grad.size(3));
  set_grad_output(p, grad, image);
  const Backward backward(p, image, "thin_plate_warp");
  const Tensor grad_image = backward.grad_image(output_mask.at(0));
  const Tensor grad_points = empty_gradient(points, output_mask.at(1));
  const Tensor grad_weights = empty_gradient(weights, output_mask.at(2));
  p.grad_points = target(grad_points);
  p.grad_weights = target(grad_weights);
  backward.grad_map({grad_points, grad_weights});
  const Tensor grad_fill = gradient_of(fill, image, output_mask.at(3));
  const Tensor grad_color = gradient_of(color, image, output_mask.at(4));
  backward.grad_constants(grad_fill, grad_color);
  return {grad_image, grad_points, grad_weights, grad_fill, grad_color};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CUDA, library) {
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
