// The head: hidden x W -> log-prob, entropy, gradient, a tile of logits at a time, never a [R, V] tensor; and the same for logits
// that are given. A row's pieces are merged in one order, in sampler and trainer alike.
#include "logprob.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "backend.h"
#include "logits.h"

namespace rank_grpo {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kStatsBytes = int64_t{32} << 20;    // pieces of one slab of rows
constexpr int64_t kLogitsFloats = int64_t{16} << 20;  // of the gradient of logits at a time: 64 MiB

static_assert(TileF32::kColumns == kHeadBlock && TileBf16::kColumns == kHeadBlock, "a tile's columns are a piece");

// A tile of logits in shared memory, where a warp reads a row; one float of padding a row.
template <class Tile>
struct LogitsTile {
  static constexpr int kStride = kHeadBlock + 1;
  static constexpr size_t kShared = larger_of(Tile::kShared, size_t{Tile::kRows} * kStride * sizeof(float));
  template <class A, class B>
  __device__ static float* compute(const A& a, const B& b, int64_t m0, int64_t n0, unsigned char* shared) {
    Tile tile;
    tile.multiply(a, b, m0, n0, shared);
    float* logits = reinterpret_cast<float*>(shared);  // the operands' tiles have been read
    tile.each([&](int row, int column, float value) { logits[row * kStride + column] = value; });
    __syncthreads();
    return logits;
  }
};

// This lane's values of a row of n logits, scaled.
__device__ __forceinline__ void lane_values(float* x, const float* row, int n, float inverse, int lane) {
  GPU_UNROLL
  for (int i = 0; i < kHeadBlock / kWarp; ++i) x[i] = lane + i * kWarp < n ? row[lane + i * kWarp] * inverse : kNegativeInfinity;
}

template <class Tile, class B>
__global__ void __launch_bounds__(kTileThreads)
    head_kernel(BlockStats* __restrict__ stats, float* __restrict__ logits, int64_t ld, float* __restrict__ own, TileOperand<float, true> a,
                B b, const int32_t* __restrict__ target, float inverse, bool weighted) {
  GPU_DYNAMIC_SHARED(shared);
  const TileCorner corner = tile_corner<Tile>(a.rows, b.rows);
  const float* tile = LogitsTile<Tile>::compute(a, b, corner.m, corner.n, shared);
  const int lane = static_cast<int>(threadIdx.x) % kWarp, n = static_cast<int>(smaller_of<int64_t>(kHeadBlock, b.rows - corner.n));
  const int64_t pieces = (b.rows + kHeadBlock - 1) / kHeadBlock;
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < Tile::kRows && corner.m + r < a.rows; r += kTileThreads / kWarp) {
    const int64_t row = corner.m + r;
    const float* values = tile + r * LogitsTile<Tile>::kStride;
    float x[kHeadBlock / kWarp];
    lane_values(x, values, n, inverse, lane);
    const BlockStats piece = warp_stats<kHeadBlock / kWarp>(x, weighted);
    if (lane == 0) stats[row * pieces + corner.n / kHeadBlock] = piece;
    if (logits)
      for (int c = lane; c < n; c += kWarp) logits[row * ld + corner.n + c] = values[c];
    if (own && lane == 0) {
      const int64_t column = target[row] - corner.n;
      if (column >= 0 && column < n) own[row] = values[column] * inverse;
    }
  }
}

// One block a piece: a single row of h times the rows of W that ids name.
template <class Tile, class B>
__global__ void __launch_bounds__(kTileThreads)
    allowed_kernel(BlockStats* __restrict__ stats, float* __restrict__ logits, float* __restrict__ own, TileOperand<float, true> a, B b,
                   const AllowedPiece* __restrict__ pieces, const int32_t* __restrict__ target, float inverse, bool weighted) {
  GPU_DYNAMIC_SHARED(shared);
  const AllowedPiece piece = pieces[blockIdx.x];
  a.data += piece.row * a.stride;
  a.rows = 1;
  const int32_t* ids = b.ids + piece.first;
  b.ids = ids;
  b.rows = piece.count;
  const float* values = LogitsTile<Tile>::compute(a, b, 0, 0, shared);
  const int lane = static_cast<int>(threadIdx.x);
  if (lane >= kWarp) return;
  float x[kHeadBlock / kWarp];
  lane_values(x, values, piece.count, inverse, lane);
  const BlockStats result = warp_stats<kHeadBlock / kWarp>(x, weighted);
  if (stats && lane == 0) stats[blockIdx.x] = result;
  for (int c = lane; c < piece.count; c += kWarp) {
    if (logits) logits[piece.first + c] = values[c];
    if (own && ids[c] == target[piece.row]) own[piece.row] = values[c] * inverse;
  }
}

