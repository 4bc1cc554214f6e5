// Attention over pages of keys and values, forward and backward. Blocks split query rows (forward, dq) or keys (dk, dv), never a
// sum: each is one block's, in ascending order, so there are no atomics and the gradient is the same every time.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "backend.h"

namespace rank_grpo {
namespace {

constexpr int kLargestHead = 256;
constexpr int kDecodeWarps = 8;  // and pages at a time
constexpr int kDecodeThreads = kDecodeWarps * kWarp;

struct QueryTile {  // rows first .. first + kAttentionRows of (token x head of the group) of span or sequence `owner`
  int32_t owner, first;
};

Heads heads_of(const AttentionShape& s) {
  return {s.heads, s.kv_heads, s.head_dim, s.heads / s.kv_heads, int64_t{s.width()}, 1.f / std::sqrt(static_cast<float>(s.head_dim))};
}

// Calls f with the number of floats a lane holds of a head, as a constant.
template <class F>
void with_lanes(int D, F&& f) {
  if (D <= 32) {
    f(std::integral_constant<int, 1>());
  } else if (D <= 64) {
    f(std::integral_constant<int, 2>());
  } else if (D <= 96) {
    f(std::integral_constant<int, 3>());
  } else if (D <= 128) {
    f(std::integral_constant<int, 4>());
  } else {
    expect(D <= kLargestHead, "a head size of at most " + std::to_string(kLargestHead), "headDim", std::to_string(D));
    f(std::integral_constant<int, 8>());
  }
}

// Where a key (part 0) or value (part 1) of the cache lies: keys [page][Hkv][kPageSize][D], then values alike.
__device__ __forceinline__ int64_t cache_row(int64_t page, int head, int part, int key, const Heads& s) {
  return (((page * 2 + part) * s.kv_heads + head) * kPageSize + key) * s.head_dim;
}

__global__ void write_kernel(float* __restrict__ cache, const float* __restrict__ qkv, const AttentionPlan::Write* __restrict__ writes,
                             Heads s) {
  const AttentionPlan::Write write = writes[blockIdx.x];
  const float* from = qkv + int64_t{write.token} * s.width + int64_t{s.heads} * s.head_dim;
  const int n = s.kv_heads * s.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < 2 * n; i += static_cast<int>(blockDim.x)) {
    const int part = i / n, head = i % n / s.head_dim, d = i % s.head_dim;
    cache[cache_row(write.slot / kPageSize, head, part, write.slot % kPageSize, s) + d] = from[i];
  }
}

// Rows of `count` keys at the given distance into shared memory at `stride`, zero beyond `count` and beyond D up to `width`.
__device__ __forceinline__ void load_rows(float* to, int stride, int width, const float* from, int64_t distance, int count, int rows, int D,
                                          float scale) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int r = warp; r < rows; r += kAttentionWarps)
    for (int d = lane; d < width; d += kWarp) to[r * stride + d] = r < count && d < D ? from[r * distance + d] * scale : 0.f;
}

// Query rows first .. first + kAttentionRows (token-major, the group's heads innermost) of a head-structured array into shared memory.
__device__ __forceinline__ void load_queries(float* to, const float* from, int64_t distance, int kv, int first, int rows, const Heads& s,
                                             float scale) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp, Dp = padded4(s.head_dim);
  for (int r = warp; r < kAttentionRows; r += static_cast<int>(blockDim.x) / kWarp) {
    const bool live = first + r < rows;
    const int token = (first + r) / s.per_kv, head = kv * s.per_kv + (first + r) % s.per_kv;
    for (int d = lane; d < Dp; d += kWarp)
      to[r * Dp + d] = live && d < s.head_dim ? from[token * distance + int64_t{head} * s.head_dim + d] * scale : 0.f;
  }
}

template <int PER_LANE>
__device__ __forceinline__ void store_row(float* out, float* lse, const RowState<PER_LANE>& state, int64_t token, int head, int lane,
                                          const Heads& s) {
  float* to = out + (token * s.heads + head) * s.head_dim;
  GPU_UNROLL
  for (int c = 0; c < PER_LANE; ++c)
    if (lane + c * kWarp < s.head_dim) to[lane + c * kWarp] = state.y[c] / state.sum;
  if (lse && lane == 0) lse[token * s.heads + head] = state.lse();
}

