// A persistent thread pool. The caller takes part, chunks are claimed one by one, and nobody waits for a worker that
// claimed nothing, so a busy machine slows a region by one chunk at most. Splits outputs only: never a reduction.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace rank_grpo {

// While it lives, what has too few digits for a float (below 2^-126) counts as zero on this thread, as operand and as result: moments that fade
// away and e^x of hidden keys would otherwise cost hundreds of cycles each.
class FlushingSmallest {
 public:
  FlushingSmallest(const FlushingSmallest&) = delete;
  FlushingSmallest& operator=(const FlushingSmallest&) = delete;
#if defined(__x86_64__)
  FlushingSmallest() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }
  ~FlushingSmallest() { __builtin_ia32_ldmxcsr(before_); }

 private:
  const unsigned before_;
#else
  FlushingSmallest() {}
#endif
};

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // threads >= 1, the caller included; OUT_OF_MEMORY where the system gives fewer
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls f(i) or f(i, thread) for i in [0, chunks), each once, on any thread, numbers below 2^-126 taken for zero; returns when all are done,
  // or throws what an f threw, with no f at work any more. `thread` is in [0, threads): what it numbers is the thread's own. Not re-entrant: one
  // thread (the engine's) calls it, and f does not call it again.
  template <class F>
  void run(int chunks, F&& f) {
    const FlushingSmallest flushing;
    using Fn = std::remove_reference_t<F>;
    const Task task = [](void* arg, int i, int thread) {
      if constexpr (std::is_invocable_v<Fn&, int, int>) {
        (*static_cast<Fn*>(arg))(i, thread);
      } else {
        (*static_cast<Fn*>(arg))(i);
      }
    };
    void* arg = const_cast<void*>(static_cast<const void*>(&f));
    if (threads_ > 1 && chunks > 1) return dispatch(chunks, task, arg);
    for (int i = 0; i < chunks; ++i) task(arg, i, 0);
  }

 private:
  using Task = void (*)(void*, int chunk, int thread);
  void dispatch(int chunks, Task task, void* arg);
  void claim(uint32_t epoch, int thread);
  void worker(int thread);
  void wake(int count);
  void end();  // of all workers

  const int threads_;
  std::vector<std::thread> workers_;
  alignas(64) std::atomic<uint64_t> claimed_{0};  // {epoch: 32, next chunk: 32}: a stale worker cannot claim from a new region
  alignas(64) std::atomic<int> done_{0};
  std::atomic<int> total_{0};
  std::atomic<Task> task_{nullptr};
  std::atomic<void*> arg_{nullptr};
  alignas(64) std::atomic<uint32_t> wake_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex failure_lock_;
  std::exception_ptr failure_;  // what an f of this region threw
};

}  // namespace rank_grpo
