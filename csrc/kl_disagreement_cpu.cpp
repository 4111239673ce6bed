#include "../kernels/cpu/isa.h"
#include "large_pages.h"
#include "tensor_args.h"

namespace hardfast {
namespace {

// Logits that are worth a thread of their own: exp() makes each cost about a nanosecond.
constexpr int64_t kGrainLogits = 8192;

template <typename Range>
void run(const KlDisagreementParams& p, Range range) {
  const int64_t rows_per_thread = kGrainLogits / (p.classes > 0 ? p.classes : 1) + 1;
  torch::stable::parallel_for(0, p.rows, rows_per_thread, [&](int64_t begin, int64_t end) { range(p, begin, end); });
}

// Rows may lie apart; within a row the classes are contiguous.
Tensor with_contiguous_rows(const Tensor& logits) {
  return logits.size(1) == 1 || logits.stride(1) == 1 ? logits : torch::stable::contiguous(logits);
}

KlDisagreementParams params(const Tensor& student, const Tensor& teacher, double temperature,
                            const std::string& divergence, bool per_sample, int64_t divisor) {
  STD_TORCH_CHECK(student.dim() == 2 && teacher.dim() == 2 && student.size(0) == teacher.size(0) &&
                      student.size(1) == teacher.size(1) && student.scalar_type() == teacher.scalar_type(),
                  "student_logits and teacher_logits must be [N, K] of one dtype");
  KlDisagreementParams p{};
  p.rows = student.size(0);
  p.classes = student.size(1);
  p.dtype = dtype_of(student);
  p.divergence = divergence == "forward"   ? Divergence::kForward
                 : divergence == "reverse" ? Divergence::kReverse
                                           : Divergence::kJensenShannon;
  p.temperature = temperature;
  p.per_sample = per_sample;
  p.divisor = divisor;
  p.student = student.const_data_ptr();
  p.teacher = teacher.const_data_ptr();
  p.student_row = student.stride(0);
  p.teacher_row = teacher.stride(0);
  return p;
}

std::tuple<Tensor, Tensor> kl_disagreement(const Tensor& student_logits, const Tensor& teacher_logits,
                                           double temperature, const std::string& divergence, bool per_sample,
                                           int64_t divisor) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  KlDisagreementParams p = params(student, teacher, temperature, divergence, per_sample, divisor);
  const ScalarType type = compute_type(student);
  Tensor loss = empty_vector(student, per_sample ? std::vector<int64_t>{p.rows} : std::vector<int64_t>{}, type);
  Tensor row_stats = empty_vector(student, {p.rows, kRowStats}, type);
  p.loss = loss.mutable_data_ptr();
  p.row_stats = row_stats.mutable_data_ptr();
  run(p, cpu_kernels().kl_disagreement.forward_range);
  if (!per_sample) cpu_kernels().kl_disagreement.reduce(p);
  return {loss, row_stats};
}

std::tuple<Tensor, Tensor> kl_disagreement_backward(const Tensor& grad, const Tensor& student_logits,
                                                    const Tensor& teacher_logits, const Tensor& row_stats,
                                                    double temperature, const std::string& divergence, bool per_sample,
                                                    int64_t divisor, const std::vector<bool>& output_mask) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  KlDisagreementParams p = params(student, teacher, temperature, divergence, per_sample, divisor);
  const ScalarType type = compute_type(student);
  STD_TORCH_CHECK(grad.numel() == (per_sample ? p.rows : 1) && grad.scalar_type() == type,
                  "grad must be that of the loss");
  STD_TORCH_CHECK(
      row_stats.is_contiguous() && row_stats.numel() == p.rows * kRowStats && row_stats.scalar_type() == type,
      "row_stats must come from the forward");
  const auto gradient = [&](bool wanted) {
    const std::vector<int64_t> size = wanted ? std::vector<int64_t>{p.rows, p.classes} : std::vector<int64_t>{0};
    const Tensor result = empty_vector(student, size, student.scalar_type());
    ask_for_large_pages(result);
    return result;
  };
  Tensor grad_student = gradient(output_mask.at(0)), grad_teacher = gradient(output_mask.at(1));
  p.row_stats = row_stats.mutable_data_ptr();
  p.grad_loss = grad.const_data_ptr();
  p.grad_loss_row = per_sample ? grad.stride(0) : 0;
  p.grad_student = output_mask.at(0) ? grad_student.mutable_data_ptr() : nullptr;
  p.grad_teacher = output_mask.at(1) ? grad_teacher.mutable_data_ptr() : nullptr;
  if (p.grad_student || p.grad_teacher) run(p, cpu_kernels().kl_disagreement.backward_range);
  return {grad_student, grad_teacher};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("kl_disagreement", TORCH_BOX(&kl_disagreement));
  library.impl("_kl_disagreement_backward", TORCH_BOX(&kl_disagreement_backward));
}

}  // namespace hardfast
