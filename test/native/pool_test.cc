// The pool: every chunk once, whatever the number of chunks, threads and regions in a row, and a number of its own for every thread.
#include "../../native/core/pool.h"

#include <atomic>

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
