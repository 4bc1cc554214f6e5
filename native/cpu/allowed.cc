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
// Columns that stay cost every later product a little: where few rows come, as in a decode step, it is less than to fetch them again.
constexpr int64_t kKeepingRows = 64, kKeptColumns = 4096;

}  // namespace

void FewTokens::clear() {
  for (int32_t id : ids) places_[static_cast<size_t>(id)] = -1;
  ids.clear();
}

void FewTokens::free(Backend& backend) noexcept {
  clear();
  scratch_.free(backend);
  capacity_ = 0;
}

void FewTokens::need(CpuBackend& backend, const CpuPanels& panels, const AllowedTokens& allowed, const std::vector<int32_t>& rows,
                     bool keep) {
  if (!keep || version_ != panels.version || count() > kKeptColumns) clear();  // a large call's columns are not a step's to multiply
  if (version_ != panels.version) capacity_ = 0;                               // columns of another length
  version_ = 0;                                                                // unless all goes well
  if (places_.size() < static_cast<size_t>(panels.rows)) places_.resize(static_cast<size_t>(panels.rows), -1);
  size_t kept = ids.size();
  auto add = [&] {
    for (int32_t r : rows) {
      for (int32_t i = allowed.offsets[static_cast<size_t>(r)]; i < allowed.offsets[static_cast<size_t>(r) + 1]; ++i) {
        const int32_t id = allowed.ids[static_cast<size_t>(i)];
        if (place(id) >= 0) continue;
        ids.push_back(id);
        places_[static_cast<size_t>(id)] = 0;
      }
    }
  };
  add();
  if (count() > capacity_) {
    if (kept > 0) {
      clear();
      kept = 0;
      add();
    }
    capacity_ = std::max(capacity_, (std::max(keep ? kKeptColumns : 0, count()) + kPanel - 1) / kPanel * kPanel);
    data_ = scratch_.words(backend, capacity_ / kPanel * panels.stride());
  }
  const auto fresh = ids.begin() + static_cast<int64_t>(kept);
  std::sort(fresh, ids.end());
  for (size_t i = kept; i < ids.size(); ++i) places_[static_cast<size_t>(ids[i])] = static_cast<int32_t>(i);
  const int64_t first = static_cast<int64_t>(kept) / kPanel, steps = panels.stride() / kPanel;
  backend.pool().run(static_cast<int>((count() + kPanel - 1) / kPanel - first), [&](int task) {
    const int64_t j = first + task, begin = std::max(static_cast<int64_t>(kept), j * kPanel), end = std::min(count(), (j + 1) * kPanel);
    uint32_t* to = data_ + j * panels.stride();
    if (begin == j * kPanel) std::fill(to, to + panels.stride(), 0u);
    for (int64_t i = begin; i < end; ++i) {
      const int32_t id = ids[static_cast<size_t>(i)];
      const uint32_t* from = panels.data + id / kPanel * panels.stride() + id % kPanel;
      for (int64_t k = 0; k < steps; ++k) to[k * kPanel + i % kPanel] = from[k * kPanel];
    }
  });
  version_ = panels.version;
}

// The logits of one row's own tokens, side by side, and what makes a distribution of them.
struct CpuBackend::OwnRow {
  OwnRow(const LogprobKernels& kernels, const FewTokens& few, const float* logits, const AllowedTokens& allowed, size_t row, float inverse,
         bool entropy)
      : begin(&allowed.ids[static_cast<size_t>(allowed.offsets[row])]), end(begin + (allowed.offsets[row + 1] - allowed.offsets[row])) {
    values.reserve(static_cast<size_t>(end - begin));
    for (const int32_t* id = begin; id != end; ++id) values.push_back(logits[few.place(*id)]);
    // piece by piece as head_forward's blocks
    for (size_t i = 0; i < values.size(); i += kLseBlock)
      pieces.push_back(kernels.stats(&values[i], static_cast<int>(std::min<size_t>(kLseBlock, values.size() - i)), inverse, entropy));
    stats = merge_blocks(pieces.data(), static_cast<int64_t>(pieces.size()));
  }
  const int32_t *begin, *end;  // ids
  std::vector<float> values;
  std::vector<BlockStats> pieces;
  RowStats stats;
};