template <int PER_LANE>
__global__ void __launch_bounds__(kAttentionThreads)
    forward_kernel(float* __restrict__ out, float* __restrict__ lse, const float* __restrict__ qkv, const float* __restrict__ cache,
                   const AttentionPlan::Span* __restrict__ spans, const int32_t* __restrict__ tables, const QueryTile* __restrict__ tiles,
                   Heads s) {
  GPU_DYNAMIC_SHARED(shared);
  const QueryTile tile = tiles[blockIdx.x];
  const AttentionPlan::Span span = spans[tile.owner];
  const int kv = static_cast<int>(blockIdx.y), D = s.head_dim, Dp = padded4(D), rows = span.count * s.per_kv;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  float* q = reinterpret_cast<float*>(shared);  // [kAttentionRows][Dp]
  float* p = q + kAttentionRows * Dp;           // [kAttentionRows][kPageSize]
  float* v = p + kAttentionRows * kPageSize;    // [kPageSize][D]
  float* k = v + kPageSize * D;                 // [kPageSize][Dp + 1]
  load_queries(q, qkv + int64_t{span.token} * s.width, s.width, kv, tile.first, rows, s, s.scale);

  const int own = warp * kWarpRows;  // this warp's rows of the tile
  RowState<PER_LANE> state[kWarpRows];
  int last[kWarpRows];  // position of the last key the row sees; -1: no row
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) {
    const int row = tile.first + own + i;
    last[i] = row < rows ? span.position + row / s.per_kv : -1;
    state[i].clear();
  }
  const int end = span.position + (smaller_of(tile.first + kAttentionRows, rows) - 1) / s.per_kv + 1;  // keys of the whole tile
  for (int page = 0; page * kPageSize < end; ++page) {
    const int64_t number = tables[span.table + page];
    const int present = smaller_of(kPageSize, end - page * kPageSize);  // keys beyond may never have been written
    load_rows(k, Dp + 1, Dp, cache + cache_row(number, kv, 0, 0, s), D, present, kPageSize, D, 1.f);
    load_rows(v, D, D, cache + cache_row(number, kv, 1, 0, s), D, present, kPageSize, D, 1.f);
    __syncthreads();
    float score[kWarpRows], top[kWarpRows], sum[kWarpRows], y[kWarpRows][PER_LANE];
    scores(score, q + own * Dp, k + lane * (Dp + 1), Dp);
    page_weights(p + own * kPageSize, top, sum, score, last, page * kPageSize, lane);
    weighted_rows<PER_LANE>(y, p + own * kPageSize, v, D, kPageSize, D, lane);
    GPU_UNROLL
    for (int i = 0; i < kWarpRows; ++i)
      if (page * kPageSize <= last[i]) state[i].merge(top[i], sum[i], y[i]);
    __syncthreads();
  }
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) {
    if (last[i] < 0) continue;
    const int row = tile.first + own + i;
    store_row(out, lse, state[i], span.token + row / s.per_kv, kv * s.per_kv + row % s.per_kv, lane, s);
  }
}

