// Sixteen floats, three ways: in one register of AVX-512, two of AVX2 with FMA, four vectors of plain C++. Included once per instruction set
// by kernels_*.cc, inside namespace RANK_GRPO_ISA and its target pragma; no include guard for that reason, and no standard header in here.
// Every operation has the same order of additions in all three, so AVX2 and AVX-512 give the same bits.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

constexpr int kVec = 16;

// How memory is best read ahead: in several streams, in each of which the processor goes on by itself (Intel: 8 rows of a product and
// log-probs about 1.1 times as fast), or in one, a little ahead (AMD Zen 4, where streams were not tried).
#if defined(RANK_GRPO_BF16_DOT)
constexpr bool kStreams = false;
#else
constexpr bool kStreams = true;
#endif

#if defined(RANK_GRPO_AVX512)

using Register = __m512;
inline Register splat(float x) { return _mm512_set1_ps(x); }
inline Register fma(Register a, Register b, Register c) { return _mm512_fmadd_ps(a, b, c); }  // a b + c
struct Vec {
  Register v;
};
inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline Vec set1(float x) { return {splat(x)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {fma(a.v, b.v, c.v)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec sqrt(Vec a) { return {_mm512_sqrt_ps(a.v)}; }
inline Vec load_part(const float* p, int n, float fill) {
  return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), static_cast<__mmask16>((1u << n) - 1), p)};
}
inline void store_part(float* p, int n, Vec a) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v); }
inline Vec keep_first(Vec a, int n, float fill) {  // lanes from n on become `fill`
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(n <= 0 ? 0 : n >= 16 ? 0xffff : (1u << n) - 1), _mm512_set1_ps(fill), a.v)};
}
inline Vec scale2(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }  // a * 2^n, n whole
// Lanes as words of bits, two halves of 16 each.
inline Vec keep_bits(Vec a, uint32_t bits) {
  return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(static_cast<int>(bits))))};
}
inline Vec lower_half_up(Vec a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a.v), 16))}; }
inline float reduce_add(Vec a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
inline float reduce_max(Vec a) { return _mm512_reduce_max_ps(a.v); }

// n <= 16 pairs (a, b) that lie interleaved
inline void load_pairs(const float* p, int n, Vec& a, Vec& b) {
  const Vec lo = n >= 8 ? load(p) : load_part(p, 2 * n, 0.f), hi = n == 16 ? load(p + 16) : n > 8 ? load_part(p + 16, 2 * n - 16, 0.f) : lo;
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  a.v = _mm512_permutex2var_ps(lo.v, even, hi.v);
  b.v = _mm512_permutex2var_ps(lo.v, _mm512_add_epi32(even, _mm512_set1_epi32(1)), hi.v);
}

#elif defined(RANK_GRPO_AVX2)

using Register = __m256;
inline Register splat(float x) { return _mm256_set1_ps(x); }
inline Register fma(Register a, Register b, Register c) { return _mm256_fmadd_ps(a, b, c); }
struct Vec {
  Register lo, hi;
};
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
inline Vec set1(float x) { return {splat(x), splat(x)}; }
inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {fma(a.lo, b.lo, c.lo), fma(a.hi, b.hi, c.hi)}; }
inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.lo, b.lo, c.lo), _mm256_fnmadd_ps(a.hi, b.hi, c.hi)}; }
inline Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
inline Vec load_part(const float* p, int n, float fill) {
  alignas(32) float t[16];
  for (int i = 0; i < 16; ++i) t[i] = i < n ? p[i] : fill;
  return load(t);
}
inline void store_part(float* p, int n, Vec a) {
  alignas(32) float t[16];
  store(t, a);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
inline Vec keep_first(Vec a, int n, float fill) {
  alignas(32) float t[16];
  store(t, a);
  for (int i = n < 0 ? 0 : n; i < 16; ++i) t[i] = fill;
  return load(t);
}
inline __m256 scale2_half(__m256 a, __m256 n) {
  // Two factors, so that results below 2^-126 come out denormal as scalef gives them; exp keeps n above -160.
  const __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
  const __m256 f1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 f2 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, half), bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(a, f1), f2);
}
inline Vec scale2(Vec a, Vec n) { return {scale2_half(a.lo, n.lo), scale2_half(a.hi, n.hi)}; }
inline Vec keep_bits(Vec a, uint32_t bits) {
  const __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits)));
  return {_mm256_and_ps(a.lo, mask), _mm256_and_ps(a.hi, mask)};
}
inline __m256 lower_half_up(__m256 a) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a), 16)); }
inline Vec lower_half_up(Vec a) { return {lower_half_up(a.lo), lower_half_up(a.hi)}; }
inline float reduce_add(Vec a) {
  const __m256 h = _mm256_add_ps(a.lo, a.hi);
  const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(d, _mm_shuffle_ps(d, d, 1)));
}
inline float reduce_max(Vec a) {
  const __m256 h = _mm256_max_ps(a.lo, a.hi);
  const __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(d, _mm_shuffle_ps(d, d, 1)));
}

#else

// The compiler's own vectors, as small as every processor has them that has any.
using Register = float __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));
using Integers = int32_t __attribute__((vector_size(16)));
inline Register splat(float x) { return Register{x, x, x, x}; }
inline Register fma(Register a, Register b, Register c) { return a * b + c; }
struct Vec {
  Register q[4];
};
#define RANK_GRPO_EACH(expression)                   \
  Vec r;                                             \
  for (int i = 0; i < 4; ++i) r.q[i] = (expression); \
  return r
