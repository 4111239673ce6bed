// How the processes of one machine exchange numbers: through memory that all of them have mapped. Each writes into
// slots of its own, says that it has by a counter, and reads the others' slots once their counters say so.
#pragma once

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

namespace hardfast {

// Another process is gone, or did not answer in time.
struct LostProcess : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// One process's view of the memory. All must call the same methods with the same sizes in the same order.
class SharedMemory {
 public:
  // What is longer goes slot by slot. Two of each process fit into a core's second-level cache.
  static constexpr std::size_t kSlot = std::size_t{256} << 10;

  static std::size_t size(int world_size) { return slots_begin(world_size) + 2 * kSlot * world_size; }

  // `file` holds size(world_size) zeros at first; `lives` has a descriptor of each process, by rank, that can be read
  // once the process has ended; `interrupt` is called now and then during a long wait, and may throw.
  SharedMemory(int file, int rank, std::vector<int> lives, double timeout_s, std::function<void()> interrupt)
      : rank_(rank),
        world_size_(static_cast<int>(lives.size())),
        lives_(std::move(lives)),
        timeout_(timeout_s),
        interrupt_(std::move(interrupt)) {
    if (rank < 0 || rank >= world_size_) throw std::invalid_argument("rank must be that of one of the lives");
    void* mapped = mmap(nullptr, size(world_size_), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (mapped == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "mmap of shared memory");
    begin_ = static_cast<char*>(mapped);
  }
  ~SharedMemory() { munmap(begin_, size(world_size_)); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // `to` [world_size, bytes] becomes what each process has at `from` [bytes].
  void gather(const char* from, char* to, std::size_t bytes) {
    begin_exchange();
    for (std::size_t at = 0; at < bytes; at += kSlot) {
      const std::size_t size = std::min(kSlot, bytes - at);
      ++turn_;
      std::memcpy(slot<char>(rank_, turn_), from + at, size);
      meet(size);
      for (int rank = 0; rank < world_size_; ++rank) std::memcpy(to + rank * bytes + at, slot<char>(rank, turn_), size);
    }
    unfinished_ = false;
  }

  // `values` [count] become their sums over the processes, added in the order of ranks, so that all get the same bits.
  // Each process adds its part for all.
  template <typename T>
  void sum(T* values, std::size_t count) {
    constexpr std::size_t most = kSlot / sizeof(T);
    begin_exchange();
    for (std::size_t at = 0; at < count; at += most) {
      const std::size_t size = std::min(most, count - at);
      const auto part = [&](int rank) { return size * rank / world_size_; };
      ++turn_;
      std::memcpy(slot<T>(rank_, turn_), values + at, size * sizeof(T));
      meet(size * sizeof(T));
      T* const sums = slot<T>(rank_, turn_ + 1);
      const std::size_t begin = part(rank_), end = part(rank_ + 1);
      std::copy(slot<T>(0, turn_) + begin, slot<T>(0, turn_) + end, sums + begin);
      for (int rank = 1; rank < world_size_; ++rank) {
        const T* const theirs = slot<T>(rank, turn_);
        for (std::size_t i = begin; i < end; ++i) sums[i] += theirs[i];
      }
      ++turn_;
      meet(size * sizeof(T));
      for (int rank = 0; rank < world_size_; ++rank) {
        std::copy(slot<T>(rank, turn_) + part(rank), slot<T>(rank, turn_) + part(rank + 1), values + at + part(rank));
      }
    }
    unfinished_ = false;
  }

  // Tells the others that this process takes part no more.
  void leave() {
    place(rank_).left.store(true, std::memory_order_release);
    wake(place(rank_).turn);
  }

 private:
  using Clock = std::chrono::steady_clock;

  struct alignas(64) Place {
    std::atomic<std::uint32_t> turn;      // the last exchange for which the slot is filled
    std::atomic<std::uint32_t> sleepers;  // how many wait for the next one without looking
    std::atomic<bool> left;
    std::atomic<std::size_t> bytes[2];  // in the slots
  };
  static_assert(std::atomic<std::uint32_t>::is_always_lock_free && std::atomic<std::size_t>::is_always_lock_free);

  static std::size_t slots_begin(int world_size) { return (sizeof(Place) * world_size + 4095) / 4096 * 4096; }

  Place& place(int rank) const { return std::launder(reinterpret_cast<Place*>(begin_))[rank]; }

  // Slots alternate: who writes one again has met all others in between, so they have read what was there.
  template <typename T>
  T* slot(int rank, std::uint32_t turn) const {
    return reinterpret_cast<T*>(begin_ + slots_begin(world_size_) + (2 * rank + turn % 2) * kSlot);
  }

  // After an exception in the middle of an exchange the others would take this process's next numbers for its last.
  void begin_exchange() {
    if (unfinished_) throw LostProcess("process " + std::to_string(rank_) + " did not finish an exchange before this");
    unfinished_ = true;
  }

  // Says that this process's slot is filled, and waits until all are.
  void meet(std::size_t bytes) {
    Place& mine = place(rank_);
    mine.bytes[turn_ % 2].store(bytes, std::memory_order_relaxed);
    mine.turn.store(turn_);  // sequentially consistent, as what a sleeper does: one of the two sees the other
    if (mine.sleepers.load() > 0) wake(mine.turn);
    for (int rank = 0; rank < world_size_; ++rank) {
      if (rank != rank_) wait_for(rank);
      if (const std::size_t theirs = place(rank).bytes[turn_ % 2].load(std::memory_order_relaxed); theirs != bytes) {
        throw std::logic_error("process " + std::to_string(rank) + " exchanges " + std::to_string(theirs) +
                               " bytes where process " + std::to_string(rank_) + " exchanges " + std::to_string(bytes));
      }
    }
  }

  bool filled(int rank) const {  // the difference, since turns begin again after 2^32
    return static_cast<std::int32_t>(place(rank).turn.load(std::memory_order_acquire) - turn_) >= 0;
  }

  void wait_for(int rank) const {
    // Not longer, and without sched_yield: where others want the core, who yields it waits for all of their time
    // slices, and who was asleep comes first when woken.
    constexpr auto looking = std::chrono::microseconds(50);
    const Clock::time_point start = Clock::now();
    while (!filled(rank) && Clock::now() - start < looking) {
    }
    while (!filled(rank)) {
      sleep(rank);
      if (filled(rank)) return;
      const bool gone = place(rank).left.load(std::memory_order_acquire) || ended(rank);
      if (gone && !filled(rank)) throw LostProcess("process " + std::to_string(rank) + " has ended");
      if (Clock::now() - start > timeout_) {
        throw LostProcess("process " + std::to_string(rank) + " did not answer in " +
                          std::to_string(std::chrono::duration_cast<std::chrono::seconds>(timeout_).count()) + " s");
      }
      interrupt_();
    }
  }

  bool ended(int rank) const {
    pollfd life{lives_[rank], POLLIN, 0};
    return poll(&life, 1, 0) > 0;
  }

  // Until a process's turn is another one, or for a tenth of a second.
  void sleep(int rank) const {
    Place& theirs = place(rank);
    theirs.sleepers.fetch_add(1);
    const std::uint32_t turn = theirs.turn.load();
    if (static_cast<std::int32_t>(turn - turn_) < 0) {
#if defined(__linux__)
      const timespec tenth{0, 100'000'000};
      syscall(SYS_futex, &theirs.turn, FUTEX_WAIT, turn, &tenth, nullptr, 0);
#else
      usleep(100);
#endif
    }
    theirs.sleepers.fetch_sub(1);
  }

  static void wake(std::atomic<std::uint32_t>& turn) {
#if defined(__linux__)
    syscall(SYS_futex, &turn, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
#else
    (void)turn;
#endif
  }

  char* begin_ = nullptr;
  const int rank_, world_size_;
  const std::vector<int> lives_;
  const std::chrono::duration<double> timeout_;
  const std::function<void()> interrupt_;
  std::uint32_t turn_ = 0;
  bool unfinished_ = false;
};

}  // namespace hardfast
