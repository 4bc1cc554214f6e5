// The kernels compiled for avx512. Standard headers come before the target pragma: their inline functions must not be
// compiled for an instruction set that another machine lacks.
// GCC 12 takes the "undefined" operand inside its own intrinsics for a mistake of ours.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
// GCC's own AVX-512 intrinsics name a variable that they leave unset on purpose (_mm256_undefined_pd and its like), and GCC 12 then warns
// of it wherever they are inlined: of these headers' lines alone, nothing.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include "kernels.h"
#include "attention.h"
#include "logprob.h"
#include "matmul.h"
#include "pointwise.h"
#include "score.h"
#include "probe.h"

#define RANK_GRPO_ISA avx512
#define RANK_GRPO_AVX512 1
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,prefer-vector-width=512")
#include "vec.h"
#include "matmul.inl"
#include "logprob.inl"
#include "attention.inl"
#include "pointwise.inl"
#include "score.inl"
#include "probe.inl"
#pragma GCC pop_options

namespace rank_grpo {

const Kernels& avx512_kernels() {
  static const Kernels kernels{"avx512",
                               true,
                               &avx512::matmul_kernels,
                               &avx512::logprob_kernels,
                               &avx512::attention_kernels,
                               &avx512::pointwise_kernels,
                               &avx512::score_kernels,
                               &avx512::probe_kernels};
  return kernels;
}

}  // namespace rank_grpo
