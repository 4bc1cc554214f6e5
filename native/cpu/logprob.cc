// The head: hidden x W -> log-prob, entropy, gradient, in tiles of 64 rows x 384 columns, never a [R, V] tensor; and the
// same for logits that are given. A block's statistics are merged in ascending order, in sampler and trainer alike.
#include "logprob.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rank_grpo {

RowStats merge_blocks(const BlockStats* blocks, int64_t count) {
  constexpr float low = -std::numeric_limits<float>::infinity();
  float top = low, base = low;
  for (int64_t b = 0; b < count; ++b) {
    top = std::max(top, blocks[b].max);
    base = std::max(base, blocks[b].base);
  }
  double sum = 0, weighted = 0;
  for (int64_t b = 0; b < count; ++b) {
    const auto& block = blocks[b];
    if (block.sum == 0) continue;
    const double scale = block.base == base ? 1 : std::exp(static_cast<double>(block.base) - static_cast<double>(base));
    sum += static_cast<double>(block.sum) * scale;
    weighted += static_cast<double>(block.weighted) * scale;
  }
  // never below the largest term, so that no log-prob is above 0; NaN stays NaN
  const double lse = std::max(static_cast<double>(base) + std::log(sum), static_cast<double>(top));
  return {static_cast<float>(lse), static_cast<float>(lse - weighted / sum)};
}

void CpuBackend::head_blocks(const Rows& A, const CpuPanels& panels, int64_t R, int64_t first_column, int64_t columns,
                             const std::function<void(int64_t row, int rows, int64_t column, int n, float* logits, int64_t ld)>& use,
                             float* out, int64_t ld) {
  const int64_t row_blocks = (R + kHeadRows - 1) / kHeadRows, blocks = (columns + kLseBlock - 1) / kLseBlock;
  const int64_t height = kernels_.matmul->rows;
  uint32_t* floats = unpacked(panels.compute);
  // Row blocks first: the panels of one block stay in cache while all rows pass.
  pool_.run(static_cast<int>(row_blocks * blocks), [&](int task, int thread) {
    alignas(64) float tile[kHeadRows * kLseBlock];
    const int64_t row = task % row_blocks * kHeadRows, column = task / row_blocks * kLseBlock;
    const int rows = static_cast<int>(std::min<int64_t>(kHeadRows, R - row)),
              n = static_cast<int>(std::min<int64_t>(kLseBlock, columns - column));
    float* logits = out ? out + row * ld + column : tile;
    const int64_t stride = out ? ld : kLseBlock;
    Product product{*kernels_.matmul,
                    panels.compute,
                    rows,
                    n,
                    panels.columns,
                    {A.at(row), A.row, A.step, A.panel},
                    panels.data + (first_column + column) / kPanel * panels.stride(),
                    logits,
                    stride,
                    false,
                    nullptr,
                    floats};
    // what this thread takes next, when the others keep step: the same panels, or those of a later block
    const int64_t later = (task + pool_.threads()) / row_blocks,
                  next = later < blocks ? (later - task / row_blocks) * kLseBlock / kPanel : 0;
    product.block(0, (rows + height - 1) / height, 0, (n + kPanel - 1) / kPanel, next, thread);
    use(row, rows, column, n, logits, stride);
  });
}

