// Probes of the processor's bounds; included once per instruction set after vec.h.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

#if defined(RANK_GRPO_AVX512)
constexpr int kChains = 24;
#else
constexpr int kChains = 12;
#endif

struct ProbeFloats {
  static constexpr double flops = 2. * sizeof(Register) / sizeof(float);
  static Register step(Register c, Register a) { return fma(a, a, c); }
};
#if defined(RANK_GRPO_BF16_DOT)
struct ProbePairs {
  static constexpr double flops = 64;
  static Register step(Register c, Register a) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)a); }
};
#endif

// Enough chains to hide the latency. The empty asm keeps each sum in a register and every step of it in the loop.
template <class Kind>
inline double probe_multiply(int64_t steps) {
  const Register a = splat(7e-3f);
  Register c[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) c[i] = splat(static_cast<float>(i) * 1e-3f);
  for (int64_t k = 0; k < steps; ++k) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) {
      c[i] = Kind::step(c[i], a);
#if defined(__x86_64__)
      asm volatile("" : "+v"(c[i]));
#else
      asm volatile("" : "+m"(c[i]));
#endif
    }
  }
  return static_cast<double>(steps) * kChains * Kind::flops;
}

inline float probe_read(const float* x, int64_t n) {
  Vec s[4] = {zero(), zero(), zero(), zero()};
  const int64_t quarter = n / 4 / kVec * kVec;
  if (kStreams) {
    for (int64_t i = 0; i < quarter; i += kVec)
      for (int j = 0; j < 4; ++j) s[j] = s[j] + load(x + j * quarter + i);
  } else {
    for (int64_t i = 0; i + 4 * kVec <= n; i += 4 * kVec)
      for (int j = 0; j < 4; ++j) s[j] = s[j] + load(x + i + j * kVec);
  }
  return reduce_add(s[0] + s[1] + s[2] + s[3]);
}
inline void probe_update(float* x, int64_t n) {
  const Vec a = set1(0.5f);
  for_vectors(n, [&](int64_t i, int m) { store_n(x + i, m, load_n(x + i, m) * a); });
}

#if defined(RANK_GRPO_BF16_DOT)
constexpr ProbeKernels probe_kernels{probe_multiply<ProbeFloats>, probe_multiply<ProbePairs>, probe_read, probe_update};
#else
constexpr ProbeKernels probe_kernels{probe_multiply<ProbeFloats>, nullptr, probe_read, probe_update};
#endif

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
