// Embedding, norms, rotary, SwiGLU, residuals: rows split over threads forward; sums over rows split by column, so that
// every sum runs over ascending rows whatever the number of threads.
#include "pointwise.h"

#include <algorithm>
#include <cstring>

#include "backend.h"

namespace rank_grpo {
namespace {

constexpr int64_t kColumns = 64;  // of one task in a sum over rows

// Calls f(first, last) on ranges of about `work` floats.
template <class F>
void split_rows(ThreadPool& pool, int64_t rows, int64_t floats_per_row, F&& f) {
  const int64_t per_task = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, floats_per_row));
  pool.run(static_cast<int>((rows + per_task - 1) / per_task),
           [&](int task) { f(task * per_task, std::min(rows, (task + 1) * per_task)); });
}

template <class F>
void split_columns(ThreadPool& pool, int64_t C, F&& f) {
  pool.run(static_cast<int>((C + kColumns - 1) / kColumns), [&](int task) {
    const int64_t c = task * kColumns;
    f(c, std::min(kColumns, C - c));
  });
}

}  // namespace

void CpuBackend::embedding_forward(float* x, const float* table, const int32_t* ids, int64_t T, int64_t C) {
  gather_rows(x, table, ids, T, C);
}

void CpuBackend::embedding_backward(float* dtable, const float* dx, const int32_t* ids, int64_t T, int64_t C) {
  scatter_add_rows(dtable, dx, ids, T, C);
}

void CpuBackend::gather_rows(float* y, const float* x, const int32_t* rows, int64_t R, int64_t C) {
  split_rows(pool_, R, C, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) std::memcpy(y + r * C, x + int64_t{rows[r]} * C, static_cast<size_t>(C) * sizeof(float));
  });
}

void CpuBackend::scatter_add_rows(float* x, const float* y, const int32_t* rows, int64_t R, int64_t C) {
  split_columns(pool_, C, [&](int64_t c, int64_t n) {
    for (int64_t r = 0; r < R; ++r) kernels_.pointwise->add(x + int64_t{rows[r]} * C + c, y + r * C + c, n);
  });
}

void CpuBackend::norm_forward(float* y, const float* x, const float* w, int64_t T, int64_t C, int64_t y_stride, int64_t x_stride,
                              float eps) {
  const auto& k = *kernels_.pointwise;
  split_rows(pool_, T, C, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) k.norm(y + t * y_stride, x + t * x_stride, w, C, k.inverse_rms(x + t * x_stride, C, eps));
  });
}

void CpuBackend::norm_backward(float* dx, float* dw, const float* dy, const float* x, const float* w, int64_t T, int64_t C, int64_t stride,
                               float eps, bool accumulate) {
  const auto& k = *kernels_.pointwise;
  std::vector<float> inverse(static_cast<size_t>(T));
  split_rows(pool_, T, C, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) inverse[static_cast<size_t>(t)] = k.inverse_rms(x + t * stride, C, eps);
  });
  // dw before dx: dx may be the same memory as dy.
  split_columns(pool_, C, [&](int64_t c, int64_t n) {
    for (int64_t t = 0; t < T; ++t) k.norm_dw(dw + c, dy + t * stride + c, x + t * stride + c, n, inverse[static_cast<size_t>(t)]);
  });
  split_rows(pool_, T, C, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t)
      k.norm_dx(dx + t * stride, dy + t * stride, x + t * stride, w, C, inverse[static_cast<size_t>(t)], accumulate);
  });
}

void CpuBackend::rotary(float* qkv, const int32_t* positions, const float* table, int64_t T, const AttentionShape& shape, bool inverse) {
  const int half = shape.head_dim / 2, heads = shape.heads + shape.kv_heads;
  split_rows(pool_, T, shape.width(), [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t)
      kernels_.pointwise->rotate(qkv + t * shape.width(), heads, table + int64_t{positions[t]} * half * 2, half, inverse ? -1.f : 1.f);
  });
}

void CpuBackend::swiglu_forward(float* y, const float* gate_up, int64_t T, int64_t F) {
  split_rows(pool_, T, F, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) kernels_.pointwise->swiglu(y + t * F, gate_up + t * 2 * F, gate_up + t * 2 * F + F, F);
  });
}

void CpuBackend::swiglu_backward(float* dgate_up, const float* dy, const float* gate_up, int64_t T, int64_t F) {
  split_rows(pool_, T, F, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const int64_t row = t * 2 * F;
      kernels_.pointwise->swiglu_backward(dgate_up + row, dgate_up + row + F, dy + t * F, gate_up + row, gate_up + row + F, F);
    }
  });
}

void CpuBackend::add(float* x, const float* y, int64_t n) {
  split_rows(pool_, n, 1, [&](int64_t first, int64_t last) { kernels_.pointwise->add(x + first, y + first, last - first); });
}

}  // namespace rank_grpo
