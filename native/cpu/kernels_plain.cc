// The kernels in plain C++, for any processor.
#include "kernel_set.h"

#define RANK_GRPO_ISA plain
#include "kernel_set.inl"

namespace rank_grpo {

const Kernels& plain_kernels() { return plain::kernels; }

}  // namespace rank_grpo