// The same for spans of few rows (decoding): a block's warps take pages of their own, eight at a time, straight from memory, and the
// pages' pieces are merged in ascending order. D is a multiple of 4.
template <int PER_LANE>
__global__ void __launch_bounds__(kDecodeThreads)
    decode_kernel(float* __restrict__ out, float* __restrict__ lse, const float* __restrict__ qkv, const float* __restrict__ cache,
                  const AttentionPlan::Span* __restrict__ spans, const int32_t* __restrict__ tables, Heads s) {
  GPU_DYNAMIC_SHARED(shared);
  const AttentionPlan::Span span = spans[blockIdx.x];
  const int kv = static_cast<int>(blockIdx.y), D = s.head_dim, rows = span.count * s.per_kv;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  constexpr int kRowsOfWarp = kAttentionRows / kDecodeWarps;                      // that a warp merges: warp, warp + kDecodeWarps, ...
  float* q = reinterpret_cast<float*>(shared);                                    // [kAttentionRows][D]
  float* p = q + kAttentionRows * D + warp * kWarpRows * kPageSize;               // of this warp
  float* values = q + kAttentionRows * D + kDecodeWarps * kWarpRows * kPageSize;  // [kDecodeWarps pages][kAttentionRows][D]
  float* tops = values + kDecodeWarps * kAttentionRows * D;                       // [kDecodeWarps][kAttentionRows]
  float* sums = tops + kDecodeWarps * kAttentionRows;                             // the same
  load_queries(q, qkv + int64_t{span.token} * s.width, s.width, kv, 0, rows, s, s.scale);
  RowState<PER_LANE> state[kRowsOfWarp];
  GPU_UNROLL
  for (int i = 0; i < kRowsOfWarp; ++i) state[i].clear();
  __syncthreads();
  const int end = span.position + span.count, pages = (end + kPageSize - 1) / kPageSize;
  for (int base = 0; base < pages; base += kDecodeWarps) {
    const int page = base + warp, first_key = page * kPageSize;
    if (page < pages) {
      const int64_t number = tables[span.table + page];
      const int present = smaller_of(kPageSize, end - first_key);
      const float* k = cache + cache_row(number, kv, 0, lane < present ? lane : 0, s);
      const float* v = cache + cache_row(number, kv, 1, 0, s);
      for (int own = 0; own < rows; own += kWarpRows) {
        float score[kWarpRows], top[kWarpRows], sum[kWarpRows], y[kWarpRows][PER_LANE];
        int last[kWarpRows];
        GPU_UNROLL
        for (int i = 0; i < kWarpRows; ++i) last[i] = own + i < rows ? span.position + (own + i) / s.per_kv : -1;
        scores(score, q + own * D, k, D);
        page_weights(p, top, sum, score, last, first_key, lane);
        weighted_rows<PER_LANE>(y, p, v, D, present, D, lane);
        __syncwarp();  // p has been read
        GPU_UNROLL
        for (int i = 0; i < kWarpRows; ++i) {
          const int at = warp * kAttentionRows + own + i;
          if (lane == 0) {
            tops[at] = top[i];
            sums[at] = sum[i];
          }
          GPU_UNROLL
          for (int c = 0; c < PER_LANE; ++c)
            if (lane + c * kWarp < D) values[at * D + lane + c * kWarp] = y[i][c];
        }
      }
    }
    __syncthreads();
    GPU_UNROLL
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int row = warp + i * kDecodeWarps, last = row < rows ? span.position + row / s.per_kv : -1;
      for (int w = 0; w < kDecodeWarps && (base + w) * kPageSize <= last; ++w) {
        float y[PER_LANE];
        GPU_UNROLL
        for (int c = 0; c < PER_LANE; ++c) y[c] = lane + c * kWarp < D ? values[(w * kAttentionRows + row) * D + lane + c * kWarp] : 0.f;
        state[i].merge(tops[w * kAttentionRows + row], sums[w * kAttentionRows + row], y);
      }
    }
    __syncthreads();
  }
  GPU_UNROLL
  for (int i = 0; i < kRowsOfWarp; ++i) {
    const int row = warp + i * kDecodeWarps;
    if (row >= rows) continue;
    store_row(out, lse, state[i], span.token + row / s.per_kv, kv * s.per_kv + row % s.per_kv, lane, s);
  }
}

// delta [T, H] = dout . out, a warp each.
__global__ void delta_kernel(float* __restrict__ delta, const float* __restrict__ dout, const float* __restrict__ out, int64_t count,
                             int D) {
  const int64_t i = int64_t{blockIdx.x} * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (i >= count) return;
  float sum = 0;
  for (int d = lane; d < D; d += kWarp) sum = fmaf(dout[i * D + d], out[i * D + d], sum);
  sum = warp_sum(sum);
  if (lane == 0) delta[i] = sum;
}

