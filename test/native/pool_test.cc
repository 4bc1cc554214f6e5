// The pool: every chunk once, whatever the number of chunks, threads and regions in a row, and a number of its own for every thread.
#include "../../native/core/pool.h"

#include <sys/resource.h>

#include <atomic>
#include <fstream>
#include <new>

#include "../../native/core/error.h"
#include "check.h"

TEST(pool_runs_every_chunk_once) {
  for (int threads : {1, 2, 3, 8}) {
    rank_grpo::ThreadPool pool(threads);
    for (int region = 0; region < 20000; ++region) {
      const int chunks = region % 17;
      std::vector<std::atomic<int>> seen(static_cast<size_t>(chunks));
      pool.run(chunks, [&](int i) { seen[static_cast<size_t>(i)].fetch_add(1); });
      for (const auto& s : seen) CHECK(s.load() == 1);
    }
  }
}

TEST(pool_numbers_its_threads) {
  for (int threads : {1, 2, 5}) {
    rank_grpo::ThreadPool pool(threads);
    std::vector<std::atomic<int>> at_work(static_cast<size_t>(threads));
    std::atomic<int> shared{0}, outside{0};
    for (int region = 0; region < 2000; ++region)
      pool.run(1 + region % 13, [&](int, int thread) {
        if (thread < 0 || thread >= threads) {
          ++outside;
        } else {
          auto& own = at_work[static_cast<size_t>(thread)];
          if (own.fetch_add(1) != 0) ++shared;
          for (int spins = 0; spins < 200; ++spins) shared.load();
          own.fetch_sub(1);
        }
      });
    CHECK(outside.load() == 0 && shared.load() == 0);
  }
}

#if defined(__x86_64__)
TEST(pool_takes_the_smallest_for_zero) {
  auto product = [](float x, float y) {
    volatile float factor = y;  // multiplied at run time
    return factor * x;
  };
  constexpr float kSmallest = 0x1p-126f;
  for (int threads : {1, 2, 3}) {
    rank_grpo::ThreadPool pool(threads);
    std::vector<float> results(200, -1.f), operands(200, -1.f);
    pool.run(200, [&](int i) {
      results[static_cast<size_t>(i)] = product(kSmallest, 0.25f);
      operands[static_cast<size_t>(i)] = product(0x1p-130f, 0x1p40f);  // 2^-90, were the operand not zero
    });
    for (size_t i = 0; i < results.size(); ++i) CHECK(results[i] == 0 && operands[i] == 0);
    CHECK(product(kSmallest, 0.25f) == 0x1p-128f && product(0x1p-130f, 0x1p40f) == 0x1p-90f);  // the caller's own arithmetic is as before
  }
}
#endif

// What a worker's chunk throws reaches the caller when all others are done, and the pool goes on.
TEST(pool_hands_on_what_is_thrown) {
  for (int threads : {1, 2, 5}) {
    rank_grpo::ThreadPool pool(threads);
    for (int region = 0; region < 100; ++region) {
      std::atomic<bool> thrown{false};
      std::atomic<int> done{0};
      bool caught = false;
      try {
        pool.run(20, [&](int, int thread) {
          while (threads > 1 && thread == 0 && !thrown.load()) std::this_thread::yield();  // the caller leaves the first chunk to a worker
          if (!thrown.exchange(true)) throw std::bad_alloc();
          ++done;
        });
      } catch (const std::bad_alloc&) {
        caught = true;
      }
      CHECK(caught && done.load() == (threads > 1 ? 19 : 0));
      pool.run(20, [&](int) { ++done; });
      CHECK(done.load() == (threads > 1 ? 39 : 20));
    }
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which end the program themselves where memory is refused
TEST(pool_of_more_threads_than_the_system_gives) {
  struct Limit {  // of memory: a thread takes some for its stack
    rlimit before{};
    Limit() {
      size_t pages = 0;
      std::ifstream("/proc/self/statm") >> pages;
      getrlimit(RLIMIT_AS, &before);
      rlimit tight = before;
      tight.rlim_cur = pages * 4096 + (size_t{64} << 20);
      setrlimit(RLIMIT_AS, &tight);
    }
    ~Limit() { setrlimit(RLIMIT_AS, &before); }
  };
  {
    const Limit limit;
    CHECK_THROWS(rank_grpo::ThreadPool(2000), "OUT_OF_MEMORY");
  }
  std::atomic<int> done{0};
  rank_grpo::ThreadPool(3).run(20, [&](int) { ++done; });
  CHECK(done.load() == 20);
}
#endif
