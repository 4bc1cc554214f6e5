// Tile kernels and packing; see matmul.h. Included once per instruction set after vec.h.
// One accumulator per output and pass of k, k ascending.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

// Nearest bf16, ties to even, as the upper half of the float's bits; NaN stays NaN (the carry would make -0 of a GPU's).
inline uint32_t bf16_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return u >> 16 | 0x40;
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}
inline float bf16_round(float x) {
  const uint32_t u = bf16_bits(x) << 16;
  float y;
  std::memcpy(&y, &u, 4);
  return y;
}
// Two of them, side by side along k.
inline uint32_t bf16_pair(float x, float y) { return bf16_bits(x) | bf16_bits(y) << 16; }

#if defined(RANK_GRPO_AVX512)
constexpr int kRows = 8;

// What a word of B is: a float, a pair of bf16 that the processor multiplies by a pair of A, or one whose halves are multiplied one after
// the other by two floats of A.
struct ProductFloats {
  static constexpr int words = 1;  // of A for one of B
  template <int W>
  static __m512 part(__m512i b) {
    return _mm512_castsi512_ps(b);
  }
  static __m512 step(__m512 c, uint32_t a, __m512 b) {
    float x;
    std::memcpy(&x, &a, 4);
    return _mm512_fmadd_ps(_mm512_set1_ps(x), b, c);
  }
};
#if defined(RANK_GRPO_BF16_DOT)
struct ProductPairs {
  static constexpr int words = 1;
  template <int W>
  static __m512i part(__m512i b) {
    return b;
  }
  static __m512 step(__m512 c, uint32_t a, __m512i b) {
    return _mm512_dpbf16_ps(c, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), (__m512bh)b);
  }
};
#else
struct ProductPairs : ProductFloats {
  static constexpr int words = 2;
  template <int W>
  static __m512 part(__m512i b) {
    return _mm512_castsi512_ps(W == 0 ? _mm512_slli_epi32(b, 16) : _mm512_and_si512(b, _mm512_set1_epi32(-65536)));
  }
};
#endif

enum class Reading { own, streams, far_streams };  // what a tile brings in; see Ahead

