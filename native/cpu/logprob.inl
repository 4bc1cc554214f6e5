// Log-sum-exp of a block and the gradient of a row; included once per instruction set after vec.h.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

// One pass over a block. A masked lane is -infinity whatever the temperature: filled in after the product.
template <bool weighted>
inline BlockStats sums(const float* x, int n, float inverse_temperature, float base) {
  const float low = -std::numeric_limits<float>::infinity();
  const Vec t = set1(inverse_temperature), b = set1(base), floor = set1(std::numeric_limits<float>::lowest());
  Vec m[2] = {set1(low), set1(low)}, s[2] = {zero(), zero()}, w[2] = {zero(), zero()};
  auto add = [&](int lane, Vec a) {
    const Vec e = exp(a - b);
    m[lane] = max(m[lane], a);
    s[lane] = s[lane] + e;
    if (weighted) w[lane] = fma(e, max(a, floor), w[lane]);  // a token that cannot be drawn: 0 times -infinity counts 0
  };
  int i = 0;
  for (; i + 2 * kVec <= n; i += 2 * kVec) {
    add(0, load(x + i) * t);
    add(1, load(x + i + kVec) * t);
  }
  for (; i < n; i += kVec) add(0, n - i >= kVec ? load(x + i) * t : keep_first(load_part(x + i, n - i, 0.f) * t, n - i, low));
  return {reduce_max(max(m[0], m[1])), base, reduce_add(s[0] + s[1]), reduce_add(w[0] + w[1])};
}

// Most logits are small enough for e^x itself: then one pass does. Where it might overflow, or lose what is below 1e-17 of the largest
// term, a second one counts from the largest.
inline BlockStats block_stats(const float* x, int n, float inverse_temperature, bool weighted) {
  const auto pass = weighted ? sums<true> : sums<false>;
  const BlockStats stats = pass(x, n, inverse_temperature, 0.f);
  if (stats.max > -48.f && stats.max < 70.f) return stats;
  if (stats.max == -std::numeric_limits<float>::infinity()) return {stats.max, stats.max, 0.f, 0.f};
  return pass(x, n, inverse_temperature, stats.max);
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
