// Tile kernels and packing; see matmul.h. Included once per instruction set after vec.h.
// One accumulator per output and pass of k, k ascending.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

// Nearest bf16, ties to even, as the upper half of the float's bits.
inline uint32_t bf16_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
}
inline float bf16_round(float x) {
  const uint32_t u = bf16_bits(x) << 16;
  float y;
  std::memcpy(&y, &u, 4);
  return y;
}
inline float value(float x, bool round) { return round ? bf16_round(x) : x; }

#if defined(RANK_GRPO_AVX512)
constexpr int kRows = 8;

struct ProductF32 {
  using B = __m512;
  static B load_b(const uint32_t* p) { return _mm512_loadu_ps(p); }
  static __m512 step(__m512 c, uint32_t a, B b) {
    float x;
    std::memcpy(&x, &a, 4);
    return _mm512_fmadd_ps(_mm512_set1_ps(x), b, c);
  }
};
struct ProductBf16 {
  using B = __m512bh;
  static B load_b(const uint32_t* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static __m512 step(__m512 c, uint32_t a, B b) { return _mm512_dpbf16_ps(c, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), b); }
};

// R x 48: 24 accumulators at most. Every loop over them is unrolled, or they would live on the stack.
template <class Kind, int R, bool WholeRow>
inline void tile_rows(const Tile& t) {
  __m512 c[R][3];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) c[r][0] = c[r][1] = c[r][2] = _mm512_setzero_ps();
  const uint32_t *a = t.A, *upper = t.A + 4 * t.row, *b = t.B;
  const char* ahead = t.ahead;
  const int64_t row = t.row, step = t.step, ahead_step = WholeRow ? kPanel * 4 : t.ahead_step;
  for (int64_t k = 0; k < t.steps; ++k) {
    _mm_prefetch(ahead, _MM_HINT_T0);
    if (WholeRow) {
      _mm_prefetch(ahead + 64, _MM_HINT_T0);
      _mm_prefetch(ahead + 128, _MM_HINT_T0);
    }
    const typename Kind::B b0 = Kind::load_b(b), b1 = Kind::load_b(b + 16), b2 = Kind::load_b(b + 32);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const uint32_t x = r < 4 ? a[r * row] : upper[(r - 4) * row];
      c[r][0] = Kind::step(c[r][0], x, b0);
      c[r][1] = Kind::step(c[r][1], x, b1);
      c[r][2] = Kind::step(c[r][2], x, b2);
    }
    a += step;
    upper += step;
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
  if (t.ahead_step == kPanel * 4) return tile_rows<Kind, R, true>(t);
  tile_rows<Kind, R, false>(t);
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
inline void tile_f32(const Tile& t) { tile<ProductF32>(t); }
inline void tile_bf16(const Tile& t) { tile<ProductBf16>(t); }

#elif defined(RANK_GRPO_AVX2)
constexpr int kRows = 4;

// R x 24 of the panel's 48 columns at a time: 12 accumulators, three of B, one of A.
template <int R>
inline void tile_half(const Tile& t, int first) {
  __m256 c[R][3];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) c[r][0] = c[r][1] = c[r][2] = _mm256_setzero_ps();
  const float *a = reinterpret_cast<const float*>(t.A), *b = reinterpret_cast<const float*>(t.B) + first;
  const char* ahead = t.ahead + (first ? t.ahead_step / 2 : 0);
  for (int64_t k = 0; k < t.steps; ++k) {
    _mm_prefetch(ahead, _MM_HINT_T0);
    const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8), b2 = _mm256_loadu_ps(b + 16);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256 x = _mm256_broadcast_ss(a + r * t.row);
      c[r][0] = _mm256_fmadd_ps(x, b0, c[r][0]);
      c[r][1] = _mm256_fmadd_ps(x, b1, c[r][1]);
      c[r][2] = _mm256_fmadd_ps(x, b2, c[r][2]);
    }
    a += t.step;
    b += kPanel;
    ahead += t.ahead_step;
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const int n = t.columns - first - j * 8;
      float* out = t.C + r * t.ldc + first + j * 8;
      if (n >= 8) {
        _mm256_storeu_ps(out, t.accumulate ? _mm256_add_ps(_mm256_loadu_ps(out), c[r][j]) : c[r][j]);
      } else if (n > 0) {
        alignas(32) float y[8];
        _mm256_store_ps(y, c[r][j]);
        for (int i = 0; i < n; ++i) out[i] = t.accumulate ? out[i] + y[i] : y[i];
      }
    }
}
template <int R>
inline void tile_rows(const Tile& t) {
  tile_half<R>(t, 0);
  if (t.columns > kPanel / 2) tile_half<R>(t, kPanel / 2);
}
inline void tile_f32(const Tile& t) {
  switch (t.rows) {
    case 1: return tile_rows<1>(t);
    case 2: return tile_rows<2>(t);
    case 3: return tile_rows<3>(t);
    default: return tile_rows<4>(t);
  }
}

#else
constexpr int kRows = 4;

