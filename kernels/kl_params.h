// What a disagreement kernel is told.
#pragma once

#include "row_params.h"

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

struct KlDisagreementParams : LogitRowsParams {
  Divergence divergence;
  double temperature;
};

}  // namespace hardfast
