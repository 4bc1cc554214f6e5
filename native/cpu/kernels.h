// The table of kernels that exist once per instruction set, and which of them this machine runs.
// A kernel works on one tile or one row range, on the calling thread; matmul.cc, attention.cc, ... split the work and
// call through the table. RANK_GRPO_ISA=avx512bf16|avx512|avx2|plain in the environment forces a set (tests use it).
#pragma once
#include <cstdint>

#include "../core/backend.h"

namespace rank_grpo {

struct MatmulKernels;     // matmul.inl
struct LogprobKernels;    // logprob.inl
struct AttentionKernels;  // attention.inl
struct PointwiseKernels;  // pointwise.inl
struct ScoreKernels;      // score.inl
struct ProbeKernels;      // probe.inl

struct Kernels {
  const char* name;  // "avx512bf16", "avx512", "avx2", "plain"
  const MatmulKernels* matmul;
  const LogprobKernels* logprob;
  const AttentionKernels* attention;
  const PointwiseKernels* pointwise;
  const ScoreKernels* score;
  const ProbeKernels* probe;
};

const Kernels& avx512bf16_kernels();
const Kernels& avx512_kernels();
const Kernels& avx2_kernels();
const Kernels& plain_kernels();
const Kernels& select_kernels();  // the best this machine has, or the one the environment names

}  // namespace rank_grpo