// -- the gradient: a sequence is a prompt, or a completion with the prompt's tokens before it

struct Sequence {
  int32_t token, count, prefix, prefix_count;  // first row of qkv and tokens, of its own and of the prompt (0 for a prompt)
};
struct KeyBlock {  // up to kPageSize keys of sequence `owner` from its token `first`; completions sequences[begin .. end) see them too
  int32_t owner, first, begin, end;
};

// Weights and their gradients of this warp's rows for the key of this lane: p, and ds = p (dout . v - delta).
__device__ __forceinline__ void weights_and_slopes(float* p, float* ds, const float* q, const float* dy, const float* k, const float* v,
                                                   const int* valid, const float* lse, const float* delta, int Dp, int lane) {
  float dp[kWarpRows];
  scores(p, q, k + lane * (Dp + 1), Dp);
  scores(dp, dy, v + lane * (Dp + 1), Dp);
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) {
    p[i] = lane < valid[i] ? exp_f32(p[i] - lse[i]) : 0.f;
    ds[i] = p[i] * (dp[i] - delta[i]);
  }
}

// lse and delta of this warp's rows; 0 where there is no row.
__device__ __forceinline__ void load_row_values(float* to, const float* from, int64_t token, int kv, int first, int rows, const Heads& s) {
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) {
    const int row = first + i;
    to[i] = row < rows ? from[(token + row / s.per_kv) * s.heads + kv * s.per_kv + row % s.per_kv] : 0.f;
  }
}

template <int PER_LANE>
__global__ void __launch_bounds__(kAttentionThreads)
    backward_query_kernel(float* __restrict__ dqkv, const float* __restrict__ dout, const float* __restrict__ qkv,
                          const float* __restrict__ lse, const float* __restrict__ delta, const Sequence* __restrict__ sequences,
                          const QueryTile* __restrict__ tiles, Heads s) {
  GPU_DYNAMIC_SHARED(shared);
  const QueryTile tile = tiles[blockIdx.x];
  const Sequence sequence = sequences[tile.owner];
  const int kv = static_cast<int>(blockIdx.y), D = s.head_dim, Dp = padded4(D), rows = sequence.count * s.per_kv;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp, own = warp * kWarpRows;
  float* q = reinterpret_cast<float*>(shared);  // [kAttentionRows][Dp]
  float* dy = q + kAttentionRows * Dp;          // the same
  float* ds = dy + kAttentionRows * Dp;         // [kAttentionRows][kPageSize]
  float* k = ds + kAttentionRows * kPageSize;   // [kPageSize][Dp + 1]
  float* v = k + kPageSize * (Dp + 1);          // the same
  load_queries(q, qkv + int64_t{sequence.token} * s.width, s.width, kv, tile.first, rows, s, s.scale);
  load_queries(dy, dout + int64_t{sequence.token} * s.heads * D, int64_t{s.heads} * D, kv, tile.first, rows, s, 1.f);
  float row_lse[kWarpRows], row_delta[kWarpRows], dq[kWarpRows][PER_LANE];
  load_row_values(row_lse, lse, sequence.token, kv, tile.first + own, rows, s);
  load_row_values(row_delta, delta, sequence.token, kv, tile.first + own, rows, s);
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) {
    GPU_UNROLL
    for (int c = 0; c < PER_LANE; ++c) dq[i][c] = 0.f;
  }
  const int end = (smaller_of(tile.first + kAttentionRows, rows) - 1) / s.per_kv + 1;  // own keys that the tile sees
  const int prefix_blocks = (sequence.prefix_count + kPageSize - 1) / kPageSize, own_blocks = (end + kPageSize - 1) / kPageSize;
  for (int block = 0; block < prefix_blocks + own_blocks; ++block) {
    const bool prefix = block < prefix_blocks;
    const int first = (prefix ? block : block - prefix_blocks) * kPageSize;
    const int present = smaller_of(kPageSize, (prefix ? sequence.prefix_count : end) - first);
    const float* keys = qkv + (int64_t{prefix ? sequence.prefix : sequence.token} + first) * s.width + int64_t{s.heads + kv} * D;
    load_rows(k, Dp + 1, Dp, keys, s.width, present, kPageSize, D, 1.f);
    load_rows(v, Dp + 1, Dp, keys + int64_t{s.kv_heads} * D, s.width, present, kPageSize, D, 1.f);
    __syncthreads();
    int valid[kWarpRows];
    GPU_UNROLL
    for (int i = 0; i < kWarpRows; ++i) {
      const int row = tile.first + own + i;
      valid[i] = row >= rows ? 0 : prefix ? present : row / s.per_kv + 1 - first;
    }
    float p[kWarpRows], slope[kWarpRows], y[kWarpRows][PER_LANE];
    weights_and_slopes(p, slope, q + own * Dp, dy + own * Dp, k, v, valid, row_lse, row_delta, Dp, lane);
    GPU_UNROLL
    for (int i = 0; i < kWarpRows; ++i) ds[(own + i) * kPageSize + lane] = slope[i];
    __syncwarp();
    weighted_rows<PER_LANE>(y, ds + own * kPageSize, k, Dp + 1, kPageSize, D, lane);
    GPU_UNROLL
    for (int i = 0; i < kWarpRows; ++i) {
      GPU_UNROLL
      for (int c = 0; c < PER_LANE; ++c) dq[i][c] += y[i][c];
    }
    __syncthreads();
  }
  GPU_UNROLL
  for (int i = 0; i < kWarpRows; ++i) {
    const int row = tile.first + own + i;
    if (row >= rows) continue;
    float* to = dqkv + (int64_t{sequence.token} + row / s.per_kv) * s.width + int64_t{kv * s.per_kv + row % s.per_kv} * D;
    GPU_UNROLL
    for (int c = 0; c < PER_LANE; ++c)
      if (lane + c * kWarp < D) to[lane + c * kWarp] = dq[i][c] * s.scale;
  }
}

