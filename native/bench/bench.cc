// See bench.h.
#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "../core/error.h"
#include "../cpu/probe.h"

namespace rank_grpo {
namespace {

using Clock = std::chrono::steady_clock;

double timed(const std::function<void()>& work) {
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// The best rate of several runs: a bound is what nothing disturbed.
double best_rate(double amount, const std::function<void()>& work) {
  double best = timed(work);
  for (int i = 0; i < 8; ++i) best = std::min(best, timed(work));
  return amount / best;
}

// Kilobytes of a line of /proc/self/status, 0 where there is none.
double status_kilobytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind(key + ":", 0) == 0) return std::atof(line.c_str() + key.size() + 1);
  return 0;
}

// How far resident memory rises above its start while `work` runs with nothing kept from earlier calls.
double extra_bytes(CpuBackend& backend, const std::function<void()>& work) {
  backend.free_scratch();
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts anew
  const double start = status_kilobytes("VmRSS");
  work();
  const double peak = status_kilobytes("VmHWM");
  return start == 0 ? -1 : std::max(0., peak - start) * 1024;
}

}  // namespace

Bounds probe_bounds(CpuBackend& backend) {
  const ProbeKernels& kernels = *backend.kernels().probe;
  auto& pool = backend.pool();
  Bounds bounds;
  auto multiply = [&](double (*kernel)(int64_t)) {
    const int tasks = 8 * pool.threads();
    constexpr int64_t steps = 200000;
    return best_rate(kernel(1) * static_cast<double>(steps) * tasks, [&] { pool.run(tasks, [&](int) { kernel(steps); }); });
  };
  bounds.multiply_f32 = multiply(kernels.multiply_f32);
  if (kernels.multiply_bf16) bounds.multiply_bf16 = multiply(kernels.multiply_bf16);

  constexpr int64_t piece = int64_t{1} << 18, pieces = 256;  // 1 MiB each, 256 MiB in all: no cache holds them
  auto* memory = static_cast<float*>(backend.allocate(static_cast<size_t>(piece * pieces) * sizeof(float)));
  const double bytes = static_cast<double>(piece * pieces) * sizeof(float);
  std::vector<float> sums(static_cast<size_t>(pieces));
  auto each = [&](const std::function<void(float*, int)>& work) {
    return [&, work] { pool.run(static_cast<int>(pieces), [&](int i) { work(memory + i * piece, i); }); };
  };
  const auto update = each([&](float* x, int) { kernels.update(x, piece); });
  update();  // pages
  bounds.update = best_rate(2 * bytes, update);
  bounds.read = best_rate(bytes, each([&](float* x, int i) { sums[static_cast<size_t>(i)] = kernels.read(x, piece); }));
  backend.release(memory, static_cast<size_t>(piece * pieces) * sizeof(float));
  return bounds;
}

Measurement measure(CpuBackend& backend, Measurement what, double tolerance, double seconds, const std::function<void()>& work) {
  if (!(what.error <= tolerance))
    fail("WRONG_RESULT", "Expected " + what.name + " " + what.shape + " " + what.dtype + " within " + std::to_string(tolerance) +
                             " of float64, got " + std::to_string(what.error) + ".");
  what.extra_bytes = extra_bytes(backend, work);  // that run also fills caches and touches pages
  double total = 0;
  while (what.seconds.size() < 5 || (total < seconds && what.seconds.size() < 1000)) {
    what.seconds.push_back(timed(work));
    total += what.seconds.back();
  }
  return what;
}

}  // namespace rank_grpo