// A warp a row. offsets null: `pieces` of them a row; else the row's are offsets[r] .. offsets[r + 1).
// logprob holds the target's scaled logit and becomes its log-prob. A row with a single allowed token has no pieces: it is certain.
__global__ void merge_kernel(float* __restrict__ logprob, float* __restrict__ entropy, float* __restrict__ lse,
                             const BlockStats* __restrict__ stats, int64_t pieces, const int32_t* __restrict__ offsets,
                             const int32_t* __restrict__ single, int64_t R) {
  const int64_t r = int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (r >= R) return;
  const int64_t first = offsets ? offsets[r] : r * pieces, count = offsets ? offsets[r + 1] - first : pieces;
  RowStats row{0.f, 0.f};
  if (count > 0) row = merge_pieces(stats + first, count, lane);
  if (lane != 0) return;
  lse[r] = row.lse;
  logprob[r] = count > 0 ? logprob[r] - row.lse : single[r] ? 0.f : kNegativeInfinity;
  if (entropy) entropy[r] = row.entropy;
}

__global__ void fill_kernel(float* __restrict__ x, float value, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) x[i] = value;
}

// Per row of the gradient: what the loss says about it, on the device. `live` maps a compact row to the caller's; null: the same.
struct RowSlopes {
  const int32_t* live;
  const int32_t* target;             // of compact rows
  const float *dlogprob, *dentropy;  // of compact rows; dentropy may be null
  const float *lse, *entropy;        // of the caller's rows; entropy may be null
  float inverse;
};
// d loss / d logit = inverse (-dlogprob p - dentropy p (log p + entropy)), and inverse dlogprob more for the target. Far below the
// others p is 0, and -infinity stays out of the product.
__device__ __forceinline__ float logit_slope(float logit, int64_t row, bool own, const RowSlopes& s) {
  const int64_t r = s.live ? s.live[row] : row;
  const float y = at_least(logit * s.inverse - s.lse[r], -1000.f), p = exp_f32(y), g = -s.dlogprob[row];
  float d;
  if (s.dentropy && s.dentropy[row] != 0.f) {
    d = p * fmaf(-s.dentropy[row], y + s.entropy[r], g) * s.inverse;
  } else {
    d = p * (g * s.inverse);
  }
  return own ? d + s.inverse * s.dlogprob[row] : d;
}

template <class Tile, class B>
__global__ void __launch_bounds__(kTileThreads)
    head_gradient_kernel(float* __restrict__ d, int64_t ld, TileOperand<float, true> a, B b, int64_t first_column, RowSlopes s) {
  GPU_DYNAMIC_SHARED(shared);
  const TileCorner corner = tile_corner<Tile>(a.rows, b.rows);
  Tile tile;
  tile.multiply(a, b, corner.m, corner.n, shared);
  tile.each([&](int row, int column, float value) {
    const int64_t m = corner.m + row, n = corner.n + column;
    if (m < a.rows && n < b.rows) d[m * ld + n] = logit_slope(value, m, s.target[m] == first_column + n, s);
  });
}

__global__ void allowed_gradient_kernel(float* __restrict__ d, const int32_t* __restrict__ ids, const AllowedPiece* __restrict__ pieces,
                                        RowSlopes s) {
  const AllowedPiece piece = pieces[blockIdx.x];
  for (int c = static_cast<int>(threadIdx.x); c < piece.count; c += static_cast<int>(blockDim.x)) {
    const int i = piece.first + c;
    d[i] = logit_slope(d[i], piece.row, ids[i] == s.target[piece.row], s);
  }
}

