// A GPU in plain C++, for tests: the threads of a block are coroutines of one host thread, which a barrier or a warp
// intrinsic suspends. Blocks run one after the other. It stands in for the toolkit's header of this name, so that the
// very kernels of kernels/cuda run on a machine without a GPU. Slow, and silent about races.
#pragma once

#include <ucontext.h>
#include <csetjmp>

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <vector>

#define HARDFAST_EMULATED_GPU
#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline
#define __noinline__
#define __grid_constant__
#define __launch_bounds__(...)

using cudaStream_t = void*;
enum cudaError_t {
  cudaSuccess,
  cudaErrorNoKernelImageForDevice,
  cudaErrorUnsupportedPtxVersion,
  cudaErrorInvalidDeviceFunction
};
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "an error"; }
inline cudaError_t cudaGetDevice(int*) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int*, cudaDeviceAttr, int) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, std::size_t bytes, cudaStream_t) {
  std::memset(data, value, bytes);
  return cudaSuccess;
}

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, gridDim;

class EmulatedBlock {
 public:
  enum State { kRunning, kAtBlock, kAtWarp, kDone };

  static EmulatedBlock& current() {
    static EmulatedBlock block;
    return block;
  }

  void run(unsigned threads, const std::function<void()>& body) {
    body_ = &body;
    while (threads_.size() < threads) threads_.emplace_back(new Thread);
    states_.assign(threads, kRunning);
    do {
      for (unsigned t = 0; t < threads; ++t) {
        if (states_[t] == kRunning) resume(t);
      }
    } while (release(threads));
  }

  // Of the running thread.
  void wait(State where) {
    Thread& self = *threads_[running_];
    states_[running_] = where;
    if (_setjmp(self.place) == 0) _longjmp(scheduler_, 1);
  }

  unsigned char exchange[1024][16];

 private:
  // A stack and where on it the thread waits. It lives on from block to block: to begin one takes system calls, and to
  // jump between them takes none.
  struct Thread {
    std::vector<char> stack = std::vector<char>(128 * 1024);
    std::jmp_buf place;
    bool begun = false;
  };

  void resume(unsigned t) {
    Thread& thread = *threads_[t];
    threadIdx.x = running_ = t;
    if (_setjmp(scheduler_) != 0) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = thread.stack.data();
    context.uc_stack.ss_size = thread.stack.size();
    context.uc_link = nullptr;
    makecontext(&context, &EmulatedBlock::live, 0);
    setcontext(&context);
  }

  static void live() {
    for (EmulatedBlock& block = current();;) {
      (*block.body_)();
      block.wait(kDone);
    }
  }

  // Lets those go on whose warp, or whose block, is complete. False once all are done.
  bool release(unsigned threads) {
    unsigned done = 0, at_block = 0;
    bool released = false;
    for (unsigned warp = 0; warp < threads; warp += 32) {
      unsigned at_warp = 0;
      for (unsigned t = warp; t < warp + 32; ++t) {
        done += states_[t] == kDone;
        at_block += states_[t] == kAtBlock;
        at_warp += states_[t] == kAtWarp;
      }
      if (at_warp != 32) continue;
      for (unsigned t = warp; t < warp + 32; ++t) states_[t] = kRunning;
      released = true;
    }
    if (released) return true;
    if (done == threads) return false;
    if (at_block != threads) throw std::runtime_error("threads of a block wait for others that never come");
    for (State& state : states_) state = kRunning;
    return true;
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<State> states_;
  std::vector<std::unique_ptr<Thread>> threads_;
  std::jmp_buf scheduler_;
  unsigned running_ = 0;
};

template <typename Kernel, typename... Arguments>
void emulate(Kernel kernel, unsigned blocks, unsigned threads, const Arguments&... arguments) {
  gridDim.x = blocks;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    EmulatedBlock::current().run(threads, [&] { kernel(arguments...); });
  }
}

inline void __syncthreads() { EmulatedBlock::current().wait(EmulatedBlock::kAtBlock); }

// Brings each lane the values of all 32.
template <typename T, typename Function>
T across_warp(T value, const Function& function) {
  EmulatedBlock& block = EmulatedBlock::current();
  const unsigned self = threadIdx.x;
  static_assert(sizeof(T) <= sizeof block.exchange[0], "too wide");
  std::memcpy(block.exchange[self], &value, sizeof value);
  block.wait(EmulatedBlock::kAtWarp);
  const T result = function([&](unsigned lane) {
    T other;
    std::memcpy(&other, block.exchange[self / 32 * 32 + lane], sizeof other);
    return other;
  });
  block.wait(EmulatedBlock::kAtWarp);
  return result;
}

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

template <typename T>
T __ldg(const T* at) {
  return *at;
}

template <typename T>
T __shfl_down_sync(unsigned, T value, int offset) {
  const unsigned from = threadIdx.x % 32 + static_cast<unsigned>(offset);
  return across_warp(value, [&](const auto& of) { return from < 32 ? of(from) : value; });
}

inline int __reduce_min_sync(unsigned, int value) {
  return across_warp(value, [&](const auto& of) {
    int result = value;
    for (unsigned lane = 0; lane < 32; ++lane) result = of(lane) < result ? of(lane) : result;
    return result;
  });
}

inline int __reduce_max_sync(unsigned, int value) {
  return across_warp(value, [&](const auto& of) {
    int result = value;
    for (unsigned lane = 0; lane < 32; ++lane) result = of(lane) > result ? of(lane) : result;
    return result;
  });
}

template <typename T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target = before + value;
  return before;
}

template <typename T>
T atomicMax(T* target, T value) {
  const T before = *target;
  *target = before < value ? value : before;
  return before;
}

template <typename T>
T atomicMin(T* target, T value) {
  const T before = *target;
  *target = value < before ? value : before;
  return before;
}

template <typename T>
T min(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
T max(T a, T b) {
  return a < b ? b : a;
}
