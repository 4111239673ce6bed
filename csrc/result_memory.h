// Memory of large results, kept from one call to the next. A result is fresh memory to most calls, and the page faults
// of writing it take longer than a fast op.
#pragma once

#include "tensor_args.h"

namespace hardfast {

// An uninitialised tensor on the CPU of `like`'s dtype.
Tensor empty_result(const Tensor& like, const std::vector<int64_t>& size, const std::vector<int64_t>& strides);

inline Tensor empty_result(const Tensor& like, const std::vector<int64_t>& size) {
  return empty_result(like, size, contiguous_strides(size));
}

// [batch, C, height, width] with the channels and the memory format of `image`.
inline Tensor empty_image_result(const Tensor& image, int64_t batch, int64_t height, int64_t width) {
  const int64_t channels = image.size(1);
  const std::vector<int64_t> size = {batch, channels, height, width};
  if (!is_channels_last(image)) return empty_result(image, size);
  return empty_result(image, size, {height * width * channels, 1, width * channels, channels});
}

}  // namespace hardfast
