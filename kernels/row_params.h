// What a kernel on rows of logits is told: raw pointers, sizes and strides, no tensor.
#pragma once

#include <cstdint>

#include "warp_params.h"

namespace hardfast {

// G groups of rows, of equal length: the loss of a group is the sum over its rows, divided by `divisor`.
struct LogitRowsParams {
  std::int64_t rows, classes;
  std::int64_t groups, group_rows;
  std::int64_t divisor;
  DType dtype;  // of the logits and their gradients; everything else is float64 for float64 and float32 otherwise

  const void* student;  // [N, K], classes contiguous, rows `student_row` elements apart
  const void* teacher;
  std::int64_t student_row, teacher_row;
  const std::int64_t* labels;  // [N], or null for an op without
  std::int64_t label_stride;
  void* row_stats;  // [N, statistics of the op]: what the forward keeps for the backward
  void* loss;       // [G]

  const void* grad_loss;  // [G], or null for ones
  std::int64_t grad_loss_stride;
  void* grad_student;  // [N, K] contiguous, or null
  void* grad_teacher;
};

// The entry points of an op for one instruction set.
template <typename Params>
struct RowKernels {
  void (*forward_range)(const Params&, std::int64_t begin_row, std::int64_t end_row);
  void (*reduce_range)(const Params&, std::int64_t begin_group, std::int64_t end_group);  // after all rows are done
  void (*backward_range)(const Params&, std::int64_t begin_row, std::int64_t end_row);
};

}  // namespace hardfast