namespace {

// Rows with an alternative; `single` sees the others with the token that is theirs.
template <class F>
std::vector<int32_t> open_rows(const AllowedTokens& allowed, int64_t R, F&& single) {
  std::vector<int32_t> rows;
  for (int64_t r = 0; r < R; ++r) {
    const size_t first = static_cast<size_t>(allowed.offsets[static_cast<size_t>(r)]);
    if (allowed.offsets[static_cast<size_t>(r) + 1] - allowed.offsets[static_cast<size_t>(r)] > 1) {
      rows.push_back(static_cast<int32_t>(r));
    } else {
      single(r, first);
    }
  }
  return rows;
}

}  // namespace

void CpuBackend::few_logits(float* logits, const float* h, const std::vector<int32_t>& rows, const CpuPanels& panels) {
  const int64_t C = panels.columns, U = few_.count(), L = static_cast<int64_t>(rows.size());
  float* own = scratch_rows_.floats(*this, L * C);
  gather_rows(own, h, rows.data(), L, C);
  const Rows A = rows_of(scratch_h_, own, L, C, panels.compute);
  Product{*kernels_.matmul, panels.compute, L, U, C, A, few_.columns(), logits, U, false, nullptr, unpacked(panels.compute)}.run(pool_);
}

template <class F>
void CpuBackend::each_few_row(const AllowedTokens& allowed, const float* h, const std::vector<int32_t>& rows, const CpuPanels& panels,
                              bool keep, F&& use) {
  if (rows.empty()) return;
  few_.need(*this, panels, allowed, rows, keep);
  const int64_t U = few_.count(), chunk = std::max<int64_t>(1, kFewLogits / U);
  for (size_t first = 0; first < rows.size(); first += static_cast<size_t>(chunk)) {
    const std::vector<int32_t> part(rows.begin() + static_cast<int64_t>(first),
                                    rows.begin() + static_cast<int64_t>(std::min(rows.size(), first + static_cast<size_t>(chunk))));
    float* logits = scratch_logits_.floats(*this, static_cast<int64_t>(part.size()) * U);
    few_logits(logits, h, part, panels);
    use(part, logits);
  }
}

template <class F>
void CpuBackend::each_own_row(const AllowedTokens& allowed, const float* h, const std::vector<int32_t>& rows, const CpuPanels& panels,
                              float inverse, bool entropy, F&& use) {
  const bool keep = static_cast<int64_t>(rows.size()) <= kKeepingRows;
  each_few_row(allowed, h, rows, panels, keep, [&](const std::vector<int32_t>& part, const float* logits) {
    pool_.run(static_cast<int>(part.size()), [&](int i) {
      const size_t r = static_cast<size_t>(part[static_cast<size_t>(i)]);
      use(r, OwnRow(*kernels_.logprob, few_, logits + i * few_.count(), allowed, r, inverse, entropy));
    });
  });
}

void CpuBackend::allowed_forward(float* logprob, float* entropy, float* lse, const float* h, const CpuPanels& panels, const int32_t* target,
                                 const AllowedTokens& allowed, int64_t R, float temperature) {
  constexpr float kImpossible = -std::numeric_limits<float>::infinity();
  const float inverse = 1.f / temperature;
  const auto rows = open_rows(allowed, R, [&](int64_t r, size_t only) {
    logprob[r] = allowed.ids[only] == target[r] ? 0.f : kImpossible;
    lse[r] = 0;
    if (entropy) entropy[r] = 0;
  });
  each_own_row(allowed, h, rows, panels, inverse, entropy != nullptr, [&](size_t r, const OwnRow& row) {
    const int32_t* found = std::lower_bound(row.begin, row.end, target[r]);
    lse[r] = row.stats.lse;
    logprob[r] = found != row.end && *found == target[r] ? row.values[static_cast<size_t>(found - row.begin)] * inverse - row.stats.lse
                                                         : kImpossible;
    if (entropy) entropy[r] = row.stats.entropy;
  });
}

