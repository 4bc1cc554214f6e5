// Log-sum-exp of a block and the gradient of a row; included once per instruction set after vec.h.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

inline BlockStats block_stats(const float* x, int n, float inverse_temperature, bool weighted) {
  const Vec t = set1(inverse_temperature);
  const float low = -std::numeric_limits<float>::infinity();
  Vec m0 = set1(low), m1 = m0;
  int i = 0;
  for (; i + 2 * kVec <= n; i += 2 * kVec) {
#if defined(RANK_GRPO_AVX512) || defined(RANK_GRPO_AVX2)
    _mm_prefetch(reinterpret_cast<const char*>(x + i + kLogitsBlock), _MM_HINT_T0);  // the next block, where rows lie in memory
    _mm_prefetch(reinterpret_cast<const char*>(x + i + kLogitsBlock + kVec), _MM_HINT_T0);
#endif
    m0 = max(m0, load(x + i) * t);
    m1 = max(m1, load(x + i + kVec) * t);
  }
  // A masked lane gives -infinity whatever the temperature: fill after the product.
  for (; i < n; i += kVec) m0 = max(m0, n - i >= kVec ? load(x + i) * t : load_part(x + i, n - i, low) * t);
  const float top = reduce_max(max(m0, m1));
  if (top == low) return {low, 0.f, 0.f};
  const Vec m = set1(top);
  Vec s0 = zero(), s1 = zero(), w0 = zero(), w1 = zero();
  i = 0;
  if (weighted) {
    const Vec floor = set1(std::numeric_limits<float>::lowest());  // a token that cannot be drawn: 0 times -infinity counts 0
    for (; i + 2 * kVec <= n; i += 2 * kVec) {
      const Vec a = load(x + i) * t, b = load(x + i + kVec) * t, ea = exp(a - m), eb = exp(b - m);
      s0 = s0 + ea;
      s1 = s1 + eb;
      w0 = fma(ea, max(a, floor), w0);
      w1 = fma(eb, max(b, floor), w1);
    }
    for (; i < n; i += kVec) {
      const int left = n - i < kVec ? n - i : kVec;
      const Vec a = load_n(x + i, left) * t, e = exp(load_n(x + i, left, low) * t - m);
      s0 = s0 + e;
      w0 = fma(e, max(a, floor), w0);
    }
  } else {
    for (; i + 2 * kVec <= n; i += 2 * kVec) {
      s0 = s0 + exp(load(x + i) * t - m);
      s1 = s1 + exp(load(x + i + kVec) * t - m);
    }
    for (; i < n; i += kVec) s0 = s0 + exp(load_n(x + i, n - i < kVec ? n - i : kVec, low) * t - m);
  }
  return {top, reduce_add(s0 + s1), reduce_add(w0 + w1)};
}

inline void row_gradient(float* dx, const float* x, int64_t count, float inverse_temperature, float lse, float dlogprob, float dentropy,
                         float entropy, bool stream) {
  const Vec t = set1(inverse_temperature), l = set1(lse), scale = set1(inverse_temperature);
  const Vec g = set1(-dlogprob), gh = set1(-dentropy), h = set1(entropy);
  const bool aligned = (reinterpret_cast<uintptr_t>(dx) & 63) == 0;
  int64_t i = 0;
  if (dentropy == 0) {
    const Vec gs = g * scale;
#if defined(RANK_GRPO_AVX512)
    if (stream && aligned)
      for (; i + kVec <= count; i += kVec) _mm512_stream_ps(dx + i, (exp(load(x + i) * t - l) * gs).v);
#elif defined(RANK_GRPO_AVX2)
    if (stream && aligned)
      for (; i + kVec <= count; i += kVec) {
        const Vec y = exp(load(x + i) * t - l) * gs;
        _mm256_stream_ps(dx + i, y.lo);
        _mm256_stream_ps(dx + i + 8, y.hi);
      }
#else
    (void)stream;
    (void)aligned;
#endif
    for_vectors(count - i, [&](int64_t j, int n) { store_n(dx + i + j, n, exp(load_n(x + i + j, n) * t - l) * gs); });
    return;
  }
  for_vectors(count, [&](int64_t j, int n) {
    const Vec y = max(set1(-1000.f), load_n(x + j, n) * t - l), p = exp(y);  // 0 from there on; -infinity stays out of the product
    store_n(dx + j, n, p * fma(gh, y + h, g) * scale);
  });
}

constexpr LogprobKernels logprob_kernels{block_stats, row_gradient};

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