// out [row of a, C] (+)= sum over the entries of one output row, ascending, of d x the other operand's row.
struct SparseEntry {
  int32_t slope, row;  // index into d, row of the other operand
};
template <class T>
__global__ void sparse_rows_kernel(float* __restrict__ out, const int32_t* __restrict__ out_rows, const int32_t* __restrict__ offsets,
                                   const SparseEntry* __restrict__ entries, const float* __restrict__ d, const T* __restrict__ x,
                                   int64_t stride, int64_t C, bool accumulate) {
  const int64_t c = int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
  if (c >= C) return;
  float* to = out + int64_t{out_rows[blockIdx.x]} * C + c;
  float sum = accumulate ? *to : 0.f;
  for (int e = offsets[blockIdx.x]; e < offsets[blockIdx.x + 1]; ++e)
    sum = fmaf(d[entries[e].slope], as_float(x[int64_t{entries[e].row} * stride + c]), sum);
  *to = sum;
}

__global__ void scatter_kernel(float* __restrict__ y, const float* __restrict__ x, const int32_t* __restrict__ rows, int64_t C) {
  for (int64_t c = threadIdx.x; c < C; c += blockDim.x) y[int64_t{rows[blockIdx.x]} * C + c] = x[int64_t{blockIdx.x} * C + c];
}

// -- logits that are given

template <class T>
__device__ __forceinline__ void load_logits(float* x, const T* row, int64_t first, int64_t V, float inverse, int lane) {
  GPU_UNROLL
  for (int i = 0; i < kLogitsPiece / kWarp / 4; ++i) {
    const int64_t c = first + (int64_t{i} * kWarp + lane) * 4;
    if (c + 3 < V && (reinterpret_cast<uintptr_t>(row + c) & (4 * sizeof(T) - 1)) == 0) {
      load_quad(x + 4 * i, row + c);
      GPU_UNROLL
      for (int j = 0; j < 4; ++j) x[4 * i + j] *= inverse;
      continue;
    }
    GPU_UNROLL
    for (int j = 0; j < 4; ++j) x[4 * i + j] = c + j < V ? as_float(row[c + j]) * inverse : kNegativeInfinity;
  }
}

// A block a row: its warps take the pieces in turn, the first warp merges them.
template <class T>
__global__ void __launch_bounds__(kThreads)
    logits_kernel(float* __restrict__ logprob, float* __restrict__ entropy, float* __restrict__ lse, const T* __restrict__ logits,
                  const int32_t* __restrict__ targets, int64_t V, float inverse) {
  GPU_DYNAMIC_SHARED(shared);
  BlockStats* pieces = reinterpret_cast<BlockStats*>(shared);
  const int64_t r = blockIdx.x, count = (V + kLogitsPiece - 1) / kLogitsPiece;
  const T* row = logits + r * V;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int64_t b = warp; b < count; b += kThreads / kWarp) {
    float x[kLogitsPiece / kWarp];
    load_logits(x, row, b * kLogitsPiece, V, inverse, lane);
    const BlockStats piece = warp_stats<kLogitsPiece / kWarp>(x, entropy != nullptr);
    if (lane == 0) pieces[b] = piece;
  }
  __syncthreads();
  if (warp != 0) return;
  const RowStats merged = merge_pieces(pieces, count, lane);
  if (lane != 0) return;
  lse[r] = merged.lse;
  logprob[r] = as_float(row[targets[r]]) * inverse - merged.lse;
  if (entropy) entropy[r] = merged.entropy;
}

// Each thread reads four logits before it writes their gradient, so dlogits may be logits.
template <class T>
__global__ void logits_gradient_kernel(float* dlogits, const T* logits, int64_t V, int64_t row_blocks, RowSlopes s) {
  const int64_t r = blockIdx.x / row_blocks, c = (blockIdx.x % row_blocks * kThreads + threadIdx.x) * 4;
  if (c >= V) return;
  const int64_t at = r * V + c;
  float x[4];
  const bool vector = c + 3 < V && (reinterpret_cast<uintptr_t>(logits + at) & (4 * sizeof(T) - 1)) == 0 &&
                      (reinterpret_cast<uintptr_t>(dlogits + at) & 15) == 0;
  if (vector) {
    load_quad(x, logits + at);
  } else {
    GPU_UNROLL
    for (int j = 0; j < 4; ++j) x[j] = c + j < V ? as_float(logits[at + j]) : 0.f;
  }
  const int64_t own = s.target[r] - c;
  GPU_UNROLL
  for (int j = 0; j < 4; ++j) x[j] = logit_slope(x[j], r, own == j, s);
  if (vector) {
    *reinterpret_cast<float4*>(dlogits + at) = float4{x[0], x[1], x[2], x[3]};
  } else {
    GPU_UNROLL
    for (int j = 0; j < 4; ++j)
      if (c + j < V) dlogits[at + j] = x[j];
  }
}

