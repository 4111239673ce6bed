#include "../kernels/cpu/isa.h"
#include "logit_rows.h"

namespace hardfast {
namespace {

KlDisagreementParams params(const Tensor& student, const Tensor& teacher, double temperature,
                            const std::string& divergence, int64_t group_rows, int64_t divisor) {
  KlDisagreementParams p{};
  set_rows(p, student, teacher, group_rows, divisor);
  p.temperature = temperature;
  p.divergence = divergence == "forward"   ? Divergence::kForward
                 : divergence == "reverse" ? Divergence::kReverse
                                           : Divergence::kJensenShannon;
  return p;
}

std::tuple<Tensor, Tensor> kl_disagreement(const Tensor& student_logits, const Tensor& teacher_logits,
                                           double temperature, const std::string& divergence, int64_t group_rows,
                                           int64_t divisor) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  KlDisagreementParams p = params(student, teacher, temperature, divergence, group_rows, divisor);
  return rows_forward(p, cpu_kernels().kl_disagreement, student, group_rows, kRowStats);
}

std::tuple<Tensor, Tensor> kl_disagreement_backward(const Tensor& grad, const Tensor& student_logits,
                                                    const Tensor& teacher_logits, const Tensor& row_stats,
                                                    double temperature, const std::string& divergence,
                                                    int64_t group_rows, int64_t divisor,
                                                    const std::vector<bool>& output_mask) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  KlDisagreementParams p = params(student, teacher, temperature, divergence, group_rows, divisor);
  return rows_backward(p, cpu_kernels().kl_disagreement, student, grad, row_stats, kRowStats, output_mask);
}

// Forward and gradients in one pass over each row, into tensors that may be the logits themselves.
std::tuple<Tensor, Tensor> kl_disagreement_with_gradients(const std::optional<Tensor>& grad,
                                                          const Tensor& student_logits, const Tensor& teacher_logits,
                                                          const std::optional<Tensor>& grad_student,
                                                          const std::optional<Tensor>& grad_teacher, double temperature,
                                                          const std::string& divergence, int64_t group_rows,
                                                          int64_t divisor) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  KlDisagreementParams p = params(student, teacher, temperature, divergence, group_rows, divisor);
  if (grad) set_incoming_grad(p, *grad, compute_type(student));
  p.grad_student = grad_student ? gradient_target(*grad_student, student) : nullptr;
  p.grad_teacher = grad_teacher ? gradient_target(*grad_teacher, teacher) : nullptr;
  KlDisagreementKernels kernels = cpu_kernels().kl_disagreement;
  if (p.grad_student || p.grad_teacher) kernels.forward_range = kernels.gradient_range;
  return rows_forward(p, kernels, student, group_rows, kRowStats);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("kl_disagreement", TORCH_BOX(&kl_disagreement));
  library.impl("_kl_disagreement_backward", TORCH_BOX(&kl_disagreement_backward));
  library.impl("_kl_disagreement_with_gradients", TORCH_BOX(&kl_disagreement_with_gradients));
}

}  // namespace hardfast
