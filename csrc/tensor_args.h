// From tensors to the plain structs that kernels see. Shapes and values are checked in hardfast/ops; what stands here
// protects memory when an op is called without that layer.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <vector>

#include "../kernels/warp_params.h"

namespace hardfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::BFloat16: return DType::kBFloat16;
    default: STD_TORCH_CHECK(false, "hardfast ops take float32, float64, float16 or bfloat16"); return {};
  }
}

// Images may also be bytes.
inline DType image_dtype_of(const Tensor& image) {
  return image.scalar_type() == ScalarType::Byte ? DType::kUInt8 : dtype_of(image);
}

// The type of parameters, statistics and reduced losses.
inline ScalarType compute_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline ImageView<const void> image_view(const Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

inline ImageView<void> mutable_image_view(const Tensor& tensor) {
  return {tensor.mutable_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

inline bool is_channels_last(const Tensor& image) {
  const int64_t c = image.size(1), h = image.size(2), w = image.size(3);
  const auto stride_is = [&](int64_t dim, int64_t stride) {
    return image.size(dim) == 1 || image.stride(dim) == stride;
  };
  return !image.is_contiguous() && stride_is(0, c * h * w) && stride_is(1, 1) && stride_is(2, c * w) && stride_is(3, c);
}

// [N, ...] whose rows, or samples, may lie apart; within one the elements are contiguous.
inline Tensor with_contiguous_rows(const Tensor& tensor) {
  int64_t elements = 1;
  for (int64_t dim = tensor.dim() - 1; dim > 0; --dim) {
    if (tensor.size(dim) != 1 && tensor.stride(dim) != elements) return torch::stable::contiguous(tensor);
    elements *= tensor.size(dim);
  }
  return tensor;
}

// An uninitialised [batch, C, height, width] with the channels, dtype, device and memory format of `image`.
inline Tensor empty_image(const Tensor& image, int64_t batch, int64_t height, int64_t width) {
  using torch::headeronly::MemoryFormat;
  const std::vector<int64_t> size = {batch, image.size(1), height, width};
  return torch::stable::empty(size, image.scalar_type(), std::nullopt, image.device(), std::nullopt,
                              is_channels_last(image) ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// By the entry for strided tensors: the general one looks its operator up by name, which small calls feel.
inline Tensor empty_strided(const Tensor& like, const std::vector<int64_t>& size, const std::vector<int64_t>& strides,
                            ScalarType type) {
  using torch::stable::detail::from;
  std::int32_t device_type = 0, device_index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle result = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(size.size()), size.data(), strides.data(),
                                                         torch::stable::detail::to<std::int32_t>(from(type)),
                                                         device_type, device_index, &result));
  return Tensor(result);
}

inline std::vector<int64_t> contiguous_strides(const std::vector<int64_t>& size) {
  std::vector<int64_t> strides(size.size(), 1);
  for (std::size_t k = size.size(); k-- > 1;) strides[k - 1] = strides[k] * (size[k] > 0 ? size[k] : 1);
  return strides;
}

inline Tensor empty_vector(const Tensor& like, const std::vector<int64_t>& size, ScalarType type) {
  return empty_strided(like, size, contiguous_strides(size), type);
}

}  // namespace hardfast
