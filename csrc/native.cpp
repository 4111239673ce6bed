// hardfast._native: what is not an op. Build information, the processor's features, the memory-bandwidth probe, memory
// that processes share.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../kernels/cpu/isa.h"
#include "shared_memory.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["compiler"] = HARDFAST_COMPILER;
  info["cuda_compiler"] = HARDFAST_CUDA_COMPILER;
  info["cuda_architectures"] = HARDFAST_CUDA_ARCHITECTURES;
  info["torch_headers"] = HARDFAST_TORCH_HEADERS;
  info["torch_target"] = "2.10";
  return info;
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
#define HARDFAST_FEATURE(name) \
  if (__builtin_cpu_supports(name)) found.push_back(name)
  HARDFAST_FEATURE("sse4.2");
  HARDFAST_FEATURE("avx");
  HARDFAST_FEATURE("avx2");
  HARDFAST_FEATURE("fma");
  HARDFAST_FEATURE("avx512f");
  HARDFAST_FEATURE("avx512bw");
  HARDFAST_FEATURE("avx512vl");
#endif
  return found;
}

// Bytes per second, read plus written, of copying a buffer onto another one that is already in memory: the ceiling
// of any op that streams. The best of `repeats`, as interruptions only ever slow a copy down.
double copy_bandwidth(std::size_t megabytes, int threads, int repeats) {
  if (megabytes < 1 || threads < 1 || repeats < 1) throw std::invalid_argument("all arguments must be positive");
  const std::size_t bytes = megabytes << 20;
  const std::unique_ptr<char[]> source(new char[bytes]), target(new char[bytes]);
  std::memset(source.get(), 1, bytes);
  std::memset(target.get(), 2, bytes);
  double best = 0;
  const py::gil_scoped_release release;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        const std::size_t begin = bytes / threads * t, end = t + 1 == threads ? bytes : bytes / threads * (t + 1);
        std::memcpy(target.get() + begin, source.get() + begin, end - begin);
      });
    }
    for (std::thread& worker : workers) worker.join();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    const double rate = 2.0 * static_cast<double>(bytes) / seconds.count();
    best = rate > best ? rate : best;
  }
  return best;
}

void look_for_signals() {
  const py::gil_scoped_acquire acquire;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

template <typename T>
void sum(hardfast::SharedMemory& memory, std::uintptr_t values, std::size_t count) {
  memory.sum(reinterpret_cast<T*>(values), count);
}

void bind_shared_memory(py::module_& module) {
  using hardfast::SharedMemory;
  using released = py::call_guard<py::gil_scoped_release>;
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const hardfast::LostProcess& lost) {
      PyErr_SetString(py::module_::import("torch.distributed").attr("DistNetworkError").ptr(), lost.what());
    }
  });
  py::class_<SharedMemory>(module, "SharedMemory", "Exchanges what lies at addresses with other processes.")
      .def(py::init([](int file, int rank, std::vector<int> lives, double timeout_s) {
             return std::make_unique<SharedMemory>(file, rank, std::move(lives), timeout_s, look_for_signals);
           }),
           py::arg("file"), py::arg("rank"), py::arg("lives"), py::arg("timeout_s"))
      .def_static("size", &SharedMemory::size, py::arg("world_size"), "Bytes of the file.")
      .def(
          "gather",
          [](SharedMemory& memory, std::uintptr_t from, std::uintptr_t to, std::size_t bytes) {
            memory.gather(reinterpret_cast<const char*>(from), reinterpret_cast<char*>(to), bytes);
          },
          released())
      .def("sum_float32", &sum<float>, released())
      .def("sum_float64", &sum<double>, released())
      .def("leave", &SharedMemory::leave);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Build information, processor features, the memory-bandwidth probe, and memory that processes share.";
  bind_shared_memory(module);
  module.def("build_info", &build_info, "Compilers, CUDA architectures and torch headers of this build.");
  module.def("cpu_features", &cpu_features, "Instruction set extensions of this processor that matter here.");
  module.def("cpu_isa", [] { return hardfast::cpu_kernels().isa; }, "The instruction set that the CPU kernels use.");
  module.def("copy_bandwidth", &copy_bandwidth, py::arg("megabytes") = 256, py::arg("threads") = 1,
             py::arg("repeats") = 5, "Bytes per second, read plus written, of a copy in place.");
}
