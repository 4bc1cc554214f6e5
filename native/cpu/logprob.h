// Log-probs of given logits, and the row and block kernels of the fused head.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "backend.h"
#include "matmul.h"

namespace rank_grpo {

constexpr int kLseBlock = 8 * kPanel;  // vocabulary columns of one log-sum-exp block: sampler and trainer share it
constexpr int kHeadRows = 64;          // rows of one tile of logits
constexpr int kLogitsBlock = 4096;     // the same for logits that are given: 16 KiB, read from memory once

// Log-sum-exp pieces of one block of scaled logits x: max, sum of e^(x - base), and (where wanted) sum of e^(x - base) x. The base is 0, or the
// largest x of a block whose sums would leave the range of a float otherwise.
struct BlockStats {
  float max, base, sum, weighted;
};

struct LogprobKernels {
  BlockStats (*stats)(const float* logits, int n, float inverse_temperature, bool weighted);
  // dlogits = inverse_temperature (-dlogprob p - dentropy p (log p + entropy)); the target's own term is added by the caller
  void (*gradient)(float* dlogits, const float* logits, int64_t n, float inverse_temperature, float lse, float dlogprob, float dentropy,
                   float entropy, bool stream);
};

// Blocks of one row merged in ascending order.
struct RowStats {
  float lse, entropy;
};
RowStats merge_blocks(const BlockStats* blocks, int64_t count);

// n values as floats: themselves, or bf16 widened into `buffer`.
inline const float* widen(const float* x, int64_t, float*) { return x; }
inline const float* widen(const uint16_t* x, int64_t n, float* buffer) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = uint32_t{x[i]} << 16;
    std::memcpy(buffer + i, &bits, 4);
  }
  return buffer;
}

}  // namespace rank_grpo
