// Tile kernels and packing; see matmul.h. Included once per instruction set after vec.h.
// One accumulator per output, k ascending, carried through C between passes: the split of K never shows in the bits.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

template <int R>
inline void tile_rows(int64_t steps, const float* A, const float* B, float* C, int64_t ldc, int columns, bool accumulate) {
  Vec c[R][3];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const int n = columns - j * kVec;
      c[r][j] = !accumulate || n <= 0 ? zero() : n >= kVec ? load(C + r * ldc + j * kVec) : load_part(C + r * ldc + j * kVec, n, 0.f);
    }
  for (int64_t k = 0; k < steps; ++k, A += kRows, B += kPanel) {
    const Vec b0 = load(B), b1 = load(B + kVec), b2 = load(B + 2 * kVec);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec a = set1(A[r]);
      c[r][0] = fma(a, b0, c[r][0]);
      c[r][1] = fma(a, b1, c[r][1]);
      c[r][2] = fma(a, b2, c[r][2]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const int n = columns - j * kVec;
      if (n > 0) store_n(C + r * ldc + j * kVec, n < kVec ? n : kVec, c[r][j]);
    }
}

#if !defined(RANK_GRPO_AVX512)
// Without 32 registers: six rows by one vector at a time, over the same panel.
template <int R>
inline void tile_column(int64_t steps, const float* A, const float* B, float* C, int64_t ldc, int n, bool accumulate) {
  Vec c[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) c[r] = accumulate ? load_n(C + r * ldc, n) : zero();
  for (int64_t k = 0; k < steps; ++k, A += kRows, B += kPanel) {
    const Vec b = load(B);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) c[r] = fma(set1(A[r]), b, c[r]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store_n(C + r * ldc, n, c[r]);
}
template <int R>
inline void tile_columns(int64_t steps, const float* A, const float* B, float* C, int64_t ldc, int columns, bool accumulate) {
  for (int j = 0; j < columns; j += kVec) tile_column<R>(steps, A, B + j, C + j, ldc, columns - j < kVec ? columns - j : kVec, accumulate);
}
#endif

inline void tile_f32(int rows, int64_t steps, const float* A, const float* B, float* C, int64_t ldc, int columns, bool accumulate) {
#if defined(RANK_GRPO_AVX512)
  switch (rows) {
    case 1: return tile_rows<1>(steps, A, B, C, ldc, columns, accumulate);
    case 2: return tile_rows<2>(steps, A, B, C, ldc, columns, accumulate);
    case 3: return tile_rows<3>(steps, A, B, C, ldc, columns, accumulate);
    case 4: return tile_rows<4>(steps, A, B, C, ldc, columns, accumulate);
    case 5: return tile_rows<5>(steps, A, B, C, ldc, columns, accumulate);
    case 6: return tile_rows<6>(steps, A, B, C, ldc, columns, accumulate);
    case 7: return tile_rows<7>(steps, A, B, C, ldc, columns, accumulate);
    default: return tile_rows<8>(steps, A, B, C, ldc, columns, accumulate);
  }
#else
  if (rows > 4) {
    tile_columns<4>(steps, A, B, C, ldc, columns, accumulate);
    A += 4;
    C += 4 * ldc;
    rows -= 4;
  }
  switch (rows) {
    case 1: return tile_columns<1>(steps, A, B, C, ldc, columns, accumulate);
    case 2: return tile_columns<2>(steps, A, B, C, ldc, columns, accumulate);
    case 3: return tile_columns<3>(steps, A, B, C, ldc, columns, accumulate);
    default: return tile_columns<4>(steps, A, B, C, ldc, columns, accumulate);
  }
#endif
}

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

#if defined(RANK_GRPO_AVX512)
template <int R>
inline void tile_rows_bf16(int64_t steps, const uint32_t* A, const uint32_t* B, float* C, int64_t ldc, int columns, bool accumulate) {
  __m512 c[R][3];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const int n = columns - j * kVec;
      c[r][j] = (!accumulate || n <= 0 ? zero() : n >= kVec ? load(C + r * ldc + j * kVec) : load_part(C + r * ldc + j * kVec, n, 0.f)).v;
    }
  for (int64_t k = 0; k < steps; ++k, A += kRows, B += kPanel) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(B), b1 = (__m512bh)_mm512_loadu_si512(B + 16),
                   b2 = (__m512bh)_mm512_loadu_si512(B + 32);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh a = (__m512bh)_mm512_set1_epi32(static_cast<int>(A[r]));
      c[r][0] = _mm512_dpbf16_ps(c[r][0], a, b0);
      c[r][1] = _mm512_dpbf16_ps(c[r][1], a, b1);
      c[r][2] = _mm512_dpbf16_ps(c[r][2], a, b2);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      const int n = columns - j * kVec;
      if (n > 0) store_n(C + r * ldc + j * kVec, n < kVec ? n : kVec, Vec{c[r][j]});
    }
}
inline void tile_bf16(int rows, int64_t steps, const uint32_t* A, const uint32_t* B, float* C, int64_t ldc, int columns, bool accumulate) {
  switch (rows) {
    case 1: return tile_rows_bf16<1>(steps, A, B, C, ldc, columns, accumulate);
    case 2: return tile_rows_bf16<2>(steps, A, B, C, ldc, columns, accumulate);
    case 3: return tile_rows_bf16<3>(steps, A, B, C, ldc, columns, accumulate);
    case 4: return tile_rows_bf16<4>(steps, A, B, C, ldc, columns, accumulate);
    case 5: return tile_rows_bf16<5>(steps, A, B, C, ldc, columns, accumulate);
    case 6: return tile_rows_bf16<6>(steps, A, B, C, ldc, columns, accumulate);
    case 7: return tile_rows_bf16<7>(steps, A, B, C, ldc, columns, accumulate);
    default: return tile_rows_bf16<8>(steps, A, B, C, ldc, columns, accumulate);
  }
}
#endif

