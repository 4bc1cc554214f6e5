// Linear layers forward and backward: packs the operands, splits the outputs over threads. See matmul.h for the layout.
#include "matmul.h"

#include <algorithm>
#include <vector>

#include "backend.h"

namespace rank_grpo {

CpuPanels::CpuPanels(Backend& backend, int64_t N, int64_t K, Compute compute, bool pairs)
    : Panels(N, K, compute), pairs(pairs), data(nullptr), backend_(backend) {
  data = static_cast<uint32_t*>(backend.allocate(static_cast<size_t>(count() * stride()) * 4));
}
CpuPanels::~CpuPanels() { backend_.release(data, static_cast<size_t>(count() * stride()) * 4); }

void Product::block(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
  const int64_t total = steps(), depth = pairs ? kDepth / 2 : kDepth;
  for (int64_t k = 0; k < total; k += depth) {
    const int64_t n = std::min(depth, total - k);
    for (int64_t j = j0; j < j1; ++j)
      for (int64_t i = i0; i < i1; ++i) {
        const uint32_t *a = A + (i * total + k) * kRows, *b = B + (j * total + k) * kPanel;
        float* c = C + i * kRows * ldc + j * kPanel;
        const int rows = static_cast<int>(std::min<int64_t>(kRows, M - i * kRows));
        const int columns = static_cast<int>(std::min<int64_t>(kPanel, N - j * kPanel));
        if (pairs) {
          kernels.tile_bf16(rows, n, a, b, c, ldc, columns, accumulate || k > 0);
        } else {
          kernels.tile_f32(rows, n, reinterpret_cast<const float*>(a), reinterpret_cast<const float*>(b), c, ldc, columns,
                           accumulate || k > 0);
        }
      }
  }
}

void Product::run(ThreadPool& pool) const {
  if (M == 0 || N == 0) return;
  const int64_t rows = (M + kRows - 1) / kRows, columns = (N + kPanel - 1) / kPanel;
  const int64_t row_block = 16;  // 128 rows of A stay in the second-level cache
  const int64_t row_blocks = (rows + row_block - 1) / row_block;
  // few rows: each B panel is read once, by one thread; many rows: blocks of both
  const int64_t wanted = pool.threads() == 1 ? 1 : std::max<int64_t>(1, 8 * pool.threads() / row_blocks);
  const int64_t column_block = std::max<int64_t>(1, (columns + wanted - 1) / wanted);
  const int64_t column_blocks = (columns + column_block - 1) / column_block;
  pool.run(static_cast<int>(row_blocks * column_blocks), [&](int task) {
    const int64_t i = task / column_blocks * row_block, j = task % column_blocks * column_block;
    block(i, std::min(rows, i + row_block), j, std::min(columns, j + column_block));
  });
}

namespace {

// 4-byte words of `panels` panels.
int64_t words(int64_t panels, int64_t width, int64_t K, bool pairs) { return panels * width * (pairs ? (K + 1) / 2 : K); }

uint32_t* grown(std::vector<uint32_t>& scratch, int64_t size) {
  if (scratch.size() < static_cast<size_t>(size)) scratch.resize(static_cast<size_t>(size));
  return scratch.data();
}

}  // namespace

const uint32_t* CpuBackend::pack_rows(std::vector<uint32_t>& scratch, const float* x, int64_t ld, int64_t M, int64_t K, bool transposed,
                                      Compute compute) {
  const bool pairs = compute == Compute::bf16 && kernels_.bf16, round = compute == Compute::bf16 && !pairs;
  const int64_t panels = (M + kRows - 1) / kRows, size = words(1, kRows, K, pairs);
  uint32_t* out = grown(scratch, panels * size);
  const int64_t chunk = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, size));
  pool_.run(static_cast<int>((panels + chunk - 1) / chunk), [&](int task) {
    for (int64_t i = task * chunk; i < std::min(panels, (task + 1) * chunk); ++i) {
      const float* from = x + (transposed ? i * kRows : i * kRows * ld);
      const int rows = static_cast<int>(std::min<int64_t>(kRows, M - i * kRows));
      uint32_t* to = out + i * size;
      if (pairs) {
        kernels_.matmul->pack_a_bf16(to, from, ld, rows, K, transposed);
      } else {
        kernels_.matmul->pack_a(reinterpret_cast<float*>(to), from, ld, rows, K, transposed, round);
      }
    }
  });
  return out;
}

