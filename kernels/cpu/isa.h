// Run-time choice among the instruction sets that the CPU kernels were compiled for.
#pragma once

#include "confidence_disagreement.h"
#include "distillation_loss.h"
#include "guided_step.h"
#include "kl_disagreement.h"
#include "warp.h"

namespace hardfast {

struct CpuKernels {
  const char* isa;  // "x86-64-v2", "x86-64-v3", "x86-64-v4", or "baseline" on other processors
  WarpKernels warp;
  KlDisagreementKernels kl_disagreement;
  ConfidenceDisagreementKernels confidence_disagreement;
  DistillationLossKernels distillation_loss;
  GuidedStepKernels guided_step;
};

// The best set that this processor runs, or the lesser one that HARDFAST_ISA names. Decided once.
const CpuKernels& cpu_kernels();

}  // namespace hardfast
