// CPU kernels of guided_step: the entry points for each instruction set. Items are strips of samples, B * strips.
#pragma once

#include <cstdint>

#include "../guided_step_params.h"

namespace hardfast {

struct GuidedStepKernels {
  void (*forward_range)(const GuidedStepParams&, std::int64_t begin, std::int64_t end);
  void (*backward_range)(const GuidedStepParams&, std::int64_t begin, std::int64_t end);
  void (*reduce_coefficients)(const GuidedStepParams&);  // sums of the strips, after all of them are done
};

}  // namespace hardfast
