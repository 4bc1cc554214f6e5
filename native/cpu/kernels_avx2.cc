// The kernels compiled for avx2. Standard headers come before the target pragma: their inline functions must not be
// compiled for an instruction set that another machine lacks.
// GCC 12 takes the "undefined" operand inside its own intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <immintrin.h>

#include "kernels.h"
#include "attention.h"
#include "logprob.h"
#include "matmul.h"
#include "pointwise.h"
#include "score.h"
#include "probe.h"

#define RANK_GRPO_ISA avx2
#define RANK_GRPO_AVX2 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#include "vec.h"
#include "matmul.inl"
#include "logprob.inl"
#include "attention.inl"
#include "pointwise.inl"
#include "score.inl"
#include "probe.inl"
#pragma GCC pop_options

namespace rank_grpo {

const Kernels& avx2_kernels() {
  static const Kernels kernels{"avx2",
                               false,
                               &avx2::matmul_kernels,
                               &avx2::logprob_kernels,
                               &avx2::attention_kernels,
                               &avx2::pointwise_kernels,
                               &avx2::score_kernels,
                               &avx2::probe_kernels};
  return kernels;
}

}  // namespace rank_grpo
