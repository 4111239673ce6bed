// PyTorch's header of this name, less what needs a GPU: csrc/warp_cuda.cpp then serves CPU tensors.
#pragma once

#include_next <torch/csrc/stable/accelerator.h>

namespace torch::stable::accelerator {

struct NoGuard {
  explicit NoGuard(int) {}
};

}  // namespace torch::stable::accelerator

#define DeviceGuard NoGuard
#define aoti_torch_get_current_cuda_stream(device, stream) (*(stream) = nullptr, 0)
