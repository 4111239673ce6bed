// CPU kernels of kl_disagreement: the entry points for each instruction set.
#pragma once

#include "../kl_params.h"

namespace hardfast {

using KlDisagreementKernels = RowKernels<KlDisagreementParams>;

}  // namespace hardfast
