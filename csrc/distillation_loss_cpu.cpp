#include "../kernels/cpu/isa.h"
#include "logit_rows.h"

namespace hardfast {
namespace {

DistillationLossParams params(const Tensor& student, const Tensor& teacher, const Tensor& labels, double temperature,
                              double kl_weight, double label_weight, int64_t ignore_index, double label_smoothing,
                              bool mean_over_valid, int64_t group_rows, int64_t divisor) {
  DistillationLossParams p{};
  set_rows(p, student, teacher, group_rows, divisor);
  set_labels(p, labels);
  p.temperature = temperature;
  p.kl_weight = kl_weight;
  p.label_weight = label_weight;
  p.ignore_index = ignore_index;
  p.label_smoothing = label_smoothing;
  p.mean_over_valid = mean_over_valid;
  return p;
}

std::tuple<Tensor, Tensor> distillation_loss(const Tensor& student_logits, const Tensor& teacher_logits,
                                             const Tensor& labels, double temperature, double kl_weight,
                                             double label_weight, int64_t ignore_index, double label_smoothing,
                                             bool mean_over_valid, int64_t group_rows, int64_t divisor) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  DistillationLossParams p = params(student, teacher, labels, temperature, kl_weight, label_weight, ignore_index,
                                    label_smoothing, mean_over_valid, group_rows, divisor);
  return rows_forward(p, cpu_kernels().distillation_loss, student, group_rows, kDistillationStats);
}

std::tuple<Tensor, Tensor> distillation_loss_backward(const Tensor& grad, const Tensor& student_logits,
                                                      const Tensor& teacher_logits, const Tensor& labels,
                                                      const Tensor& row_stats, double temperature, double kl_weight,
                                                      double label_weight, int64_t ignore_index, double label_smoothing,
                                                      bool mean_over_valid, int64_t group_rows, int64_t divisor,
                                                      const std::vector<bool>& output_mask) {
  const Tensor student = with_contiguous_rows(student_logits), teacher = with_contiguous_rows(teacher_logits);
  DistillationLossParams p = params(student, teacher, labels, temperature, kl_weight, label_weight, ignore_index,
                                    label_smoothing, mean_over_valid, group_rows, divisor);
  return rows_backward(p, cpu_kernels().distillation_loss, student, grad, row_stats, kDistillationStats, output_mask);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("distillation_loss", TORCH_BOX(&distillation_loss));
  library.impl("_distillation_loss_backward", TORCH_BOX(&distillation_loss_backward));
}

}  // namespace hardfast
