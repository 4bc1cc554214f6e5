// Linear layers forward and backward: brings the operands into shape, splits the outputs over threads. See matmul.h.
#include "matmul.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "backend.h"
#include "pointwise.h"

namespace rank_grpo {

CpuPanels::CpuPanels(Backend& backend, int64_t N, int64_t K, Compute compute) : Panels(N, K, compute), data(nullptr), backend_(backend) {
  data = static_cast<uint32_t*>(backend.allocate(static_cast<size_t>(count() * stride()) * 4));
}
CpuPanels::~CpuPanels() {
  backend_.release(data, static_cast<size_t>(count() * stride()) * 4);
  backend_.release(rest, static_cast<size_t>(rows * columns) * sizeof(int16_t));
}
void CpuPanels::keep_master() {
  if (compute == Compute::bf16 && !rest)
    rest = static_cast<int16_t*>(backend_.allocate(static_cast<size_t>(rows * columns) * sizeof(int16_t)));
}

namespace {

constexpr int64_t kManyRows = 256;  // several tasks multiply a panel of B: the others find it at hand

// How many of so many tiles share the work of bringing in what is read next.
int64_t sharing_tiles(int64_t tiles, bool streams) {
  if (!streams) return tiles >= 12 ? 12 : tiles >= 6 ? 6 : tiles >= 3 ? 3 : 1;
  int64_t count = 16;
  while (count > tiles) count /= 2;
  return count;
}

// What tile `tile` of them prefetches: its part of the n steps that come next, or, alone and without streams, a little of its own panel.
// `factors`: by how many a word is multiplied in the tile; `passes`: its steps for one of them.
Ahead ahead_of(const uint32_t* own, const uint32_t* next, int64_t n, int64_t tile, int64_t sharing, int factors, int passes, bool streams) {
  if (!streams && sharing == 1) return {own + 64 * kPanel, kPanel * 4, 64, false};
  const void* first = tile < sharing ? next + tile * n / sharing * kPanel : own;
  const int row = kPanel * 4 / static_cast<int>(sharing * passes);  // bytes a step
  if (!streams) return {first, row, 0, false};
  return {first, row / 3, n * 64 / sharing, sharing == 1 && factors <= kFewFactors};
}

// Rows of A in bf16 from those of x: pairs, or without a dot product rounded floats, an even number of them.
void make_rows(const MatmulKernels& kernels, uint32_t* out, int64_t row, const float* x, int64_t rows, int64_t K) {
  for (int64_t i = 0; i < rows; ++i, out += row, x += K) {
    if (kernels.dot) {
      kernels.to_pairs(out, x, K);
    } else {
      kernels.to_rounded(reinterpret_cast<float*>(out), x, K);
      std::fill(out + K, out + row, 0u);
    }
  }
}

// The rows of A that the next tile begins with, `words` of them side by side, brought in during n steps.
Ahead rows_ahead(const uint32_t* rows, int64_t words, int64_t n, bool streams) {
  if (!streams) return {rows, static_cast<int>(std::min<int64_t>(64, (words * 4 + n - 1) / n)), 0, false};
  const int64_t stream = words * 4 / 3;
  return {rows, static_cast<int>((stream + n - 1) / n), stream, false};
}

}  // namespace

void Product::block(int64_t i0, int64_t i1, int64_t j0, int64_t j1, int64_t next, int thread) const {
  const bool pairs = compute == Compute::bf16;
  const int64_t total = panel_steps(K, compute), depth = panel_steps(kDepth, compute), height = kernels.rows;
  const int words = pairs && !kernels.dot ? 2 : 1;  // of A for one of B
  uint32_t* apart = words == 2 && floats && i1 - i0 > 1 ? floats + thread * kUnpacked : nullptr;
  const int64_t sharing = sharing_tiles(i1 - i0, kernels.streams);
  for (int64_t k = 0; k < total; k += depth) {
    const int64_t n = std::min(depth, total - k);
    for (int64_t j = j0; j < j1; ++j) {
      const uint32_t* b = B + (j * total + k) * kPanel;
      const uint32_t* then = B + next * total * kPanel;
      if (j + 1 < j1) {
        then = b + total * kPanel;
      } else if (k + depth < total) {
        then = B + (j0 * total + k + depth) * kPanel;
      }
      Tile t;
      t.columns = static_cast<int>(std::min<int64_t>(kPanel, N - j * kPanel));
      t.row = A.row;
      t.step = A.step;
      t.ldc = ldc;
      t.accumulate = accumulate || k > 0;
      for (int64_t i = i0; i < i1; ++i) {
        const int passes = apart && i > i0 ? 2 : 1;
        t.B = passes == 2 ? apart : b;
        t.steps = passes * n;
        t.floats = passes == 1 ? apart : nullptr;
        t.rows = static_cast<int>(std::min(height, M - i * height));
        t.A = A.at(i * height) + k * words * A.step;
        t.ahead = ahead_of(b, then, n, i - i0, sharing, t.rows * words, passes, kernels.streams);
        // The first panel waits for rows, which lie where they were written, in another core's cache as often as not.
        if (j == j0 && k == 0 && A.panel == 0 && i + 1 < i1 && M >= kManyRows)
          t.ahead = rows_ahead(A.at((i + 1) * height), std::min(height, M - (i + 1) * height) * A.row, t.steps, kernels.streams);
        // Columns of A that lie where they were written: its own, as many steps ahead as the third cache takes.
        if (A.step > 1 && A.panel == 0) t.ahead = {t.A + 16 * A.step, static_cast<int>(A.step * 4), 0, false};
        t.C = C + i * height * ldc + j * kPanel;
        (pairs && passes == 1 ? kernels.tile_bf16 : kernels.tile_f32)(t);
      }
    }
  }
  if (!bias) return;
  for (int64_t i = i0 * height; i < std::min(M, i1 * height); ++i)
    for (int64_t c = j0 * kPanel; c < std::min(N, j1 * kPanel); ++c) C[i * ldc + c] += bias[c];
}

void Product::run(ThreadPool& pool) const {
  if (M == 0 || N == 0) return;
  const int64_t rows = (M + kernels.rows - 1) / kernels.rows, columns = (N + kPanel - 1) / kPanel;
  const int64_t row_block = kRowBlock / kernels.rows;
  const int64_t row_blocks = (rows + row_block - 1) / row_block;
  // few rows: each B panel is read once, by one thread; many rows: blocks of both
  const int64_t wanted = pool.threads() == 1 ? 1 : (8 * pool.threads() + row_blocks - 1) / row_blocks;
  const int64_t column_block = std::max<int64_t>(1, (columns + wanted - 1) / wanted);
  const int64_t column_blocks = (columns + column_block - 1) / column_block;
  pool.run(static_cast<int>(row_blocks * column_blocks), [&](int task, int thread) {
    const int64_t i = task / column_blocks * row_block, j = task % column_blocks * column_block;
    // the first panel of the task that this thread takes next, when the others keep step
    const int64_t next = (task + pool.threads()) % column_blocks * column_block;
    Product part = *this;
    if (source) {
      uint32_t* own = made + thread * kRowBlock * A.row;
      part.A.data = own;
      part.A.first = i * kernels.rows;
      make_rows(kernels, own, A.row, source + part.A.first * K, std::min(kRowBlock, M - part.A.first), K);
    }
    part.block(i, std::min(rows, i + row_block), j, std::min(columns, j + column_block), next, thread);
  });
}

namespace {

constexpr int64_t kPackColumns = 96, kPackSteps = 256;  // what one packing task goes through

int64_t panel_words(int64_t columns, int64_t steps) { return (columns + kPanel - 1) / kPanel * kPanel * steps; }

}  // namespace

int64_t CpuBackend::row_words(int64_t K, Compute compute) const {
  return panel_steps(K, compute) * (compute == multiplied(compute) ? 1 : 2);
}

Rows CpuBackend::rows_of(Scratch& scratch, const float* x, int64_t M, int64_t K, Compute compute) {
  if (compute == Compute::f32) return {reinterpret_cast<const uint32_t*>(x), K, 1, 0};
  const int64_t row = row_words(K, compute), chunk = std::max<int64_t>(1, 16384 / K);
  uint32_t* out = scratch.words(*this, M * row);
  pool_.run(static_cast<int>((M + chunk - 1) / chunk), [&](int task) {
    const int64_t i = task * chunk;
    make_rows(*kernels_.matmul, out + i * row, row, x + i * K, std::min(chunk, M - i), K);
  });
  return {out, row, 1, 0};
}

void CpuBackend::multiply(Product product, const float* x, Compute compute) {
  if (compute == Compute::f32 || product.M < kManyRows) {
    product.A = rows_of(scratch_a_, x, product.M, product.K, compute);
  } else {
    product.A = {nullptr, row_words(product.K, compute), 1, 0};
    product.source = x;
    product.made = scratch_a_.words(*this, pool_.threads() * kRowBlock * product.A.row);
  }
  product.run(pool_);
}

uint32_t* CpuBackend::unpacked(Compute compute) {
  return compute == multiplied(compute) ? nullptr : scratch_floats_.words(*this, pool_.threads() * kUnpacked);
}

Compute CpuBackend::multiplied(Compute compute) const { return kernels_.matmul->dot ? compute : Compute::f32; }

void CpuBackend::pack_piece(uint32_t* out, const float* x, int64_t N, int64_t columns, int64_t K, int64_t k, int64_t steps,
                            Compute compute) const {
  const auto& kernels = *kernels_.matmul;
  const Compute kept = multiplied(compute);
  const int64_t panel = panel_steps(K, kept) * kPanel;
  out += panel_steps(k, kept) * kPanel;
  x += k * N;
  if (kept == Compute::bf16) return kernels.pack_bf16(out, panel, x, N, static_cast<int>(columns), steps);
  kernels.pack(reinterpret_cast<float*>(out), panel, x, N, static_cast<int>(columns), steps, compute == Compute::bf16);
}

void CpuBackend::pack_columns(uint32_t* out, const float* x, int64_t N, int64_t K, Compute compute) {
  const int64_t pieces = (K + kPackSteps - 1) / kPackSteps, words = panel_steps(K, multiplied(compute));
  pool_.run(static_cast<int>((N + kPackColumns - 1) / kPackColumns * pieces), [&](int task) {
    const int64_t first = task / pieces * kPackColumns, k = task % pieces * kPackSteps;
    pack_piece(out + panel_words(first, words), x + first, N, std::min(kPackColumns, N - first), K, k, std::min(kPackSteps, K - k),
               compute);
  });
}

std::unique_ptr<Panels> CpuBackend::make_panels(int64_t N, int64_t K, Compute compute) {
  return std::make_unique<CpuPanels>(*this, N, K, compute);
}

void CpuBackend::pack(Panels& panels, const float* W) { pack_rows(panels, W, 0, panels.rows); }

void CpuBackend::keep_master(Panels& panels) { static_cast<CpuPanels&>(panels).keep_master(); }

// Columns [offset, offset + rows) of panel j from W [rows, K]; the others stay.
void CpuBackend::write_panel(CpuPanels& p, int64_t j, const float* W, int offset, int rows) const {
  const int64_t K = p.columns;
  const auto& kernels = *kernels_.matmul;
  auto fill = [&](uint32_t* to) {
    if (p.pairs()) {
      kernels.pack_transposed_bf16(to, W, K, rows, K);
    } else {
      kernels.pack_transposed(reinterpret_cast<float*>(to), kPanel, W, K, rows, K);
    }
  };
  if (p.rest) kernels.split(p.rest + (j * kPanel + offset) * K, W, rows * K);
  uint32_t* to = p.data + j * p.stride();
  if (offset == 0 && (rows == kPanel || j * kPanel + rows == p.rows)) return fill(to);
  std::vector<uint32_t> part(static_cast<size_t>(p.stride()));  // a panel that other rows share
  fill(part.data());
  for (int64_t k = 0; k < p.stride(); k += kPanel) std::copy_n(&part[static_cast<size_t>(k)], rows, to + k + offset);
}

// The rows of panel j, W [48, K], as f32 as far as they are kept.
void CpuBackend::read_panel(float* W, const CpuPanels& p, int64_t j) const {
  const int64_t K = p.columns, steps = p.stride() / kPanel;
  const auto& kernels = *kernels_.matmul;
  const float* from = reinterpret_cast<const float*>(p.data + j * p.stride());  // or the bits of pairs: they are moved, not read
  if (!p.pairs()) return kernels.pack_transposed(W, static_cast<int>(K), from, kPanel, static_cast<int>(K), kPanel);
  std::vector<float> words(static_cast<size_t>(kPanel * steps));
  kernels.pack_transposed(words.data(), static_cast<int>(steps), from, kPanel, static_cast<int>(steps), kPanel);
  std::vector<uint16_t> high(static_cast<size_t>(2 * steps));
  for (int64_t r = 0; r < std::min<int64_t>(kPanel, p.rows - j * kPanel); ++r) {
    std::memcpy(high.data(), &words[static_cast<size_t>(r * steps)], static_cast<size_t>(steps) * 4);
    kernels.join(W + r * K, high.data(), p.rest ? p.rest + (j * kPanel + r) * K : nullptr, K);
  }
}

void CpuBackend::pack_rows(Panels& panels, const float* W, int64_t first, int64_t count) {
  auto& p = static_cast<CpuPanels&>(panels);
  const int64_t begin = first / kPanel, end = (first + count + kPanel - 1) / kPanel;
  p.version = ++panels_written_;
  pool_.run(static_cast<int>(end - begin), [&](int task) {
    const int64_t j = begin + task, start = std::max(first, j * kPanel), stop = std::min(first + count, (j + 1) * kPanel);
    write_panel(p, j, W + (start - first) * p.columns, static_cast<int>(start - j * kPanel), static_cast<int>(stop - start));
  });
}

void CpuBackend::unpack_rows(float* W, const Panels& panels, int64_t first, int64_t count) {
  const auto& p = static_cast<const CpuPanels&>(panels);
  const int64_t begin = first / kPanel, end = (first + count + kPanel - 1) / kPanel, K = p.columns;
  pool_.run(static_cast<int>(end - begin), [&](int task) {
    const int64_t j = begin + task, start = std::max(first, j * kPanel), stop = std::min(first + count, (j + 1) * kPanel);
    std::vector<float> rows(static_cast<size_t>(kPanel * K));
    read_panel(rows.data(), p, j);
    std::copy_n(&rows[static_cast<size_t>((start - j * kPanel) * K)], (stop - start) * K, W + (start - first) * K);
  });
}

void CpuBackend::adamw_panels(Panels& panels, float* m, float* v, const float* g, const AdamW& options) {
  auto& p = static_cast<CpuPanels&>(panels);
  const int64_t K = p.columns;
  p.version = ++panels_written_;
  pool_.run(static_cast<int>(p.count()), [&](int j) {
    const int64_t start = int64_t{j} * kPanel * K, rows = std::min<int64_t>(kPanel, p.rows - int64_t{j} * kPanel);
    std::vector<float> W(static_cast<size_t>(kPanel * K));
    read_panel(W.data(), p, j);
    kernels_.pointwise->adamw(W.data(), m + start, v + start, g + start, rows * K, options);
    write_panel(p, j, W.data(), 0, static_cast<int>(rows));
  });
}

void CpuBackend::embedding_from_panels(float* x, const Panels& panels, const int32_t* ids, int64_t T) {
  const auto& p = static_cast<const CpuPanels&>(panels);
  pool_.run(static_cast<int>((T + 7) / 8), [&](int task) {
    for (int64_t t = int64_t{task} * 8; t < std::min<int64_t>(T, int64_t{task + 1} * 8); ++t) {
      const uint32_t* from = p.data + ids[t] / kPanel * p.stride() + ids[t] % kPanel;
      float* to = x + t * p.columns;
      for (int64_t k = 0; k < p.columns; ++k) {
        const uint32_t word = from[(p.pairs() ? k / 2 : k) * kPanel], bits = !p.pairs() ? word : k % 2 ? word & 0xffff0000u : word << 16;
        std::memcpy(to + k, &bits, sizeof bits);
      }
    }
  });
}

void CpuBackend::linear_forward(float* y, const float* x, const Panels& W, const float* bias, int64_t T) {
  const auto& p = static_cast<const CpuPanels&>(W);
  multiply({*kernels_.matmul, p.compute, T, p.rows, p.columns, {}, p.data, y, p.rows, false, bias, unpacked(p.compute)}, x, p.compute);
}

void CpuBackend::linear_backward_input(float* dx, const float* dy, const float* W, int64_t T, int64_t N, int64_t K, Compute compute,
                                       bool accumulate) {
  const Compute kept = multiplied(compute);
  uint32_t* b = scratch_b_.words(*this, panel_words(K, panel_steps(N, kept)));
  pack_columns(b, W, K, N, compute);
  multiply({*kernels_.matmul, kept, T, K, N, {}, b, dx, K, accumulate, nullptr}, dy, compute);
}

void CpuBackend::panels_backward_input(float* dx, const float* dy, const Panels& W, int64_t T, bool accumulate) {
  rows_backward_input(dx, dy, static_cast<const CpuPanels&>(W), 0, W.rows, T, accumulate);
}

void CpuBackend::rows_backward_input(float* dx, const float* dy, const CpuPanels& p, int64_t first, int64_t n, int64_t T, bool accumulate) {
  const Compute kept = multiplied(p.compute);
  const int64_t K = p.columns, blocks = (K + kPanel - 1) / kPanel, steps = panel_steps(n, kept);
  const auto& kernels = *kernels_.matmul;
  uint32_t* b = scratch_b_.words(*this, panel_words(K, steps));
  // Each block of 48 x 48 turned over: panels along k become panels along n.
  pool_.run(static_cast<int>((n + kPanel - 1) / kPanel), [&](int task) {
    const int64_t row = int64_t{task} * kPanel;
    const int rows = static_cast<int>(std::min<int64_t>(kPanel, n - row));
    const uint32_t* from = p.data + (first + row) / kPanel * p.stride();
    for (int64_t k = 0; k < blocks; ++k) {
      const int columns = static_cast<int>(std::min<int64_t>(kPanel, K - k * kPanel));
      uint32_t* to = b + (k * steps + panel_steps(row, kept)) * kPanel;
      if (!p.pairs()) {
        kernels.pack_transposed(reinterpret_cast<float*>(to), kPanel, reinterpret_cast<const float*>(from + k * kPanel * kPanel), kPanel,
                                columns, rows);
        continue;
      }
      alignas(64) uint32_t words[kPanel * kPanel / 2];  // rows of bf16
      kernels.pack_transposed(reinterpret_cast<float*>(words), kPanel / 2, reinterpret_cast<const float*>(from + k * kPanel / 2 * kPanel),
                              kPanel, (columns + 1) / 2, kPanel);
      const auto* halves = reinterpret_cast<const uint16_t*>(words);
      if (kept == Compute::bf16) {
        kernels.interleave(to, halves, rows);
      } else {
        kernels.join(reinterpret_cast<float*>(to), halves, nullptr, int64_t{rows} * kPanel);
      }
    }
  });
  multiply({kernels, kept, T, K, n, {}, b, dx, K, accumulate, nullptr}, dy, p.compute);
}

void CpuBackend::linear_backward_weight(float* dW, float* dbias, const float* dy, const float* x, int64_t T, int64_t N, int64_t K,
                                        Compute compute) {
  const Compute kept = multiplied(compute);
  const int64_t tile = kernels_.matmul->rows;
  // Rows of dW are columns of dy. Where few panels multiply them they are read where they lie; else a thread packs a panel or two of them
  // just before, which stay in its own cache.
  const bool direct = compute == Compute::f32 && K <= 2 * kPanel;
  const int64_t tiles = (N + tile - 1) / tile, tasks = 4 * pool_.threads();
  const int64_t group = direct                               ? std::max<int64_t>(1, (tiles + tasks - 1) / tasks) * tile
                        : N > kPackColumns * pool_.threads() ? kPackColumns
                                                             : kPanel;
  for (int64_t t = 0; t < T; t += kDepth) {  // in pieces of one pass
    const int64_t n = std::min<int64_t>(kDepth, T - t), words = panel_steps(n, kept);
    uint32_t* a = direct ? nullptr : scratch_a_.words(*this, panel_words(N, words));
    uint32_t* b = scratch_b_.words(*this, panel_words(K, words));
    pack_columns(b, x + t * K, K, n, compute);
    const Rows rows = direct ? Rows{reinterpret_cast<const uint32_t*>(dy + t * N), 1, N, 0} : Rows{a, 1, kPanel, words * kPanel};
    const Product product{*kernels_.matmul, kept, N, K, n, rows, b, dW, K, true, nullptr};
    pool_.run(static_cast<int>((N + group - 1) / group), [&](int task, int thread) {
      const int64_t first = task * group, columns = std::min(group, N - first);
      if (!direct) pack_piece(a + panel_words(first, words), dy + t * N + first, N, columns, n, 0, n, compute);
      product.block(first / tile, (first + columns + tile - 1) / tile, 0, (K + kPanel - 1) / kPanel, 0, thread);
    });
  }
  if (!dbias) return;
  pool_.run(static_cast<int>((N + 63) / 64), [&](int task) {
    const int64_t first = int64_t{task} * 64, last = std::min(N, first + 64);
    for (int64_t t = 0; t < T; ++t)
      for (int64_t n = first; n < last; ++n) dbias[n] += dy[t * N + n];
  });
}

}  // namespace rank_grpo
