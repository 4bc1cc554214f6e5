// Draws tokens from the head's distribution. A row's draw depends on its own hidden state and random block alone; its log-prob
// comes from the same tiles and pieces as head_forward's, so it is the same bits.
//
// Weights e^(x - max) are whole multiples of 2^-44, so that sums of them have no order and threads may add them as they come;
// what a weight below 2^-45 would change is below float64's own rounding of the CPU's sums over a vocabulary.
#include <algorithm>
#include <vector>

#include "backend.h"
#include "logprob.h"

namespace rank_grpo {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kSampleRows = 64;         // rows whose logits exist at a time
constexpr double kUnit = 17592186044416.0;  // 2^44: a weight of 1
using Mass = unsigned long long;

struct SampleRow {  // logits of a row: all of the vocabulary, or those of allowed tokens
  const float* x;
  int64_t n;
  const int32_t* ids;  // null: i itself
  const BlockStats* pieces;
  int64_t piece_count;
};

// Uniform in [0, 1) with 53 bits, as native/cpu/sample.cc makes it.
__device__ __forceinline__ double uniform53(const uint32_t* random) {
  return ((random[0] >> 5) * 67108864.0 + (random[1] >> 6)) * 1.1102230246251565e-16;
}
__device__ __forceinline__ double weight(float x, float inverse, float top) {
  return exp(static_cast<double>(x * inverse) - static_cast<double>(top));
}
__device__ __forceinline__ Mass mass_of(double weight) { return static_cast<Mass>(weight * kUnit + 0.5); }

// Greater for the greater logit; between equals, for the smaller index. No two tokens share a rank.
__device__ __forceinline__ Mass rank_of(float x, int64_t i) {
  const unsigned u = __float_as_uint(x), ordered = u & 0x80000000u ? ~u : u | 0x80000000u;
  return static_cast<Mass>(ordered) << 32 | (0xffffffffu - static_cast<unsigned>(i));
}

struct Shared {
  Mass* histogram;  // [256]
  Mass* scratch;    // [warps]
  Mass* answer;     // [2]
};

// Sum of the threads before this one; `total` of all.
__device__ Mass exclusive_scan(Mass x, Mass& total, Mass* scratch) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp = static_cast<int>(threadIdx.x) / kWarp;
  Mass inclusive = x;
  for (int offset = 1; offset < kWarp; offset <<= 1) {
    const Mass other = __shfl_up_sync(kAllLanes, inclusive, static_cast<unsigned>(offset));
    if (lane >= offset) inclusive += other;
  }
  if (lane == kWarp - 1) scratch[warp] = inclusive;
  __syncthreads();
  Mass before = 0;
  total = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) {
    if (w < warp) before += scratch[w];
    total += scratch[w];
  }
  __syncthreads();
  return before + inclusive - x;
}

// Index i of 0 .. n where the running sum of measure(i) first exceeds u times the whole; `left` is what of it falls into i.
template <class Measure>
__device__ int64_t draw(int64_t n, double u, Mass& left, const Shared& shared, Measure&& measure) {
  const int64_t each = (n + kThreads - 1) / kThreads, first = smaller_of(n, threadIdx.x * each), last = smaller_of(n, first + each);
  Mass own = 0, total = 0;
  for (int64_t i = first; i < last; ++i) own += measure(i);
  if (threadIdx.x == 0) shared.answer[0] = shared.answer[1] = 0;  // of logits that are no numbers, whose masses may sum to nothing
  const Mass before = exclusive_scan(own, total, shared.scratch);
  const Mass wanted = smaller_of(static_cast<Mass>(u * static_cast<double>(total)), total > 0 ? total - 1 : 0);
  if (wanted >= before && wanted < before + own) {  // one thread
    Mass rest = wanted - before;
    int64_t i = first;
    for (Mass m = measure(i); rest >= m; m = measure(++i)) rest -= m;
    shared.answer[0] = static_cast<Mass>(i);
    shared.answer[1] = rest;
  }
  __syncthreads();
  const auto i = static_cast<int64_t>(shared.answer[0]);
  left = shared.answer[1];
  __syncthreads();
  return i;
}

