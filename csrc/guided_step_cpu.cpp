#include <functional>
#include <numeric>

#include "../kernels/cpu/isa.h"
#include "result_memory.h"
#include "tensor_args.h"

namespace hardfast {
namespace {

// Elements that are worth a thread of their own.
constexpr int64_t kGrainElements = 16384;

template <typename Range>
void run(const GuidedStepParams& p, Range range) {
  const int64_t per_item = p.strips > 1 ? kGuidedStepStrip : p.elements;
  const int64_t grain = per_item >= kGrainElements ? 1 : kGrainElements / (per_item > 0 ? per_item : 1);
  torch::stable::parallel_for(0, p.batch * p.strips, grain, [&](int64_t begin, int64_t end) { range(p, begin, end); });
}

// Tensors of one call: keeps the copies of strided ones alive for as long as their pointers are used.
class Tensors {
 public:
  Tensors(const Tensor& like, const Tensor& coefficients) : sizes_(like.sizes().vec()) {
    STD_TORCH_CHECK(like.dim() > 0, "the tensors of guided_step must be [B, ...]");
    params_.batch = sizes_[0];
    params_.elements = std::accumulate(sizes_.begin() + 1, sizes_.end(), int64_t{1}, std::multiplies<>());
    params_.strips = (params_.elements + kGuidedStepStrip - 1) / kGuidedStepStrip;
    params_.dtype = dtype_of(like);
    params_.clip = __builtin_inf();
    STD_TORCH_CHECK(coefficients.dim() == 2 && coefficients.size(1) == kGuidedStepCoefficients &&
                        (coefficients.size(0) == 1 || coefficients.size(0) == params_.batch) &&
                        coefficients.scalar_type() == compute_type(like),
                    "coefficients must be [1 or B, 7] in the dtype of the arithmetic");
    kept_.push_back(with_contiguous_rows(coefficients));
    params_.coefficients = {kept_.back().const_data_ptr(), coefficients.size(0) == 1 ? 0 : kept_.back().stride(0)};
  }

  Samples<const void> samples(const std::optional<Tensor>& tensor) {
    if (!tensor) return {};
    STD_TORCH_CHECK(tensor->sizes().equals(sizes_) && dtype_of(*tensor) == params_.dtype,
                    "the tensors of guided_step must be of one shape and dtype");
    kept_.push_back(with_contiguous_rows(*tensor));
    return {kept_.back().const_data_ptr(), kept_.back().stride(0)};
  }

  GuidedStepParams& params() { return params_; }

  // An output of the shape of the inputs, or [0] where it is not wanted.
  Tensor output(const Tensor& like, bool wanted, Samples<void>& samples) const {
    if (!wanted) return empty_vector(like, {0}, like.scalar_type());
    const Tensor result = empty_result(like, sizes_);
    samples = {result.mutable_data_ptr(), params_.elements};
    return result;
  }

 private:
  std::vector<int64_t> sizes_;
  GuidedStepParams params_{};
  std::vector<Tensor> kept_;
};

std::tuple<Tensor, Tensor> guided_step(const Tensor& latents, const Tensor& cond, const std::optional<Tensor>& uncond,
                                       const std::optional<Tensor>& noise, const Tensor& coefficients,
                                       std::optional<double> clip) {
  Tensors tensors(latents, coefficients);
  GuidedStepParams& p = tensors.params();
  if (clip) p.clip = *clip;
  p.latents = tensors.samples(latents);
  p.cond = tensors.samples(cond);
  p.uncond = tensors.samples(uncond);
  p.noise = tensors.samples(noise);
  Tensor next = tensors.output(latents, true, p.next), clean = tensors.output(latents, true, p.clean);
  run(p, cpu_kernels().guided_step.forward_range);
  return {next, clean};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> guided_step_backward(
    const std::optional<Tensor>& grad_next, const std::optional<Tensor>& grad_clean,
    const std::optional<Tensor>& latents, const std::optional<Tensor>& cond, const std::optional<Tensor>& uncond,
    const std::optional<Tensor>& noise, const Tensor& coefficients, std::optional<double> clip,
    const std::vector<bool>& output_mask) {
  STD_TORCH_CHECK(grad_next || grad_clean, "one of grad_next and grad_clean must be given");
  const Tensor& like = grad_next ? *grad_next : *grad_clean;
  const bool wants_coefficients = output_mask.at(4);
  STD_TORCH_CHECK((latents && cond) || (!clip && !wants_coefficients), "latents and cond must be given");
  Tensors tensors(like, coefficients);
  GuidedStepParams& p = tensors.params();
  if (clip) p.clip = *clip;
  p.grad_next = tensors.samples(grad_next);
  p.grad_clean = tensors.samples(grad_clean);
  p.latents = tensors.samples(latents);
  p.cond = tensors.samples(cond);
  p.uncond = tensors.samples(uncond);
  p.noise = tensors.samples(noise);
  Tensor grad_latents = tensors.output(like, output_mask.at(0), p.grad_latents);
  Tensor grad_cond = tensors.output(like, output_mask.at(1), p.grad_cond);
  Tensor grad_uncond = tensors.output(like, output_mask.at(2), p.grad_uncond);
  Tensor grad_noise = tensors.output(like, output_mask.at(3), p.grad_noise);
  const int64_t rows = coefficients.size(0);
  const std::vector<int64_t> size =
      wants_coefficients ? std::vector<int64_t>{rows, kGuidedStepCoefficients} : std::vector<int64_t>{0};
  Tensor grad_coefficients = empty_vector(like, size, compute_type(like));
  std::vector<double> sums(wants_coefficients ? p.batch * p.strips * kGuidedStepCoefficients : 0);
  if (wants_coefficients) {
    p.grad_coefficients = grad_coefficients.mutable_data_ptr();
    p.grad_coefficients_rows = rows;
    p.grad_coefficient_sums = sums.data();
  }
  run(p, cpu_kernels().guided_step.backward_range);
  if (wants_coefficients && rows > 0) cpu_kernels().guided_step.reduce_coefficients(p);
  return {grad_latents, grad_cond, grad_uncond, grad_noise, grad_coefficients};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("guided_step", TORCH_BOX(&guided_step));
  library.impl("_guided_step_backward", TORCH_BOX(&guided_step_backward));
}

}  // namespace hardfast
