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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("kl_disagreement", TORCH_BOX(&kl_disagreement));
  library.impl("_kl_disagreement_backward", TORCH_BOX(&kl_disagreement_backward));
}

}  // namespace hardfast
