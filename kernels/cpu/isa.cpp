#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace hardfast {

#define HARDFAST_DECLARE(isa)                                                 \
  namespace isa {                                                             \
  extern const WarpKernels warp_kernels;                                      \
  extern const KlDisagreementKernels kl_disagreement_kernels;                 \
  extern const ConfidenceDisagreementKernels confidence_disagreement_kernels; \
  extern const DistillationLossKernels distillation_loss_kernels;             \
  extern const GuidedStepKernels guided_step_kernels;                         \
  }
#define HARDFAST_KERNELS(name, isa)                                                              \
  CpuKernels {                                                                                   \
    name, isa::warp_kernels, isa::kl_disagreement_kernels, isa::confidence_disagreement_kernels, \
        isa::distillation_loss_kernels, isa::guided_step_kernels                                 \
  }

#if defined(HARDFAST_X86_64_LEVELS)

HARDFAST_DECLARE(x86_64_v2)
HARDFAST_DECLARE(x86_64_v3)
HARDFAST_DECLARE(x86_64_v4)

static CpuKernels choose() {
  __builtin_cpu_init();
  const char* wanted = std::getenv("HARDFAST_ISA");
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
  const bool below_v4 = wanted && std::strcmp(wanted, "x86-64-v4") != 0;
  const bool below_v3 = wanted && std::strcmp(wanted, "x86-64-v2") == 0;
  if (v4 && !below_v4) return HARDFAST_KERNELS("x86-64-v4", x86_64_v4);
  if (v3 && !below_v3) return HARDFAST_KERNELS("x86-64-v3", x86_64_v3);
  return HARDFAST_KERNELS("x86-64-v2", x86_64_v2);
}

#else

HARDFAST_DECLARE(baseline)

static CpuKernels choose() { return HARDFAST_KERNELS("baseline", baseline); }

#endif

const CpuKernels& cpu_kernels() {
  static const CpuKernels kernels = choose();
  return kernels;
}

}  // namespace hardfast
