// See bench.h.
#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "../core/error.h"
#include "../cpu/probe.h"

namespace rank_grpo {
namespace {

using Clock = std::chrono::steady_clock;

// Of the memory that is read and updated, in floats: 768 MiB in all, so that what a cache keeps of it does not count.
constexpr int64_t kPiece = int64_t{1} << 18, kPieces = 768;

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

// The rate of the middle of several runs: memory gives more in a burst than it goes on giving.
double lasting_rate(double amount, const std::function<void()>& work) {
  std::vector<double> times(9);
  for (double& time : times) time = timed(work);
  std::nth_element(times.begin(), times.begin() + 4, times.end());
  return amount / times[4];
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

Probe::Probe(CpuBackend& backend) : backend_(backend), memory_(backend, static_cast<size_t>(kPiece * kPieces) * sizeof(float)) {
  backend_.zero(memory_.data(), memory_.bytes());  // pages
}

Bounds Probe::memory() {
  const ProbeKernels& kernels = *backend_.kernels().probe;
  const double bytes = static_cast<double>(memory_.bytes());
  float* memory = memory_.floats();
  std::vector<float> sums(static_cast<size_t>(kPieces));
  auto each = [&](const std::function<void(float*, int)>& work) {
    return [&, work] { backend_.pool().run(static_cast<int>(kPieces), [&](int i) { work(memory + i * kPiece, i); }); };
  };
  Bounds bounds;
  bounds.update = lasting_rate(2 * bytes, each([&](float* x, int) { kernels.update(x, kPiece); }));
  bounds.read = lasting_rate(bytes, each([&](float* x, int i) { sums[static_cast<size_t>(i)] = kernels.read(x, kPiece); }));
  return bounds;
}

Bounds Probe::all() {
  const ProbeKernels& kernels = *backend_.kernels().probe;
  auto& pool = backend_.pool();
  Bounds bounds = memory();
  auto multiply = [&](double (*kernel)(int64_t)) {
    const int tasks = 8 * pool.threads();
    constexpr int64_t steps = 200000;
    return best_rate(kernel(1) * static_cast<double>(steps) * tasks, [&] { pool.run(tasks, [&](int) { kernel(steps); }); });
  };
  bounds.multiply_f32 = multiply(kernels.multiply_f32);
  if (kernels.multiply_bf16) bounds.multiply_bf16 = multiply(kernels.multiply_bf16);
  return bounds;
}

double worse(double a, double b) { return std::isnan(a) || std::isnan(b) ? std::numeric_limits<double>::infinity() : std::max(a, b); }

Measurement measure(CpuBackend& backend, Measurement what, double tolerance, double seconds, const std::function<void()>& work) {
  if (!(what.error <= tolerance))
    fail("WRONG_RESULT", "Expected " + what.name + " " + what.shape + " " + what.dtype + " within " + std::to_string(tolerance) +
                             " of float64, got " + std::to_string(what.error) + ".");
  what.extra_bytes = extra_bytes(backend, work);  // that run also fills caches and touches pages
  // Bandwidth differs from one second to the next: a row that it bounds takes turns with the probe.
  const int turns = what.bytes > 0 ? 5 : 1;
  std::optional<Probe> probe;
  if (what.bytes > 0) probe.emplace(backend);
  double before = probe ? probe->memory().read : 0;
  for (int turn = 0; turn < turns; ++turn) {
    const size_t first = what.seconds.size();
    for (double total = 0; what.seconds.size() < first + 5 / turns || (total < seconds / turns && what.seconds.size() < first + 1000);) {
      what.seconds.push_back(timed(work));
      total += what.seconds.back();
    }
    if (!probe) continue;
    const double after = probe->memory().read;
    what.read_bounds.resize(what.seconds.size(), std::max(before, after));
    before = after;
  }
  return what;
}

}  // namespace rank_grpo