// A block of keys visits every tile of queries that see it: its own sequence's, then the completions'.
template <int PER_LANE>
__global__ void __launch_bounds__(kAttentionThreads)
    backward_key_kernel(float* __restrict__ dqkv, const float* __restrict__ dout, const float* __restrict__ qkv,
                        const float* __restrict__ lse, const float* __restrict__ delta, const Sequence* __restrict__ sequences,
                        const KeyBlock* __restrict__ blocks, Heads s) {
  constexpr int kWarpKeys = kPageSize / kAttentionWarps;
  GPU_DYNAMIC_SHARED(shared);
  const KeyBlock block = blocks[blockIdx.x];
  const Sequence owner = sequences[block.owner];
  const int kv = static_cast<int>(blockIdx.y), D = s.head_dim, Dp = padded4(D), present = smaller_of(kPageSize, owner.count - block.first);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp, own = warp * kWarpRows;
  float* q = reinterpret_cast<float*>(shared);
  float* dy = q + kAttentionRows * Dp;
  float* weights = dy + kAttentionRows * Dp;             // [kAttentionRows][kPageSize]
  float* slopes = weights + kAttentionRows * kPageSize;  // the same
  float* k = slopes + kAttentionRows * kPageSize;        // [kPageSize][Dp + 1]
  float* v = k + kPageSize * (Dp + 1);
  const int64_t first_key = (int64_t{owner.token} + block.first) * s.width + int64_t{s.heads + kv} * D;
  load_rows(k, Dp + 1, Dp, qkv + first_key, s.width, present, kPageSize, D, 1.f);
  load_rows(v, Dp + 1, Dp, qkv + first_key + int64_t{s.kv_heads} * D, s.width, present, kPageSize, D, 1.f);
  float dk[kWarpKeys][PER_LANE], dv[kWarpKeys][PER_LANE];
  GPU_UNROLL
  for (int j = 0; j < kWarpKeys; ++j) {
    GPU_UNROLL
    for (int c = 0; c < PER_LANE; ++c) dk[j][c] = dv[j][c] = 0.f;
  }
  for (int visit = block.begin - 1; visit < block.end; ++visit) {
    const bool causal = visit < block.begin;
    const Sequence sequence = causal ? owner : sequences[visit];
    const int rows = sequence.count * s.per_kv;
    for (int first = causal ? block.first * s.per_kv : 0; first < rows; first += kAttentionRows) {
      __syncthreads();  // the last tile has been read
      load_queries(q, qkv + int64_t{sequence.token} * s.width, s.width, kv, first, rows, s, s.scale);
      load_queries(dy, dout + int64_t{sequence.token} * s.heads * D, int64_t{s.heads} * D, kv, first, rows, s, 1.f);
      __syncthreads();
      float row_lse[kWarpRows], row_delta[kWarpRows], p[kWarpRows], slope[kWarpRows];
      int valid[kWarpRows];
      load_row_values(row_lse, lse, sequence.token, kv, first + own, rows, s);
      load_row_values(row_delta, delta, sequence.token, kv, first + own, rows, s);
      GPU_UNROLL
      for (int i = 0; i < kWarpRows; ++i) {
        const int row = first + own + i;
        valid[i] = row >= rows ? 0 : causal ? smaller_of(present, row / s.per_kv + 1 - block.first) : present;
      }
      weights_and_slopes(p, slope, q + own * Dp, dy + own * Dp, k, v, valid, row_lse, row_delta, Dp, lane);
      GPU_UNROLL
      for (int i = 0; i < kWarpRows; ++i) {
        weights[(own + i) * kPageSize + lane] = p[i];
        slopes[(own + i) * kPageSize + lane] = slope[i];
      }
      __syncthreads();
      for (int r = 0; r < kAttentionRows; ++r) {
        GPU_UNROLL
        for (int c = 0; c < PER_LANE; ++c) {
          const int d = lane + c * kWarp;
          if (d >= D) continue;
          const float qd = q[r * Dp + d], dyd = dy[r * Dp + d];  // q carries the scale
          GPU_UNROLL
          for (int j = 0; j < kWarpKeys; ++j) {
            const int key = r * kPageSize + warp * kWarpKeys + j;
            dk[j][c] = fmaf(slopes[key], qd, dk[j][c]);
            dv[j][c] = fmaf(weights[key], dyd, dv[j][c]);
          }
        }
      }
    }
  }
  GPU_UNROLL
  for (int j = 0; j < kWarpKeys; ++j) {
    const int key = warp * kWarpKeys + j;
    if (key >= present) continue;
    GPU_UNROLL
    for (int c = 0; c < PER_LANE; ++c) {
      const int d = lane + c * kWarp;
      if (d >= D) continue;
      dqkv[first_key + key * s.width + d] = dk[j][c];
      dqkv[first_key + key * s.width + int64_t{s.kv_heads} * D + d] = dv[j][c];
    }
  }
}