void CpuBackend::head_allowed(float* logprobs, const float* h, const Panels& W, const float*, const AllowedTokens& allowed, int64_t R,
                              float temperature) {
  const float inverse = 1.f / temperature;
  const auto rows = open_rows(allowed, R, [&](int64_t, size_t only) { logprobs[only] = 0; });
  each_own_row(allowed, h, rows, static_cast<const CpuPanels&>(W), inverse, false, [&](size_t r, const OwnRow& row) {
    float* out = logprobs + allowed.offsets[r];
    for (float x : row.values) *out++ = x * inverse - row.stats.lse;
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
  each_few_row(allowed, h, rows, panels, false, [&](const std::vector<int32_t>& part, float* logits) {
    const FewTokens& few = few_;
    const int64_t U = few.count(), L = static_cast<int64_t>(part.size());
    pool_.run(static_cast<int>(L), [&](int i) {
      const size_t r = static_cast<size_t>(part[static_cast<size_t>(i)]);
      const size_t begin = static_cast<size_t>(allowed.offsets[r]), count = static_cast<size_t>(allowed.offsets[r + 1]) - begin;
      float* row = logits + i * U;
      std::vector<float> own(count);
      for (size_t j = 0; j < count; ++j) own[j] = row[few.place(allowed.ids[begin + j])];
      kernels_.logprob->gradient(own.data(), own.data(), static_cast<int64_t>(count), inverse, lse[r], dlogprob[r],
                                 dentropy ? dentropy[r] : 0.f, entropy ? entropy[r] : 0.f, false);
      std::fill(row, row + U, 0.f);
      for (size_t j = 0; j < count; ++j) {
        const int32_t id = allowed.ids[begin + j];
        row[few.place(id)] = own[j] + (id == target[r] ? inverse * dlogprob[r] : 0.f);
      }
    });
    std::vector<float> weights(static_cast<size_t>(U * C)), h_part(static_cast<size_t>(L * C)), dh_part(static_cast<size_t>(L * C));
    if (W) {
      gather_rows(weights.data(), W, few.ids.data(), U, C);
    } else {
      embedding_from_panels(weights.data(), panels, few.ids.data(), U);
    }
    gather_rows(h_part.data(), h, part.data(), L, C);
    linear_backward_input(dh_part.data(), logits, weights.data(), L, U, C, panels.compute, false);
    for (int64_t i = 0; i < L; ++i) std::copy_n(&dh_part[static_cast<size_t>(i * C)], C, dh + int64_t{part[static_cast<size_t>(i)]} * C);
    if (!dW) return;
    std::fill(weights.begin(), weights.end(), 0.f);  // now their gradient
    linear_backward_weight(weights.data(), nullptr, logits, h_part.data(), L, U, C, panels.compute);
    scatter_add_rows(dW, weights.data(), few.ids.data(), U, C);
  });
}

void CpuBackend::allowed_sample(int32_t* token, float* logprob, const float* h, const CpuPanels& panels, const AllowedTokens& allowed,
                                const uint32_t* random, int64_t R, const Sampling& s) {
  const float inverse = 1.f / s.temperature;
  const auto rows = open_rows(allowed, R, [&](int64_t r, size_t only) {
    token[r] = allowed.ids[only];
    logprob[r] = 0;
  });
  each_own_row(allowed, h, rows, panels, inverse, false, [&](size_t r, const OwnRow& row) {
    const float lse = row.stats.lse;
    const auto count = static_cast<int64_t>(row.values.size());
    const int chosen = std::isfinite(lse) ? choose_token(row.values.data(), count, row.pieces.data(), inverse, s, random + r * 4) : 0;
    token[r] = row.begin[chosen];
    logprob[r] = std::isfinite(lse) ? row.values[static_cast<size_t>(chosen)] * inverse - lse : lse;
  });
}

}  // namespace rank_grpo
