// AdamW and the global gradient norm. The norm is a sum of float64 partial sums over fixed ranges, so it is the same every time. Moments may
// live on the host: then they visit the device a piece at a time. Weights that are kept in bf16 alone are rounded by chance.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../core/philox.h"
#include "backend.h"
#include "kernel.h"
#include "matmul.h"

namespace rank_grpo {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRange = 1 << 16;  // floats of one partial sum
constexpr int64_t kPiece = 1 << 20;  // moments on a visit: 4 MiB of each

struct AdamWScalars {
  float keep, b1, b2, c1, c2, epsilon, scale, rate, root;
};

// torch.optim.AdamW: decay first, bias correction of both moments, epsilon outside the root.
__device__ __forceinline__ float adamw_step(float w, float& m, float& v, float g, const AdamWScalars& s) {
  const float grad = g * s.scale;
  m = fmaf(s.b1, m, s.c1 * grad);
  v = fmaf(s.b2, v, s.c2 * grad * grad);
  return fmaf(-s.rate, m / fmaf(sqrtf(v), s.root, s.epsilon), w * s.keep);
}

__global__ void adamw_kernel(float* __restrict__ w, float* __restrict__ m, float* __restrict__ v, const float* __restrict__ g, int64_t n,
                             AdamWScalars s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) w[i] = adamw_step(w[i], m[i], v[i], g[i], s);
}

// The bf16 above or below x, the nearer the likelier: their mean is x, so that steps smaller than a bf16's last bit count all the same.
__device__ __forceinline__ uint16_t round_by_chance(float x, uint32_t random) {
  const unsigned u = __float_as_uint(x);
  if ((u & 0x7f800000u) == 0x7f800000u) return to_bf16(x);
  return static_cast<uint16_t>((u + (random >> 16)) >> 16);
}

constexpr uint64_t kRoundingKey = 0x726f756e64696e67;  // apart from every other use of the seed

// On a matrix [N, K] of bf16 in rows of `stride`; w, and element `start` of the matrix on in m, v and g.
__global__ void adamw_bf16_kernel(uint16_t* __restrict__ w, float* __restrict__ m, float* __restrict__ v, const float* __restrict__ g,
                                  int64_t start, int64_t n, int64_t K, int64_t stride, AdamWScalars s, uint64_t seed, uint64_t step,
                                  int64_t first) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  uint16_t& own = w[(start + i) / K * stride + (start + i) % K];
  const auto index = static_cast<uint64_t>(first + start + i);
  const Philox4 random = philox(seed ^ kRoundingKey, static_cast<uint32_t>(index >> 2), static_cast<uint32_t>(index >> 34),
                                static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32));
  own = round_by_chance(adamw_step(from_bf16(own), m[i], v[i], g[i], s), random.x[index & 3]);
}

AdamWScalars scalars_of(const AdamW& o) {
  const double step = static_cast<double>(o.step);
  const float correction1 = static_cast<float>(1.0 - std::pow(static_cast<double>(o.beta1), step));
  const float correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(static_cast<double>(o.beta2), step)));
  return {1.f - o.learning_rate * o.weight_decay, o.beta1,          o.beta2, 1.f - o.beta1, 1.f - o.beta2, o.epsilon, o.grad_scale,
          o.learning_rate / correction1,          1.f / correction2};
}

__global__ void squared_norm_kernel(double* __restrict__ partial, const float* __restrict__ x, int64_t n) {
  GPU_SHARED(double, scratch, kThreads / kWarp);
  const int64_t first = int64_t{blockIdx.x} * kRange, last = smaller_of(n, first + kRange);
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += kThreads) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

}  // namespace

double CudaBackend::squared_norm(const float* x, int64_t n) {
  const unsigned ranges = blocks_of(n, kRange);
  double* partial = partial_.reserve<double>(ranges);
  launch("squared_norm", stream_, squared_norm_kernel, dim3(ranges), dim3(kThreads), 0, partial, x, n);
  std::vector<double> sums(ranges);
  download(sums.data(), partial, sums.size() * sizeof(double));
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

template <class F>
void CudaBackend::each_state(float* m, float* v, int64_t n, bool on_host, F&& f) {
  if (!on_host) return f(int64_t{0}, n, m, v);
  const int64_t piece = std::min(n, kPiece);
  float *device_m = state_.reserve<float>(2 * piece), *device_v = device_m + piece;
  for (int64_t first = 0; first < n; first += piece) {
    const int64_t count = std::min(piece, n - first);
    const size_t bytes = static_cast<size_t>(count) * sizeof(float);
    upload(device_m, m + first, bytes);
    upload(device_v, v + first, bytes);
    f(first, count, device_m, device_v);
    check(cudaMemcpyAsync(m + first, device_m, bytes, cudaMemcpyDeviceToHost, stream_), "bringing optimizer state back");
    check(cudaMemcpyAsync(v + first, device_v, bytes, cudaMemcpyDeviceToHost, stream_), "bringing optimizer state back");
  }
  check(cudaStreamSynchronize(stream_), "an optimizer step");  // from here on the host may read it
}

void CudaBackend::adamw(float* w, float* m, float* v, const float* g, int64_t n, const AdamW& o) {
  const AdamWScalars s = scalars_of(o);
  each_state(m, v, n, o.state_on_host, [&](int64_t first, int64_t count, float* pm, float* pv) {
    launch("adamw", stream_, adamw_kernel, dim3(blocks_of(count, kThreads)), dim3(kThreads), 0, w + first, pm, pv, g + first, count, s);
  });
}

void CudaBackend::adamw_panels(Panels& panels, float* m, float* v, const float* g, const AdamW& o) {
  auto& p = static_cast<CudaPanels&>(panels);
  const AdamWScalars s = scalars_of(o);
  each_state(m, v, p.rows * p.columns, o.state_on_host, [&](int64_t start, int64_t count, float* pm, float* pv) {
    launch("adamw_bf16", stream_, adamw_bf16_kernel, dim3(blocks_of(count, kThreads)), dim3(kThreads), 0, p.bf16, pm, pv, g + start, start,
           count, p.columns, p.stride(), s, o.seed, static_cast<uint64_t>(o.step), o.first);
  });
}

}  // namespace rank_grpo
