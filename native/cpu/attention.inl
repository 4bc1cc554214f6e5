// Attention on one tile of query rows; see attention.h. Included once per instruction set after vec.h.
// Order, for every row alone: scores sum over d ascending; pages ascending; keys of a page ascending.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

// s [R][kPageSize] = a [R][D] . bt [D][kPageSize]
template <int R>
inline void scores(float (*s)[kPageSize], const float (*a)[kMaxHeadDim], const float* bt, int D) {
  Vec c0[R], c1[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) c0[r] = c1[r] = zero();
  for (int d = 0; d < D; ++d) {
    const Vec b0 = load(bt + d * kPageSize), b1 = load(bt + d * kPageSize + kVec);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec x = set1(a[r][d]);
      c0[r] = fma(x, b0, c0[r]);
      c1[r] = fma(x, b1, c1[r]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    store(s[r], c0[r]);
    store(s[r] + kVec, c1[r]);
  }
}

// y [R][Dp] = y * scale[r] + sum over j < n of p [R][j] x [j][Dp]
template <int R>
inline void weighted_rows(float (*y)[kMaxHeadDim], const float* scale, const float (*p)[kPageSize], const float* x, int n, int Dp) {
  for (int d = 0; d < Dp; d += kVec) {
    Vec c[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) c[r] = load(y[r] + d) * set1(scale[r]);
    for (int j = 0; j < n; ++j) {
      const Vec b = load(x + j * Dp + d);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) c[r] = fma(set1(p[r][j]), b, c[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) store(y[r] + d, c[r]);
  }
}

template <int R>
inline void attend(const AttentionTile& tile, const float* const* keys, const float* const* values, int D, float scale) {
  const int Dp = padded(D);
  alignas(64) float q[R][kMaxHeadDim], y[R][kMaxHeadDim], p[R][kPageSize];
  float top[R], sum[R], shrink[R];
  int last = 0;
  for (int r = 0; r < R; ++r) {
    for (int d = 0; d < D; ++d) q[r][d] = tile.query[r][d] * scale;
    for (int d = 0; d < Dp; ++d) y[r][d] = 0;
    top[r] = -std::numeric_limits<float>::infinity();
    sum[r] = 0;
    last = std::max(last, tile.last[r]);
  }
  for (int page = 0; page * kPageSize <= last; ++page) {
    scores<R>(p, q, keys[page], D);
    for (int r = 0; r < R; ++r) {
      const int valid = tile.last[r] + 1 - page * kPageSize;
      for (int j = std::max(valid, 0); j < kPageSize; ++j) p[r][j] = -std::numeric_limits<float>::infinity();
      const Vec s0 = load(p[r]), s1 = load(p[r] + kVec);
      const float now = std::max(top[r], reduce_max(max(s0, s1)));
      const Vec p0 = exp(s0 - set1(now)), p1 = exp(s1 - set1(now));
      alignas(64) float factor[kVec];
      store(factor, exp(set1(top[r] - now)));
      shrink[r] = factor[0];
      sum[r] = sum[r] * shrink[r] + reduce_add(p0 + p1);
      top[r] = now;
      store(p[r], p0);
      store(p[r] + kVec, p1);
    }
    // Keys beyond the tile's last one may never have been written: they are not read.
    weighted_rows<R>(y, shrink, p, values[page], std::min(kPageSize, last + 1 - page * kPageSize), Dp);
  }
  for (int r = 0; r < R; ++r) {
    const Vec inverse = set1(1.f / sum[r]);
    for_vectors(D, [&](int64_t d, int n) { store_n(tile.out[r] + d, n, load(y[r] + d) * inverse); });
    if (tile.lse[r]) *tile.lse[r] = top[r] + std::log(sum[r]);
  }
}

// dx [j][Dp] += sum over r of w [r][j] a [r][Dp]
template <int R>
inline void outer_rows(float* dx, const float (*w)[kPageSize], const float (*a)[kMaxHeadDim], int n, int Dp) {
  for (int d = 0; d < Dp; d += kVec) {
    Vec row[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) row[r] = load(a[r] + d);
    for (int j = 0; j < n; ++j) {
      Vec c = load(dx + j * Dp + d);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) c = fma(set1(w[r][j]), row[r], c);
      store(dx + j * Dp + d, c);
    }
  }
}

template <int R>
inline void attend_backward(const AttentionBackwardTile& tile, const float* kt, const float* vt, const float* k, float* dk, float* dv,
                            int D, float scale) {
  const int Dp = padded(D);
  alignas(64) float q[R][kMaxHeadDim], dy[R][kMaxHeadDim], dq[R][kMaxHeadDim], p[R][kPageSize], ds[R][kPageSize];
  float one[R];
  int keys = 0;
  for (int r = 0; r < R; ++r) {
    for (int d = 0; d < D; ++d) {
      q[r][d] = tile.query[r][d] * scale;
      dy[r][d] = tile.dout[r][d];
    }
    for (int d = D; d < Dp; ++d) q[r][d] = dy[r][d] = 0;
    for (int d = 0; d < Dp; ++d) dq[r][d] = 0;
    one[r] = 1;
    keys = std::max(keys, tile.valid[r]);
  }
  scores<R>(p, q, kt, D);
  scores<R>(ds, dy, vt, D);
  for (int r = 0; r < R; ++r) {
    for (int j = tile.valid[r]; j < kPageSize; ++j) p[r][j] = -std::numeric_limits<float>::infinity();
    for (int half = 0; half < kPageSize; half += kVec) {
      const Vec weight = exp(load(p[r] + half) - set1(tile.lse[r]));
      store(p[r] + half, weight);
      store(ds[r] + half, weight * (load(ds[r] + half) - set1(tile.delta[r])));
    }
  }
  weighted_rows<R>(dq, one, ds, k, keys, Dp);
  for (int r = 0; r < R; ++r)
    for (int d = 0; d < Dp; d += kVec) store(tile.dquery[r] + d, fma(load(dq[r] + d), set1(scale), load(tile.dquery[r] + d)));
  outer_rows<R>(dk, ds, q, keys, Dp);  // q carries the scale
  outer_rows<R>(dv, p, dy, keys, Dp);
}

#define RANK_GRPO_ROWS(function, rows, ...)   \
  switch (rows) {                             \
    case 1: return function<1>(__VA_ARGS__);  \
    case 2: return function<2>(__VA_ARGS__);  \
    case 3: return function<3>(__VA_ARGS__);  \
    case 4: return function<4>(__VA_ARGS__);  \
    case 5: return function<5>(__VA_ARGS__);  \
    case 6: return function<6>(__VA_ARGS__);  \
    case 7: return function<7>(__VA_ARGS__);  \
    default: return function<8>(__VA_ARGS__); \
  }

inline void attention_tile(const AttentionTile& tile, const float* const* keys, const float* const* values, int D, float scale) {
  RANK_GRPO_ROWS(attend, tile.rows, tile, keys, values, D, scale)
}
inline void attention_backward_tile(const AttentionBackwardTile& tile, const float* kt, const float* vt, const float* k, float* dk,
                                    float* dv, int D, float scale) {
  RANK_GRPO_ROWS(attend_backward, tile.rows, tile, kt, vt, k, dk, dv, D, scale)
}
#undef RANK_GRPO_ROWS

inline float dot(const float* a, const float* b, int n) {
  Vec c = zero();
  for_vectors(n, [&](int64_t i, int m) { c = fma(load_n(a + i, m), load_n(b + i, m), c); });
  return reduce_add(c);
}

constexpr AttentionKernels attention_kernels{attention_tile, attention_backward_tile, dot};

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
