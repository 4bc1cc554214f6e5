// Row kernels of Remap and Adjust; included once per instruction set after vec.h.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

inline void score_add_scaled(float* y, const float* x, float a, int64_t count) {
  const Vec scale = set1(a);
  for_vectors(count, [&](int64_t i, int n) { store_n(y + i, n, fma(scale, load_n(x + i, n), load_n(y + i, n))); });
}

inline float score_affine(float* y, const float* s, const float* w, const float* b, int64_t count) {
  const float low = -std::numeric_limits<float>::infinity();
  Vec top = set1(low);
  int64_t i = 0;
  for (; i + kVec <= count; i += kVec) {
    const Vec v = fma(load(s + i), load(w + i), load(b + i));
    store(y + i, v);
    top = max(top, v);
  }
  float result = reduce_max(top);
  if (i < count) {
    const int n = static_cast<int>(count - i);
    store_n(y + i, n, fma(load_n(s + i, n), load_n(w + i, n), load_n(b + i, n)));
    for (; i < count; ++i) result = std::max(result, y[i]);
  }
  return result;
}

inline float score_exponentials(float* y, float top, int64_t count) {
  const Vec m = set1(top);
  Vec sum = zero();
  int64_t i = 0;
  for (; i + kVec <= count; i += kVec) {
    const Vec e = exp(load(y + i) - m);
    store(y + i, e);
    sum = sum + e;
  }
  if (i < count) {
    const int n = static_cast<int>(count - i);
    const Vec e = exp(load_n(y + i, n, -std::numeric_limits<float>::infinity()) - m);
    store_n(y + i, n, e);
    sum = sum + e;  // the lanes beyond the end are e^-infinity
  }
  return reduce_add(sum);
}

inline void score_slopes(float* dw, float* db, const float* y, const float* s, float scale, int64_t count) {
  const Vec a = set1(scale);
  for_vectors(count, [&](int64_t i, int n) {
    const Vec p = load_n(y + i, n) * a;
    store_n(db + i, n, load_n(db + i, n) + p);
    store_n(dw + i, n, fma(p, load_n(s + i, n), load_n(dw + i, n)));
  });
}

constexpr ScoreKernels score_kernels{score_add_scaled, score_affine, score_exponentials, score_slopes};

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
