// Embedding, norms, rotary, SwiGLU, residuals. A row's sums run over its channels in an order fixed by C; sums over rows run in
// fixed ranges of rows, the ranges ascending; rows that meet in one place are added in ascending order.
#include <algorithm>

#include "backend.h"
#include "kernel.h"

namespace rank_grpo {
namespace {

constexpr int kThreads = 256;
constexpr int kRowRange = 64;       // rows of one partial sum
constexpr int kScatterColumns = 4;  // columns of one thread

__device__ __forceinline__ int64_t thread_index() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }

__global__ void add_kernel(float* __restrict__ x, const float* __restrict__ y, int64_t n) {
  const int64_t i = thread_index();
  if (i < n) x[i] += y[i];
}

// One block a row.
__global__ void gather_kernel(float* __restrict__ y, const float* __restrict__ x, const int32_t* __restrict__ rows, int64_t C) {
  const float* from = x + int64_t{rows[blockIdx.x]} * C;
  float* to = y + int64_t{blockIdx.x} * C;
  for (int64_t c = threadIdx.x; c < C; c += blockDim.x) to[c] = from[c];
}

// x[rows[r]] += y[r]. The block of a row that is the first with its target adds all of them, in ascending order; the others leave.
__global__ void scatter_add_kernel(float* __restrict__ x, const float* __restrict__ y, const int32_t* __restrict__ rows, int R, int64_t C) {
  GPU_SHARED(unsigned, matches, kThreads / kWarp);
  const int first = static_cast<int>(blockIdx.x), target = rows[first], tid = static_cast<int>(threadIdx.x);
  int earlier = 0;
  for (int r = tid; r < first; r += kThreads) earlier |= rows[r] == target;
  if (__syncthreads_or(earlier)) return;
  const int64_t column = int64_t{blockIdx.y} * kThreads * kScatterColumns + tid;
  float sum[kScatterColumns];
  GPU_UNROLL
  for (int i = 0; i < kScatterColumns; ++i) {
    const int64_t c = column + i * kThreads;
    sum[i] = c < C ? x[target * C + c] : 0.f;
  }
  for (int start = first; start < R; start += kThreads) {
    const int r = start + tid;
    const unsigned found = __ballot_sync(kAllLanes, r < R && rows[r] == target);
    if (tid % kWarp == 0) matches[tid / kWarp] = found;
    __syncthreads();
    for (int w = 0; w < kThreads / kWarp; ++w)
      for (unsigned left = matches[w]; left; left &= left - 1) {
        const float* from = y + int64_t{start + w * kWarp + __ffs(static_cast<int>(left)) - 1} * C;
        GPU_UNROLL
        for (int i = 0; i < kScatterColumns; ++i) {
          const int64_t c = column + i * kThreads;
          if (c < C) sum[i] += from[c];
        }
      }
    __syncthreads();
  }
  GPU_UNROLL
  for (int i = 0; i < kScatterColumns; ++i) {
    const int64_t c = column + i * kThreads;
    if (c < C) x[target * C + c] = sum[i];
  }
}

// -- norms: LANES threads a row (a warp for short rows, a block for long ones; C alone decides)

template <int LANES>
struct RowOfThread {
  int64_t row;
  int lane;
};
template <int LANES>
__device__ __forceinline__ RowOfThread<LANES> row_of_thread() {
  return {int64_t{blockIdx.x} * (kThreads / LANES) + static_cast<int>(threadIdx.x) / LANES, static_cast<int>(threadIdx.x) % LANES};
}
template <int LANES>
__device__ __forceinline__ float row_sum(float x, float* scratch) {
  if constexpr (LANES == kWarp) {
    return warp_sum(x);
  } else {
    return block_sum(x, scratch);
  }
}
template <int LANES>
__device__ __forceinline__ float inverse_rms(const float* x, int64_t C, float eps, int lane, float* scratch) {
  float sum = 0;
  for (int64_t c = lane; c < C; c += LANES) sum = fmaf(x[c], x[c], sum);
  return 1.f / sqrtf(row_sum<LANES>(sum, scratch) / static_cast<float>(C) + eps);
}

template <int LANES>
__global__ void norm_kernel(float* y, const float* x, const float* __restrict__ w, int64_t T, int64_t C, int64_t y_stride, int64_t x_stride,
                            float eps) {
  GPU_SHARED(float, scratch, kThreads / kWarp);
  const auto at = row_of_thread<LANES>();
  const bool live = at.row < T;  // threads of rows beyond the last stay for the barriers
  const float* from = x + (live ? at.row : 0) * x_stride;
  const float inverse = inverse_rms<LANES>(from, C, eps, at.lane, scratch);
  if (!live) return;
  for (int64_t c = at.lane; c < C; c += LANES) y[at.row * y_stride + c] = from[c] * inverse * w[c];
}

template <int LANES>
__global__ void inverse_rms_kernel(float* __restrict__ inverse, const float* __restrict__ x, int64_t T, int64_t C, int64_t stride,
                                   float eps) {
  GPU_SHARED(float, scratch, kThreads / kWarp);
  const auto at = row_of_thread<LANES>();
  const bool live = at.row < T;
  const float value = inverse_rms<LANES>(x + (live ? at.row : 0) * stride, C, eps, at.lane, scratch);
  if (live && at.lane == 0) inverse[at.row] = value;
}

// y = x r w with r = (mean x^2 + eps)^-1/2:  dx = r (dy w - x r^2 mean(dy w x)). dx may be dy.
template <int LANES>
__global__ void norm_dx_kernel(float* dx, const float* dy, const float* __restrict__ x, const float* __restrict__ w,
                               const float* __restrict__ inverse, int64_t T, int64_t C, int64_t stride, bool accumulate) {
  GPU_SHARED(float, scratch, kThreads / kWarp);
  const auto at = row_of_thread<LANES>();
  const bool live = at.row < T;
  const int64_t start = (live ? at.row : 0) * stride;
  float sum = 0;
  for (int64_t c = at.lane; c < C; c += LANES) sum = fmaf(dy[start + c] * w[c], x[start + c], sum);
  sum = row_sum<LANES>(sum, scratch);
  if (!live) return;
  const float r = inverse[at.row], mean = sum / static_cast<float>(C) * r * r;
  for (int64_t c = at.lane; c < C; c += LANES) {
    const float g = r * fmaf(-x[start + c], mean, dy[start + c] * w[c]);
    dx[start + c] = accumulate ? dx[start + c] + g : g;
  }
}

// Partial sums over kRowRange rows of one column a thread: of dy x inverse, or of dy alone (x null).
__global__ void column_partial_kernel(float* __restrict__ partial, const float* __restrict__ dy, const float* __restrict__ x,
                                      const float* __restrict__ inverse, int64_t T, int64_t C, int64_t stride) {
  const int64_t c = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (c >= C) return;
  const int64_t first = int64_t{blockIdx.x} * kRowRange, last = smaller_of(T, first + kRowRange);
  float sum = 0;
  for (int64_t t = first; t < last; ++t) sum = x ? fmaf(dy[t * stride + c] * inverse[t], x[t * stride + c], sum) : sum + dy[t * stride + c];
  partial[int64_t{blockIdx.x} * C + c] = sum;
}
__global__ void column_total_kernel(float* __restrict__ out, const float* __restrict__ partial, int64_t ranges, int64_t C) {
  const int64_t c = thread_index();
  if (c >= C) return;
  float sum = out[c];
  for (int64_t i = 0; i < ranges; ++i) sum += partial[i * C + c];
  out[c] = sum;
}

// One block a token.
__global__ void rotary_kernel(float* __restrict__ qkv, const int32_t* __restrict__ positions, const float* __restrict__ table, int heads,
                              int half, int64_t width, float sign) {
  const int64_t t = blockIdx.x;
  const float* angles = table + int64_t{positions[t]} * half * 2;
  for (int i = static_cast<int>(threadIdx.x); i < heads * half; i += static_cast<int>(blockDim.x)) {
    const int h = i / half, d = i % half;
    float* head = qkv + t * width + int64_t{h} * half * 2;
    const float c = angles[2 * d], s = sign * angles[2 * d + 1], a = head[d], b = head[d + half];
    head[d] = a * c - b * s;
    head[d + half] = b * c + a * s;
  }
}

__global__ void swiglu_kernel(float* __restrict__ y, const float* __restrict__ gate_up, int64_t T, int64_t F) {
  const int64_t i = thread_index();
  if (i >= T * F) return;
  const int64_t at = i / F * 2 * F + i % F;
  const float g = gate_up[at];
  y[i] = g * sigmoid(g) * gate_up[at + F];
}
__global__ void swiglu_backward_kernel(float* dgate_up, const float* __restrict__ dy, const float* gate_up, int64_t T, int64_t F) {
  const int64_t i = thread_index();
  if (i >= T * F) return;
  const int64_t at = i / F * 2 * F + i % F;
  const float g = gate_up[at], u = gate_up[at + F], s = sigmoid(g), d = dy[i];
  dgate_up[at + F] = d * (g * s);
  dgate_up[at] = d * u * s * fmaf(g, 1.f - s, 1.f);
}

constexpr int64_t kLongRow = 512;  // channels from which a block sums a row

}  // namespace

