// What JavaScript cannot time without timing itself: the bounds of the machine, matrix products and attention. A result is compared with
// float64 on a sample before it is timed. src/bench turns these into rows; bench/native runs them alone, for a profiler.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "../cpu/backend.h"
#include "../model/memory.h"

namespace rank_grpo {

struct Bounds {                                // of all threads together
  double read = 0, update = 0;                 // bytes a second from memory, as it goes on giving them; update counts both ways
  double multiply_f32 = 0, multiply_bf16 = 0;  // flops a second, the best of several runs; bf16 is 0 without the instruction
};
// Measures them. It keeps its memory until it goes: what runs just after so much is given back to the system takes a tenth longer.
class Probe {
 public:
  explicit Probe(CpuBackend& backend);
  Bounds memory();  // read and update alone
  Bounds all();

 private:
  CpuBackend& backend_;
  DeviceBuffer memory_;
};

struct Measurement {
  std::string name, shape, dtype;
  std::vector<double> seconds;  // of each repetition
  double flops = 0, bytes = 0;  // that one repetition must compute, and must move from or to memory
  double error = 0;             // largest difference from float64 on the sample, relative to the largest value
  // That one repetition adds to resident memory, beside operands and result, what earlier calls left given back as far as the allocator
  // gives it back; -1: not known (Linux only).
  double extra_bytes = -1;
  std::vector<double> read_bounds{};  // bytes a second that memory gave around each repetition; empty where bytes is 0
};

// The larger of two differences. One that is no number is infinite: no comparison may lose it.
double worse(double a, double b);

// Refuses a result that is off by more than `tolerance` (WRONG_RESULT), then repeats `work` for about so long, five times at least.
Measurement measure(CpuBackend& backend, Measurement what, double tolerance, double seconds, const std::function<void()>& work);

std::vector<Measurement> bench_matmul(CpuBackend& backend, double seconds);
std::vector<Measurement> bench_attention(CpuBackend& backend, double seconds);

}  // namespace rank_grpo
