// AdamW and the global gradient norm. The norm is a sum of float64 partial sums over fixed ranges, so it is the same every time. Moments may
// live on the host: then they visit the device a piece at a time.
#include <algorithm>
#include <cmath>
#include <vector>

#include "backend.h"
#include "kernel.h"

namespace rank_grpo {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kRange = 1 << 16;  // floats of one partial sum
constexpr int64_t kPiece = 1 << 20;  // moments on a visit: 4 MiB of each

struct AdamWScalars {
  float keep, b1, b2, c1, c2, epsilon, scale, rate, root;
};

// torch.optim.AdamW: decay first, bias correction of both moments, epsilon outside the root.
__global__ void adamw_kernel(float* __restrict__ w, float* __restrict__ m, float* __restrict__ v, const float* __restrict__ g, int64_t n,
                             AdamWScalars s) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float grad = g[i] * s.scale;
  const float mi = fmaf(s.b1, m[i], s.c1 * grad), vi = fmaf(s.b2, v[i], s.c2 * grad * grad);
  m[i] = mi;
  v[i] = vi;
  w[i] = fmaf(-s.rate, mi / fmaf(sqrtf(vi), s.root, s.epsilon), w[i] * s.keep);
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
  const double step = static_cast<double>(o.step);
  const float correction1 = static_cast<float>(1.0 - std::pow(static_cast<double>(o.beta1), step));
  const float correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(static_cast<double>(o.beta2), step)));
  const AdamWScalars s{
      1.f - o.learning_rate * o.weight_decay, o.beta1,          o.beta2, 1.f - o.beta1, 1.f - o.beta2, o.epsilon, o.grad_scale,
      o.learning_rate / correction1,          1.f / correction2};
  each_state(m, v, n, o.state_on_host, [&](int64_t first, int64_t count, float* pm, float* pv) {
    launch("adamw", stream_, adamw_kernel, dim3(blocks_of(count, kThreads)), dim3(kThreads), 0, w + first, pm, pv, g + first, count, s);
  });
}

}  // namespace rank_grpo