inline void tile_f32(const Tile& t) {
  for (int r = 0; r < t.rows; ++r) {
    float c[kPanel] = {};
    const float *a = reinterpret_cast<const float*>(t.A) + r * t.row, *b = reinterpret_cast<const float*>(t.B);
    for (int64_t k = 0; k < t.steps; ++k, a += t.step, b += kPanel)
      for (int j = 0; j < kPanel; ++j) c[j] += *a * b[j];
    float* out = t.C + r * t.ldc;
    for (int j = 0; j < t.columns; ++j) out[j] = t.accumulate ? out[j] + c[j] : c[j];
  }
}
#endif

inline void to_rounded(float* out, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = bf16_round(x[i]);
}

// Goes through the steps once: X is read line by line, each panel is written from start to end.
inline void pack(float* out, const float* x, int64_t ldx, int columns, int64_t K, bool round) {
  const int whole = round ? 0 : columns / kPanel * kPanel;
  for (int64_t k = 0; k < K; ++k) {
    const float* from = x + k * ldx;
    float* to = out + k * kPanel;
    int c = 0;
    for (; c < whole; c += kPanel, to += K * kPanel) {
      store(to, load(from + c));
      store(to + kVec, load(from + c + kVec));
      store(to + 2 * kVec, load(from + c + 2 * kVec));
    }
    for (; c < columns; c += kPanel, to += K * kPanel)
      for (int i = 0; i < kPanel; ++i) to[i] = c + i < columns ? value(from[c + i], round) : 0.f;
  }
}

inline void pack_transposed(float* out, int width, const float* x, int64_t ldx, int columns, int64_t K, bool round) {
  int c = 0;
#if defined(RANK_GRPO_AVX512) || defined(RANK_GRPO_AVX2)
  if (!round) {  // 8 x 8 transposes in registers
    for (; c + 8 <= columns; c += 8) {
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
  }
#endif
  for (; c < columns; ++c)
    for (int64_t k = 0; k < K; ++k) out[k * width + c] = value(x[c * ldx + k], round);
  for (; c < width; ++c)
    for (int64_t k = 0; k < K; ++k) out[k * width + c] = 0;
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

#if defined(RANK_GRPO_AVX512)
// 16 pairs of a row of which `left` floats remain, zero beyond.
inline __m512i pair_row(const float* x, int64_t left) {
  const Vec lo = left >= kVec ? load(x) : left > 0 ? load_part(x, static_cast<int>(left), 0.f) : zero();
  const Vec hi = left >= 2 * kVec ? load(x + kVec) : left > kVec ? load_part(x + kVec, static_cast<int>(left - kVec), 0.f) : zero();
  return (__m512i)_mm512_cvtne2ps_pbh(hi.v, lo.v);
}
inline void to_pairs(uint32_t* out, const float* x, int64_t n) {
  int64_t i = 0;
  for (; i + 2 * kVec <= n; i += 2 * kVec) _mm512_storeu_si512(out + i / 2, pair_row(x + i, 2 * kVec));
  if (i < n) _mm512_mask_storeu_epi32(out + i / 2, static_cast<__mmask16>((1u << (n - i + 1) / 2) - 1), pair_row(x + i, n - i));
}
// Interleaves two steps.
inline void pack_bf16(uint32_t* out, const float* x, int64_t ldx, int columns, int64_t K) {
  const int64_t steps = (K + 1) / 2;
  for (int64_t k = 0; k < steps; ++k) {
    const float* from = x + 2 * k * ldx;
    uint32_t* to = out + k * kPanel;
    for (int p = 0; p < columns; p += kPanel, to += steps * kPanel)
      for (int c = 0; c < kPanel; c += kVec) {
        const int left = columns - p - c < 0 ? 0 : columns - p - c, n = left < kVec ? left : kVec;
        const Vec lo = load_n(from + p + c, n), hi = 2 * k + 1 < K ? load_n(from + ldx + p + c, n) : zero();
        const __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(lo.v)),
                      h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(hi.v));
        _mm512_storeu_si512(to + c, _mm512_or_si512(l, _mm512_slli_epi32(h, 16)));
      }
  }
}
inline void pack_transposed_bf16(uint32_t* out, const float* x, int64_t ldx, int columns, int64_t K) {
  const int64_t steps = (K + 1) / 2;
  alignas(64) uint32_t pairs[kPanel][kVec];  // of sixteen steps, still by column
  for (int64_t k = 0; k < steps; k += kVec) {
    for (int c = 0; c < columns; ++c) _mm512_store_si512(pairs[c], pair_row(x + c * ldx + 2 * k, K - 2 * k));
    pack_transposed(reinterpret_cast<float*>(out + k * kPanel), kPanel, reinterpret_cast<const float*>(pairs), kVec, columns,
                    steps - k < kVec ? steps - k : kVec, false);
  }
}
constexpr MatmulKernels matmul_kernels{
    kRows, tile_f32, tile_bf16, to_pairs, to_rounded, pack, pack_bf16, pack_transposed, pack_transposed_bf16, join, split, interleave};
#else
constexpr MatmulKernels matmul_kernels{kRows,   tile_f32,        nullptr, nullptr, to_rounded, pack,
                                       nullptr, pack_transposed, nullptr, join,    split,      interleave};
#endif

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
