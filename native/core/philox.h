// Philox4x32-10 (Salmon et al., SC 2011): counter-based random numbers, the same bits in C++, CUDA and TypeScript.
// A number depends on nothing but its key and counter, so batch order, threads and a resume cannot change it.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define RANK_GRPO_HD __host__ __device__
#else
#define RANK_GRPO_HD
#endif

namespace rank_grpo {

struct Philox4 {
  uint32_t x[4];
};

RANK_GRPO_HD inline Philox4 philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0, p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1) with 24 bits, exact in float32.
RANK_GRPO_HD inline float uniform(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

}  // namespace rank_grpo
