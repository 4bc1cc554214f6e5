// Attention on one tile of query rows; see attention.h. Included once per instruction set after vec.h.
// Order, for every row alone: scores sum over d ascending; pages ascending; keys of a page ascending.
namespace rank_grpo {
namespace RANK_GRPO_ISA {

#if defined(RANK_GRPO_AVX512)
constexpr int kGroupRows = 8;  // rows whose sums stay in registers together
#else
constexpr int kGroupRows = 2;
#endif
constexpr int kPages = 4;  // pages whose scores are computed together, for few rows: their sums hide each other's latency

// What a 4-byte word of a page is: a float, a pair of bf16 side by side along what is summed over that the processor multiplies by a pair of
// queries or weights, or one whose halves are multiplied one after the other by two floats of them.
struct Floats {
  static constexpr int per_word = 1;  // values
  static constexpr int left = 1;      // words of queries and weights for one
  template <int W>
  static Vec part(Vec b) {
    return b;
  }
  static Vec multiply(Vec a, Vec b, Vec c) { return fma(a, b, c); }  // a b + c
  static float rounded(float x) { return x; }
  static void to_words(float* out, const float* x, int n) { std::copy(x, x + n, out); }
  static void store_weights(float* out, Vec p0, Vec p1) {
    store(out, p0);
    store(out + kVec, p1);
  }
};
#if defined(RANK_GRPO_BF16_DOT)
struct Pairs : Floats {
  static constexpr int per_word = 2;
  static Vec multiply(Vec a, Vec b, Vec c) { return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)}; }
  static float rounded(float x) { return bf16_round(x); }
  static void to_words(float* out, const float* x, int n) { to_pairs(reinterpret_cast<uint32_t*>(out), x, n); }
  static void store_weights(float* out, Vec p0, Vec p1) { _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(p1.v, p0.v)); }
};
#else
struct Pairs : Floats {  // weights stay floats
  static constexpr int per_word = 2, left = 2;
  template <int W>
  static Vec part(Vec b) {
    return W == 0 ? lower_half_up(b) : keep_bits(b, 0xffff0000u);
  }
  static float rounded(float x) { return bf16_round(x); }
  static void to_words(float* out, const float* x, int n) {
    for (int i = 0; i < n; ++i) out[i] = bf16_round(x[i]);
    if (n % 2) out[n] = 0;
  }
};
#endif

// f for each word of queries or weights that one of a page is multiplied by.
template <class Kind, class F>
inline void each_left(F&& f) {
  f(std::integral_constant<int, 0>{});
  if constexpr (Kind::left == 2) f(std::integral_constant<int, 1>{});
}

// s [R][stride] = a [R][D] . bt[p] [D][kPageSize], for P pages side by side; ahead[p] [D][kPageSize] (or null) is fetched meanwhile. D counts
// words.
template <class Kind, int R, int P>
inline void scores(float* s, int stride, const float (*a)[kMaxHeadDim], const float* const* bt, int D, const float* const* ahead) {
  Vec c[R][P][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) c[r][p][0] = c[r][p][1] = zero();
  for (int d = 0; d < D; ++d) {
    if (ahead)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        __builtin_prefetch(ahead[p] + d * kPageSize);
        __builtin_prefetch(ahead[p] + d * kPageSize + kVec);
      }
    auto add = [&](auto word) {
      constexpr int W = decltype(word)::value;
      Vec x[R];
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) x[r] = set1(a[r][d * Kind::left + W]);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const Vec b0 = Kind::template part<W>(load(bt[p] + d * kPageSize)), b1 = Kind::template part<W>(load(bt[p] + d * kPageSize + kVec));
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          c[r][p][0] = Kind::multiply(x[r], b0, c[r][p][0]);
          c[r][p][1] = Kind::multiply(x[r], b1, c[r][p][1]);
        }
      }
    };
    each_left<Kind>(add);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) {
      store(s + r * stride + p * kPageSize, c[r][p][0]);
      store(s + r * stride + p * kPageSize + kVec, c[r][p][1]);
    }
}

