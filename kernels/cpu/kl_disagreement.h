// CPU kernels of kl_disagreement: the entry points for each instruction set. Items are rows.
#pragma once

#include <cstdint>

#include "../kl_params.h"

namespace hardfast {

struct KlDisagreementKernels {
  void (*forward_range)(const KlDisagreementParams&, std::int64_t begin, std::int64_t end);
  void (*reduce)(const KlDisagreementParams&);  // row divergences to the loss, after all rows are done
  void (*backward_range)(const KlDisagreementParams&, std::int64_t begin, std::int64_t end);
};

}  // namespace hardfast
