// Attention on one warp and one page of keys: what decode, prefill, scoring and training share, so that they give the same bits.
//
// A page is kPageSize = 32 keys, one a lane. Order, for every query row alone: a score sums over d ascending; a page gives its own
// maximum, sum of weights and weighted values (keys ascending) without regard to other pages; pages merge in ascending order. So
// pages may be computed anywhere, by any number of warps, and merged later.
#pragma once
#include "kernel.h"
#include "../core/backend.h"

namespace rank_grpo {

static_assert(kPageSize == kWarp, "a lane holds a key");
constexpr int kAttentionWarps = 4;
constexpr int kAttentionThreads = kAttentionWarps * kWarp;
constexpr int kWarpRows = 4;                                 // query rows of a warp
constexpr int kAttentionRows = kAttentionWarps * kWarpRows;  // of a block

__host__ __device__ __forceinline__ int padded4(int D) { return (D + 3) / 4 * 4; }

struct Heads {  // AttentionShape and what follows from it
  int heads, kv_heads, head_dim, per_kv;
  int64_t width;
  float scale;
};

// s[i] = sum over d of rows[i][d] key[d]; rows at a stride of padded4(D), 16-byte aligned, zero padded; key zero padded.
__device__ __forceinline__ void scores(float* s, const float* rows, const float* key, int Dp) {
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) s[i] = 0.f;
  for (int d = 0; d < Dp; d += 4) {
    const float k0 = key[d], k1 = key[d + 1], k2 = key[d + 2], k3 = key[d + 3];
    GPU_UNROLL
    for (int i = 0; i < kWarpRows; ++i) {
      const float4 q = *reinterpret_cast<const float4*>(rows + i * Dp + d);
      s[i] = fmaf(q.x, k0, s[i]);
      s[i] = fmaf(q.y, k1, s[i]);
      s[i] = fmaf(q.z, k2, s[i]);
      s[i] = fmaf(q.w, k3, s[i]);
    }
  }
}

// y[i][c] = sum over keys j ascending of p[i][j] x[j][lane + 32 c]; x at a stride of `stride`. Keys from n on are not read and count 0.
template <int PER_LANE>
__device__ __forceinline__ void weighted_rows(float (*y)[PER_LANE], const float* p, const float* x, int stride, int n, int D, int lane) {
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) {
    GPU_UNROLL
    for (int c = 0; c < PER_LANE; ++c) y[i][c] = 0.f;
  }
  for (int j = 0; j < kPageSize; j += 4) {
    float4 w[kWarpRows];
    GPU_UNROLL
    for (int i = 0; i < kWarpRows; ++i) w[i] = *reinterpret_cast<const float4*>(p + i * kPageSize + j);
    GPU_UNROLL
    for (int c = 0; c < PER_LANE; ++c) {
      const int d = lane + c * kWarp;
      if (d >= D) continue;
      const float x0 = j < n ? x[j * stride + d] : 0.f, x1 = j + 1 < n ? x[(j + 1) * stride + d] : 0.f;
      const float x2 = j + 2 < n ? x[(j + 2) * stride + d] : 0.f, x3 = j + 3 < n ? x[(j + 3) * stride + d] : 0.f;
      GPU_UNROLL
      for (int i = 0; i < kWarpRows; ++i) {
        y[i][c] = fmaf(w[i].x, x0, y[i][c]);
        y[i][c] = fmaf(w[i].y, x1, y[i][c]);
        y[i][c] = fmaf(w[i].z, x2, y[i][c]);
        y[i][c] = fmaf(w[i].w, x3, y[i][c]);
      }
    }
  }
}

// Softmax pieces of one page for this warp's rows: weights p [kWarpRows][kPageSize] in shared memory, their maximum and sum.
// last[i]: position of the last key that row i sees.
__device__ __forceinline__ void page_weights(float* p, float* top, float* sum, const float* score, const int* last, int first_key,
                                             int lane) {
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) {
    const float x = first_key + lane <= last[i] ? score[i] : kNegativeInfinity;
    top[i] = warp_max(x);
    const float weight = x == kNegativeInfinity ? 0.f : exp_f32(x - top[i]);
    sum[i] = warp_sum(weight);
    p[i * kPageSize + lane] = weight;
  }
  __syncwarp();
}

// Softmax state of one query row: maximum, sum of weights, and this lane's part of the weighted values.
template <int PER_LANE>
struct RowState {
  float top, sum, y[PER_LANE];
  __device__ __forceinline__ void clear() {
    top = kNegativeInfinity;
    sum = 0.f;
    GPU_UNROLL
    for (int c = 0; c < PER_LANE; ++c) y[c] = 0.f;
  }
  // Adds a page (maximum, sum, values).
  __device__ __forceinline__ void merge(float page_top, float page_sum, const float* page_y) {
    const float now = larger(top, page_top), own = exp_f32(top - now), other = exp_f32(page_top - now);
    top = now;
    sum = fmaf(page_sum, other, sum * own);
    GPU_UNROLL
    for (int c = 0; c < PER_LANE; ++c) y[c] = fmaf(page_y[c], other, y[c] * own);
  }
  __device__ __forceinline__ float lse() const { return static_cast<float>(static_cast<double>(top) + log(static_cast<double>(sum))); }
};

}  // namespace rank_grpo
