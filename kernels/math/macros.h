// Headers in kernels/math compile for the host and for the device, and once per instruction set on the host:
// each translation unit gets its own inline namespace, so that the linker can never merge code compiled
// for a newer processor into the path of an older one.
#pragma once

#if defined(__CUDACC__)
#define HARDFAST_HD __host__ __device__ __forceinline__
#else
#define HARDFAST_HD inline __attribute__((always_inline))
#endif

#ifndef HARDFAST_ISA
#define HARDFAST_ISA generic
#endif

#define HARDFAST_BEGIN \
  namespace hardfast { \
  inline namespace HARDFAST_ISA {
#define HARDFAST_END \
  }                  \
  }