// R x 48: 24 accumulators at most. Every loop over them is unrolled, or they would live on the stack.
template <class Kind, int R, Reading Brings, bool LeavesFloats = false>
inline void tile_rows(const Tile& t) {
  constexpr auto kCache = Brings == Reading::far_streams ? _MM_HINT_T1 : _MM_HINT_T0;
  __m512 c[R][3];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) c[r][0] = c[r][1] = c[r][2] = _mm512_setzero_ps();
  const uint32_t *a = t.A, *upper = t.A + 4 * t.row, *b = t.B;
  const char* ahead = static_cast<const char*>(t.ahead.first);
  const int64_t row = t.row, step = t.step, ahead_step = t.ahead.step, stream = t.ahead.stream;
  [[maybe_unused]] uint32_t* floats = t.floats;
  for (int64_t k = 0; k < t.steps; ++k) {
    _mm_prefetch(ahead, kCache);
    if (Brings != Reading::own) {
      _mm_prefetch(ahead + stream, kCache);
      _mm_prefetch(ahead + 2 * stream, kCache);
    }
    const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 16), b2 = _mm512_loadu_si512(b + 32);
    auto multiply = [&](auto w0, auto w1, auto w2) {
      if constexpr (LeavesFloats) {
        _mm512_storeu_ps(floats, w0);
        _mm512_storeu_ps(floats + 16, w1);
        _mm512_storeu_ps(floats + 32, w2);
        floats += kPanel;
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const uint32_t x = r < 4 ? a[r * row] : upper[(r - 4) * row];
        c[r][0] = Kind::step(c[r][0], x, w0);
        c[r][1] = Kind::step(c[r][1], x, w1);
        c[r][2] = Kind::step(c[r][2], x, w2);
      }
      a += step;
      upper += step;
    };
    multiply(Kind::template part<0>(b0), Kind::template part<0>(b1), Kind::template part<0>(b2));
    if constexpr (Kind::words == 2) multiply(Kind::template part<1>(b0), Kind::template part<1>(b1), Kind::template part<1>(b2));
    b += kPanel;
    ahead += ahead_step;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const int n = t.columns - j * 16;
      if (n <= 0) continue;
      const __mmask16 mask = static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << n) - 1);
      float* out = t.C + r * t.ldc + j * 16;
      if (t.accumulate) c[r][j] = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), c[r][j]);
      _mm512_mask_storeu_ps(out, mask, c[r][j]);
    }
}
template <class Kind, int R>
inline void tile_ahead(const Tile& t) {
  if constexpr (R == kRows && Kind::words == 2)  // other tiles follow, so this one is whole
    if (t.floats) return tile_rows<Kind, R, Reading::streams, true>(t);
  if constexpr (R * Kind::words <= kFewFactors)
    if (t.ahead.far) return tile_rows<Kind, R, Reading::far_streams>(t);
  if (t.ahead.stream) return tile_rows<Kind, R, Reading::streams>(t);
  tile_rows<Kind, R, Reading::own>(t);
}
template <class Kind>
inline void tile(const Tile& t) {
  if (t.accumulate)
    for (int r = 0; r < t.rows; ++r)
      for (int j = 0; j < 3; ++j) _mm_prefetch(reinterpret_cast<const char*>(t.C + r * t.ldc + j * 16), _MM_HINT_T0);
  switch (t.rows) {
    case 1: return tile_ahead<Kind, 1>(t);
    case 2: return tile_ahead<Kind, 2>(t);
    case 3: return tile_ahead<Kind, 3>(t);
    case 4: return tile_ahead<Kind, 4>(t);
    case 5: return tile_ahead<Kind, 5>(t);
    case 6: return tile_ahead<Kind, 6>(t);
    case 7: return tile_ahead<Kind, 7>(t);
    default: return tile_ahead<Kind, 8>(t);
  }
}
inline void tile_f32(const Tile& t) { tile<ProductFloats>(t); }
inline void tile_bf16(const Tile& t) { tile<ProductPairs>(t); }

#else
constexpr int kRows = 4;

using RegisterWords = uint32_t __attribute__((vector_size(sizeof(Register))));
constexpr int kRegister = sizeof(Register) / sizeof(float);
constexpr int kPart = 3 * kRegister;  // columns of a panel that are multiplied at a time

// R x kPart: 12 accumulators, three of B, one of A. Pairs: words of B are two of bf16 along k.
template <bool Pairs, int R>
inline void tile_part(const Tile& t, int first) {
  Register c[R][3];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) c[r][0] = c[r][1] = c[r][2] = Register{};
  const float* a = reinterpret_cast<const float*>(t.A);
  const uint32_t* b = t.B + first;
  const char* ahead = static_cast<const char*>(t.ahead.first) + (first ? 64 : 0);
  uint32_t* floats = Pairs && t.floats ? t.floats + first : nullptr;
  for (int64_t k = 0; k < t.steps; ++k) {
    __builtin_prefetch(ahead);
#pragma GCC unroll 2
    for (int word = 0; word < (Pairs ? 2 : 1); ++word) {
      Register x[3];
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        RegisterWords bits;
        std::memcpy(&bits, b + j * kRegister, sizeof bits);
        x[j] = (Register)(!Pairs ? bits : word == 0 ? bits << 16 : bits & 0xffff0000u);
        if (floats) std::memcpy(floats + j * kRegister, &x[j], sizeof x[j]);
      }
      if (floats) floats += kPanel;
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const Register y = splat(a[r * t.row]);
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) c[r][j] = fma(y, x[j], c[r][j]);
      }
      a += t.step;
    }
    b += kPanel;
    ahead += t.ahead.step;
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const int n = std::min(kRegister, t.columns - first - j * kRegister);
      if (n <= 0) continue;
      float* out = t.C + r * t.ldc + first + j * kRegister;
      Register before{};
      if (t.accumulate) std::memcpy(&before, out, n * sizeof *out);
      const Register y = t.accumulate ? before + c[r][j] : c[r][j];
      std::memcpy(out, &y, n * sizeof *out);
    }
}
template <bool Pairs, int R>
inline void tile_rows(const Tile& t) {
  for (int first = 0; first < t.columns; first += kPart) tile_part<Pairs, R>(t, first);
}
template <bool Pairs>
inline void tile(const Tile& t) {
  switch (t.rows) {
    case 1: return tile_rows<Pairs, 1>(t);
    case 2: return tile_rows<Pairs, 2>(t);
    case 3: return tile_rows<Pairs, 3>(t);
    default: return tile_rows<Pairs, 4>(t);
  }
}
inline void tile_f32(const Tile& t) { tile<false>(t); }
inline void tile_bf16(const Tile& t) { tile<true>(t); }
#endif

