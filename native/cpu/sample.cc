// Draws tokens from the head's distribution. A row's draw depends on its own hidden state and random block alone; its
// log-prob comes from the same products and blocks as head_forward's, so it is the same bits.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sample.h"

namespace rank_grpo {
namespace {

// Uniform in [0, 1) with 53 bits.
double uniform53(const uint32_t* random) { return ((random[0] >> 5) * 67108864.0 + (random[1] >> 6)) * 0x1p-53; }

int argmax(const float* x, int64_t n) { return static_cast<int>(std::max_element(x, x + n) - x); }

double weight(float x, float inverse, float top) { return std::exp(static_cast<double>(x * inverse) - static_cast<double>(top)); }

// Inverse of the distribution function over ids in ascending order: whole blocks first, then inside one.
int draw_untruncated(const float* x, int64_t V, float inverse, const BlockStats* stats, float top, double u) {
  double total = 0;
  const int64_t blocks = (V + kLseBlock - 1) / kLseBlock;
  auto mass = [&](int64_t b) {
    const double scale = stats[b].base == top ? 1 : std::exp(static_cast<double>(stats[b].base) - static_cast<double>(top));
    return static_cast<double>(stats[b].sum) * scale;
  };
  for (int64_t b = 0; b < blocks; ++b) total += mass(b);
  double left = u * total;
  int64_t b = 0;
  while (b + 1 < blocks && left >= mass(b)) left -= mass(b++);
  const int64_t first = b * kLseBlock, last = std::min(V, first + kLseBlock);
  int64_t candidate = first;
  for (int64_t i = first; i < last; ++i) {
    const double w = weight(x[i], inverse, top);
    if (w > 0) candidate = i;  // rounding may leave a little mass over: the last possible token takes it
    if (left < w) return static_cast<int>(i);
    left -= w;
  }
  return static_cast<int>(candidate);
}

// Temperature, then top-k, then top-p, then min-p, as transformers orders them.
int draw_truncated(const float* x, int64_t V, float inverse, float top, const Sampling& s, double u) {
  std::vector<int32_t> ids(static_cast<size_t>(V));
  std::iota(ids.begin(), ids.end(), 0);
  auto better = [&](int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); };
  size_t kept = ids.size();
  if (s.top_k > 0 && static_cast<size_t>(s.top_k) < kept) {
    kept = static_cast<size_t>(s.top_k);
    std::nth_element(ids.begin(), ids.begin() + static_cast<int64_t>(kept) - 1, ids.end(), better);
    ids.resize(kept);
  }
  if (s.top_p < 1) {
    double total = 0;
    for (int32_t id : ids) total += weight(x[id], inverse, top);
    double cumulative = 0;
    size_t sorted = 0, n = 0;
    while (n < kept && cumulative < static_cast<double>(s.top_p) * total) {
      if (n == sorted) {  // sort a little more: the nucleus is usually small
        const size_t next = std::min(kept, std::max<size_t>(256, sorted * 4));
        std::partial_sort(ids.begin() + static_cast<int64_t>(sorted), ids.begin() + static_cast<int64_t>(next), ids.end(), better);
        sorted = next;
      }
      cumulative += weight(x[ids[n++]], inverse, top);
    }
    ids.resize(std::max<size_t>(1, n));
  }
  if (s.min_p > 0) {
    double best = 0;
    for (int32_t id : ids) best = std::max(best, weight(x[id], inverse, top));
    ids.erase(std::remove_if(ids.begin(), ids.end(),
                             [&](int32_t id) { return weight(x[id], inverse, top) < static_cast<double>(s.min_p) * best; }),
              ids.end());
  }
  std::sort(ids.begin(), ids.end());
  double total = 0;
  for (int32_t id : ids) total += weight(x[id], inverse, top);
  double left = u * total;
  for (int32_t id : ids) {
    const double w = weight(x[id], inverse, top);
    if (left < w) return id;
    left -= w;
  }
  return ids.back();
}

}  // namespace

int choose_token(const float* x, int64_t n, const BlockStats* stats, float inverse, const Sampling& s, const uint32_t* random) {
  if (s.greedy) return argmax(x, n);
  float top = stats[0].base;
  for (int64_t b = 1; b < (n + kLseBlock - 1) / kLseBlock; ++b) top = std::max(top, stats[b].base);
  const double u = uniform53(random);
  if (s.top_k == 0 && s.top_p >= 1 && s.min_p == 0) return draw_untruncated(x, n, inverse, stats, top, u);
  return draw_truncated(x, n, inverse, top, s, u);
}

void CpuBackend::head_sample(int32_t* token, float* logprob, const float* h, const Panels& W, const float*, const AllowedTokens* allowed,
                             const uint32_t* random, int64_t R, const Sampling& s) {
  const auto& panels = static_cast<const CpuPanels&>(W);
  if (allowed) return allowed_sample(token, logprob, h, panels, *allowed, random, R, s);
  const int64_t C = panels.columns, V = panels.rows, blocks = (V + kLseBlock - 1) / kLseBlock;
  const float inverse = 1.f / s.temperature;
  float* logits = scratch_logits_.floats(*this, std::min<int64_t>(R, kHeadRows) * V);
  for (int64_t first = 0; first < R; first += kHeadRows) {
    const int64_t rows = std::min<int64_t>(kHeadRows, R - first);
    std::vector<BlockStats> stats(static_cast<size_t>(rows * blocks));
    const Rows A = rows_of(scratch_h_, h + first * C, rows, C, panels.compute);
    head_blocks(
        A, panels, rows, 0, V,
        [&](int64_t row, int count, int64_t column, int n, float* x, int64_t ld) {
          for (int r = 0; r < count; ++r)
            stats[static_cast<size_t>((row + r) * blocks + column / kLseBlock)] = kernels_.logprob->stats(x + r * ld, n, inverse, false);
        },
        logits, V);
    pool_.run(static_cast<int>(rows), [&](int r) {
      const float* x = logits + r * V;
      const BlockStats* row = &stats[static_cast<size_t>(r * blocks)];
      const float lse = merge_blocks(row, blocks).lse;
      const int chosen = std::isfinite(lse) ? choose_token(x, V, row, inverse, s, random + (first + r) * 4) : 0;
      token[first + r] = chosen;
      logprob[first + r] = std::isfinite(lse) ? x[chosen] * inverse - lse : lse;
    });
  }
}

}  // namespace rank_grpo
