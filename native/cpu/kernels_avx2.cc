// The kernels for AVX2 with FMA.
#include "kernel_set.h"

#define RANK_GRPO_ISA avx2
#define RANK_GRPO_AVX2 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include "kernel_set.inl"
#pragma GCC pop_options

namespace rank_grpo {

const Kernels& avx2_kernels() { return avx2::kernels; }

}  // namespace rank_grpo
