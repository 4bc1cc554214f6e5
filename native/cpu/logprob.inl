// Log-sum-exp of a block and the gradient of a row; included once per instruction set after vec.h.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

// Logits are fetched before they are needed, beyond the page that the processor would go to by itself: the next window of 16 KiB in four
// streams, or a page ahead in one. `i` is a multiple of four vectors.
constexpr int kWindow = 4096, kAhead = 1024;  // floats
inline void prefetch_four(const float* x, int64_t i) {
  const float* next = x + i / kWindow * kWindow + kWindow + i % kWindow / 4;
  for (int j = 0; j < 4; ++j) prefetch(kStreams ? next + j * (kWindow / 4) : x + i + j * kVec + kAhead);
}

// One pass over a block; `based`: e^(x - base), otherwise the base is 0. A masked lane is -infinity whatever the temperature: filled in
// after the product.
template <bool weighted, bool based>
inline BlockStats sums(const float* x, int n, float inverse_temperature, float base) {
  constexpr int lanes = 4;
  const float low = -std::numeric_limits<float>::infinity();
  const Vec t = set1(inverse_temperature), b = set1(base), floor = set1(std::numeric_limits<float>::lowest());
  Vec m[lanes] = {set1(low), set1(low), set1(low), set1(low)}, s[lanes] = {zero(), zero(), zero(), zero()},
      w[lanes] = {zero(), zero(), zero(), zero()};
  auto add = [&](int lane, Vec a) {
    const Vec e = exp(based ? a - b : a);
    m[lane] = max(m[lane], a);
    s[lane] = s[lane] + e;
    if (weighted) w[lane] = fma(e, max(a, floor), w[lane]);  // a token that cannot be drawn: 0 times -infinity counts 0
  };
  int i = 0;
  for (; i + lanes * kVec <= n; i += lanes * kVec) {
    prefetch_four(x, i);
    add(0, load(x + i) * t);
    add(1, load(x + i + kVec) * t);
    add(2, load(x + i + 2 * kVec) * t);
    add(3, load(x + i + 3 * kVec) * t);
  }
  for (; i < n; i += kVec) add(0, n - i >= kVec ? load(x + i) * t : keep_first(load_part(x + i, n - i, 0.f) * t, n - i, low));
  auto all = [](const Vec* v) { return reduce_add((v[0] + v[1]) + (v[2] + v[3])); };
  return {reduce_max(max(max(m[0], m[1]), max(m[2], m[3]))), base, all(s), all(w)};
}

// Most logits are small enough for e^x itself: then one pass does. Where it might overflow, or lose what is below 1e-17 of the largest
// term, a second one counts from the largest.
inline BlockStats block_stats(const float* x, int n, float inverse_temperature, bool weighted) {
  const BlockStats stats = (weighted ? sums<true, false> : sums<false, false>)(x, n, inverse_temperature, 0.f);
  if (stats.max > -48.f && stats.max < 70.f) return stats;
  if (stats.max == -std::numeric_limits<float>::infinity()) return {stats.max, stats.max, 0.f, 0.f};
  return (weighted ? sums<true, true> : sums<false, true>)(x, n, inverse_temperature, stats.max);
}

inline void row_gradient(float* dx, const float* x, int64_t count, float inverse_temperature, float lse, float dlogprob, float dentropy,
                         float entropy, bool stream) {
  // x t is rounded before lse is taken off, as in the log-prob, so that p is e^logprob and never above 1.
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
    auto at = [&](const float* p) { return exp(load(p) * t - l) * gs; };
    for (; i + 4 * kVec <= count; i += 4 * kVec) {
      prefetch_four(x, i);
      const Vec d0 = at(x + i), d1 = at(x + i + kVec), d2 = at(x + i + 2 * kVec), d3 = at(x + i + 3 * kVec);
      store(dx + i, d0);
      store(dx + i + kVec, d1);
      store(dx + i + 2 * kVec, d2);
      store(dx + i + 3 * kVec, d3);
    }
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
