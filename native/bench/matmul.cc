// Products of a linear layer, forward and both gradients, at the shapes of SmolLM2-135M and of a small model, and the products of a whole
// decoding step, whose weights come from memory.
#include <algorithm>
#include <cmath>
#include <memory>

#include "../core/philox.h"
#include "../model/memory.h"
#include "bench.h"

namespace rank_grpo {
namespace {

void fill(float* x, int64_t n, uint32_t stream) {
  for (int64_t i = 0; i < n; ++i) x[i] = uniform(philox(1, static_cast<uint32_t>(i), stream, 0, 0).x[0]) - 0.5f;
}

double bf16(float x) {            // nearest, ties to even
  const float big = x * 65537.f;  // 2^16 + 1: Veltkamp's split leaves 8 of 24 bits
  return static_cast<double>(big - (big - x));
}

// Largest difference on a sample of elements, relative to the largest of them; value(i) and wanted(i) of element i.
template <class Value, class Wanted>
double sampled_error(int64_t n, Value&& value, Wanted&& wanted) {
  double worst = 0, largest = 1e-30;
  for (uint32_t k = 0; k < 64; ++k) {
    const int64_t i = static_cast<int64_t>(philox(2, k, 0, 0, 0).x[0]) % n;
    const double w = wanted(i);
    worst = worse(worst, std::abs(value(i) - w));
    largest = std::max(largest, std::abs(w));
  }
  return worst / largest;
}

struct Shape {
  int64_t T, N, K;
  const char* what;
};

void bench_layer(CpuBackend& backend, Shape s, Compute compute, double seconds, std::vector<Measurement>& out) {
  auto floats = [&](int64_t n) { return DeviceBuffer(backend, static_cast<size_t>(n) * sizeof(float)); };
  const DeviceBuffer x = floats(s.T * s.K), W = floats(s.N * s.K), y = floats(s.T * s.N), dx = floats(s.T * s.K), dW = floats(s.N * s.K);
  fill(x.floats(), s.T * s.K, 1);
  fill(W.floats(), s.N * s.K, 2);
  const auto panels = backend.make_panels(s.N, s.K, compute);
  backend.pack(*panels, W.floats());
  const bool half = compute == Compute::bf16;
  auto operand = [&](const float* p) { return half ? bf16(*p) : static_cast<double>(*p); };
  auto dot = [&](int64_t n, const float* a, int64_t a_step, const float* b, int64_t b_step) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += operand(a + i * a_step) * operand(b + i * b_step);
    return sum;
  };
  const std::string shape = std::string(s.what) + ": T " + std::to_string(s.T) + ", " + std::to_string(s.K) + " -> " + std::to_string(s.N);
  const double flops = 2. * static_cast<double>(s.T * s.N * s.K);
  auto row = [&](const char* name, double error, const std::function<void()>& work) {
    out.push_back(measure(backend, {name, shape, half ? "bf16" : "f32", {}, flops, 0, error}, 1e-5, seconds, work));
  };
  auto forward = [&] { backend.linear_forward(y.floats(), x.floats(), *panels, nullptr, s.T); };
  forward();
  row("forward",
      sampled_error(
          s.T * s.N, [&](int64_t i) { return static_cast<double>(y.floats()[i]); },
          [&](int64_t i) { return dot(s.K, x.floats() + i / s.N * s.K, 1, W.floats() + i % s.N * s.K, 1); }),
      forward);
  fill(y.floats(), s.T * s.N, 3);  // the gradient by y
  auto input = [&] { backend.linear_backward_input(dx.floats(), y.floats(), W.floats(), s.T, s.N, s.K, compute, false); };
  input();
  row("gradient by input",
      sampled_error(
          s.T * s.K, [&](int64_t i) { return static_cast<double>(dx.floats()[i]); },
          [&](int64_t i) { return dot(s.N, y.floats() + i / s.K * s.N, 1, W.floats() + i % s.K, s.K); }),
      input);
  auto weight = [&] { backend.linear_backward_weight(dW.floats(), nullptr, y.floats(), x.floats(), s.T, s.N, s.K, compute); };
  weight();
  row("gradient by weight",
      sampled_error(
          s.N * s.K, [&](int64_t i) { return static_cast<double>(dW.floats()[i]); },
          [&](int64_t i) { return dot(s.T, y.floats() + i / s.K, s.N, x.floats() + i % s.K, s.K); }),
      weight);
}

// Every product of SmolLM2-135M for a few rows: 134.5 million weights, read once.
void bench_decode(CpuBackend& backend, int64_t rows, Compute compute, double seconds, std::vector<Measurement>& out) {
  constexpr int64_t C = 576, F = 1536, V = 49152, W = 960;
  constexpr int layers = 30;
  std::vector<std::unique_ptr<Panels>> panels;
  std::vector<float> weights(static_cast<size_t>(V * C));
  fill(weights.data(), V * C, 4);
  int64_t words = 0;
  auto add = [&](int64_t N, int64_t K) {
    panels.push_back(backend.make_panels(N, K, compute));
    backend.pack(*panels.back(), weights.data());
    words += N * K;
  };
  for (int l = 0; l < layers; ++l)
    for (const auto& [N, K] : {std::pair{W, C}, {C, C}, {2 * F, C}, {C, F}}) add(N, K);
  add(V, C);
  std::vector<float> x(static_cast<size_t>(rows * F)), y(static_cast<size_t>(rows * V));
  fill(x.data(), rows * F, 5);
  auto work = [&] {
    for (const auto& p : panels) backend.linear_forward(y.data(), x.data(), *p, nullptr, rows);
  };
  work();
  const bool half = compute == Compute::bf16;
  const double error = sampled_error(
      rows * V, [&](int64_t i) { return static_cast<double>(y[static_cast<size_t>(i)]); },
      [&](int64_t i) {
        double sum = 0;
        for (int64_t k = 0; k < C; ++k) {
          const float a = x[static_cast<size_t>(i / V * C + k)], b = weights[static_cast<size_t>(i % V * C + k)];
          sum += half ? bf16(a) * bf16(b) : static_cast<double>(a) * static_cast<double>(b);
        }
        return sum;
      });
  out.push_back(measure(backend,
                        {"all products of a decoding step",
                         "SmolLM2-135M, " + std::to_string(rows) + " rows",
                         half ? "bf16" : "f32",
                         {},
                         2. * static_cast<double>(words * rows),
                         static_cast<double>(words) * (half ? 2 : 4),
                         error},
                        1e-5, seconds, work));
}

}  // namespace

std::vector<Measurement> bench_matmul(CpuBackend& backend, double seconds) {
  std::vector<Measurement> out;
  for (const Compute compute : {Compute::f32, Compute::bf16}) {
    for (const Shape& shape : {Shape{64, 3072, 576, "SmolLM2 gate and up"},
                               {512, 3072, 576, "SmolLM2 gate and up"},
                               {2048, 3072, 576, "SmolLM2 gate and up"},
                               {2048, 576, 1536, "SmolLM2 down"},
                               {2048, 960, 576, "SmolLM2 qkv"},
                               {1792, 512, 96, "small gate and up"},
                               {1792, 96, 96, "small output"}})
      bench_layer(backend, shape, compute, seconds, out);
    for (int64_t rows : {1, 8, 64}) bench_decode(backend, rows, compute, seconds, out);
  }
  return out;
}

}  // namespace rank_grpo
