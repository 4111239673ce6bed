// CPU kernels of confidence_disagreement: the entry points for each instruction set.
#pragma once

#include "../confidence_params.h"

namespace hardfast {

using ConfidenceDisagreementKernels = RowKernels<ConfidenceDisagreementParams>;

}  // namespace hardfast
