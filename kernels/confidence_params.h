// What a kernel of confidence_disagreement is told.
#pragma once

#include "row_params.h"

namespace hardfast {

enum class ConfidenceForm { kProbability, kLog, kLogit };

// What the forward keeps of each row for the backward: of the student, then the same of the teacher.
enum ConfidenceStat {
  kLogOdds,           // of the label: its logit - the log of the sum of exp over the other classes
  kOthersShift,       // largest logit of the other classes
  kOthersInverseSum,  // 1 / sum of exp(logit - shift) over the other classes; 0 where there are none
  kStatsOfModel,
  kConfidenceValue = 2 * kStatsOfModel,
  kConfidenceStats
};

struct ConfidenceDisagreementParams : LogitRowsParams {
  ConfidenceForm form;
  double gamma;
};

}  // namespace hardfast