template <class T>
void forward(Backend& backend, float* logprob, float* entropy, float* lse, const T* logits, const int32_t* targets, int64_t rows, int64_t V,
             float temperature) {
  const size_t shared = static_cast<size_t>((V + kLogitsPiece - 1) / kLogitsPiece) * sizeof(BlockStats);
  launch("logits_forward", static_cast<CudaBackend&>(backend).stream(), logits_kernel<T>, dim3(static_cast<unsigned>(rows)), dim3(kThreads),
         shared, logprob, entropy, lse, logits, targets, V, 1.f / temperature);
}
template <class T>
void backward(Backend& backend, float* dlogits, const T* logits, const int32_t* targets, const float* lse, const float* entropy,
              const float* dlogprob, const float* dentropy, int64_t rows, int64_t V, float temperature) {
  const int64_t row_blocks = (V + 4 * kThreads - 1) / (4 * kThreads);
  const RowSlopes s{nullptr, targets, dlogprob, dentropy, lse, entropy, 1.f / temperature};
  launch("logits_backward", static_cast<CudaBackend&>(backend).stream(), logits_gradient_kernel<T>,
         dim3(static_cast<unsigned>(rows * row_blocks)), dim3(kThreads), 0, dlogits, logits, V, row_blocks, s);
}

}  // namespace

AllowedPieces split_allowed(const AllowedTokens& allowed, const int32_t* rows, int64_t R) {
  AllowedPieces out;
  for (int64_t i = 0; i < R; ++i) {
    const auto r = static_cast<size_t>(rows ? rows[i] : i);
    const int32_t end = allowed.offsets[r + 1];
    for (int32_t first = allowed.offsets[r]; first < end && end - allowed.offsets[r] > 1; first += kHeadBlock)
      out.pieces.push_back({static_cast<int32_t>(i), first, std::min<int32_t>(kHeadBlock, end - first)});
    out.offsets.push_back(static_cast<int32_t>(out.pieces.size()));
  }
  return out;
}

void head_pieces(cudaStream_t stream, BlockStats* stats, float* logits, int64_t ld, float* own, const float* h, const CudaPanels& panels,
                 const int32_t* target, int64_t rows, float inverse, bool weighted) {
  const TileOperand<float, true> a{h, panels.columns, rows, panels.columns};
  if (panels.bf16) {
    launch("head", stream, head_kernel<TileBf16, TileOperand<uint16_t, true>>, tile_grid<TileBf16>(rows, panels.rows), dim3(kTileThreads),
           LogitsTile<TileBf16>::kShared, stats, logits, ld, own, a, panels.bf16_rows(), target, inverse, weighted);
  } else {
    launch("head", stream, head_kernel<TileF32, TileOperand<float, true>>, tile_grid<TileF32>(rows, panels.rows), dim3(kTileThreads),
           LogitsTile<TileF32>::kShared, stats, logits, ld, own, a, panels.f32_rows(), target, inverse, weighted);
  }
}

void allowed_pieces(cudaStream_t stream, BlockStats* stats, float* logits, float* own, const float* h, const CudaPanels& panels,
                    const int32_t* ids, const AllowedPiece* pieces, int64_t count, const int32_t* target, float inverse, bool weighted) {
  const TileOperand<float, true> a{h, panels.columns, 1, panels.columns};
  if (panels.bf16) {
    launch("head_allowed", stream, allowed_kernel<TileBf16, TileOperand<uint16_t, true>>, dim3(static_cast<unsigned>(count)),
           dim3(kTileThreads), LogitsTile<TileBf16>::kShared, stats, logits, own, a, panels.bf16_rows(ids), pieces, target, inverse,
           weighted);
  } else {
    launch("head_allowed", stream, allowed_kernel<TileF32, TileOperand<float, true>>, dim3(static_cast<unsigned>(count)),
           dim3(kTileThreads), LogitsTile<TileF32>::kShared, stats, logits, own, a, panels.f32_rows(ids), pieces, target, inverse,
           weighted);
  }
}