// The greatest rank for which the measures of all tokens of at least that rank sum to `wanted` or more; 1 <= wanted <= the whole.
template <class Measure>
__device__ Mass select(const SampleRow& row, Mass wanted, const Shared& shared, Measure&& measure) {
  Mass prefix = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) shared.histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < row.n; i += kThreads) {
      const Mass rank = rank_of(row.x[i], i);
      if (shift < 56 && rank >> (shift + 8) != prefix) continue;
      const Mass m = measure(i, rank);
      if (m) atomicAdd(&shared.histogram[rank >> shift & 255], m);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      Mass digit = 255, left = wanted;
      while (digit > 0 && shared.histogram[digit] < left) left -= shared.histogram[digit--];
      shared.answer[0] = digit;
      shared.answer[1] = left;
    }
    __syncthreads();
    prefix = prefix << 8 | shared.answer[0];
    wanted = shared.answer[1];
    __syncthreads();
  }
  return prefix;
}

__device__ int64_t argmax(const SampleRow& row, const Shared& shared) {
  Mass best = 0;
  for (int64_t i = threadIdx.x; i < row.n; i += kThreads) best = larger_of(best, rank_of(row.x[i], i));
  best = block_reduce(best, shared.scratch, Mass{0}, [](Mass a, Mass b) { return larger_of(a, b); });
  return static_cast<int64_t>(0xffffffffu - static_cast<unsigned>(best));
}

// Whole pieces first, then inside one. Rounding may leave a little mass over: the last possible token of the piece takes it.
__device__ int64_t draw_untruncated(const SampleRow& row, float inverse, float top, double u, const Shared& shared) {
  Mass left = 0;
  const int64_t piece = draw(row.piece_count, u, left, shared, [&](int64_t b) {
    return mass_of(static_cast<double>(row.pieces[b].sum) * exp(static_cast<double>(row.pieces[b].max) - static_cast<double>(top)));
  });
  if (threadIdx.x == 0) {
    const int64_t first = piece * kHeadBlock, last = smaller_of(row.n, first + kHeadBlock);
    int64_t candidate = first;
    for (int64_t i = first; i < last; ++i) {
      const Mass m = mass_of(weight(row.x[i], inverse, top));
      if (m > 0) candidate = i;
      if (left < m) break;
      left -= m;
    }
    shared.answer[0] = static_cast<Mass>(candidate);
  }
  __syncthreads();
  return static_cast<int64_t>(shared.answer[0]);
}

// Temperature, then top-k, then top-p, then min-p, as transformers orders them.
__device__ int64_t draw_truncated(const SampleRow& row, float inverse, float top, const Sampling& s, double u, const Shared& shared) {
  Mass lowest = 0;  // rank of the last token kept
  if (s.top_k > 0 && s.top_k < row.n) lowest = select(row, static_cast<Mass>(s.top_k), shared, [](int64_t, Mass) { return Mass{1}; });
  if (s.top_p < 1.f) {
    Mass own = 0, total = 0;
    auto kept = [&](int64_t i, Mass rank) { return rank >= lowest ? mass_of(weight(row.x[i], inverse, top)) : Mass{0}; };
    for (int64_t i = threadIdx.x; i < row.n; i += kThreads) own += kept(i, rank_of(row.x[i], i));
    exclusive_scan(own, total, shared.scratch);
    const Mass nucleus = static_cast<Mass>(ceil(static_cast<double>(s.top_p) * static_cast<double>(total)));
    lowest = select(row, smaller_of(larger_of(nucleus, Mass{1}), total), shared, kept);
  }
  Mass left = 0;
  return draw(row.n, u, left, shared, [&](int64_t i) {
    if (rank_of(row.x[i], i) < lowest) return Mass{0};
    const double w = weight(row.x[i], inverse, top);
    return s.min_p > 0.f && w < static_cast<double>(s.min_p) ? Mass{0} : mass_of(w);
  });
}

