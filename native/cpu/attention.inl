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

// What is brought in during a loop: `step` floats more in every pass of it, from `first` on; null: nothing.
struct Bring {
  const float* first;
  int step;
  template <int Lines>
  void now(int pass) const {
    if (first)
#pragma GCC unroll 4
      for (int i = 0; i < Lines; ++i) prefetch(first + pass * step + i * step / Lines);
  }
};

// s [R][stride] = a [R][D] . bt[p] [D][kPageSize], for P pages side by side; bring[p] meanwhile. D counts words.
template <class Kind, int R, int P>
inline void scores(float* s, int stride, const float (*a)[kMaxHeadDim], const float* const* bt, int D, const Bring* bring) {
  Vec c[R][P][2];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) c[r][p][0] = c[r][p][1] = zero();
  for (int d = 0; d < D; ++d) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) bring[p].now<2>(d);
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
                             Bring bring) {
  Vec c[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) c[r][v] = load(y[r] + d + v * kVec) * set1(scale[r]);
  auto add = [&](int j, bool whole) {
    Vec b[V];
    bring.now<V>(j);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
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
// bring.step is for all columns.
template <class Kind, int R>
inline void weighted_rows(float (*y)[kMaxHeadDim], const float* scale, const float* p, int stride, const float* x, int n, int Dp,
                          Bring bring) {
  auto part = [&](int columns) {
    const Bring now{bring.first, bring.step * columns / Dp};
    if (bring.first) bring.first += now.step * (n / Kind::per_word);
    return now;
  };
  int d = 0;
  if (R * 4 <= 2 * kGroupRows)
    for (; d + 4 * kVec <= Dp; d += 4 * kVec) weighted_columns<Kind, R, 4>(y, scale, p, stride, x, n, Dp, d, part(4 * kVec));
  for (; d + 2 * kVec <= Dp; d += 2 * kVec) weighted_columns<Kind, R, 2>(y, scale, p, stride, x, n, Dp, d, part(2 * kVec));
  if (d < Dp) weighted_columns<Kind, R, 1>(y, scale, p, stride, x, n, Dp, d, part(kVec));
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

// Entries of a page table that are read next; of each this part of so many is to be brought in.
struct NextPages {
  const int32_t* table;
  int count, part = 0, parts = 1;
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
    Bring next_keys[P], next_values[P];
    for (int i = 0; i < P; ++i) {
      const bool inside = start + P + i < end;
      const int part = inside ? 0 : then.part, parts = inside ? 1 : then.parts;
      const int32_t page = inside ? table[start + P + i] : i < then.count ? then.table[i] : table[start];
      next_keys[i] = {tile.keys + page * tile.page + part * words * kPageSize / parts, kPageSize / parts};
      next_values[i] = {tile.values + page * tile.page + part * kPageSize / Kind::per_word * Dp / parts, Dp / parts};
    }
    if (count == P) {
      scores<Kind, R, P>(p, stride, q, keys, words, next_keys);
    } else {
      for (int i = 0; i < count; ++i) scores<Kind, R, 1>(p + i * kPageSize, stride, q, keys + i, words, next_keys + i);
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
                             std::min(kPageSize, most + 1 - page * kPageSize), Dp, next_values[i]);
    }
  }
  for (int r = 0; r < R; ++r) {
    state.top[first + r] = top[r];
    state.sum[first + r] = sum[r];
  }
}

// f for a number of rows that is known to the compiler.
template <class F>
inline void with_rows(int rows, F&& f) {
  switch (rows) {
    case 1: return f(std::integral_constant<int, 1>{});
    case 2: return f(std::integral_constant<int, 2>{});
    case 3: return f(std::integral_constant<int, std::min(3, kGroupRows)>{});
    case 4: return f(std::integral_constant<int, std::min(4, kGroupRows)>{});
    case 5: return f(std::integral_constant<int, std::min(5, kGroupRows)>{});
    case 6: return f(std::integral_constant<int, std::min(6, kGroupRows)>{});
    case 7: return f(std::integral_constant<int, std::min(7, kGroupRows)>{});
    default: return f(std::integral_constant<int, kGroupRows>{});
  }
}

inline void begin_rows(const AttentionTile& tile, int group, int R, Attending& state, int D, float scale,
                       void (*to_words)(float*, const float*, int)) {
  for (int r = 0; r < R; ++r) {
    float q[kMaxHeadDim];
    for (int d = 0; d < D; ++d) q[d] = tile.query[group + r][d] * scale;
    to_words(state.q[r], q, D);
    for (int d = 0; d < padded(D); ++d) state.y[r][d] = 0;
    state.top[r] = -std::numeric_limits<float>::infinity();
    state.sum[r] = 0;
  }
}

inline void end_rows(const AttentionTile& tile, int group, int R, const Attending& state, int D) {
  for (int r = 0; r < R; ++r) {
    const Vec inverse = set1(1.f / state.sum[r]);
    for_vectors(D, [&](int64_t d, int n) { store_n(tile.out[group + r] + d, n, load(state.y[r] + d) * inverse); });
    if (tile.lse[group + r]) *tile.lse[group + r] = state.top[r] + std::log(state.sum[r]);
  }
}

// How many rows from `first` on, at most `count`, are of one sequence.
inline int alike(const AttentionTile& tile, int first, int count) {
  int n = count > 0 ? 1 : 0;
  while (n < count && tile.table[first + n] == tile.table[first]) ++n;
  return n;
}
// The pages from `begin` on that n rows of one sequence read.
inline NextPages own_pages(const AttentionTile& tile, int first, int n, int begin) {
  const int* last = tile.last + first;
  return n == 0 ? NextPages{nullptr, 0} : NextPages{tile.table[first] + begin, *std::max_element(last, last + n) / kPageSize + 1 - begin};
}

// A page that all rows see is read once for all of them, group by group, each of which brings in its part of the next.
template <class Kind>
inline void attention_tile(const AttentionTile& tile, int D, float scale) {
  const int height = std::min(kGroupRows, tile.height), groups = (tile.rows + height - 1) / height;
  const int begin = tile.table[0] != tile.table[tile.rows - 1] ? tile.shared : 0;
  alignas(64) Attending states[kSharedRows / std::min(kGroupRows, 5)];
  auto rows_of = [&](int group) { return std::min(height, tile.rows - group * height); };
  for (int g = 0; g < groups; ++g) begin_rows(tile, g * height, rows_of(g), states[g], D, scale, Kind::to_words);
  if (begin > 0) {
    const NextPages own = own_pages(tile, 0, alike(tile, 0, tile.rows), begin);
    const int together = groups == 1 ? begin : 1;
    for (int page = 0; page < begin; page += together)
      for (int g = 0; g < groups; ++g) {
        const bool more = page + together < begin;
        const NextPages then{more ? tile.table[0] + page + together : own.table, more ? 1 : own.count, g, groups};
        with_rows(rows_of(g), [&](auto R) { attend_pages<Kind, R.value>(tile, g * height, 0, states[g], page, page + together, D, then); });
      }
  }
  for (int g = 0; g < groups; ++g) {
    for (int first = 0, n; first < rows_of(g); first += n) {
      n = alike(tile, g * height + first, rows_of(g) - first);
      const int end = begin + own_pages(tile, g * height + first, n, begin).count, next = g * height + first + n;
      const NextPages then = own_pages(tile, next, alike(tile, next, tile.rows - next), begin);
      with_rows(n, [&](auto R) { attend_pages<Kind, R.value>(tile, g * height, first, states[g], begin, end, D, then); });
    }
    end_rows(tile, g * height, rows_of(g), states[g], D);
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
  constexpr Bring nothing{nullptr, 0};
  for (const KeyBlock* b = blocks; b != blocks + count && b->first <= last; ++b) {
    scores<Floats, R, 1>(p, kPageSize, q, &b->kt, D, &nothing);
    scores<Floats, R, 1>(ds, kPageSize, dy, &b->vt, D, &nothing);
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
    weighted_rows<Floats, R>(dq, one, ds, kPageSize, b->k, keys, Dp, nothing);
    outer_rows<R>(b->dk, ds, q, keys, Dp);  // q carries the scale
    outer_rows<R>(b->dv, p, dy, keys, Dp);
  }
  for (int r = 0; r < R; ++r)
    for (int d = 0; d < D; ++d) tile.dquery[first_row + r][d] = dq[r][d] * scale;
}

template <class Kind>
inline void attention_backward_tile(const AttentionBackwardTile& tile, const KeyBlock* blocks, int count, int D, float scale) {
  for (int row = 0; row < tile.rows; row += kGroupRows)
    with_rows(tile.rows - row, [&](auto R) { attend_backward<Kind, R.value>(tile, row, blocks, count, D, scale); });
}

inline float dot(const float* a, const float* b, int n) {
  Vec c = zero();
  for_vectors(n, [&](int64_t i, int m) { c = fma(load_n(a + i, m), load_n(b + i, m), c); });
  return reduce_add(c);
}

// A key is a column of the page's keys, its value a row.
inline void write_floats(float* keys, float* values, int first, int count, const float* k, const float* v, int64_t ld, int D) {
  transpose(keys + first, kPageSize, k, ld, count, D);
  for (int i = 0; i < count; ++i) {
    const float* from = v + i * ld;
    float* to = values + (first + i) * padded(D);
    for_vectors(D, [&](int64_t d, int n) { store_n(to + d, n, load_n(from + d, n)); });
  }
}
// The same as halves of pairs: of two channels of the key, of two keys of the page.
inline void write_pairs(float* keys, float* values, int first, int count, const float* k, const float* v, int64_t ld, int D) {
  alignas(64) uint32_t words[kPageSize][kMaxHeadDim / 2];
  for (int i = 0; i < count; ++i) to_pairs(words[i], k + i * ld, D);
  transpose(keys + first, kPageSize, reinterpret_cast<const float*>(words), kMaxHeadDim / 2, count, (D + 1) / 2);
  for (int i = 0; i < count; ++i) {
    const int key = first + i;
    uint32_t* row = reinterpret_cast<uint32_t*>(values) + key / 2 * padded(D);
    if (key % 2 == 0 && i + 1 < count) {
      pair_steps(row, D, v + i * ld, v + (i + 1) * ld, D);
      ++i;
      continue;
    }
    // The other half may be written elsewhere at the same time: sixteen bits of a word.
    uint16_t half[kMaxHeadDim], *to = reinterpret_cast<uint16_t*>(row) + key % 2;
    to_pairs(words[0], v + i * ld, D);
    std::memcpy(half, words[0], static_cast<size_t>(D) * sizeof(uint16_t));
    for (int d = 0; d < D; ++d) to[2 * d] = half[d];
  }
}

constexpr AttentionKernels attention_kernels{{write_floats, attention_tile<Floats>, attention_backward_tile<Floats>},
                                             {write_pairs, attention_tile<Pairs>, attention_backward_tile<Pairs>},
                                             dot};

}  // namespace RANK_GRPO_ISA
}  // namespace rank_grpo
