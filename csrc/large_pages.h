// Outputs of many megabytes are fresh memory at every call, and most of the time of a fast op then goes into the page
// faults of writing it. Large pages take a five-hundredth of the faults; Linux gives them to who asks.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

#include "tensor_args.h"

namespace hardfast {

constexpr std::uintptr_t kLargePage = std::uintptr_t{2} << 20;

inline void ask_for_large_pages(const void* data, std::uintptr_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
  const std::uintptr_t last = (begin + bytes) / kLargePage * kLargePage;
  // A refusal changes nothing but the time, so the answer is not looked at.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

inline void ask_for_large_pages(const Tensor& tensor) {
  ask_for_large_pages(tensor.const_data_ptr(), static_cast<std::uintptr_t>(tensor.numel()) * tensor.element_size());
}

}  // namespace hardfast