// A block a row. offsets null: every row has all n logits; else row r has those of ids[offsets[r] .. offsets[r + 1]).
__global__ void __launch_bounds__(kThreads)
    sample_kernel(int32_t* __restrict__ token, float* __restrict__ logprob, const float* __restrict__ logits, int64_t n,
                  const BlockStats* __restrict__ stats, const int32_t* __restrict__ ids, const int32_t* __restrict__ offsets,
                  const int32_t* __restrict__ piece_offsets, const uint32_t* __restrict__ random, Sampling s) {
  GPU_SHARED(Mass, histogram, 256);
  GPU_SHARED(Mass, scratch, kThreads / kWarp);
  GPU_SHARED(Mass, answer, 2);
  GPU_SHARED(float, tops, kThreads / kWarp);
  const Shared shared{histogram, scratch, answer};
  const int64_t r = blockIdx.x, pieces = (n + kHeadBlock - 1) / kHeadBlock;
  SampleRow row{logits + r * n, n, nullptr, stats + r * pieces, pieces};
  if (offsets)
    row = {logits + offsets[r], offsets[r + 1] - offsets[r], ids + offsets[r], stats + piece_offsets[r],
           piece_offsets[r + 1] - piece_offsets[r]};
  if (row.ids && row.n == 1) {  // certain
    if (threadIdx.x == 0) {
      token[r] = row.ids[0];
      logprob[r] = 0.f;
    }
    return;
  }
  const float inverse = 1.f / s.temperature;
  float top = kNegativeInfinity;
  for (int64_t b = threadIdx.x; b < row.piece_count; b += kThreads) top = larger(top, row.pieces[b].max);
  top = block_reduce(top, tops, kNegativeInfinity, [](float a, float b) { return larger(a, b); });
  int64_t chosen;
  if (s.greedy) {
    chosen = argmax(row, shared);
  } else if (s.top_k == 0 && s.top_p >= 1.f && s.min_p == 0.f) {
    chosen = draw_untruncated(row, inverse, top, uniform53(random + r * 4), shared);
  } else {
    chosen = draw_truncated(row, inverse, top, s, uniform53(random + r * 4), shared);
  }
  if (threadIdx.x >= kWarp) return;
  const float lse = merge_pieces(row.pieces, row.piece_count, static_cast<int>(threadIdx.x)).lse;
  if (threadIdx.x != 0) return;
  token[r] = row.ids ? row.ids[chosen] : static_cast<int32_t>(chosen);
  logprob[r] = row.x[chosen] * inverse - lse;
}

}  // namespace

void CudaBackend::head_sample(int32_t* token, float* logprob, const float* h, const Panels& W, const float*, const AllowedTokens* allowed,
                              const uint32_t* random, int64_t R, const Sampling& s) {
  if (R == 0) return;
  const auto& panels = static_cast<const CudaPanels&>(W);
  const int64_t C = panels.columns, V = panels.rows;
  const float inverse = 1.f / s.temperature;
  auto* tokens = sampled_.reserve<int32_t>(2 * R);  // tokens, then log-probs: one way back
  auto* logprobs = reinterpret_cast<float*>(tokens + R);
  const uint32_t* blocks = random_.get(random, static_cast<size_t>(R) * 4);
  if (allowed) {
    const AllowedPieces split = split_allowed(*allowed, nullptr, R);
    std::vector<int32_t> offsets(allowed->offsets.begin(), allowed->offsets.begin() + R + 1);
    offsets.insert(offsets.end(), split.offsets.begin(), split.offsets.end());
    const auto count = static_cast<int64_t>(split.pieces.size());
    auto* stats = stats_.reserve<BlockStats>(count);
    float* logits = logits_.reserve<float>(static_cast<int64_t>(allowed->ids.size()));
    const int32_t *ids = allowed_.get(allowed->ids), *device_offsets = live_.get(offsets);
    allowed_pieces(stream_, stats, logits, nullptr, h, panels, ids, pieces_.get(split.pieces), count, nullptr, inverse, false);
    launch("head_sample", stream_, sample_kernel, dim3(static_cast<unsigned>(R)), dim3(kThreads), 0, tokens, logprobs, logits, int64_t{0},
           stats, ids, device_offsets, device_offsets + R + 1, blocks, s);
  } else {
    const int64_t slab = std::min(R, kSampleRows), pieces = (V + kHeadBlock - 1) / kHeadBlock;
    auto* stats = stats_.reserve<BlockStats>(slab * pieces);
    float* logits = logits_.reserve<float>(slab * V);
    for (int64_t r = 0; r < R; r += slab) {
      const int64_t rows = std::min(slab, R - r);
      head_pieces(stream_, stats, logits, V, nullptr, h + r * C, panels, nullptr, rows, inverse, false);
      launch("head_sample", stream_, sample_kernel, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, tokens + r, logprobs + r, logits,
             V, stats, nullptr, nullptr, nullptr, blocks + r * 4, s);
    }
  }
  std::vector<int32_t> results(static_cast<size_t>(2 * R));
  download(results.data(), tokens, results.size() * sizeof(int32_t));
  std::copy_n(results.begin(), R, token);
  std::copy_n(reinterpret_cast<const float*>(results.data() + R), R, logprob);
}

}  // namespace rank_grpo
