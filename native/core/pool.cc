// See pool.h. Waiting is a short spin, then a futex, so an idle pool costs nothing.
#include "pool.h"

#include <climits>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "error.h"

namespace rank_grpo {
namespace {

constexpr uint32_t kClosed = 0xffffffffu;  // no chunk to claim
constexpr int kSpins = 4000;               // about 50 us: longer than the gap between two regions of one layer

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) : threads_(threads < 1 ? 1 : threads) {
  workers_.reserve(static_cast<size_t>(threads_ - 1));
  try {
    for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { worker(i); });
  } catch (const std::exception& error) {  // a limit of the system
    const size_t got = workers_.size() + 1;
    end();
    fail("OUT_OF_MEMORY", "Expected " + std::to_string(threads_) + " threads, got " + std::to_string(got) + " (" + error.what() +
                              "). Set RANK_GRPO_THREADS to fewer.");
  }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() {
  stop_.store(true);
  wake_.fetch_add(1);
  wake(INT_MAX);
  for (auto& thread : workers_) thread.join();
}

void ThreadPool::wake(int count) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&wake_), FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

void ThreadPool::dispatch(int chunks, Task task, void* arg) {
  // Close the old region first: a worker that read its claim word but not yet the fields below must fail its exchange, or it would
  // run a chunk of the new region under the old epoch.
  const uint64_t last = claimed_.load(std::memory_order_relaxed) >> 32;
  claimed_.store((last + 1) << 32 | kClosed, std::memory_order_seq_cst);
  task_.store(task, std::memory_order_relaxed);
  arg_.store(arg, std::memory_order_relaxed);
  total_.store(chunks, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  const uint32_t epoch = static_cast<uint32_t>(last + 2);
  claimed_.store(static_cast<uint64_t>(epoch) << 32, std::memory_order_release);
  wake_.fetch_add(1);
  if (sleepers_.load() > 0) wake(threads_ - 1);
  claim(epoch, 0);
  for (int spins = 0; done_.load(std::memory_order_acquire) != chunks;) {
    if (++spins < kSpins) {
      pause();
    } else {
      sched_yield();
    }
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::claim(uint32_t epoch, int thread) {
  for (;;) {
    uint64_t current = claimed_.load(std::memory_order_acquire);
    if (static_cast<uint32_t>(current >> 32) != epoch) return;
    const uint32_t next = static_cast<uint32_t>(current);
    if (next == kClosed) return;
    const uint32_t total = static_cast<uint32_t>(total_.load(std::memory_order_relaxed));
    const Task task = task_.load(std::memory_order_relaxed);
    void* arg = arg_.load(std::memory_order_relaxed);
    if (next >= total) return;
    // The exchange succeeds only while the epoch still holds, so the three loads above belong to it.
    if (!claimed_.compare_exchange_weak(current, current + 1, std::memory_order_acq_rel)) continue;
    try {
      task(arg, static_cast<int>(next), thread);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failure_lock_);
      failure_ = std::current_exception();
    }
    done_.fetch_add(1, std::memory_order_release);
  }
}

void ThreadPool::worker(int thread) {
  const FlushingSmallest flushing;
  uint32_t seen = 0;
  for (;;) {
    int spins = 0;
    uint32_t now;
    while ((now = wake_.load(std::memory_order_acquire)) == seen) {
      if (stop_.load()) return;
      if (++spins < kSpins) {
        pause();
        continue;
      }
      sleepers_.fetch_add(1);
      syscall(SYS_futex, reinterpret_cast<uint32_t*>(&wake_), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
      sleepers_.fetch_sub(1);
      spins = 0;
    }
    if (stop_.load()) return;
    seen = now;
    claim(static_cast<uint32_t>(claimed_.load(std::memory_order_acquire) >> 32), thread);
  }
}

}  // namespace rank_grpo