inline float value(float x, bool round) { return round ? bf16_round(x) : x; }
inline uint32_t pair(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }

inline void pack_a(float* out, const float* x, int64_t lda, int rows, int64_t K, bool transposed, bool round) {
  if (transposed) {
    for (int64_t k = 0; k < K; ++k)
      for (int r = 0; r < rows; ++r) out[k * kRows + r] = value(x[k * lda + r], round);
    return;
  }
#if defined(RANK_GRPO_AVX512) || defined(RANK_GRPO_AVX2)
  if (rows == kRows && !round) {  // 8 x 8 transposes in registers
    int64_t k = 0;
    for (; k + 8 <= K; k += 8) {
      __m256 v[8], t[8];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) v[r] = _mm256_loadu_ps(x + r * lda + k);
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
        _mm256_storeu_ps(out + (k + r) * 8, _mm256_permute2f128_ps(v[r], v[r + 4], 0x20));
        _mm256_storeu_ps(out + (k + r + 4) * 8, _mm256_permute2f128_ps(v[r], v[r + 4], 0x31));
      }
    }
    for (; k < K; ++k)
      for (int r = 0; r < 8; ++r) out[k * 8 + r] = x[r * lda + k];
    return;
  }
#endif
  for (int r = 0; r < rows; ++r)
    for (int64_t k = 0; k < K; ++k) out[k * kRows + r] = value(x[r * lda + k], round);
}

