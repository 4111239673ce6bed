#include "result_memory.h"

#include <atomic>
#include <deque>
#include <iterator>
#include <mutex>
#include <new>
#include <thread>

#include "large_pages.h"

#if defined(__linux__) && defined(MADV_HUGEPAGE) && !defined(__SANITIZE_ADDRESS__)
#define HARDFAST_KEEPS_MEMORY

// PyTorch 2.11 and later have it; it is looked for when this library is loaded, which is built for 2.10.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t dimensions, const int64_t* size, const int64_t* strides, int64_t offset, int32_t type,
    int32_t device_type, int32_t device_index, AtenTensorHandle* result, int32_t layout, const uint8_t* opaque_metadata,
    int64_t opaque_metadata_size, void (*deleter)(void* data, void* context), void* deleter_context);
#endif

namespace hardfast {
namespace {

#ifdef HARDFAST_KEEPS_MEMORY
struct Block {
  void* data;
  std::size_t bytes;
};

// Every lock is only tried: whoever finds it taken maps or unmaps memory of its own, and the child of a fork never
// waits for a thread that it does not have.
class KeptMemory {
 public:
  int64_t limit() const { return limit_.load(std::memory_order_relaxed); }

  int64_t set_limit(int64_t bytes) {
    const int64_t before = limit_.exchange(bytes);
    constexpr int kAttempts = 10000;
    for (int attempt = 0; attempt < kAttempts && !unmap_oldest(bytes); ++attempt) std::this_thread::yield();
    return before;
  }

  bool serves(std::size_t bytes) const {
    constexpr std::size_t kWorthKeeping = 1 << 20;
    const std::size_t most = static_cast<std::size_t>(limit());
    return bytes >= kWorthKeeping && bytes <= most && whole_pages(bytes) <= most;
  }

  // No smaller block than asked for; null data if there is no memory.
  Block take(std::size_t bytes) {
    const std::size_t least = whole_pages(bytes);
    if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) {
      // The newest are in cache.
      for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) {
        if (block->bytes < least || block->bytes > least + least / 4) continue;
        const Block found = *block;
        blocks_.erase(std::next(block).base());
        kept_ -= found.bytes;
        return found;
      }
    }
    return map(least);
  }

  void give_back(const Block& block) {
    if (!keep(block)) munmap(block.data, block.bytes);
    unmap_oldest(limit());
  }

 private:
  // A large page is rounded up to where that adds an eighth at most.
  static std::size_t whole_pages(std::size_t bytes) {
    const auto rounded = [bytes](std::size_t unit) { return (bytes + unit - 1) / unit * unit; };
    return rounded(kLargePage) - bytes <= bytes / 8 ? rounded(kLargePage) : rounded(kSmallPage);
  }

  static Block map(std::size_t bytes) {
    const std::size_t room = bytes + kLargePage;
    void* const mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return {nullptr, 0};
    char* const begin = static_cast<char*>(mapped);
    const std::size_t before = (kLargePage - reinterpret_cast<std::uintptr_t>(begin) % kLargePage) % kLargePage;
    if (before > 0) munmap(begin, before);
    munmap(begin + before + bytes, room - before - bytes);
    const Block block = {begin + before, bytes};
    ask_for_large_pages(block.data, bytes);
    return block;
  }

  bool keep(const Block& block) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock) return false;
    try {
      blocks_.push_back(block);
    } catch (const std::bad_alloc&) {
      return false;
    }
    kept_ += block.bytes;
    return true;
  }

  bool unmap_oldest(int64_t limit) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    while (lock && kept_ > static_cast<std::size_t>(limit)) {
      munmap(blocks_.front().data, blocks_.front().bytes);
      kept_ -= blocks_.front().bytes;
      blocks_.pop_front();
    }
    return static_cast<bool>(lock);
  }

  static constexpr std::size_t kSmallPage = 64 * 1024;  // the largest of any processor

  std::mutex mutex_;
  std::deque<Block> blocks_;  // the oldest first
  std::size_t kept_ = 0;      // bytes of them
  std::atomic<int64_t> limit_{128 << 20};
};

// Made when the library is loaded, before there are threads that fork; never destroyed, for tensors may outlive it.
KeptMemory& kept_memory = *new KeptMemory;

// Null where PyTorch's allocator is to serve.
AtenTensorHandle kept_tensor(const Tensor& like, const std::vector<int64_t>& size, const std::vector<int64_t>& strides,
                             std::size_t bytes) {
  if (!torch_from_blob || !kept_memory.serves(bytes)) return nullptr;
  const Block block = kept_memory.take(bytes);
  if (!block.data) return nullptr;
  const auto give_back = [](void* data, void* block_bytes) {
    kept_memory.give_back({data, reinterpret_cast<std::size_t>(block_bytes)});
  };
  constexpr std::int32_t kAnyDevice = -1;
  using torch::stable::detail::from;
  AtenTensorHandle result = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_from_blob(
      block.data, static_cast<int64_t>(size.size()), size.data(), strides.data(), 0,
      torch::stable::detail::to<std::int32_t>(from(like.scalar_type())), aoti_torch_device_type_cpu(), kAnyDevice,
      &result, aoti_torch_layout_strided(), nullptr, 0, give_back, reinterpret_cast<void*>(block.bytes)));
  return result;
}
#endif

}  // namespace

Tensor empty_result(const Tensor& like, const std::vector<int64_t>& size, const std::vector<int64_t>& strides) {
#ifdef HARDFAST_KEEPS_MEMORY
  std::size_t bytes = like.element_size();
  bool overflows = false;  // which PyTorch has an error for
  for (const int64_t length : size) {
    overflows |= __builtin_mul_overflow(bytes, static_cast<std::size_t>(length), &bytes);
  }
  if (const AtenTensorHandle kept = overflows ? nullptr : kept_tensor(like, size, strides, bytes)) return Tensor(kept);
#endif
  const Tensor result = empty_strided(like, size, strides, like.scalar_type());
  ask_for_large_pages(result);
  return result;
}

namespace {

Tensor empty_result_like(const Tensor& like) {
  return empty_result(like, std::vector<int64_t>(like.sizes().begin(), like.sizes().end()));
}

// Sets how many bytes of results that are no longer used are kept; returns how many it were.
int64_t keep_memory(int64_t max_bytes) {
#ifdef HARDFAST_KEEPS_MEMORY
  if (torch_from_blob) return kept_memory.set_limit(max_bytes > 0 ? max_bytes : 0);
#endif
  (void)max_bytes;
  return 0;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(hardfast, CPU, library) { library.impl("_empty_result", TORCH_BOX(&empty_result_like)); }

STABLE_TORCH_LIBRARY_IMPL(hardfast, CompositeExplicitAutograd, library) {
  library.impl("_keep_memory", TORCH_BOX(&keep_memory));
}

}  // namespace hardfast