// y [R][d .. d + 16 V) = y * scale[r] + sum over j < n of p [R][j] x [j][Dp]; p rows are `stride` apart. Of a pair whose second is beyond n
// the second is not read: nobody may have written it.
template <class Kind, int R, int V>
inline void weighted_columns(float (*y)[kMaxHeadDim], const float* scale, const float* p, int stride, const float* x, int n, int Dp, int d,
                             const float* ahead) {
  Vec c[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) c[r][v] = load(y[r] + d + v * kVec) * set1(scale[r]);
  auto add = [&](int j, bool whole) {
    Vec b[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (ahead) __builtin_prefetch(ahead + j * Dp + d + v * kVec);
      b[v] = load(x + j * Dp + d + v * kVec);
      if constexpr (Kind::per_word == 2)
        if (!whole) b[v] = keep_bits(b[v], 0xffff);
    }
    each_left<Kind>([&](auto word) {
      constexpr int W = decltype(word)::value;
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec w = set1(p[r * stride + j * Kind::left + W]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) c[r][v] = Kind::multiply(w, Kind::template part<W>(b[v]), c[r][v]);
      }
    });
  };
  const int whole = n / Kind::per_word;
  for (int j = 0; j < whole; ++j) add(j, true);
  if (whole * Kind::per_word < n) add(whole, false);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(y[r] + d + v * kVec, c[r][v]);
}
template <class Kind, int R>
inline void weighted_rows(float (*y)[kMaxHeadDim], const float* scale, const float* p, int stride, const float* x, int n, int Dp,
                          const float* ahead) {
  int d = 0;
  if (R * 4 <= 2 * kGroupRows)
    for (; d + 4 * kVec <= Dp; d += 4 * kVec) weighted_columns<Kind, R, 4>(y, scale, p, stride, x, n, Dp, d, ahead);
  for (; d + 2 * kVec <= Dp; d += 2 * kVec) weighted_columns<Kind, R, 2>(y, scale, p, stride, x, n, Dp, d, ahead);
  if (d < Dp) weighted_columns<Kind, R, 1>(y, scale, p, stride, x, n, Dp, d, ahead);
}

// Scores of keys that a row does not see count as e^-infinity = 0.
inline void hide(float* s, int valid) {
  for (int half = 0; half < kPageSize; half += kVec)
    if (valid < half + kVec) store(s + half, keep_first(load(s + half), valid - half, -std::numeric_limits<float>::infinity()));
}

// What a row's pages have added up to so far.
struct Attending {
  float q[kGroupRows][kMaxHeadDim], y[kGroupRows][kMaxHeadDim], top[kGroupRows], sum[kGroupRows];
};

// Entries of a page table that are read next.
struct NextPages {
  const int32_t* table;
  int count;
};

// Pages begin .. end of the table of rows first .. first + R of a group that starts at tile row `group`.
template <class Kind, int R>
inline void attend_pages(const AttentionTile& tile, int group, int first, Attending& state, int begin, int end, int D, NextPages then) {
  constexpr int P = R == 1 ? kPages : R <= 3 ? 2 : 1, stride = P * kPageSize;
  const int Dp = padded(D), words = (D + Kind::per_word - 1) / Kind::per_word;
  const int* last = tile.last + group + first;
  const int32_t* table = tile.table[group + first];
  const auto q = state.q + first;
  float top[R], sum[R];
  for (int r = 0; r < R; ++r) {
    top[r] = state.top[first + r];
    sum[r] = state.sum[first + r];
  }
  alignas(64) float p[R * stride], fall[kVec] = {}, factor[kVec];
  const int most = *std::max_element(last, last + R);
  for (int start = begin; start < end; start += P) {
    const int count = std::min(P, end - start);
    const float* keys[P];
    for (int i = 0; i < count; ++i) keys[i] = tile.keys + table[start + i] * tile.page;
    const float *key_ahead[P], *value_ahead[P];
    for (int i = 0; i < P; ++i) {
      const int32_t page = start + P + i < end ? table[start + P + i] : i < then.count ? then.table[i] : table[start];
      key_ahead[i] = tile.keys + page * tile.page;
      value_ahead[i] = tile.values + page * tile.page;
    }
    if (count == P) {
      scores<Kind, R, P>(p, stride, q, keys, words, key_ahead);
    } else {
      for (int i = 0; i < count; ++i) scores<Kind, R, 1>(p + i * kPageSize, stride, q, keys + i, words, key_ahead + i);
    }
    for (int i = 0; i < count; ++i) {
      const int page = start + i;
      float* s = p + i * kPageSize;
      float now[R];
      for (int r = 0; r < R; ++r) {
        hide(s + r * stride, last[r] + 1 - page * kPageSize);
        now[r] = std::max(top[r], reduce_max(max(load(s + r * stride), load(s + r * stride + kVec))));
        fall[r] = top[r] - now[r];
        top[r] = now[r];
      }
      store(factor, exp(load(fall)));
      for (int r = 0; r < R; ++r) {
        const Vec m = set1(now[r]), p0 = exp(load(s + r * stride) - m), p1 = exp(load(s + r * stride + kVec) - m);
        sum[r] = sum[r] * factor[r] + reduce_add(p0 + p1);
        Kind::store_weights(s + r * stride, p0, p1);
      }
      // Keys beyond the tile's last one may never have been written: they are not read.
      weighted_rows<Kind, R>(state.y + first, factor, s, stride, tile.values + table[page] * tile.page,
                             std::min(kPageSize, most + 1 - page * kPageSize), Dp, value_ahead[i]);
    }
  }
  for (int r = 0; r < R; ++r) {
    state.top[first + r] = top[r];
    state.sum[first + r] = sum[r];
  }
}