void add_tiles(std::vector<QueryTile>& tiles, size_t owner, int tokens, int per_kv) {
  for (int first = 0; first < tokens * per_kv; first += kAttentionRows) tiles.push_back({static_cast<int32_t>(owner), first});
}

}  // namespace

size_t CudaBackend::cache_bytes(int64_t pages, const AttentionShape& shape) const {
  return static_cast<size_t>(pages * 2 * shape.kv_heads * kPageSize * shape.head_dim) * sizeof(float);
}

void CudaBackend::attention_forward(float* out, float* lse, const float* qkv, void* cache, int64_t, const AttentionPlan& plan,
                                    const AttentionShape& shape) {
  const Heads s = heads_of(shape);
  float* memory = static_cast<float*>(cache);
  launch("attention_write", stream_, write_kernel, dim3(static_cast<unsigned>(plan.writes.size())), dim3(kAttentionThreads), 0, memory, qkv,
         writes_.get(plan.writes), s);
  const int D = s.head_dim, Dp = padded4(D);
  const bool few =
      std::all_of(plan.spans.begin(), plan.spans.end(), [&](const auto& span) { return span.count * s.per_kv <= kAttentionRows; });
  if (few && D % 4 == 0) {
    const size_t floats = static_cast<size_t>(kAttentionRows * D + kDecodeWarps * (kWarpRows * kPageSize + kAttentionRows * (D + 2)));
    with_lanes(D, [&](auto lanes) {
      launch("attention_decode", stream_, decode_kernel<lanes()>,
             dim3(static_cast<unsigned>(plan.spans.size()), static_cast<unsigned>(s.kv_heads)), dim3(kDecodeThreads),
             floats * sizeof(float), out, lse, qkv, memory, spans_.get(plan.spans), tables_.get(plan.tables), s);
    });
    return;
  }
  std::vector<QueryTile> tiles;
  for (size_t i = 0; i < plan.spans.size(); ++i) add_tiles(tiles, i, plan.spans[i].count, s.per_kv);
  const size_t shared = static_cast<size_t>(kAttentionRows * (Dp + kPageSize) + kPageSize * (D + Dp + 1)) * sizeof(float);
  with_lanes(D, [&](auto lanes) {
    launch("attention_forward", stream_, forward_kernel<lanes()>,
           dim3(static_cast<unsigned>(tiles.size()), static_cast<unsigned>(s.kv_heads)), dim3(kAttentionThreads), shared, out, lse, qkv,
           memory, spans_.get(plan.spans), tables_.get(plan.tables), tasks_.get(tiles), s);
  });
}