void CpuBackend::pack_columns(uint32_t* out, const float* x, int64_t ld, int64_t N, int64_t K, bool transposed, Compute compute) {
  const bool pairs = compute == Compute::bf16 && kernels_.bf16, round = compute == Compute::bf16 && !pairs;
  const int64_t panels = (N + kPanel - 1) / kPanel, size = words(1, kPanel, K, pairs);
  pool_.run(static_cast<int>(panels), [&](int task) {
    const int64_t j = task;
    const float* from = x + (transposed ? j * kPanel * ld : j * kPanel);
    const int columns = static_cast<int>(std::min<int64_t>(kPanel, N - j * kPanel));
    if (pairs) {
      kernels_.matmul->pack_b_bf16(out + j * size, from, ld, columns, K, transposed);
    } else {
      kernels_.matmul->pack_b(reinterpret_cast<float*>(out + j * size), from, ld, columns, K, transposed, round);
    }
  });
}

std::unique_ptr<Panels> CpuBackend::make_panels(int64_t N, int64_t K, Compute compute) {
  return std::make_unique<CpuPanels>(*this, N, K, compute, compute == Compute::bf16 && kernels_.bf16);
}

void CpuBackend::pack(Panels& panels, const float* W) {
  auto& p = static_cast<CpuPanels&>(panels);
  pack_columns(p.data, W, p.columns, p.rows, p.columns, true, p.compute);
}

void CpuBackend::linear_forward(float* y, const float* x, const Panels& W, const float* bias, int64_t T) {
  const auto& p = static_cast<const CpuPanels&>(W);
  const uint32_t* a = pack_rows(scratch_a_, x, p.columns, T, p.columns, false, p.compute);
  Product{*kernels_.matmul, p.pairs, T, p.rows, p.columns, a, p.data, y, p.rows, false}.run(pool_);
  if (!bias) return;
  pool_.run(static_cast<int>((T + 15) / 16), [&](int task) {
    for (int64_t t = int64_t{task} * 16; t < std::min<int64_t>(T, int64_t{task + 1} * 16); ++t)
      for (int64_t n = 0; n < p.rows; ++n) y[t * p.rows + n] += bias[n];
  });
}

void CpuBackend::linear_backward_input(float* dx, const float* dy, const float* W, int64_t T, int64_t N, int64_t K, Compute compute,
                                       bool accumulate) {
  const bool pairs = compute == Compute::bf16 && kernels_.bf16;
  const uint32_t* a = pack_rows(scratch_a_, dy, N, T, N, false, compute);
  uint32_t* b = grown(scratch_b_, words((K + kPanel - 1) / kPanel, kPanel, N, pairs));
  pack_columns(b, W, K, K, N, false, compute);
  Product{*kernels_.matmul, pairs, T, K, N, a, b, dx, K, accumulate}.run(pool_);
}

void CpuBackend::linear_backward_weight(float* dW, float* dbias, const float* dy, const float* x, int64_t T, int64_t N, int64_t K,
                                        Compute compute) {
  const bool pairs = compute == Compute::bf16 && kernels_.bf16;
  const uint32_t* a = pack_rows(scratch_a_, dy, N, N, T, true, compute);
  uint32_t* b = grown(scratch_b_, words((K + kPanel - 1) / kPanel, kPanel, T, pairs));
  pack_columns(b, x, K, K, T, false, compute);
  Product{*kernels_.matmul, pairs, N, K, T, a, b, dW, K, true}.run(pool_);
  if (!dbias) return;
  pool_.run(static_cast<int>((N + 63) / 64), [&](int task) {
    const int64_t first = int64_t{task} * 64, last = std::min(N, first + 64);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t n = first; n < last; ++n) dbias[n] += dy[t * N + n];
  });
}

}  // namespace rank_grpo
