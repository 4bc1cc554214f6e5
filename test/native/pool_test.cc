// The pool: every chunk once, whatever the number of chunks, threads and regions in a row.
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