void CudaBackend::embedding_forward(float* x, const float* table, const int32_t* ids, int64_t T, int64_t C) {
  gather_rows(x, table, ids, T, C);
}
void CudaBackend::embedding_backward(float* dtable, const float* dx, const int32_t* ids, int64_t T, int64_t C) {
  scatter_add_rows(dtable, dx, ids, T, C);
}

void CudaBackend::gather_rows(float* y, const float* x, const int32_t* rows, int64_t R, int64_t C) {
  launch("gather_rows", stream_, gather_kernel, dim3(static_cast<unsigned>(R)), dim3(kThreads), 0, y, x, rows, C);
}

void CudaBackend::scatter_add_rows(float* x, const float* y, const int32_t* rows, int64_t R, int64_t C) {
  launch("scatter_add_rows", stream_, scatter_add_kernel, dim3(static_cast<unsigned>(R), blocks_of(C, kThreads * kScatterColumns)),
         dim3(kThreads), 0, x, y, rows, static_cast<int>(R), C);
}

void CudaBackend::norm_forward(float* y, const float* x, const float* w, int64_t T, int64_t C, int64_t y_stride, int64_t x_stride,
                               float eps) {
  if (C < kLongRow) {
    launch("norm_forward", stream_, norm_kernel<kWarp>, dim3(blocks_of(T, kThreads / kWarp)), dim3(kThreads), 0, y, x, w, T, C, y_stride,
           x_stride, eps);
  } else {
    launch("norm_forward", stream_, norm_kernel<kThreads>, dim3(static_cast<unsigned>(T)), dim3(kThreads), 0, y, x, w, T, C, y_stride,
           x_stride, eps);
  }
}

