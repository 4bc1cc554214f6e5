// Matrix products from packed panels: tile kernels (one table per instruction set) and the panel layout.
#pragma once
#include <cstdint>

#include "../core/backend.h"
#include "../core/pool.h"

namespace rank_grpo {

constexpr int kPanel = 48;   // columns of a B panel: three vectors
constexpr int kRows = 8;     // rows of an A panel
constexpr int kDepth = 768;  // k steps of one pass over C: a B panel's slice stays in the first-level cache

// B panels [ceil(N / 48)][K][48] f32, or pairs of bf16 [ceil(N / 48)][ceil(K / 2)][48][2]; zero padded.
class CpuPanels final : public Panels {
 public:
  CpuPanels(Backend& backend, int64_t N, int64_t K, Compute compute, bool pairs);
  ~CpuPanels() override;
  CpuPanels(const CpuPanels&) = delete;
  CpuPanels& operator=(const CpuPanels&) = delete;
  int64_t count() const { return (rows + kPanel - 1) / kPanel; }
  int64_t stride() const { return pairs ? (columns + 1) / 2 * kPanel : columns * kPanel; }  // 4-byte words of a panel
  const bool pairs;  // bf16 pairs; otherwise floats (bf16-rounded where compute asks for it)
  uint32_t* data;

 private:
  Backend& backend_;
};

// C tile [rows, 48] = (accumulate ? C : 0) + A panel . B panel; A [steps][8], B [steps][48]; a step is one k, or two in bf16.
// columns < 48: only these are read and written.
struct MatmulKernels {
  void (*tile_f32)(int rows, int64_t steps, const float* A, const float* B, float* C, int64_t ldc, int columns, bool accumulate);
  void (*tile_bf16)(int rows, int64_t steps, const uint32_t* A, const uint32_t* B, float* C, int64_t ldc, int columns, bool accumulate);
  // A panels of `rows` rows: from row-major x [rows, K] (distance lda), or from x [K, rows] transposed
  void (*pack_a)(float* out, const float* x, int64_t lda, int rows, int64_t K, bool transposed, bool round);
  void (*pack_a_bf16)(uint32_t* out, const float* x, int64_t lda, int rows, int64_t K, bool transposed);
  // one B panel of up to 48 columns: from W [columns, K] row-major (transposed), or from X [K, columns]
  void (*pack_b)(float* out, const float* x, int64_t ldb, int columns, int64_t K, bool transposed, bool round);
  void (*pack_b_bf16)(uint32_t* out, const float* x, int64_t ldb, int columns, int64_t K, bool transposed);
};

// C [M, N] (+)= A B with K steps, both operands in panels of one precision.
struct Product {
  const MatmulKernels& kernels;
  bool pairs;
  int64_t M, N, K;
  const uint32_t *A, *B;
  float* C;
  int64_t ldc;
  bool accumulate;
  int64_t steps() const { return pairs ? (K + 1) / 2 : K; }
  void block(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const;  // A panels [i0, i1) x B panels [j0, j1), on this thread
  void run(ThreadPool& pool) const;
};

}  // namespace rank_grpo
