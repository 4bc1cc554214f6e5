// The kernels of one instruction set, in its namespace RANK_GRPO_ISA, and the table of them. Included by kernels_*.cc, inside a target
// pragma; what the set has is said by RANK_GRPO_AVX512, RANK_GRPO_BF16_DOT (with it) or RANK_GRPO_AVX2, none of them for plain C++.
#include "vec.h"
#include "matmul.inl"
#include "logprob.inl"
#include "attention.inl"
#include "pointwise.inl"
#include "score.inl"
#include "probe.inl"

#define RANK_GRPO_TEXT(x) #x
#define RANK_GRPO_NAME(x) RANK_GRPO_TEXT(x)
namespace rank_grpo {
namespace RANK_GRPO_ISA {

constexpr Kernels kernels{RANK_GRPO_NAME(RANK_GRPO_ISA),
                          &matmul_kernels,
                          &logprob_kernels,
                          &attention_kernels,
                          &pointwise_kernels,
                          &score_kernels,
                          &probe_kernels};

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
