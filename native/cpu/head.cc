// The head over weights as they are given, for the kernels export: hidden [R, C] x W [V, C], f32 or bf16, packed one chunk of the
// vocabulary at a time, so nothing of the size of W is made. Values are the bits of Backend::head_forward over packed panels.
#include <algorithm>
#include <vector>

#include "backend.h"
#include "logprob.h"

namespace rank_grpo {
namespace {

// Rows [first, first + n) of `width` columns as floats: the rows themselves, or bf16 widened into `buffer`.
const float* float_rows(Operand x, int64_t first, int64_t n, int64_t width, std::vector<float>& buffer, ThreadPool& pool) {
  if (x.f32) return x.f32 + first * width;
  buffer.resize(static_cast<size_t>(n * width));
  constexpr int64_t piece = 16;
  pool.run(static_cast<int>((n + piece - 1) / piece), [&](int task) {
    const int64_t row = task * piece;
    widen(x.bf16 + (first + row) * width, std::min(piece, n - row) * width, &buffer[static_cast<size_t>(row * width)]);
  });
  return buffer.data();
}

// bf16 that is multiplied as bf16 becomes panels as it is: its pairs only change places.
bool moves(const CpuPanels& panels, Operand W) {
  return panels.pairs() && !W.f32 && panels.columns % 2 == 0 && reinterpret_cast<uintptr_t>(W.bf16) % sizeof(float) == 0;
}

}  // namespace

void CpuBackend::move_rows(CpuPanels& p, const uint16_t* W, int64_t n) {
  const int64_t steps = p.columns / 2;
  pool_.run(static_cast<int>((n + kPanel - 1) / kPanel), [&](int j) {
    kernels_.matmul->pack_transposed(reinterpret_cast<float*>(p.data + j * p.stride()), kPanel,
                                     reinterpret_cast<const float*>(W + int64_t{j} * kPanel * p.columns), steps,
                                     static_cast<int>(std::min<int64_t>(kPanel, n - int64_t{j} * kPanel)), steps);
  });
}

void CpuBackend::given_head_forward(float* logprob, float* entropy, float* lse, Operand h, Operand W, const int32_t* targets, int64_t R,
                                    int64_t C, int64_t V, float temperature, Compute compute) {
  if (R == 0) return;
  const float inverse = 1.f / temperature;
  std::vector<float> wide_h, wide_w;
  const Rows A = rows_of(scratch_h_, float_rows(h, 0, R, C, wide_h, pool_), R, C, compute);
  const int64_t blocks = (V + kLseBlock - 1) / kLseBlock, tiles = (R + kHeadRows - 1) / kHeadRows;
  const int64_t chunk = kLseBlock * std::min(blocks, std::max<int64_t>(1, 2 * pool_.threads() / tiles));  // enough tiles for every thread
  std::vector<BlockStats> stats(static_cast<size_t>(R * blocks));
  const auto panels = make_panels(std::min(chunk, V), C, compute);
  for (int64_t v = 0; v < V; v += chunk) {
    const int64_t n = std::min(chunk, V - v);
    auto& p = static_cast<CpuPanels&>(*panels);
    if (moves(p, W)) {
      move_rows(p, W.bf16 + v * C, n);
    } else {
      pack_rows(p, float_rows(W, v, n, C, wide_w, pool_), 0, n);
    }
    head_blocks(
        A, p, R, 0, n,
        [&](int64_t row, int rows, int64_t column, int count, float* logits, int64_t ld) {
          for (int r = 0; r < rows; ++r) {
            stats[static_cast<size_t>((row + r) * blocks + (v + column) / kLseBlock)] =
                kernels_.logprob->stats(logits + r * ld, count, inverse, entropy != nullptr);
            const int64_t own = targets[row + r] - v - column;
            if (own >= 0 && own < count) logprob[row + r] = logits[r * ld + own] * inverse;
          }
        },
        nullptr, 0);
  }
  for (int64_t r = 0; r < R; ++r) {
    const RowStats row = merge_blocks(&stats[static_cast<size_t>(r * blocks)], blocks);
    lse[r] = row.lse;
    logprob[r] -= row.lse;
    if (entropy) entropy[r] = row.entropy;
  }
}

void CpuBackend::given_head_backward(float* dh, float* dW, Operand h, Operand W, const int32_t* targets, const float* lse,
                                     const float* entropy, const float* dlogprob, const float* dentropy, int64_t R, int64_t C, int64_t V,
                                     float temperature, Compute compute) {
  if (R == 0) return;
  const float inverse = 1.f / temperature;
  std::vector<float> wide_h, wide_w;
  const float* rows_h = float_rows(h, 0, R, C, wide_h, pool_);
  const Rows A = rows_of(scratch_h_, rows_h, R, C, compute);
  const int64_t budget = int64_t{2} << 20;  // floats: 8 MiB of dlogits at a time
  const int64_t chunk = std::min((V + kLseBlock - 1) / kLseBlock, std::max<int64_t>(1, budget / R / kLseBlock)) * kLseBlock;
  std::vector<float> d(static_cast<size_t>(R * std::min(chunk, V)));
  const auto panels = make_panels(std::min(chunk, V), C, compute);
  for (int64_t v = 0; v < V; v += chunk) {
    const int64_t n = std::min(chunk, V - v);
    auto& p = static_cast<CpuPanels&>(*panels);
    const float* columns = moves(p, W) ? nullptr : float_rows(W, v, n, C, wide_w, pool_);
    if (columns) {
      pack_rows(p, columns, 0, n);
    } else {
      move_rows(p, W.bf16 + v * C, n);
    }
    head_blocks(
        A, p, R, 0, n,
        [&](int64_t row, int rows, int64_t column, int count, float* logits, int64_t ld) {
          for (int64_t r = row; r < row + rows; ++r, logits += ld) {
            kernels_.logprob->gradient(logits, logits, count, inverse, lse[r], dlogprob[r], dentropy ? dentropy[r] : 0.f,
                                       entropy ? entropy[r] : 0.f, false);
            const int64_t own = targets[r] - v - column;
            if (own >= 0 && own < count) logits[own] += inverse * dlogprob[r];
          }
        },
        d.data(), n);
    if (columns) {
      linear_backward_input(dh, d.data(), columns, R, n, C, compute, v > 0);
    } else {
      rows_backward_input(dh, d.data(), p, 0, n, R, v > 0);
    }
    if (dW) linear_backward_weight(dW + v * C, nullptr, d.data(), rows_h, R, n, C, compute);
  }
}

}  // namespace rank_grpo
