// The draw from one row's logits, shared by the full head and the one over few tokens.
#pragma once
#include <cstdint>

#include "logprob.h"

namespace rank_grpo {

// Index into x [n] (logits, temperature not applied): greedy, or by `random` [2 words] from the distribution that `sampling` truncates.
// stats: of every kLseBlock of x.
int choose_token(const float* x, int64_t n, const BlockStats* stats, float inverse, const Sampling& sampling, const uint32_t* random);

}  // namespace rank_grpo
