// How kernels are launched.
#pragma once

#include "tiles.h"

HARDFAST_BEGIN

// The only place that needs nvcc's own syntax.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), unsigned blocks, cudaStream_t stream, const Arguments&... arguments) {
#ifdef HARDFAST_EMULATED_GPU
  emulate(kernel, blocks, kThreads, arguments...);
#else
  // clang-format off
  kernel<<<blocks, kThreads, 0, stream>>>(arguments...);
  // clang-format on
#endif
}

inline unsigned grid_size(i64 items) { return static_cast<unsigned>(smaller(items, kMaxBlocks)); }

HARDFAST_END