void CudaBackend::head_forward(float* logprob, float* entropy, float* lse, const float* h, const Panels& W, const float*,
                               const int32_t* target, const AllowedTokens* allowed, int64_t R, float temperature) {
  if (R == 0) return;
  const auto& panels = static_cast<const CudaPanels&>(W);
  const float inverse = 1.f / temperature;
  const int32_t* targets = targets_.get(target, static_cast<size_t>(R));
  // The target's own logit waits in logprob until its row is merged.
  if (allowed) {
    const AllowedPieces split = split_allowed(*allowed, nullptr, R);
    const auto count = static_cast<int64_t>(split.pieces.size());
    BlockStats* stats = stats_.reserve<BlockStats>(count);
    std::vector<int32_t> rows = split.offsets;  // then, of rows with a single allowed token, whether it is the target
    for (int64_t r = 0; r < R; ++r) {
      const int32_t first = allowed->offsets[static_cast<size_t>(r)];
      rows.push_back(allowed->ids[static_cast<size_t>(first)] == target[r]);
    }
    const int32_t* offsets = live_.get(rows);
    launch("head_forward", stream_, fill_kernel, dim3(blocks_of(R, kThreads)), dim3(kThreads), 0, logprob, kNegativeInfinity, R);
    allowed_pieces(stream_, stats, nullptr, logprob, h, panels, allowed_.get(allowed->ids), pieces_.get(split.pieces), count, targets,
                   inverse, entropy != nullptr);
    launch("head_forward", stream_, merge_kernel, dim3(blocks_of(R, kThreads / kWarp)), dim3(kThreads), 0, logprob, entropy, lse, stats,
           int64_t{0}, offsets, offsets + R + 1, R);
    return;
  }
  const int64_t pieces = (panels.rows + kHeadBlock - 1) / kHeadBlock;
  const int64_t slab = std::min(R, std::max<int64_t>(TileBf16::kRows, kStatsBytes / (pieces * static_cast<int64_t>(sizeof(BlockStats)))));
  BlockStats* stats = stats_.reserve<BlockStats>(slab * pieces);
  for (int64_t r = 0; r < R; r += slab) {
    const int64_t rows = std::min(slab, R - r);
    head_pieces(stream_, stats, nullptr, 0, logprob + r, h + r * panels.columns, panels, targets + r, rows, inverse, entropy != nullptr);
    launch("head_forward", stream_, merge_kernel, dim3(blocks_of(rows, kThreads / kWarp)), dim3(kThreads), 0, logprob + r,
           entropy ? entropy + r : nullptr, lse + r, stats, pieces, nullptr, nullptr, rows);
  }
}

void CudaBackend::head_allowed(float* logprobs, const float* h, const Panels& W, const float*, const AllowedTokens& allowed, int64_t R,
                               float temperature) {
  if (R == 0) return;
  const auto& panels = static_cast<const CudaPanels&>(W);
  const float inverse = 1.f / temperature;
  const AllowedPieces split = split_allowed(allowed, nullptr, R);
  const auto count = static_cast<int64_t>(split.pieces.size()), ids = static_cast<int64_t>(allowed.ids.size());
  BlockStats* stats = stats_.reserve<BlockStats>(count);
  std::vector<int32_t> rows = split.offsets;
  rows.resize(static_cast<size_t>(2 * R + 1), 1);  // no row has a target of its own
  const int32_t* offsets = live_.get(rows);
  float* logits = logits_.reserve<float>(ids);
  auto* own = sampled_.reserve<float>(2 * R);  // not used, then lse
  allowed_pieces(stream_, stats, logits, nullptr, h, panels, allowed_.get(allowed.ids), pieces_.get(split.pieces), count, nullptr, inverse,
                 false);
  launch("head_allowed", stream_, merge_kernel, dim3(blocks_of(R, kThreads / kWarp)), dim3(kThreads), 0, own, nullptr, own + R, stats,
         int64_t{0}, offsets, offsets + R + 1, R);
  std::vector<float> lse(static_cast<size_t>(R));
  download(lse.data(), own + R, lse.size() * sizeof(float));
  download(logprobs, logits, static_cast<size_t>(ids) * sizeof(float));
  for (size_t r = 0; r < lse.size(); ++r) {
    const int32_t first = allowed.offsets[r], last = allowed.offsets[r + 1];
    for (int32_t i = first; i < last; ++i) logprobs[i] = last - first > 1 ? logprobs[i] * inverse - lse[r] : 0.f;
  }
}

