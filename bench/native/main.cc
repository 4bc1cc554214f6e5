// The native measurements alone, for a profiler: bench_native [probe|matmul|attention] [threads] [seconds a row].
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "bench/bench.h"

using namespace rank_grpo;

int main(int argc, char** argv) {
  const char* suite = argc > 1 ? argv[1] : "probe";
  CpuBackend backend(argc > 2 ? std::atoi(argv[2]) : 1);
  const double seconds = argc > 3 ? std::atof(argv[3]) : 0.3;
  if (!std::strcmp(suite, "probe")) {
    const Bounds b = Probe(backend).all();
    std::printf("read %.1f GB/s, update %.1f GB/s, f32 %.1f GFLOP/s, bf16 %.1f GFLOP/s\n", b.read / 1e9, b.update / 1e9,
                b.multiply_f32 / 1e9, b.multiply_bf16 / 1e9);
    return 0;
  }
  for (auto& m : std::strcmp(suite, "attention") ? bench_matmul(backend, seconds) : bench_attention(backend, seconds)) {
    std::sort(m.seconds.begin(), m.seconds.end());
    const double median = m.seconds[m.seconds.size() / 2];
    std::printf("%-32s %-60s %-5s %9.3f ms %8.1f GFLOP/s %7.1f GB/s\n", m.name.c_str(), m.shape.c_str(), m.dtype.c_str(), median * 1e3,
                m.flops / median / 1e9, m.bytes / median / 1e9);
  }
}
