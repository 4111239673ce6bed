// CPU kernels of kl_disagreement: the entry points for each instruction set.
#pragma once

#include "../kl_params.h"

namespace hardfast {

struct KlDisagreementKernels : RowKernels<KlDisagreementParams> {
  // Forward and gradients of each row at once, where the gradient of the loss is known beforehand.
  void (*gradient_range)(const KlDisagreementParams&, std::int64_t begin_row, std::int64_t end_row);
};

}  // namespace hardfast
