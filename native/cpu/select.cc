// Chooses the kernels for this machine at run time.
#include <cstdlib>
#include <string>

#include "../core/error.h"
#include "kernels.h"

namespace rank_grpo {

const Kernels& select_kernels() {
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  const bool dot = avx512 && __builtin_cpu_supports("avx512bf16");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  // Intel's cores do one dot product in the time of four fused multiply-adds, which are twice the work of it (Sapphire and Emerald Rapids).
  const bool fast_dot = dot && !__builtin_cpu_is("intel");
  const char* forced = std::getenv("RANK_GRPO_ISA");
  const std::string name = forced ? forced : fast_dot ? "avx512bf16" : avx512 ? "avx512" : avx2 ? "avx2" : "plain";
  if (name == "avx512bf16" && dot) return avx512bf16_kernels();
  if (name == "avx512" && avx512) return avx512_kernels();
  if (name == "avx2" && avx2) return avx2_kernels();
  if (name == "plain") return plain_kernels();
  fail("NO_DEVICE", "Expected avx512bf16, avx512, avx2 or plain (and a processor that has it) for RANK_GRPO_ISA, got " + name + ".");
}

}  // namespace rank_grpo