template <class Kind, int R>
inline void attend(const AttentionTile& tile, int group, int D, float scale) {
  alignas(64) Attending state;
  for (int r = 0; r < R; ++r) {
    float q[kMaxHeadDim];
    for (int d = 0; d < D; ++d) q[d] = tile.query[group + r][d] * scale;
    Kind::to_words(state.q[r], q, D);
    for (int d = 0; d < padded(D); ++d) state.y[r][d] = 0;
    state.top[r] = -std::numeric_limits<float>::infinity();
    state.sum[r] = 0;
  }
  const int begin = tile.table[group] != tile.table[group + R - 1] ? tile.shared : 0;
  // Rows of one sequence side by side, from row `first` on, and the pages from `begin` on that they read
  auto alike = [&](int first) {
    int n = first < R ? 1 : 0;
    while (first + n < R && tile.table[group + first + n] == tile.table[group + first]) ++n;
    return n;
  };
  auto pages = [&](int first, int n) {
    const int* last = tile.last + group + first;
    return n == 0 ? NextPages{nullptr, 0}
                  : NextPages{tile.table[group + first] + begin, *std::max_element(last, last + n) / kPageSize + 1 - begin};
  };
  if (begin > 0) attend_pages<Kind, R>(tile, group, 0, state, 0, begin, D, pages(0, alike(0)));
  for (int first = 0, n; first < R; first += n) {
    n = alike(first);
    const int end = begin + pages(first, n).count;
    const NextPages then = pages(first + n, alike(first + n));
    switch (n) {
      case 1: attend_pages<Kind, 1>(tile, group, first, state, begin, end, D, then); break;
      case 2: attend_pages<Kind, (R < 2 ? R : 2)>(tile, group, first, state, begin, end, D, then); break;
      case 3: attend_pages<Kind, (R < 3 ? R : 3)>(tile, group, first, state, begin, end, D, then); break;
      case 4: attend_pages<Kind, (R < 4 ? R : 4)>(tile, group, first, state, begin, end, D, then); break;
      case 5: attend_pages<Kind, (R < 5 ? R : 5)>(tile, group, first, state, begin, end, D, then); break;
      case 6: attend_pages<Kind, (R < 6 ? R : 6)>(tile, group, first, state, begin, end, D, then); break;
      case 7: attend_pages<Kind, (R < 7 ? R : 7)>(tile, group, first, state, begin, end, D, then); break;
      default: attend_pages<Kind, R>(tile, group, first, state, begin, end, D, then); break;
    }
  }
  for (int r = 0; r < R; ++r) {
    const Vec inverse = set1(1.f / state.sum[r]);
    for_vectors(D, [&](int64_t d, int n) { store_n(tile.out[group + r] + d, n, load(state.y[r] + d) * inverse); });
    if (tile.lse[group + r]) *tile.lse[group + r] = state.top[r] + std::log(state.sum[r]);
  }
}

// dx [j][d .. d + 16 V) += sum over r of w [r][j] a [r][..]
template <int R, int V>
inline void outer_columns(float* dx, const float* w, const float (*a)[kMaxHeadDim], int n, int Dp, int d) {
  Vec row[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) row[r][v] = load(a[r] + d + v * kVec);
  for (int j = 0; j < n; ++j) {
    Vec c[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) c[v] = load(dx + j * Dp + d + v * kVec);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec x = set1(w[r * kPageSize + j]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) c[v] = fma(x, row[r][v], c[v]);
    }
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(dx + j * Dp + d + v * kVec, c[v]);
  }
}
template <int R>
inline void outer_rows(float* dx, const float* w, const float (*a)[kMaxHeadDim], int n, int Dp) {
  int d = 0;
  for (; d + 2 * kVec <= Dp; d += 2 * kVec) outer_columns<R, 2>(dx, w, a, n, Dp, d);
  if (d < Dp) outer_columns<R, 1>(dx, w, a, n, Dp, d);
}

