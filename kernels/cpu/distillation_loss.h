// CPU kernels of distillation_loss: the entry points for each instruction set.
#pragma once

#include "../distillation_params.h"

namespace hardfast {

using DistillationLossKernels = RowKernels<DistillationLossParams>;

}  // namespace hardfast
