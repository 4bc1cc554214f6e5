// Log-probs of logits [T, V] that are given, on the GPU: f32, or bf16 bits. Every pointer lies on the device; `backend` is one that
// make_cuda_backend made.
#pragma once
#include <cstdint>

#include "../core/backend.h"

namespace rank_grpo {

// logprob[t] = log softmax(logits[t] / temperature)[targets[t]], lse of the scaled logits, entropy in nats (null: not wanted).
void cuda_logits_forward(Backend& backend, float* logprob, float* entropy, float* lse, const float* logits, const int32_t* targets,
                         int64_t T, int64_t V, float temperature);
void cuda_logits_forward(Backend& backend, float* logprob, float* entropy, float* lse, const uint16_t* bf16_logits, const int32_t* targets,
                         int64_t T, int64_t V, float temperature);
// dlogits may be the f32 logits themselves: then it overwrites them. entropy and dentropy may be null together.
void cuda_logits_backward(Backend& backend, float* dlogits, const float* logits, const int32_t* targets, const float* lse,
                          const float* entropy, const float* dlogprob, const float* dentropy, int64_t T, int64_t V, float temperature);
void cuda_logits_backward(Backend& backend, float* dlogits, const uint16_t* bf16_logits, const int32_t* targets, const float* lse,
                          const float* entropy, const float* dlogprob, const float* dentropy, int64_t T, int64_t V, float temperature);

}  // namespace rank_grpo
