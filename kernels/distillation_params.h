// What a kernel of distillation_loss is told.
#pragma once

#include "kl_params.h"

namespace hardfast {

// What the forward keeps of each row besides the statistics of kl_disagreement.
enum DistillationStat {
  kLabelInverseSum = kRowStats,  // 1 / sum of exp(student logit - shift), at temperature 1
  kLabelLoss,                    // cross-entropy
  kLabelShare,  // of its cross-entropy in the loss: 1 / valid rows of the group, 1 for a sum; 0 if ignored
  kDistillationStats
};

struct DistillationLossParams : LogitRowsParams {
  double temperature;
  double kl_weight, label_weight;  // a term of weight 0 is left out, whatever its value
  std::int64_t ignore_index;
  double label_smoothing;
  bool mean_over_valid;  // the cross-entropy is divided by the number of rows that are not ignored, not by `divisor`
};

}  // namespace hardfast