void CpuBackend::head_forward(float* logprob, float* entropy, float* lse, const float* h, const Panels& W, const float*,
                              const int32_t* target, const AllowedTokens* allowed, int64_t R, float temperature) {
  if (R == 0) return;
  const auto& panels = static_cast<const CpuPanels&>(W);
  const float inverse = 1.f / temperature;
  if (allowed) return allowed_forward(logprob, entropy, lse, h, panels, target, *allowed, R, temperature);
  const Rows A = rows_of(scratch_h_, h, R, panels.columns, panels.compute);
  const int64_t blocks = (panels.rows + kLseBlock - 1) / kLseBlock;
  std::vector<BlockStats> stats(static_cast<size_t>(R * blocks));
  head_blocks(
      A, panels, R, 0, panels.rows,
      [&](int64_t row, int rows, int64_t column, int n, float* logits, int64_t ld) {
        for (int r = 0; r < rows; ++r) {
          stats[static_cast<size_t>((row + r) * blocks + column / kLseBlock)] =
              kernels_.logprob->stats(logits + r * ld, n, inverse, entropy != nullptr);
          const int64_t own = target[row + r] - column;
          if (own >= 0 && own < n) logprob[row + r] = logits[r * ld + own] * inverse;
        }
      },
      nullptr, 0);
  for (int64_t r = 0; r < R; ++r) {
    const RowStats row = merge_blocks(&stats[static_cast<size_t>(r * blocks)], blocks);
    lse[r] = row.lse;
    logprob[r] -= row.lse;
    if (entropy) entropy[r] = row.entropy;
  }
}

void CpuBackend::head_backward(float* dh, float* dW, const float* h, const float* W, const Panels& head, const int32_t* target,
                               const AllowedTokens* allowed, const float* lse, const float* entropy, const float* dlogprob,
                               const float* dentropy, int64_t R, float temperature) {
  const auto& panels = static_cast<const CpuPanels&>(head);
  if (allowed) return allowed_backward(dh, dW, h, W, panels, target, *allowed, lse, entropy, dlogprob, dentropy, R, temperature);
  const int64_t C = panels.columns, V = panels.rows;
  const float inverse = 1.f / temperature;
  std::fill(dh, dh + R * C, 0.f);
  std::vector<int32_t> live;  // rows that carry a gradient
  for (int64_t r = 0; r < R; ++r)
    if (dlogprob[r] != 0 || (dentropy && dentropy[r] != 0)) live.push_back(static_cast<int32_t>(r));
  const int64_t L = static_cast<int64_t>(live.size());
  if (L == 0) return;
  std::vector<float> h_live(static_cast<size_t>(L * C)), dh_live(static_cast<size_t>(L * C));
  gather_rows(h_live.data(), h, live.data(), L, C);
  const Rows A = rows_of(scratch_h_, h_live.data(), L, C, panels.compute);
  auto row_terms = [&](int64_t i, float* d, const float* logits, int64_t n) {
    const size_t r = static_cast<size_t>(live[static_cast<size_t>(i)]);
    kernels_.logprob->gradient(d, logits, n, inverse, lse[r], dlogprob[r], dentropy ? dentropy[r] : 0.f, entropy ? entropy[r] : 0.f, false);
  };

  const int64_t budget = int64_t{2} << 20;  // floats: 8 MiB of dlogits at a time
  const int64_t chunk = std::min((V + kLseBlock - 1) / kLseBlock, std::max<int64_t>(1, budget / L / kLseBlock)) * kLseBlock;
  float* d = scratch_logits_.floats(*this, L * chunk);
  for (int64_t v = 0; v < V; v += chunk) {
    const int64_t n = std::min(chunk, V - v);
    head_blocks(
        A, panels, L, v, n,
        [&](int64_t row, int rows, int64_t column, int count, float* logits, int64_t ld) {
          for (int r = 0; r < rows; ++r) {
            row_terms(row + r, logits + r * ld, logits + r * ld, count);
            const int64_t own = target[live[static_cast<size_t>(row + r)]] - v - column;
            if (own >= 0 && own < count) logits[r * ld + own] += inverse * dlogprob[live[static_cast<size_t>(row + r)]];
          }
        },
        d, n);
    if (W) {
      linear_backward_input(dh_live.data(), d, W + v * C, L, n, C, panels.compute, v > 0);
    } else {
      rows_backward_input(dh_live.data(), d, panels, v, n, L, v > 0);
    }
    if (dW) linear_backward_weight(dW + v * C, nullptr, d, h_live.data(), L, n, C, panels.compute);
  }
  for (int64_t i = 0; i < L; ++i) std::copy_n(&dh_live[static_cast<size_t>(i * C)], C, dh + int64_t{live[static_cast<size_t>(i)]} * C);
}

