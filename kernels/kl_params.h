// What a disagreement kernel is told: raw pointers, sizes and strides, no tensor.
#pragma once

#include <cstdint>

#include "warp_params.h"

namespace hardfast {

enum class Divergence { kForward, kReverse, kJensenShannon };

// What the forward keeps of each row for the backward.
enum RowStat {
  kStudentShift,       // largest logit
  kStudentInverseSum,  // 1 / sum of exp((logit - shift) / T)
  kTeacherShift,
  kTeacherInverseSum,
  kLogSumGap,    // log of the student's sum - log of the teacher's
  kFromTeacher,  // KL(teacher || student), or KL(teacher || mixture) for Jensen-Shannon; 0 if not needed
  kFromStudent,  // KL(student || teacher), or KL(student || mixture)
  kRowStats
};

struct KlDisagreementParams {
  std::int64_t rows, classes;
  DType dtype;  // of the logits and their gradients; everything else is float64 for float64 and float32 otherwise
  Divergence divergence;
  double temperature;
  bool per_sample;  // one loss a row, else their sum over `divisor`
  std::int64_t divisor;

  const void* student;  // [N, K], classes contiguous, rows `student_row` elements apart
  const void* teacher;
  std::int64_t student_row, teacher_row;
  void* row_stats;  // [N, kRowStats]
  void* loss;       // [N] or one

  const void* grad_loss;  // [N] with stride grad_loss_row, or one
  std::int64_t grad_loss_row;
  void* grad_student;  // [N, K] contiguous, or null
  void* grad_teacher;
};

}  // namespace hardfast