inline void to_rounded(float* out, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = bf16_round(x[i]);
}

// Goes through the steps once: X is read line by line, each panel is written from start to end.
template <bool Rounds>
inline void pack_steps(float* out, int64_t panel, const float* x, int64_t ldx, int columns, int64_t K) {
  const int whole = columns / kPanel * kPanel;
  for (int64_t k = 0; k < K; ++k) {
    const float* from = x + k * ldx;
    float* to = out + k * kPanel;
    int c = 0;
    for (; c < whole; c += kPanel, to += panel)
      for (int i = 0; i < kPanel; ++i) to[i] = Rounds ? bf16_round(from[c + i]) : from[c + i];
    for (; c < columns; c += kPanel, to += panel)
      for (int i = 0; i < kPanel; ++i) to[i] = c + i >= columns ? 0.f : Rounds ? bf16_round(from[c + i]) : from[c + i];
  }
}
inline void pack(float* out, int64_t panel, const float* x, int64_t ldx, int columns, int64_t K, bool rounds) {
  (rounds ? pack_steps<true> : pack_steps<false>)(out, panel, x, ldx, columns, K);
}

// out [K][width] from x [columns, K]; columns beyond are left as they are.
inline void transpose(float* out, int width, const float* x, int64_t ldx, int columns, int64_t K) {
  int c = 0;
#if defined(RANK_GRPO_AVX512) || defined(RANK_GRPO_AVX2)
  for (; c + 8 <= columns; c += 8) {  // 8 x 8 transposes in registers
    int64_t k = 0;
    for (; k + 8 <= K; k += 8) {
      __m256 v[8], t[8];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) v[r] = _mm256_loadu_ps(x + (c + r) * ldx + k);
#pragma GCC unroll 4
      for (int r = 0; r < 8; r += 2) {
        t[r] = _mm256_unpacklo_ps(v[r], v[r + 1]);
        t[r + 1] = _mm256_unpackhi_ps(v[r], v[r + 1]);
      }
#pragma GCC unroll 2
      for (int r = 0; r < 8; r += 4) {
        v[r] = _mm256_shuffle_ps(t[r], t[r + 2], 0x44);
        v[r + 1] = _mm256_shuffle_ps(t[r], t[r + 2], 0xee);
        v[r + 2] = _mm256_shuffle_ps(t[r + 1], t[r + 3], 0x44);
        v[r + 3] = _mm256_shuffle_ps(t[r + 1], t[r + 3], 0xee);
      }
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) {
        _mm256_storeu_ps(out + (k + r) * width + c, _mm256_permute2f128_ps(v[r], v[r + 4], 0x20));
        _mm256_storeu_ps(out + (k + r + 4) * width + c, _mm256_permute2f128_ps(v[r], v[r + 4], 0x31));
      }
    }
    for (; k < K; ++k)
      for (int r = 0; r < 8; ++r) out[k * width + c + r] = x[(c + r) * ldx + k];
  }
#endif
  for (; c < columns; ++c)
    for (int64_t k = 0; k < K; ++k) out[k * width + c] = x[c * ldx + k];
}
inline void pack_transposed(float* out, int width, const float* x, int64_t ldx, int columns, int64_t K) {
  transpose(out, width, x, ldx, columns, K);
  for (int64_t k = 0; k < K; ++k)
    for (int c = columns; c < width; ++c) out[k * width + c] = 0;
}

