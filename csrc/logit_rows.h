// From rows of logits to the structs that kernels see, and the two passes that every op on them makes.
#pragma once

#include <tuple>

#include "../kernels/row_params.h"
#include "large_pages.h"
#include "result_memory.h"
#include "tensor_args.h"

namespace hardfast {

// Logits that are worth a thread of their own: exp() makes each cost about a nanosecond.
constexpr int64_t kGrainLogits = 8192;
constexpr int64_t kGrainSums = 65536;

// `group_rows` 0 stands for one group of all rows, whose loss is a scalar.
inline void set_rows(LogitRowsParams& p, const Tensor& student, const Tensor& teacher, int64_t group_rows,
                     int64_t divisor) {
  STD_TORCH_CHECK(student.dim() == 2 && teacher.dim() == 2 && student.size(0) == teacher.size(0) &&
                      student.size(1) == teacher.size(1) && student.scalar_type() == teacher.scalar_type(),
                  "student_logits and teacher_logits must be [N, K] of one dtype");
  p.rows = student.size(0);
  p.classes = student.size(1);
  STD_TORCH_CHECK(group_rows >= 0 && (group_rows == 0 || p.rows % group_rows == 0), "rows must fill whole groups");
  p.groups = group_rows == 0 ? 1 : p.rows / group_rows;
  p.group_rows = group_rows == 0 ? p.rows : group_rows;
  p.divisor = divisor;
  p.dtype = dtype_of(student);
  p.student = student.const_data_ptr();
  p.teacher = teacher.const_data_ptr();
  p.student_row = student.stride(0);
  p.teacher_row = teacher.stride(0);
}

inline void set_labels(LogitRowsParams& p, const Tensor& labels) {
  STD_TORCH_CHECK(labels.dim() == 1 && labels.size(0) == p.rows && labels.scalar_type() == ScalarType::Long,
                  "labels must be int64 [N]");
  p.labels = static_cast<const std::int64_t*>(labels.const_data_ptr());
  p.label_stride = labels.stride(0);
}

template <typename Params, typename Range>
void for_rows(const Params& p, Range range) {
  const int64_t rows_per_thread = kGrainLogits / (p.classes > 0 ? p.classes : 1) + 1;
  torch::stable::parallel_for(0, p.rows, rows_per_thread, [&](int64_t begin, int64_t end) { range(p, begin, end); });
}

// The loss, [G] or a scalar, and the statistics of the rows, [N, stats].
template <typename Params>
std::tuple<Tensor, Tensor> rows_forward(Params& p, const RowKernels<Params>& kernels, const Tensor& student,
                                        int64_t group_rows, int64_t stats) {
  const ScalarType type = compute_type(student);
  Tensor loss = empty_vector(student, group_rows == 0 ? std::vector<int64_t>{} : std::vector<int64_t>{p.groups}, type);
  Tensor row_stats = empty_vector(student, {p.rows, stats}, type);
  p.loss = loss.mutable_data_ptr();
  p.row_stats = row_stats.mutable_data_ptr();
  for_rows(p, kernels.forward_range);
  torch::stable::parallel_for(0, p.groups, kGrainSums / (p.group_rows + 1) + 1,
                              [&](int64_t begin, int64_t end) { kernels.reduce_range(p, begin, end); });
  return {loss, row_stats};
}

inline void set_incoming_grad(LogitRowsParams& p, const Tensor& grad, ScalarType type) {
  STD_TORCH_CHECK(grad.numel() == p.groups && grad.dim() <= 1 && grad.scalar_type() == type,
                  "grad must be that of the loss");
  p.grad_loss = grad.const_data_ptr();
  p.grad_loss_stride = grad.dim() == 1 ? grad.stride(0) : 0;
}

// Where the gradient to logits like these goes: into a tensor that was given.
inline void* gradient_target(const Tensor& grad, const Tensor& logits) {
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == logits.size(0) && grad.size(1) == logits.size(1) &&
                      grad.is_contiguous() && grad.scalar_type() == logits.scalar_type(),
                  "a gradient must be contiguous, of the shape and dtype of the logits");
  ask_for_large_pages(grad);
  return grad.mutable_data_ptr();
}

// The gradients to the logits, each [N, K], or [0] where it is not asked for.
template <typename Params>
std::tuple<Tensor, Tensor> rows_backward(Params& p, const RowKernels<Params>& kernels, const Tensor& student,
                                         const Tensor& grad, const Tensor& row_stats, int64_t stats,
                                         const std::vector<bool>& output_mask) {
  const ScalarType type = compute_type(student);
  set_incoming_grad(p, grad, type);
  STD_TORCH_CHECK(row_stats.is_contiguous() && row_stats.numel() == p.rows * stats && row_stats.scalar_type() == type,
                  "row_stats must come from the forward");
  const auto gradient = [&](bool wanted) {
    return wanted ? empty_result(student, {p.rows, p.classes}) : empty_vector(student, {0}, student.scalar_type());
  };
  Tensor grad_student = gradient(output_mask.at(0)), grad_teacher = gradient(output_mask.at(1));
  p.row_stats = row_stats.mutable_data_ptr();
  p.grad_student = output_mask.at(0) ? grad_student.mutable_data_ptr() : nullptr;
  p.grad_teacher = output_mask.at(1) ? grad_teacher.mutable_data_ptr() : nullptr;
  if (p.grad_student || p.grad_teacher) for_rows(p, kernels.backward_range);
  return {grad_student, grad_teacher};
}

}  // namespace hardfast
