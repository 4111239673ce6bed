// The matrix products of linear_kl_disagreement that a BLAS shares badly among threads: those of a few rows with a
// weight of many classes. Here each thread calls it for classes of its own; within a parallel region it starts none.
#include <algorithm>
#include <array>

#include "large_pages.h"
#include "tensor_args.h"

namespace hardfast {
namespace {

// Rows of a weight for one product: their part of the logits stays in the second-level cache, or nearly.
constexpr int64_t kBlockClasses = 1024;
// Each part of a sum over classes takes memory of its own. Their number depends on the shapes alone, as do all bits.
constexpr int64_t kMostParts = 8;
// More rows are shared well by the BLAS.
constexpr int64_t kMostRows = 512;

// A part of a tensor along one dimension, as one that knows of no gradients and of no inference mode: the threads of a
// parallel region know of neither, and would be refused to write where their caller may.
Tensor part_of(const Tensor& tensor, int64_t dim, int64_t begin, int64_t end) {
  std::vector<int64_t> size(tensor.sizes().begin(), tensor.sizes().end());
  const std::vector<int64_t> stride(tensor.strides().begin(), tensor.strides().end());
  size[dim] = end - begin;
  auto* data = static_cast<char*>(const_cast<void*>(tensor.const_data_ptr()));
  return torch::stable::from_blob(data + begin * stride[dim] * static_cast<int64_t>(tensor.element_size()), size,
                                  stride, tensor.device(), tensor.scalar_type());
}

Tensor whole(const Tensor& tensor) { return part_of(tensor, 0, 0, tensor.size(0)); }

// An operator of PyTorch that writes into its last argument.
template <typename... Arguments>
void call(const char* name, const Arguments&... arguments) {
  std::array<StableIValue, sizeof...(arguments)> stack{torch::stable::detail::from(arguments)...};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "out", stack.data(), TORCH_ABI_VERSION));
  (void)torch::stable::detail::to<Tensor>(stack[0]);  // takes the reference that comes back
}

bool is_full_precision(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::Double;
}

int64_t blocks_of(int64_t classes, const Tensor& logits) {
  const bool few = is_full_precision(logits) && logits.size(0) <= kMostRows;
  return few ? (classes + kBlockClasses - 1) / kBlockClasses : 1;
}

void linear_logits(const Tensor& features, const Tensor& weight, const std::optional<Tensor>& bias, Tensor logits) {
  STD_TORCH_CHECK(features.dim() == 2 && weight.dim() == 2 && logits.dim() == 2 && logits.size(0) == features.size(0) &&
                      logits.size(1) == weight.size(0) && features.size(1) == weight.size(1) &&
                      (!bias || (bias->dim() == 1 && bias->size(0) == weight.size(0))),
                  "logits must be [N, K] for features [N, D], weight [K, D] and bias [K]");
  ask_for_large_pages(logits);
  const int64_t classes = weight.size(0), blocks = blocks_of(classes, logits);
  torch::stable::parallel_for(0, blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = classes * block / blocks, end = classes * (block + 1) / blocks;
      const Tensor rows = whole(features), classes_here = part_of(weight, 0, begin, end);
      const Tensor out = part_of(logits, 1, begin, end);
      if (bias) {
        call("aten::linear", rows, classes_here, std::optional<Tensor>(part_of(*bias, 0, begin, end)), out);
      } else {
        call("aten::linear", rows, classes_here, std::nullopt, out);
      }
    }
  });
}

void logits_times_weight(const Tensor& logits, const Tensor& weight, Tensor product) {
  STD_TORCH_CHECK(logits.dim() == 2 && weight.dim() == 2 && product.dim() == 2 && logits.size(1) == weight.size(0) &&
                      product.size(0) == logits.size(0) && product.size(1) == weight.size(1),
                  "the product must be [N, D] for logits [N, K] and weight [K, D]");
  // All parts together are no larger than the logits.
  const int64_t classes = weight.size(0), fitting = classes / std::max(weight.size(1), int64_t{1});
  const int64_t count = std::min({blocks_of(classes, logits), kMostParts, fitting});
  if (count <= 1) return call("aten::mm", whole(logits), whole(weight), whole(product));
  const Tensor sums = torch::stable::empty({count, product.size(0), product.size(1)}, product.scalar_type(),
                                           std::nullopt, product.device());
  torch::stable::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      const int64_t begin = classes * k / count, end = classes * (k + 1) / count;
      const Tensor sum = torch::stable::select(part_of(sums, 0, k, k + 1), 0, 0);
      call("aten::mm", part_of(logits, 1, begin, end), part_of(weight, 0, begin, end), sum);
    }
  });
  Tensor out = whole(product);
  const std::array<int64_t, 1> over_parts{0};
  torch::stable::sum_out(out, sums, over_parts);
}

void large_pages(const Tensor& tensor) { ask_for_large_pages(tensor); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) {
  library.impl("_linear_logits", TORCH_BOX(&linear_logits));
  library.impl("_logits_times_weight", TORCH_BOX(&logits_times_weight));
  library.impl("_ask_for_large_pages", TORCH_BOX(&large_pages));
}

}  // namespace hardfast