inline Vec load(const float* p) {
  Vec r;
  std::memcpy(&r, p, sizeof r);
  return r;
}
inline void store(float* p, Vec a) { std::memcpy(p, &a, sizeof a); }
inline Vec set1(float x) { RANK_GRPO_EACH(splat(x)); }
inline Vec operator+(Vec a, Vec b) { RANK_GRPO_EACH(a.q[i] + b.q[i]); }
inline Vec operator-(Vec a, Vec b) { RANK_GRPO_EACH(a.q[i] - b.q[i]); }
inline Vec operator*(Vec a, Vec b) { RANK_GRPO_EACH(a.q[i] * b.q[i]); }
inline Vec operator/(Vec a, Vec b) { RANK_GRPO_EACH(a.q[i] / b.q[i]); }
inline Vec fma(Vec a, Vec b, Vec c) { RANK_GRPO_EACH(fma(a.q[i], b.q[i], c.q[i])); }
inline Vec fnma(Vec a, Vec b, Vec c) { RANK_GRPO_EACH(c.q[i] - a.q[i] * b.q[i]); }
inline Vec max(Vec a, Vec b) { RANK_GRPO_EACH(a.q[i] > b.q[i] ? a.q[i] : b.q[i]); }
inline Vec keep_bits(Vec a, uint32_t bits) { RANK_GRPO_EACH((Register)((Words)a.q[i] & bits)); }
inline Vec lower_half_up(Vec a) { RANK_GRPO_EACH((Register)((Words)a.q[i] << 16)); }
#undef RANK_GRPO_EACH
template <class F>
inline Vec each(Vec a, F&& f) {
  float t[16];
  store(t, a);
  for (int i = 0; i < 16; ++i) t[i] = f(t[i], i);
  return load(t);
}
inline Vec sqrt(Vec a) {
  return each(a, [](float x, int) { return std::sqrt(x); });
}
inline Vec load_part(const float* p, int n, float fill) {
  return each(set1(fill), [=](float x, int i) { return i < n ? p[i] : x; });
}
inline void store_part(float* p, int n, Vec a) { std::memcpy(p, &a, n * sizeof *p); }
inline Vec keep_first(Vec a, int n, float fill) {
  return each(a, [=](float x, int i) { return i < n ? x : fill; });
}
inline Vec scale2(Vec a, Vec n) {
  for (int i = 0; i < 4; ++i) {
    Register power = n.q[i] > splat(-252.f) ? n.q[i] : splat(-252.f);  // NaN is no whole number
    power = power < splat(252.f) ? power : splat(252.f);
    const Integers whole = __builtin_convertvector(power, Integers), half = whole >> 1;
    // two factors, for the same reason as with AVX2
    a.q[i] = a.q[i] * (Register)((half + 127) << 23) * (Register)((whole - half + 127) << 23);
  }
  return a;
}
inline float reduce_add(Vec a) {
  float t[16];
  store(t, a);
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; ++i) t[i] += t[i + w];
  return t[0];
}
inline float reduce_max(Vec a) {
  float t[16];
  store(t, a);
  for (int w = 8; w; w /= 2)
    for (int i = 0; i < w; ++i) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
  return t[0];
}

#endif

#if !defined(RANK_GRPO_AVX512)
inline void load_pairs(const float* p, int n, Vec& a, Vec& b) {
  alignas(32) float x[16] = {}, y[16] = {};
  for (int i = 0; i < n; ++i) {
    x[i] = p[2 * i];
    y[i] = p[2 * i + 1];
  }
  a = load(x);
  b = load(y);
}
#endif

inline Vec zero() { return set1(0.f); }
inline void prefetch(const float* p) { __builtin_prefetch(p); }

// e^x for x <= 100 (infinite from 88.8 on); relative error 7.7e-8 (a polynomial of degree 6, fitted to |r| <= ln 2 / 2). Below -104, and in
// what a pool runs below -87.34, it is exactly 0; -infinity gives 0, NaN stays NaN: max returns its second operand where one is NaN, so that
// a NaN in logits or scores reaches the loss and is refused there.
inline Vec exp(Vec x) {
  x = max(set1(-110.f), x);           // e^-110 is below the smallest float, and n stays in range for scale2
  const Vec magic = set1(0x1.8p23f);  // what is added to it is rounded to a whole number
  const Vec n = fma(x, set1(1.44269504088896341f), magic) - magic;
  Vec r = fnma(n, set1(0.693359375f), x);  // ln 2 in two parts
  r = fnma(n, set1(-2.12194440e-4f), r);
  Vec p = set1(0x1.6a23d0p-10f);
  p = fma(p, r, set1(0x1.123a20p-7f));
  p = fma(p, r, set1(0x1.5558f2p-5f));
  p = fma(p, r, set1(0x1.555492p-3f));
  p = fma(p, r, set1(0x1.fffffcp-2f));
  p = fma(p, r, set1(1.f));
  p = fma(p, r, set1(1.f));
  return scale2(p, n);
}

// Calls f(offset, count) over n floats in steps of a vector; count < kVec in the last one where n is no multiple.
template <class F>
inline void for_vectors(int64_t n, F&& f) {
  int64_t i = 0;
  for (; i + kVec <= n; i += kVec) f(i, kVec);
  if (i < n) f(i, static_cast<int>(n - i));
}
inline Vec load_n(const float* p, int n, float fill = 0.f) { return n == kVec ? load(p) : load_part(p, n, fill); }
inline void store_n(float* p, int n, Vec a) {
  if (n == kVec) {
    store(p, a);
  } else {
    store_part(p, n, a);
  }
}

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