template <class Kind, int R>
inline void attend_backward(const AttentionBackwardTile& tile, int first_row, const KeyBlock* blocks, int count, int D, float scale) {
  const int Dp = padded(D);
  alignas(64) float q[R][kMaxHeadDim], dy[R][kMaxHeadDim], dq[R][kMaxHeadDim], p[R * kPageSize], ds[R * kPageSize];
  float one[R];
  int last = 0;
  for (int r = 0; r < R; ++r) {
    for (int d = 0; d < D; ++d) {
      q[r][d] = Kind::rounded(tile.query[first_row + r][d] * scale);
      dy[r][d] = tile.dout[first_row + r][d];
    }
    for (int d = D; d < Dp; ++d) q[r][d] = dy[r][d] = 0;
    for (int d = 0; d < Dp; ++d) dq[r][d] = 0;
    one[r] = 1;
    last = std::max(last, tile.last[first_row + r]);
  }
  for (const KeyBlock* b = blocks; b != blocks + count && b->first <= last; ++b) {
    scores<Floats, R, 1>(p, kPageSize, q, &b->kt, D, nullptr);
    scores<Floats, R, 1>(ds, kPageSize, dy, &b->vt, D, nullptr);
    for (int r = 0; r < R; ++r) {
      float *weight = p + r * kPageSize, *slope = ds + r * kPageSize;
      hide(weight, std::min(b->keys, tile.last[first_row + r] + 1 - b->first));
      for (int half = 0; half < kPageSize; half += kVec) {
        const Vec w = exp(load(weight + half) - set1(tile.lse[first_row + r]));
        store(weight + half, w);
        store(slope + half, w * (load(slope + half) - set1(tile.delta[first_row + r])));
      }
    }
    const int keys = std::min(b->keys, last + 1 - b->first);
    weighted_rows<Floats, R>(dq, one, ds, kPageSize, b->k, keys, Dp, nullptr);
    outer_rows<R>(b->dk, ds, q, keys, Dp);  // q carries the scale
    outer_rows<R>(b->dv, p, dy, keys, Dp);
  }
  for (int r = 0; r < R; ++r)
    for (int d = 0; d < D; ++d) tile.dquery[first_row + r][d] = dq[r][d] * scale;
}

#define RANK_GRPO_ROWS(function, ...)                                                \
  for (int row = 0; row < tile.rows; row += kGroupRows) switch (tile.rows - row) {   \
      case 1: function<Kind, 1>(__VA_ARGS__); break;                                 \
      case 2: function<Kind, 2>(__VA_ARGS__); break;                                 \
      case 3: function<Kind, (kGroupRows < 3 ? kGroupRows : 3)>(__VA_ARGS__); break; \
      case 4: function<Kind, (kGroupRows < 4 ? kGroupRows : 4)>(__VA_ARGS__); break; \
      case 5: function<Kind, (kGroupRows < 5 ? kGroupRows : 5)>(__VA_ARGS__); break; \
      case 6: function<Kind, (kGroupRows < 6 ? kGroupRows : 6)>(__VA_ARGS__); break; \
      case 7: function<Kind, (kGroupRows < 7 ? kGroupRows : 7)>(__VA_ARGS__); break; \
      default: function<Kind, kGroupRows>(__VA_ARGS__); break;                       \
    }

template <class Kind>
inline void attention_tile(const AttentionTile& tile, int D, float scale) {
  RANK_GRPO_ROWS(attend, tile, row, D, scale)
}
template <class Kind>
inline void attention_backward_tile(const AttentionBackwardTile& tile, const KeyBlock* blocks, int count, int D, float scale) {
  RANK_GRPO_ROWS(attend_backward, tile, row, blocks, count, D, scale)
}
#undef RANK_GRPO_ROWS

inline float dot(const float* a, const float* b, int n) {
  Vec c = zero();
  for_vectors(n, [&](int64_t i, int m) { c = fma(load_n(a + i, m), load_n(b + i, m), c); });
  return reduce_add(c);
}

constexpr AttentionKernels attention_kernels{
    {attention_tile<Floats>, attention_backward_tile<Floats>}, {attention_tile<Pairs>, attention_backward_tile<Pairs>}, dot};

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
