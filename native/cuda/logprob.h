// Log-sum-exp in pieces: the block statistics that sampler and trainer share, and log-probs of logits that are given.
#pragma once
#include <vector>

#include "backend.h"
#include "kernel.h"
#include "matmul.h"

namespace rank_grpo {

constexpr int kHeadBlock = 128;     // vocabulary columns of one piece of the head: a tile's
constexpr int kLogitsPiece = 1024;  // the same for logits that are given: 32 a lane, read from memory once

// Pieces of a log-sum-exp of scaled logits x: max, sum of e^(x - max), and (where wanted) sum of e^(x - max) x.
struct BlockStats {
  float max, sum, weighted;
};

// Of PER_LANE x 32 values, value i of a lane being column lane + 32 i (or any fixed assignment); -infinity where there is none.
template <int PER_LANE>
__device__ __forceinline__ BlockStats warp_stats(const float* x, bool weighted) {
  float top = x[0];
  GPU_UNROLL
  for (int i = 1; i < PER_LANE; ++i) top = larger(top, x[i]);
  top = warp_max(top);
  float sum = 0, product = 0;
  GPU_UNROLL
  for (int i = 0; i < PER_LANE; ++i) {
    if (x[i] == kNegativeInfinity) continue;  // also where all are, and x - top would be no number
    const float e = exp_f32(x[i] - top);
    sum += e;
    if (weighted) product = fmaf(e, x[i], product);
  }
  return {top, warp_sum(sum), weighted ? warp_sum(product) : 0.f};
}

struct RowStats {
  float lse, entropy;
};
// Pieces of one row merged by a warp in float64: lane l takes pieces l, l + 32, ..., then a tree. Every lane gets the result.
__device__ __forceinline__ RowStats merge_pieces(const BlockStats* pieces, int64_t count, int lane) {
  float top = kNegativeInfinity;
  for (int64_t b = lane; b < count; b += kWarp) top = larger(top, pieces[b].max);
  top = warp_max(top);
  double sum = 0, weighted = 0;
  for (int64_t b = lane; b < count; b += kWarp) {
    if (pieces[b].sum == 0.f) continue;
    const double scale = exp(static_cast<double>(pieces[b].max) - static_cast<double>(top));
    sum += static_cast<double>(pieces[b].sum) * scale;
    weighted += static_cast<double>(pieces[b].weighted) * scale;
  }
  sum = warp_sum(sum);
  weighted = warp_sum(weighted);
  const double lse = static_cast<double>(top) + log(sum);
  return {static_cast<float>(lse), static_cast<float>(lse - weighted / sum)};
}

// Rows of h times the head. `logits` [rows, ld] and `own` (the target's scaled logit, by row) may be null; stats [rows][pieces].
void head_pieces(cudaStream_t stream, BlockStats* stats, float* logits, int64_t ld, float* own, const float* h, const CudaPanels& panels,
                 const int32_t* target, int64_t rows, float inverse_temperature, bool weighted);

// The same over allowed tokens alone: a piece is up to kHeadBlock of one row's ids. All pointers on the device.
struct AllowedPiece {
  int32_t row, first, count;  // of h, of ids
};
struct AllowedPieces {
  std::vector<AllowedPiece> pieces;
  std::vector<int32_t> offsets{0};  // pieces of each row; a row with a single token has none: nothing is to be computed for it
};
AllowedPieces split_allowed(const AllowedTokens& allowed, const int32_t* rows, int64_t R);  // rows null: 0 .. R
void allowed_pieces(cudaStream_t stream, BlockStats* stats, float* logits, float* own, const float* h, const CudaPanels& panels,
                    const int32_t* ids, const AllowedPiece* pieces, int64_t count, const int32_t* target, float inverse_temperature,
                    bool weighted);

}  // namespace rank_grpo