void CudaBackend::head_backward(float* dh, float* dW, const float* h, const float* W, const Panels& head, const int32_t* target,
                                const AllowedTokens* allowed, const float* lse, const float* entropy, const float* dlogprob,
                                const float* dentropy, int64_t R, float temperature) {
  const auto& panels = static_cast<const CudaPanels&>(head);
  const int64_t C = panels.columns, V = panels.rows;
  std::vector<int32_t> live, own;  // rows that carry a gradient, and their targets
  std::vector<float> slopes, entropy_slopes;
  for (int64_t r = 0; r < R; ++r) {
    if (dlogprob[r] == 0 && !(dentropy && dentropy[r] != 0)) continue;
    live.push_back(static_cast<int32_t>(r));
    own.push_back(target[r]);
    slopes.push_back(dlogprob[r]);
    if (dentropy) entropy_slopes.push_back(dentropy[r]);
  }
  const auto L = static_cast<int64_t>(live.size());
  const bool all = L == R;
  if (!all) zero(dh, static_cast<size_t>(R * C) * sizeof(float));
  if (L == 0) return;
  const int32_t* rows = live_.get(live);
  float* gathered = all ? nullptr : rows_.reserve<float>(2 * L * C);
  float* dh_live = all ? dh : gathered + L * C;
  if (!all) {
    gather_rows(gathered, h, rows, L, C);
    h = gathered;
  }
  const RowSlopes s{rows, targets_.get(own), slopes_.get(slopes), dentropy ? entropy_slopes_.get(entropy_slopes) : nullptr,
                    lse,  entropy,           1.f / temperature};

  if (allowed) {
    // no alternative, no gradient: rows of one allowed token have no entries
    std::vector<SparseEntry> by_row, by_id;
    std::vector<int32_t> row_offsets{0}, id_offsets{0}, ids;
    std::vector<std::pair<int32_t, SparseEntry>> entries;  // by token
    for (int64_t i = 0; i < L; ++i) {
      const auto r = static_cast<size_t>(live[static_cast<size_t>(i)]);
      const int32_t first = allowed->offsets[r], last = allowed->offsets[r + 1];
      for (int32_t e = first; e < last && last - first > 1; ++e) {
        by_row.push_back({e, allowed->ids[static_cast<size_t>(e)]});
        entries.push_back({allowed->ids[static_cast<size_t>(e)], {e, static_cast<int32_t>(i)}});
      }
      row_offsets.push_back(static_cast<int32_t>(by_row.size()));
    }
    if (by_row.empty()) {
      zero(dh, static_cast<size_t>(R * C) * sizeof(float));
      return;
    }
    std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (const auto& [id, entry] : entries) {
      if (ids.empty() || ids.back() != id) {
        if (!ids.empty()) id_offsets.push_back(static_cast<int32_t>(by_id.size()));
        ids.push_back(id);
      }
      by_id.push_back(entry);
    }
    id_offsets.push_back(static_cast<int32_t>(by_id.size()));

    const AllowedPieces split = split_allowed(*allowed, live.data(), L);
    const auto pieces = static_cast<int64_t>(split.pieces.size());
    float* d = logits_.reserve<float>(static_cast<int64_t>(allowed->ids.size()));
    const int32_t* allowed_ids = allowed_.get(allowed->ids);
    const AllowedPiece* device_pieces = pieces_.get(split.pieces);
    allowed_pieces(stream_, nullptr, d, nullptr, h, panels, allowed_ids, device_pieces, pieces, s.target, s.inverse, false);
    launch("head_backward", stream_, allowed_gradient_kernel, dim3(static_cast<unsigned>(pieces)), dim3(kHeadBlock), 0, d, allowed_ids,
           device_pieces, s);
    std::vector<int32_t> numbers(static_cast<size_t>(L));
    std::iota(numbers.begin(), numbers.end(), 0);
    const dim3 grid(static_cast<unsigned>(L), blocks_of(C, kThreads));
    const int32_t *out_rows = sparse_rows_.get(numbers), *offsets = sparse_offsets_.get(row_offsets);
    const SparseEntry* row_entries = sparse_entries_.get(by_row);
    if (W) {
      launch("head_backward", stream_, sparse_rows_kernel<float>, grid, dim3(kThreads), 0, dh_live, out_rows, offsets, row_entries, d, W, C,
             C, false);
    } else {
      launch("head_backward", stream_, sparse_rows_kernel<uint16_t>, grid, dim3(kThreads), 0, dh_live, out_rows, offsets, row_entries, d,
             panels.bf16, panels.stride(), C, false);
    }
    if (dW)
      launch("head_backward", stream_, sparse_rows_kernel<float>, dim3(static_cast<unsigned>(ids.size()), blocks_of(C, kThreads)),
             dim3(kThreads), 0, dW, sparse_ids_.get(ids), sparse_id_offsets_.get(id_offsets), sparse_id_entries_.get(by_id), d, h, C, C,
             true);
  } else {
    const int64_t columns = (V + kHeadBlock - 1) / kHeadBlock;
    const int64_t chunk = std::min(columns, std::max<int64_t>(1, kLogitsFloats / L / kHeadBlock)) * kHeadBlock;
    float* d = logits_.reserve<float>(L * std::min(chunk, V));
    const TileOperand<float, true> a{h, C, L, C};
    for (int64_t v = 0; v < V; v += chunk) {
      const int64_t n = std::min(chunk, V - v);
      if (panels.bf16) {
        auto b = panels.bf16_rows();
        b.data += v * b.stride;
        b.rows = n;
        launch("head_backward", stream_, head_gradient_kernel<TileBf16, TileOperand<uint16_t, true>>, tile_grid<TileBf16>(L, n),
               dim3(kTileThreads), TileBf16::kShared, d, n, a, b, v, s);
      } else {
        auto b = panels.f32_rows();
        b.data += v * b.stride;
        b.rows = n;
        launch("head_backward", stream_, head_gradient_kernel<TileF32, TileOperand<float, true>>, tile_grid<TileF32>(L, n),
               dim3(kTileThreads), TileF32::kShared, d, n, a, b, v, s);
      }
      if (W) {
        linear_backward_input(dh_live, d, W + v * C, L, n, C, panels.compute, v > 0);
      } else {
        rows_backward_input(dh_live, d, panels, v, n, L, v > 0);
      }
      if (dW) linear_backward_weight(dW + v * C, nullptr, d, h, L, n, C, panels.compute);
    }
  }
  if (!all) launch("head_backward", stream_, scatter_kernel, dim3(static_cast<unsigned>(L)), dim3(kThreads), 0, dh, dh_live, rows, C);
}

void cuda_logits_forward(Backend& b, float* logprob, float* entropy, float* lse, const float* logits, const int32_t* targets, int64_t T,
                         int64_t V, float temperature) {
  forward(b, logprob, entropy, lse, logits, targets, T, V, temperature);
}
void cuda_logits_forward(Backend& b, float* logprob, float* entropy, float* lse, const uint16_t* logits, const int32_t* targets, int64_t T,
                         int64_t V, float temperature) {
  forward(b, logprob, entropy, lse, logits, targets, T, V, temperature);
}
void cuda_logits_backward(Backend& b, float* dlogits, const float* logits, const int32_t* targets, const float* lse, const float* entropy,
                          const float* dlogprob, const float* dentropy, int64_t T, int64_t V, float temperature) {
  backward(b, dlogits, logits, targets, lse, entropy, dlogprob, dentropy, T, V, temperature);
}
void cuda_logits_backward(Backend& b, float* dlogits, const uint16_t* logits, const int32_t* targets, const float* lse,
                          const float* entropy, const float* dlogprob, const float* dentropy, int64_t T, int64_t V, float temperature) {
  backward(b, dlogits, logits, targets, lse, entropy, dlogprob, dentropy, T, V, temperature);
}

}  // namespace rank_grpo