// W [columns, K] in blocks of 16 k, so that each cache line of the source is used up before it leaves.
inline void pack_b(float* out, const float* x, int64_t ldb, int columns, int64_t K, bool transposed, bool round) {
  if (!transposed) {
    for (int64_t k = 0; k < K; ++k) {
      int c = 0;
      if (!round)
        for (; c + kVec <= columns; c += kVec) store(out + k * kPanel + c, load(x + k * ldb + c));
      for (; c < columns; ++c) out[k * kPanel + c] = value(x[k * ldb + c], round);
      for (c = columns; c < kPanel; ++c) out[k * kPanel + c] = 0;
    }
    return;
  }
  int c = 0;
#if defined(RANK_GRPO_AVX512) || defined(RANK_GRPO_AVX2)
  if (!round) {
    for (; c + 8 <= columns; c += 8) {
      // an A panel is the same transpose, eight columns wide: through a small buffer
      alignas(64) float t[64 * 8];
      for (int64_t k = 0; k < K; k += 64) {
        const int64_t n = K - k < 64 ? K - k : 64;
        pack_a(t, x + c * ldb + k, ldb, 8, n, false, false);
        for (int64_t i = 0; i < n; ++i) _mm256_storeu_ps(out + (k + i) * kPanel + c, _mm256_load_ps(t + i * 8));
      }
    }
  }
#endif
  for (; c < columns; ++c)
    for (int64_t k = 0; k < K; ++k) out[k * kPanel + c] = value(x[c * ldb + k], round);
  for (; c < kPanel; ++c)
    for (int64_t k = 0; k < K; ++k) out[k * kPanel + c] = 0;
}

#if defined(RANK_GRPO_AVX512)
// Rows of pairs: n <= 16 pairs of one row of x, zero beyond K.
inline __m512i pair_row(const float* x, int64_t left) {
  const Vec lo = left >= kVec ? load(x) : left > 0 ? load_part(x, static_cast<int>(left), 0.f) : zero();
  const Vec hi = left >= 2 * kVec ? load(x + kVec) : left > kVec ? load_part(x + kVec, static_cast<int>(left - kVec), 0.f) : zero();
  return (__m512i)_mm512_cvtne2ps_pbh(hi.v, lo.v);
}
inline void pack_pairs(uint32_t* out, int width, const float* x, int64_t ld, int count, int64_t K) {
  const int64_t pairs = (K + 1) / 2;
  alignas(64) uint32_t t[16];
  for (int64_t k = 0; k < pairs; k += 16)
    for (int r = 0; r < count; ++r) {
      _mm512_store_si512(t, pair_row(x + r * ld + 2 * k, K - 2 * k));
      const int64_t n = pairs - k < 16 ? pairs - k : 16;
      for (int64_t i = 0; i < n; ++i) out[(k + i) * width + r] = t[i];
    }
}
// [K, count] to pairs of rows: interleaves two rows
inline void pack_pairs_transposed(uint32_t* out, int width, const float* x, int64_t ld, int count, int64_t K) {
  for (int64_t k = 0; k < K; k += 2)
    for (int c = 0; c < count; c += kVec) {
      const int n = count - c < kVec ? count - c : kVec;
      const Vec lo = load_n(x + k * ld + c, n), hi = k + 1 < K ? load_n(x + (k + 1) * ld + c, n) : zero();
      const __m512i l = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(lo.v)),
                    h = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(hi.v));
      _mm512_mask_storeu_epi32(out + k / 2 * width + c, static_cast<__mmask16>((1u << n) - 1),
                               _mm512_or_si512(l, _mm512_slli_epi32(h, 16)));
    }
}
inline void pack_a_bf16(uint32_t* out, const float* x, int64_t lda, int rows, int64_t K, bool transposed) {
  if (transposed) return pack_pairs_transposed(out, kRows, x, lda, rows, K);
  pack_pairs(out, kRows, x, lda, rows, K);
}
inline void pack_b_bf16(uint32_t* out, const float* x, int64_t ldb, int columns, int64_t K, bool transposed) {
  if (transposed) {
    pack_pairs(out, kPanel, x, ldb, columns, K);
  } else {
    pack_pairs_transposed(out, kPanel, x, ldb, columns, K);
  }
  for (int64_t k = 0; k < (K + 1) / 2; ++k)
    for (int c = columns; c < kPanel; ++c) out[k * kPanel + c] = 0;
}
constexpr MatmulKernels matmul_kernels{tile_f32, tile_bf16, pack_a, pack_a_bf16, pack_b, pack_b_bf16};
#else
constexpr MatmulKernels matmul_kernels{tile_f32, nullptr, pack_a, nullptr, pack_b, nullptr};
#endif

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
