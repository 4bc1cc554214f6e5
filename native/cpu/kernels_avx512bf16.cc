// The kernels for AVX-512 with the dot product of bf16 pairs.
#include "kernel_set.h"

#define RANK_GRPO_ISA avx512bf16
#define RANK_GRPO_AVX512 1
#define RANK_GRPO_BF16_DOT 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prefer-vector-width=512")
#include "kernel_set.inl"
#pragma GCC pop_options

namespace rank_grpo {

const Kernels& avx512bf16_kernels() { return avx512bf16::kernels; }

}  // namespace rank_grpo
