// The CUDA kernels of the warps and their binding, as one library that serves CPU tensors: see cuda_runtime_api.h here.
#include "cuda_runtime_api.h"

#include "../../kernels/cuda/affine_warp.cu"
#include "../../kernels/cuda/flow_warp.cu"
#include "../../kernels/cuda/projective_warp.cu"
#include "../../kernels/cuda/thin_plate_warp.cu"

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

// The name of the dispatch key, once PyTorch's headers are through with it.
#define CUDA CPU
#include "../../csrc/warp_cuda.cpp"
