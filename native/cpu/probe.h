// What this processor can do at most, measured: the bounds that benchmarks are held against. Each probe runs on one thread; bench/probe.cc
// runs one on every thread at once.
#pragma once
#include <cstdint>

namespace rank_grpo {

struct ProbeKernels {
  double (*multiply_f32)(int64_t steps);   // dependent-free fused multiply-adds; returns their flops
  double (*multiply_bf16)(int64_t steps);  // the same of bf16 pairs; null without the instruction
  float (*read)(const float* x, int64_t n);
  void (*update)(float* x, int64_t n);  // read and written in place
};

}  // namespace rank_grpo
