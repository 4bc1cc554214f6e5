// Norms, rotary, SwiGLU, additions and AdamW on one row or range. Included once per instruction set after vec.h.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

inline float sum_squares(const float* x, int64_t n) {
  Vec a = zero(), b = zero();
  int64_t i = 0;
  for (; i + 2 * kVec <= n; i += 2 * kVec) {
    const Vec p = load(x + i), q = load(x + i + kVec);
    a = fma(p, p, a);
    b = fma(q, q, b);
  }
  for_vectors(n - i, [&](int64_t j, int m) {
    const Vec p = load_n(x + i + j, m);
    a = fma(p, p, a);
  });
  return reduce_add(a + b);
}

inline float inverse_rms(const float* x, int64_t C, float eps) { return 1.f / std::sqrt(sum_squares(x, C) / static_cast<float>(C) + eps); }

inline void norm(float* y, const float* x, const float* w, int64_t C, float inverse) {
  const Vec s = set1(inverse);
  for_vectors(C, [&](int64_t i, int n) { store_n(y + i, n, load_n(x + i, n) * s * load_n(w + i, n)); });
}

// y = x r w with r = (mean x^2 + eps)^-1/2:  dx = r (dy w - x r^2 mean(dy w x))
inline void norm_dx(float* dx, const float* dy, const float* x, const float* w, int64_t C, float inverse, bool accumulate) {
  Vec sum = zero();
  for_vectors(C, [&](int64_t i, int n) { sum = fma(load_n(dy + i, n) * load_n(w + i, n), load_n(x + i, n), sum); });
  const Vec r = set1(inverse), mean = set1(reduce_add(sum) / static_cast<float>(C) * inverse * inverse);
  for_vectors(C, [&](int64_t i, int n) {
    const Vec g = r * fnma(load_n(x + i, n), mean, load_n(dy + i, n) * load_n(w + i, n));
    store_n(dx + i, n, accumulate ? load_n(dx + i, n) + g : g);
  });
}

inline void norm_dw(float* dw, const float* dy, const float* x, int64_t C, float inverse) {
  const Vec r = set1(inverse);
  for_vectors(C, [&](int64_t i, int n) { store_n(dw + i, n, fma(load_n(dy + i, n) * r, load_n(x + i, n), load_n(dw + i, n))); });
}

inline void rotate(float* row, int heads, const float* table, int half, float sign) {
  for_vectors(half, [&](int64_t i, int n) {
    Vec c, s;
    load_pairs(table + 2 * i, n, c, s);
    s = s * set1(sign);
    for (float *x = row + i, *end = x + int64_t{heads} * 2 * half; x != end; x += 2 * half) {
      const Vec a = load_n(x, n), b = load_n(x + half, n);
      store_n(x, n, a * c - b * s);
      store_n(x + half, n, b * c + a * s);
    }
  });
}

// Below -89 e^-x is infinite and the sigmoid exactly 0, so that x sigmoid(x) is 0 for the largest negative x too; exp has its range to 100.
inline Vec sigmoid(Vec x) { return set1(1.f) / (set1(1.f) + exp(zero() - max(set1(-100.f), x))); }

inline void swiglu(float* y, const float* gate, const float* up, int64_t F) {
  for_vectors(F, [&](int64_t i, int n) {
    const Vec g = load_n(gate + i, n);
    store_n(y + i, n, g * sigmoid(g) * load_n(up + i, n));
  });
}

inline void swiglu_backward(float* dgate, float* dup, const float* dy, const float* gate, const float* up, int64_t F) {
  for_vectors(F, [&](int64_t i, int n) {
    const Vec g = load_n(gate + i, n), s = sigmoid(g), d = load_n(dy + i, n);
    const Vec u = load_n(up + i, n);
    store_n(dup + i, n, d * (g * s));
    store_n(dgate + i, n, d * u * s * fma(g, set1(1.f) - s, set1(1.f)));
  });
}

inline void add(float* x, const float* y, int64_t count) {
  for_vectors(count, [&](int64_t i, int n) { store_n(x + i, n, load_n(x + i, n) + load_n(y + i, n)); });
}

// torch.optim.AdamW: decay first, bias correction of both moments, epsilon outside the root.
inline void adamw(float* w, float* m, float* v, const float* g, int64_t count, const AdamW& o) {
  const double step = static_cast<double>(o.step);
  const float correction1 = static_cast<float>(1.0 - std::pow(static_cast<double>(o.beta1), step));
  const float correction2 = static_cast<float>(std::sqrt(1.0 - std::pow(static_cast<double>(o.beta2), step)));
  const Vec keep = set1(1.f - o.learning_rate * o.weight_decay), b1 = set1(o.beta1), b2 = set1(o.beta2);
  const Vec c1 = set1(1.f - o.beta1), c2 = set1(1.f - o.beta2), eps = set1(o.epsilon), scale = set1(o.grad_scale);
  const Vec rate = set1(o.learning_rate / correction1), root = set1(1.f / correction2);
  for_vectors(count, [&](int64_t i, int n) {
    const Vec grad = load_n(g + i, n) * scale;
    const Vec mi = fma(b1, load_n(m + i, n), c1 * grad), vi = fma(b2, load_n(v + i, n), c2 * grad * grad);
    store_n(m + i, n, mi);
    store_n(v + i, n, vi);
    const Vec denominator = fma(sqrt(vi), root, eps);
    store_n(w + i, n, fnma(rate, mi / denominator, load_n(w + i, n) * keep));
  });
}

constexpr PointwiseKernels pointwise_kernels{inverse_rms, norm, norm_dx, norm_dw, rotate, swiglu, swiglu_backward, add, sum_squares, adamw};

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
