// AdamW and the global gradient norm, in fixed ranges of the flat parameter buffer.
#include <algorithm>

#include "backend.h"
#include "pointwise.h"

namespace rank_grpo {
namespace {
constexpr int64_t kRange = 1 << 16;  // floats of one task
constexpr int64_t kPartial = 1024;   // floats summed in f32 before they join the f64 sum
}  // namespace

double CpuBackend::squared_norm(const float* x, int64_t n) {
  std::vector<double> partial(static_cast<size_t>((n + kRange - 1) / kRange), 0.0);
  pool_.run(static_cast<int>(partial.size()), [&](int range) {
    double sum = 0;
    for (int64_t i = range * kRange; i < std::min(n, (range + 1) * kRange); i += kPartial)
      sum += static_cast<double>(kernels_.pointwise->sum_squares(x + i, std::min({kPartial, n - i})));
    partial[static_cast<size_t>(range)] = sum;
  });
  double total = 0;
  for (double p : partial) total += p;
  return total;
}

void CpuBackend::adamw(float* w, float* m, float* v, const float* g, int64_t n, const AdamW& options) {
  pool_.run(static_cast<int>((n + kRange - 1) / kRange), [&](int range) {
    const int64_t i = range * kRange;
    kernels_.pointwise->adamw(w + i, m + i, v + i, g + i, std::min(kRange, n - i), options);
  });
}

}  // namespace rank_grpo
