// The kernels compiled for plain. Standard headers come before the target pragma: their inline functions must not be
// compiled for an instruction set that another machine lacks.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels.h"
#include "attention.h"
#include "logprob.h"
#include "matmul.h"
#include "pointwise.h"
#include "score.h"
#include "probe.h"

#define RANK_GRPO_ISA plain
#include "vec.h"
#include "matmul.inl"
#include "logprob.inl"
#include "attention.inl"
#include "pointwise.inl"
#include "score.inl"
#include "probe.inl"

namespace rank_grpo {

const Kernels& plain_kernels() {
  static const Kernels kernels{"plain",
                               false,
                               &plain::matmul_kernels,
                               &plain::logprob_kernels,
                               &plain::attention_kernels,
                               &plain::pointwise_kernels,
                               &plain::score_kernels,
                               &plain::probe_kernels};
  return kernels;
}

}  // namespace rank_grpo
