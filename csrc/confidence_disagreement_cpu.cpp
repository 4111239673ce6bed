#include "../kernels/cpu/isa.h"
#include "logit_rows.h"

namespace hardfast {
namespace {

ConfidenceDisagreementParams params(const Tensor& student, const Tensor& teacher, const Tensor& labels,
                                    const std::string& form, double gamma, int64_t group_rows, int64_t divisor) {
  ConfidenceDisagreementParams p{};
  set_rows(p, student, teacher, group_rows, divisor);
  set_labels(p, labels);
  p.form = form == "probability" ? ConfidenceForm::kProbability
           : form == "log"       ? ConfidenceForm::kLog
                                 : ConfidenceForm::kLogit;
  p.gamma = gamma;
  return p;
}

std::tuple<Tensor, Tensor> confidence_disagreement(const Tensor& student_logits, const Tensor& teacher_logits,
                                                   const Tensor& labels, const std::string& form, double gamma,
                                                   int64_t group_rows, int64_t divisor) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  ConfidenceDisagreementParams p = params(student, teacher, labels, form, gamma, group_rows, divisor);
  return rows_forward(p, cpu_kernels().confidence_disagreement, student, group_rows, kConfidenceStats);
}

std::tuple<Tensor, Tensor> confidence_disagreement_backward(const Tensor& grad, const Tensor& student_logits,
                                                            const Tensor& teacher_logits, const Tensor& labels,
                                                            const Tensor& row_stats, const std::string& form,
                                                            double gamma, int64_t group_rows, int64_t divisor,
                                                            const std::vector<bool>& output_mask) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  ConfidenceDisagreementParams p = params(student, teacher, labels, form, gamma, group_rows, divisor);
  return rows_backward(p, cpu_kernels().confidence_disagreement, student, grad, row_stats, kConfidenceStats,
                       output_mask);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("confidence_disagreement", TORCH_BOX(&confidence_disagreement));
  library.impl("_confidence_disagreement_backward", TORCH_BOX(&confidence_disagreement_backward));
}

}  // namespace hardfast