void CudaBackend::norm_backward(float* dx, float* dw, const float* dy, const float* x, const float* w, int64_t T, int64_t C, int64_t stride,
                                float eps, bool accumulate) {
  if (T == 0) return;
  const int64_t ranges = (T + kRowRange - 1) / kRowRange;
  float* inverse = partial_.reserve<float>(T + ranges * C);
  float* partial = inverse + T;
  const dim3 short_rows(blocks_of(T, kThreads / kWarp)), long_rows(static_cast<unsigned>(T));
  if (C < kLongRow) {
    launch("norm_backward", stream_, inverse_rms_kernel<kWarp>, short_rows, dim3(kThreads), 0, inverse, x, T, C, stride, eps);
  } else {
    launch("norm_backward", stream_, inverse_rms_kernel<kThreads>, long_rows, dim3(kThreads), 0, inverse, x, T, C, stride, eps);
  }
  // dw before dx: dx may be the same memory as dy.
  launch("norm_backward", stream_, column_partial_kernel, dim3(static_cast<unsigned>(ranges), blocks_of(C, kThreads)), dim3(kThreads), 0,
         partial, dy, x, inverse, T, C, stride);
  launch("norm_backward", stream_, column_total_kernel, dim3(blocks_of(C, kThreads)), dim3(kThreads), 0, dw, partial, ranges, C);
  if (C < kLongRow) {
    launch("norm_backward", stream_, norm_dx_kernel<kWarp>, short_rows, dim3(kThreads), 0, dx, dy, x, w, inverse, T, C, stride, accumulate);
  } else {
    launch("norm_backward", stream_, norm_dx_kernel<kThreads>, long_rows, dim3(kThreads), 0, dx, dy, x, w, inverse, T, C, stride,
           accumulate);
  }
}

void CudaBackend::add_column_sums(float* out, const float* x, int64_t rows, int64_t columns) {
  if (rows == 0) return;
  const int64_t ranges = (rows + kRowRange - 1) / kRowRange;
  float* partial = partial_.reserve<float>(ranges * columns);
  launch("column_sums", stream_, column_partial_kernel, dim3(static_cast<unsigned>(ranges), blocks_of(columns, kThreads)), dim3(kThreads),
         0, partial, x, nullptr, nullptr, rows, columns, columns);
  launch("column_sums", stream_, column_total_kernel, dim3(blocks_of(columns, kThreads)), dim3(kThreads), 0, out, partial, ranges, columns);
}

void CudaBackend::rotary(float* qkv, const int32_t* positions, const float* table, int64_t T, const AttentionShape& shape, bool inverse) {
  launch("rotary", stream_, rotary_kernel, dim3(static_cast<unsigned>(T)), dim3(kThreads), 0, qkv, positions, table,
         shape.heads + shape.kv_heads, shape.head_dim / 2, int64_t{shape.width()}, inverse ? -1.f : 1.f);
}

void CudaBackend::swiglu_forward(float* y, const float* gate_up, int64_t T, int64_t F) {
  launch("swiglu_forward", stream_, swiglu_kernel, dim3(blocks_of(T * F, kThreads)), dim3(kThreads), 0, y, gate_up, T, F);
}
void CudaBackend::swiglu_backward(float* dgate_up, const float* dy, const float* gate_up, int64_t T, int64_t F) {
  launch("swiglu_backward", stream_, swiglu_backward_kernel, dim3(blocks_of(T * F, kThreads)), dim3(kThreads), 0, dgate_up, dy, gate_up, T,
         F);
}
void CudaBackend::add(float* x, const float* y, int64_t n) {
  launch("add", stream_, add_kernel, dim3(blocks_of(n, kThreads)), dim3(kThreads), 0, x, y, n);
}

}  // namespace rank_grpo
