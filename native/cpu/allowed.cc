// The head where each row may use few tokens: only the columns that some row needs are multiplied, a row without an alternative
// needs none, and every logit has the bits of the full product. Sampler and trainer read the same compacted logits.
#include <algorithm>
#include <cmath>
#include <limits>

#include "logprob.h"
#include "sample.h"

namespace rank_grpo {
namespace {

constexpr int64_t kFewLogits = int64_t{1} << 22;  // floats of one chunk of rows: 16 MiB

// Statistics of a row's own logits, piece by piece as head_forward's blocks.
void piece_stats(const LogprobKernels& kernels, const std::vector<float>& own, float inverse, bool entropy, std::vector<BlockStats>& out) {
  out.clear();
  for (size_t i = 0; i < own.size(); i += kLseBlock)
    out.push_back(kernels.stats(&own[i], static_cast<int>(std::min<size_t>(kLseBlock, own.size() - i)), inverse, entropy));
}

}  // namespace

CpuBackend::FewTokens CpuBackend::few_tokens(const AllowedTokens& allowed, const std::vector<int32_t>& rows, int64_t V) {
  FewTokens few;
  if (few_places_.size() < static_cast<size_t>(V)) few_places_.resize(static_cast<size_t>(V), -1);
  for (int32_t r : rows) {
    const int32_t begin = allowed.offsets[static_cast<size_t>(r)], end = allowed.offsets[static_cast<size_t>(r) + 1];
    for (int32_t i = begin; i < end; ++i) {
      auto& place = few_places_[static_cast<size_t>(allowed.ids[static_cast<size_t>(i)])];
      if (place >= 0) continue;
      place = 0;
      few.ids.push_back(allowed.ids[static_cast<size_t>(i)]);
    }
  }
  std::sort(few.ids.begin(), few.ids.end());
  for (size_t i = 0; i < few.ids.size(); ++i) few_places_[static_cast<size_t>(few.ids[i])] = static_cast<int32_t>(i);
  return few;
}

void CpuBackend::forget(const FewTokens& few) {
  for (int32_t id : few.ids) few_places_[static_cast<size_t>(id)] = -1;
}

void CpuBackend::few_logits(float* logits, const float* h, const std::vector<int32_t>& rows, const FewTokens& few, const CpuPanels& panels,
                            const float* W) {
  const int64_t C = panels.columns, U = static_cast<int64_t>(few.ids.size()), L = static_cast<int64_t>(rows.size());
  const int64_t steps = panels.pairs ? (C + 1) / 2 : C, count = (U + kPanel - 1) / kPanel;
  const bool round = panels.compute == Compute::bf16 && !panels.pairs;
  uint32_t* B = scratch_few_.words(*this, count * steps * kPanel);
  pool_.run(static_cast<int>(count), [&](int j) {
    const int columns = static_cast<int>(std::min<int64_t>(kPanel, U - int64_t{j} * kPanel));
    const int32_t* ids = &few.ids[static_cast<size_t>(j) * kPanel];
    uint32_t* to = B + j * steps * kPanel;
    if (!W) {  // the weights are kept in panels alone
      std::fill(to, to + steps * kPanel, 0u);
      for (int c = 0; c < columns; ++c) {
        const uint32_t* from = panels.data + ids[c] / kPanel * panels.stride() + ids[c] % kPanel;
        for (int64_t k = 0; k < steps; ++k) to[k * kPanel + c] = from[k * kPanel];
      }
      return;
    }
    std::vector<float> gathered(static_cast<size_t>(columns * C));
    for (int c = 0; c < columns; ++c) std::copy_n(W + ids[c] * C, C, &gathered[static_cast<size_t>(c * C)]);
    if (panels.pairs) {
      kernels_.matmul->pack_transposed_bf16(to, gathered.data(), C, columns, C);
    } else {
      kernels_.matmul->pack_transposed(reinterpret_cast<float*>(to), kPanel, gathered.data(), C, columns, C, round);
    }
  });
  float* own = scratch_rows_.floats(*this, L * C);
  gather_rows(own, h, rows.data(), L, C);
  const Rows A = rows_of(scratch_h_, own, L, C, panels.compute);
  Product{*kernels_.matmul, panels.pairs, L, U, C, A, B, logits, U, false, nullptr}.run(pool_);
}

template <class F>
void CpuBackend::each_few_row(const AllowedTokens& allowed, const float* h, const std::vector<int32_t>& rows, const CpuPanels& panels,
                              const float* W, F&& use) {
  if (rows.empty()) return;
  const FewTokens few = few_tokens(allowed, rows, panels.rows);
  const int64_t U = static_cast<int64_t>(few.ids.size()), chunk = std::max<int64_t>(1, kFewLogits / U);
  for (size_t first = 0; first < rows.size(); first += static_cast<size_t>(chunk)) {
    const std::vector<int32_t> part(rows.begin() + static_cast<int64_t>(first),
                                    rows.begin() + static_cast<int64_t>(std::min(rows.size(), first + static_cast<size_t>(chunk))));
    float* logits = scratch_logits_.floats(*this, static_cast<int64_t>(part.size()) * U);
    few_logits(logits, h, part, few, panels, W);
    use(few, part, logits);
  }
  forget(few);
}

void CpuBackend::allowed_forward(float* logprob, float* entropy, float* lse, const float* h, const CpuPanels& panels, const float* W,
                                 const int32_t* target, const AllowedTokens& allowed, int64_t R, float temperature) {
  const float inverse = 1.f / temperature;
  std::vector<int32_t> rows;  // with an alternative
  for (int64_t r = 0; r < R; ++r) {
    const size_t i = static_cast<size_t>(r);
    if (allowed.offsets[i + 1] - allowed.offsets[i] > 1) {
      rows.push_back(static_cast<int32_t>(r));
      continue;
    }
    const bool there = allowed.ids[static_cast<size_t>(allowed.offsets[i])] == target[r];
    logprob[r] = there ? 0.f : -std::numeric_limits<float>::infinity();
    lse[r] = 0;
    if (entropy) entropy[r] = 0;
  }
  each_few_row(allowed, h, rows, panels, W, [&](const FewTokens& few, const std::vector<int32_t>& part, const float* logits) {
    const int64_t U = static_cast<int64_t>(few.ids.size());
    pool_.run(static_cast<int>(part.size()), [&](int i) {
      const size_t r = static_cast<size_t>(part[static_cast<size_t>(i)]);
      const int32_t *begin = &allowed.ids[static_cast<size_t>(allowed.offsets[r])],
                    *end = begin + (allowed.offsets[r + 1] - allowed.offsets[r]);
      std::vector<float> own;
      std::vector<BlockStats> pieces;
      own.reserve(static_cast<size_t>(end - begin));
      for (const int32_t* id = begin; id != end; ++id) own.push_back(logits[i * U + few_places_[static_cast<size_t>(*id)]]);
      piece_stats(*kernels_.logprob, own, inverse, entropy != nullptr, pieces);
      const RowStats row = merge_blocks(pieces.data(), static_cast<int64_t>(pieces.size()), 1);
      const int32_t* found = std::lower_bound(begin, end, target[r]);
      lse[r] = row.lse;
      logprob[r] = found != end && *found == target[r] ? own[static_cast<size_t>(found - begin)] * inverse - row.lse
                                                       : -std::numeric_limits<float>::infinity();
      if (entropy) entropy[r] = row.entropy;
    });
  });
}

void CpuBackend::allowed_backward(float* dh, float* dW, const float* h, const float* W, const CpuPanels& panels, const int32_t* target,
                                  const AllowedTokens& allowed, const float* lse, const float* entropy, const float* dlogprob,
                                  const float* dentropy, int64_t R, float temperature) {
  const int64_t C = panels.columns;
  const float inverse = 1.f / temperature;
  std::vector<int32_t> rows;  // that carry a gradient: an alternative, and a slope
  for (int64_t r = 0; r < R; ++r) {
    const size_t i = static_cast<size_t>(r);
    if (allowed.offsets[i + 1] - allowed.offsets[i] > 1 && (dlogprob[r] != 0 || (dentropy && dentropy[r] != 0)))
      rows.push_back(static_cast<int32_t>(r));
  }
  std::fill(dh, dh + R * C, 0.f);
  each_few_row(allowed, h, rows, panels, W, [&](const FewTokens& few, const std::vector<int32_t>& part, float* logits) {
    const int64_t U = static_cast<int64_t>(few.ids.size()), L = static_cast<int64_t>(part.size());
    pool_.run(static_cast<int>(L), [&](int i) {
      const size_t r = static_cast<size_t>(part[static_cast<size_t>(i)]);
      const size_t begin = static_cast<size_t>(allowed.offsets[r]), count = static_cast<size_t>(allowed.offsets[r + 1]) - begin;
      float* row = logits + i * U;
      std::vector<float> own(count);
      for (size_t j = 0; j < count; ++j) own[j] = row[few_places_[static_cast<size_t>(allowed.ids[begin + j])]];
      kernels_.logprob->gradient(own.data(), own.data(), static_cast<int64_t>(count), inverse, lse[r], dlogprob[r],
                                 dentropy ? dentropy[r] : 0.f, entropy ? entropy[r] : 0.f, false);
      std::fill(row, row + U, 0.f);
      for (size_t j = 0; j < count; ++j) {
        const int32_t id = allowed.ids[begin + j];
        row[few_places_[static_cast<size_t>(id)]] = own[j] + (id == target[r] ? inverse * dlogprob[r] : 0.f);
      }
    });
    std::vector<float> weights(static_cast<size_t>(U * C)), h_part(static_cast<size_t>(L * C)), dh_part(static_cast<size_t>(L * C));
    gather_rows(weights.data(), W, few.ids.data(), U, C);
    gather_rows(h_part.data(), h, part.data(), L, C);
    linear_backward_input(dh_part.data(), logits, weights.data(), L, U, C, panels.compute, false);
    for (int64_t i = 0; i < L; ++i) std::copy_n(&dh_part[static_cast<size_t>(i * C)], C, dh + int64_t{part[static_cast<size_t>(i)]} * C);
    if (!dW) return;
    std::fill(weights.begin(), weights.end(), 0.f);  // now their gradient
    linear_backward_weight(weights.data(), nullptr, logits, h_part.data(), L, U, C, panels.compute);
    scatter_add_rows(dW, weights.data(), few.ids.data(), U, C);
  });
}

void CpuBackend::allowed_sample(int32_t* token, float* logprob, const float* h, const CpuPanels& panels, const float* W,
                                const AllowedTokens& allowed, const uint32_t* random, int64_t R, const Sampling& s) {
  const float inverse = 1.f / s.temperature;
  std::vector<int32_t> rows;
  for (int64_t r = 0; r < R; ++r) {
    const size_t i = static_cast<size_t>(r);
    if (allowed.offsets[i + 1] - allowed.offsets[i] > 1) {
      rows.push_back(static_cast<int32_t>(r));
      continue;
    }
    token[r] = allowed.ids[static_cast<size_t>(allowed.offsets[i])];
    logprob[r] = 0;
  }
  each_few_row(allowed, h, rows, panels, W, [&](const FewTokens& few, const std::vector<int32_t>& part, const float* logits) {
    const int64_t U = static_cast<int64_t>(few.ids.size());
    pool_.run(static_cast<int>(part.size()), [&](int i) {
      const size_t r = static_cast<size_t>(part[static_cast<size_t>(i)]);
      const size_t begin = static_cast<size_t>(allowed.offsets[r]), count = static_cast<size_t>(allowed.offsets[r + 1]) - begin;
      std::vector<float> own(count);
      std::vector<BlockStats> pieces;
      for (size_t j = 0; j < count; ++j) own[j] = logits[i * U + few_places_[static_cast<size_t>(allowed.ids[begin + j])]];
      piece_stats(*kernels_.logprob, own, inverse, false, pieces);
      const float sum = merge_blocks(pieces.data(), static_cast<int64_t>(pieces.size()), 1).lse;
      const int chosen =
          std::isfinite(sum) ? choose_token(own.data(), static_cast<int64_t>(count), pieces.data(), inverse, s, random + r * 4) : 0;
      token[r] = allowed.ids[begin + static_cast<size_t>(chosen)];
      logprob[r] = std::isfinite(sum) ? own[static_cast<size_t>(chosen)] * inverse - sum : sum;
    });
  });
}

}  // namespace rank_grpo