namespace {

constexpr int kTaskRows = 4;  // that one thread takes at a time: what is fetched ahead at the end of a row is its own next one

template <class T>
void forward(CpuBackend& backend, float* logprob, float* entropy, float* lse, const T* logits, const int32_t* targets, int64_t rows,
             int64_t V, float temperature) {
  const float inverse = 1.f / temperature;
  const int64_t blocks = (V + kLogitsBlock - 1) / kLogitsBlock;
  backend.pool().run(static_cast<int>((rows + kTaskRows - 1) / kTaskRows), [&](int task) {
    alignas(64) float buffer[kLogitsBlock];
    std::vector<BlockStats> stats(static_cast<size_t>(blocks));
    for (int64_t r = int64_t{task} * kTaskRows; r < std::min<int64_t>(rows, int64_t{task + 1} * kTaskRows); ++r) {
      const T* row = logits + r * V;
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t n = std::min<int64_t>(kLogitsBlock, V - b * kLogitsBlock);
        stats[static_cast<size_t>(b)] =
            backend.kernels().logprob->stats(widen(row + b * kLogitsBlock, n, buffer), static_cast<int>(n), inverse, entropy != nullptr);
      }
      const RowStats merged = merge_blocks(stats.data(), blocks);
      lse[r] = merged.lse;
      logprob[r] = *widen(row + targets[r], 1, buffer) * inverse - merged.lse;
      if (entropy) entropy[r] = merged.entropy;
    }
  });
}

template <class T>
void backward(CpuBackend& backend, float* dlogits, const T* logits, const int32_t* targets, const float* lse, const float* entropy,
              const float* dlogprob, const float* dentropy, int64_t rows, int64_t V, float temperature) {
  const float inverse = 1.f / temperature;
  const bool stream = static_cast<const void*>(dlogits) != static_cast<const void*>(logits);
  backend.pool().run(static_cast<int>((rows + kTaskRows - 1) / kTaskRows), [&](int task) {
    alignas(64) float buffer[kLogitsBlock];
    for (int64_t r = int64_t{task} * kTaskRows; r < std::min<int64_t>(rows, int64_t{task + 1} * kTaskRows); ++r) {
      const int64_t start = r * V;
      // f32 rows go through in one piece: pieces of the buffer's size would break streaming stores
      const int64_t piece = sizeof(T) == sizeof(float) ? V : kLogitsBlock;
      for (int64_t i = 0; i < V; i += piece) {
        const int64_t n = std::min(piece, V - i);
        backend.kernels().logprob->gradient(dlogits + start + i, widen(logits + start + i, n, buffer), n, inverse, lse[r], dlogprob[r],
                                            dentropy ? dentropy[r] : 0.f, entropy ? entropy[r] : 0.f, stream);
      }
      dlogits[start + targets[r]] += inverse * dlogprob[r];
    }
  });
}

}  // namespace

void CpuBackend::given_logits_forward(float* logprob, float* entropy, float* lse, Operand logits, const int32_t* targets, int64_t T,
                                      int64_t V, float temperature) {
  if (logits.bf16) {
    forward(*this, logprob, entropy, lse, logits.bf16, targets, T, V, temperature);
  } else {
    forward(*this, logprob, entropy, lse, logits.f32, targets, T, V, temperature);
  }
}
void CpuBackend::given_logits_backward(float* dlogits, Operand logits, const int32_t* targets, const float* lse, const float* entropy,
                                       const float* dlogprob, const float* dentropy, int64_t T, int64_t V, float temperature) {
  if (logits.bf16) {
    backward(*this, dlogits, logits.bf16, targets, lse, entropy, dlogprob, dentropy, T, V, temperature);
  } else {
    backward(*this, dlogits, logits.f32, targets, lse, entropy, dlogprob, dentropy, T, V, temperature);
  }
}

}  // namespace rank_grpo
