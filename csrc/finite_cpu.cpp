// Whether all numbers of a tensor are finite. A sum of PyTorch's says so too, for several times what the rest of a
// check of small parameters takes.
#include "../kernels/math/half.h"
#include "tensor_args.h"

namespace hardfast {
namespace {

template <typename Storage>
bool all_finite(const void* data, int64_t count) {
  const Storage* const values = static_cast<const Storage*>(data);
  bool all = true;
  for (int64_t i = 0; i < count; ++i) {
    const auto value = widen(values[i]);
    all &= value - value == 0;
  }
  return all;
}

bool are_finite(const Tensor& tensor) {
  const Tensor values = tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
  const void* const data = values.const_data_ptr();
  switch (dtype_of(values)) {
    case DType::kFloat16: return all_finite<Half>(data, values.numel());
    case DType::kBFloat16: return all_finite<BFloat16>(data, values.numel());
    case DType::kFloat64: return all_finite<double>(data, values.numel());
    default: return all_finite<float>(data, values.numel());
  }
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) { library.impl("_are_finite", TORCH_BOX(&are_finite)); }

}  // namespace hardfast