// The rest is signed. Rounding to nearest takes at most half a step; half a step down does not fit, and gives one bit back.
inline void join(float* out, const uint16_t* high, const int16_t* rest, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t bits = (uint32_t{high[i]} << 16) + (rest ? static_cast<uint32_t>(int32_t{rest[i]}) : 0u);
    std::memcpy(out + i, &bits, sizeof bits);
  }
}
inline void split(int16_t* rest, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    rest[i] = static_cast<int16_t>(std::min(static_cast<int32_t>(bits - (bf16_bits(x[i]) << 16)), 32767));
  }
}
inline void interleave(uint32_t* out, const uint16_t* x, int rows) {
  for (int r = 0; r < rows; r += 2)
    for (int c = 0; c < kPanel; ++c)
      out[r / 2 * kPanel + c] = x[r * kPanel + c] | (r + 1 < rows ? uint32_t{x[(r + 1) * kPanel + c]} << 16 : 0u);
}

inline void to_pairs(uint32_t* out, const float* x, int64_t n) {
  int64_t i = 0;
#if defined(RANK_GRPO_BF16_DOT)
  for (; i + 2 * kVec <= n; i += 2 * kVec)
    _mm512_storeu_si512(out + i / 2, (__m512i)_mm512_cvtne2ps_pbh(load(x + i + kVec).v, load(x + i).v));
#endif
  for (; i < n; i += 2) out[i / 2] = bf16_pair(x[i], i + 1 < n ? x[i + 1] : 0.f);
}
// One step of a panel `width` wide from `columns` of two steps of k; zero beyond.
inline void pair_steps(uint32_t* out, int width, const float* even, const float* odd, int columns) {
  int c = 0;
#if defined(RANK_GRPO_BF16_DOT)
  for (; c + kVec <= columns; c += kVec) {
    const __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(load(even + c).v)),
                  h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(load(odd + c).v));
    _mm512_storeu_si512(out + c, _mm512_or_si512(l, _mm512_slli_epi32(h, 16)));
  }
#endif
  for (; c < columns; ++c) out[c] = bf16_pair(even[c], odd[c]);
  for (; c < width; ++c) out[c] = 0;
}
inline void pack_bf16(uint32_t* out, int64_t panel, const float* x, int64_t ldx, int columns, int64_t K) {
  const int64_t steps = (K + 1) / 2;
  const float none[kPanel] = {};
  for (int64_t k = 0; k < steps; ++k) {
    const float *even = x + 2 * k * ldx, *odd = even + ldx;
    uint32_t* to = out + k * kPanel;
    for (int p = 0; p < columns; p += kPanel, to += panel)
      pair_steps(to, kPanel, even + p, 2 * k + 1 < K ? odd + p : none, std::min(kPanel, columns - p));
  }
}
inline void pack_transposed_bf16(uint32_t* out, const float* x, int64_t ldx, int columns, int64_t K) {
  const int64_t steps = (K + 1) / 2;
  alignas(64) uint32_t pairs[kPanel][kVec];  // of sixteen steps, still by column
  for (int64_t k = 0; k < steps; k += kVec) {
    for (int c = 0; c < columns; ++c) to_pairs(pairs[c], x + c * ldx + 2 * k, std::min<int64_t>(2 * kVec, K - 2 * k));
    pack_transposed(reinterpret_cast<float*>(out + k * kPanel), kPanel, reinterpret_cast<const float*>(pairs), kVec, columns,
                    std::min<int64_t>(kVec, steps - k));
  }
}
#if defined(RANK_GRPO_BF16_DOT)
constexpr bool kDot = true;
#else
constexpr bool kDot = false;
#endif
constexpr MatmulKernels matmul_kernels{kRows,
                                       kDot,
                                       kStreams&& kRows == 8,
                                       tile_f32,
                                       tile_bf16,
                                       to_pairs,
                                       to_rounded,
                                       pack,
                                       pack_bf16,
                                       pack_transposed,
                                       pack_transposed_bf16,
                                       join,
                                       split,
                                       interleave};

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