void CudaBackend::attention_backward(float* dqkv, const float* dout, const float* qkv, const float* out, const float* lse, int64_t T,
                                     const AttentionGroups& groups, const AttentionShape& shape) {
  const Heads s = heads_of(shape);
  float* delta = delta_.reserve<float>(T * s.heads);
  launch("attention_delta", stream_, delta_kernel, dim3(blocks_of(T * s.heads, kAttentionWarps)), dim3(kAttentionThreads), 0, delta, dout,
         out, T * s.heads, s.head_dim);
  std::vector<Sequence> sequences;
  std::vector<QueryTile> tiles;
  std::vector<KeyBlock> blocks;
  for (const auto& group : groups.groups) {
    const auto prompt = static_cast<int32_t>(sequences.size());
    sequences.push_back({group.prompt, group.prompt_count, 0, 0});
    for (int c = group.first; c < group.last; ++c) {
      const auto& completion = groups.completions[static_cast<size_t>(c)];
      if (completion.count > 0) sequences.push_back({completion.token, completion.count, group.prompt, group.prompt_count});
    }
    const auto end = static_cast<int32_t>(sequences.size());
    for (int32_t i = prompt; i < end; ++i) {
      const int count = sequences[static_cast<size_t>(i)].count;
      add_tiles(tiles, static_cast<size_t>(i), count, s.per_kv);
      for (int first = 0; first < count; first += kPageSize) blocks.push_back({i, first, i == prompt ? prompt + 1 : end, end});
    }
  }
  const int Dp = padded4(s.head_dim);
  const size_t keys = static_cast<size_t>(2 * kPageSize * (Dp + 1)), queries = static_cast<size_t>(2 * kAttentionRows * Dp);
  const size_t weights = static_cast<size_t>(kAttentionRows * kPageSize);
  const Sequence* device_sequences = sequences_.get(sequences);
  with_lanes(s.head_dim, [&](auto lanes) {
    launch("attention_backward_query", stream_, backward_query_kernel<lanes()>,
           dim3(static_cast<unsigned>(tiles.size()), static_cast<unsigned>(s.kv_heads)), dim3(kAttentionThreads),
           (keys + queries + weights) * sizeof(float), dqkv, dout, qkv, lse, delta, device_sequences, query_tiles_.get(tiles), s);
    launch("attention_backward_key", stream_, backward_key_kernel<lanes()>,
           dim3(static_cast<unsigned>(blocks.size()), static_cast<unsigned>(s.kv_heads)), dim3(kAttentionThreads),
           (keys + queries + 2 * weights) * sizeof(float), dqkv, dout, qkv, lse, delta, device_sequences, key_blocks_.get(blocks), s);
  });
}

}  // namespace rank_grpo
