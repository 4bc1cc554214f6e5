// The kernels export on the GPU: matrices of the host go up, the head's whole and logits a slab of rows at a time, through the kernels of
// training, and results come down. Nothing of a call stays on the device.
#include <algorithm>

#include "backend.h"
#include "kernel.h"
#include "logits.h"
#include "matmul.h"

namespace rank_grpo {
namespace {

constexpr int64_t kSlabFloats = int64_t{4} << 20;  // logits at a time: 16 MiB of f32
constexpr int64_t kMostLogits = int64_t{1} << 24;  // of a row: its log-sum-exp pieces lie in a block's shared memory

// A matrix as f32 on the device. The bits it was made from are freed, which waits until they are read.
const float* as_f32(CudaBackend& backend, Lent& lent, Operand x, int64_t n) {
  if (x.f32) return lent.get(x.f32, n);
  float* out = lent.room<float>(n);
  Lent bits(backend);
  backend.widen_rows(out, bits.get(x.bf16, n), 1, n, n);
  return out;
}

// f(first row, rows) of one slab after the other.
template <class F>
void each_slab(int64_t T, int64_t V, F&& f) {
  expect(V <= kMostLogits, "at most " + std::to_string(kMostLogits) + " tokens (device cuda)", "vocabulary", std::to_string(V));
  const int64_t rows = std::max<int64_t>(1, kSlabFloats / V);
  for (int64_t t = 0; t < T; t += rows) f(t, std::min(rows, T - t));
}

// OUT_OF_MEMORY before anything of a head is allocated: W as f32, in bf16 a copy, and `more` floats.
void expect_room(const Backend& backend, int64_t V, int64_t C, int64_t R, Compute compute, int64_t more) {
  const size_t bytes = static_cast<size_t>(V * C) * (compute == Compute::bf16 ? 6 : 4) + static_cast<size_t>(R * C + more) * 4;
  const size_t available = backend.available_bytes();
  if (bytes > available)
    fail("OUT_OF_MEMORY", "Expected " + std::to_string(bytes >> 20) + " MiB of free GPU memory for the head, got " +
                              std::to_string(available >> 20) + " MiB. Give fewer rows, or use device: cpu.");
}

size_t bytes_of(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }

}  // namespace

void CudaBackend::given_logits_forward(float* logprob, float* entropy, float* lse, Operand logits, const int32_t* targets, int64_t T,
                                       int64_t V, float temperature) {
  if (T == 0) return;
  Lent lent(*this);
  float *own = lent.room<float>(3 * T), *own_entropy = entropy ? own + T : nullptr, *own_lse = own + 2 * T;
  const int32_t* ids = lent.get(targets, T);
  DeviceScratch slab(*this);
  auto run = [&](const auto* x) {
    using Value = std::decay_t<decltype(*x)>;
    each_slab(T, V, [&](int64_t t, int64_t rows) {
      auto* part = slab.reserve<Value>(rows * V);
      upload(part, x + t * V, static_cast<size_t>(rows * V) * sizeof(Value));
      cuda_logits_forward(*this, own + t, entropy ? own_entropy + t : nullptr, own_lse + t, static_cast<const Value*>(part), ids + t, rows,
                          V, temperature);
    });
  };
  logits.bf16 ? run(logits.bf16) : run(logits.f32);
  download(logprob, own, bytes_of(T));
  if (entropy) download(entropy, own_entropy, bytes_of(T));
  download(lse, own_lse, bytes_of(T));
}

void CudaBackend::given_logits_backward(float* dlogits, Operand logits, const int32_t* targets, const float* lse, const float* entropy,
                                        const float* dlogprob, const float* dentropy, int64_t T, int64_t V, float temperature) {
  if (T == 0) return;
  Lent lent(*this);
  const int32_t* ids = lent.get(targets, T);
  const float *l = lent.get(lse, T), *h = lent.get(entropy, T), *g = lent.get(dlogprob, T), *gh = lent.get(dentropy, T);
  DeviceScratch slab(*this), gradient(*this);
  auto run = [&](const auto* x) {
    using Value = std::decay_t<decltype(*x)>;
    each_slab(T, V, [&](int64_t t, int64_t rows) {
      auto* part = slab.reserve<Value>(rows * V);
      upload(part, x + t * V, static_cast<size_t>(rows * V) * sizeof(Value));
      float* d;
      if constexpr (sizeof(Value) == sizeof(float)) {
        d = part;
      } else {
        d = gradient.reserve<float>(rows * V);
      }
      cuda_logits_backward(*this, d, static_cast<const Value*>(part), ids + t, l + t, h ? h + t : nullptr, g + t, gh ? gh + t : nullptr,
                           rows, V, temperature);
      download(dlogits + t * V, d, bytes_of(rows * V));
    });
  };
  logits.bf16 ? run(logits.bf16) : run(logits.f32);
}

void CudaBackend::given_head_forward(float* logprob, float* entropy, float* lse, Operand h, Operand W, const int32_t* targets, int64_t R,
                                     int64_t C, int64_t V, float temperature, Compute compute) {
  if (R == 0) return;
  expect_room(*this, V, C, R, compute, 0);
  Lent lent(*this);
  const float *hidden = as_f32(*this, lent, h, R * C), *weights = as_f32(*this, lent, W, V * C);
  const auto panels = make_panels(V, C, compute);
  pack(*panels, weights);
  float *own = lent.room<float>(3 * R), *own_entropy = entropy ? own + R : nullptr, *own_lse = own + 2 * R;
  head_forward(own, own_entropy, own_lse, hidden, *panels, nullptr, targets, nullptr, R, temperature);
  download(logprob, own, bytes_of(R));
  if (entropy) download(entropy, own_entropy, bytes_of(R));
  download(lse, own_lse, bytes_of(R));
}

void CudaBackend::given_head_backward(float* dh, float* dW, Operand h, Operand W, const int32_t* targets, const float* lse,
                                      const float* entropy, const float* dlogprob, const float* dentropy, int64_t R, int64_t C, int64_t V,
                                      float temperature, Compute compute) {
  if (R == 0) return;
  expect_room(*this, V, C, R, compute, R * C + (dW ? V * C : 0));
  Lent lent(*this);
  const float *hidden = as_f32(*this, lent, h, R * C), *weights = as_f32(*this, lent, W, V * C);
  const auto panels = make_panels(V, C, compute);
  pack(*panels, weights);
  float *dhidden = lent.room<float>(R * C), *dhead = lent.get(dW, V * C);
  head_backward(dhidden, dhead, hidden, weights, *panels, targets, nullptr, lent.get(lse, R), lent.get(entropy, R), dlogprob, dentropy, R,
                temperature);
  download(dh, dhidden, bytes_of(R * C));
  if (dW) download(dW, dhead, bytes_of(V * C));
}

}  // namespace rank_grpo
