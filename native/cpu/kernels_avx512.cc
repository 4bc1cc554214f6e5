// The kernels for AVX-512 where the dot product of bf16 pairs is missing, or slower than multiplying one half after the other.
#include "kernel_set.h"

#define RANK_GRPO_ISA avx512
#define RANK_GRPO_AVX512 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
#include "kernel_set.inl"
#pragma GCC pop_options

namespace rank_grpo {

const Kernels& avx512_kernels() { return avx512::kernels; }

}  // namespace rank_grpo
