// Matrix products from packed panels: tile kernels (one table per instruction set) and the panel layout.
#pragma once
#include <cstdint>

#include "../core/backend.h"
#include "../core/pool.h"

namespace rank_grpo {

constexpr int kPanel = 48;                               // columns of a B panel: three vectors
constexpr int kDepth = 768;                              // k steps of one pass over C, for any number of rows
constexpr int64_t kRowBlock = 128;                       // rows of A of a task: they stay in the second cache
constexpr int64_t kUnpacked = int64_t{kDepth} * kPanel;  // words of a panel that one pass takes apart

// Words along k of a column: floats, or pairs of bf16.
inline int64_t panel_steps(int64_t K, Compute compute) { return compute == Compute::bf16 ? (K + 1) / 2 : K; }

// B panels [ceil(N / 48)][K][48] f32, or pairs of bf16 [ceil(N / 48)][ceil(K / 2)][48][2]; zero padded.
class CpuPanels final : public Panels {
 public:
  CpuPanels(Backend& backend, int64_t N, int64_t K, Compute compute);
  ~CpuPanels() override;
  CpuPanels(const CpuPanels&) = delete;
  CpuPanels& operator=(const CpuPanels&) = delete;
  int64_t count() const { return (rows + kPanel - 1) / kPanel; }
  bool pairs() const { return compute == Compute::bf16; }
  int64_t stride() const { return panel_steps(columns, compute) * kPanel; }  // 4-byte words of a panel
  void keep_master();
  uint32_t* data;
  uint64_t version = 0;  // of what is in them: no two panels of a backend ever had the same
  // What rounding to bf16 took from the bits of each f32 value: bits = bf16 << 16 + rest. [rows, columns], null: not kept.
  int16_t* rest = nullptr;

 private:
  Backend& backend_;
};

// The left operand in 4-byte words along k (floats, in bf16 rounded ones; with a dot product pairs of bf16): row-major (step = 1), or in
// panels as the right operand (row = 1, step = 48, then the next panel), or columns of a matrix where they lie (row = 1, step = its row's
// length). For pairs of the right operand there are whole pairs of floats.
struct Rows {
  const uint32_t* data;
  int64_t row, step, panel;  // panel: words from one panel to the next, 0 where there are none
  int64_t first = 0;         // the row that lies at data
  const uint32_t* at(int64_t r) const { return panel ? data + r / kPanel * panel + r % kPanel : data + (r - first) * row; }
};

constexpr int kFewFactors = 8;  // of a word of B in a tile: no more, and memory is what it waits for

// What a tile prefetches: `step` bytes more at every step of k, in three streams `stream` bytes apart (0: in one, at most a line a step).
struct Ahead {
  const void* first;
  int step;
  int64_t stream;
  bool far;  // streams end in the second cache: more lines are under way, which is worth it where a line is multiplied by little
};

// One tile of C, at most MatmulKernels::rows x 48: C = (accumulate ? C : 0) + A B over `steps` words of k.
struct Tile {
  int rows, columns;
  int64_t steps;
  const uint32_t* A;
  int64_t row, step;  // as in Rows
  const uint32_t* B;  // [steps][48]; for pairs of bf16 without a dot product A has two words a step
  Ahead ahead;
  uint32_t* floats;  // [2 steps][48]: where the tile leaves the floats of B's pairs for the next ones; null: nowhere
  float* C;
  int64_t ldc;
  bool accumulate;
};

struct MatmulKernels {
  int rows;      // of a tile; divides 48
  bool dot;      // pairs of bf16 are multiplied as such; otherwise one half after the other, by floats
  bool streams;  // what is read next is brought in by three streams at a time (kStreams)
  void (*tile_f32)(const Tile& tile);
  void (*tile_bf16)(const Tile& tile);
  // x [n] to bf16 pairs [ceil(n / 2)], or to floats that hold bf16 values
  void (*to_pairs)(uint32_t* out, const float* x, int64_t n);
  void (*to_rounded)(float* out, const float* x, int64_t n);
  // Panels from X [K, columns]; `panel`: words from one to the next; `rounds`: to floats that hold bf16 values
  void (*pack)(float* out, int64_t panel, const float* x, int64_t ldx, int columns, int64_t K, bool rounds);
  void (*pack_bf16)(uint32_t* out, int64_t panel, const float* x, int64_t ldx, int columns, int64_t K);
  // One panel from W [columns, K], `width` wide: columns beyond are zero
  void (*pack_transposed)(float* out, int width, const float* x, int64_t ldx, int columns, int64_t K);
  void (*pack_transposed_bf16)(uint32_t* out, const float* x, int64_t ldx, int columns, int64_t K);
  // f32 values from the bits of bf16 ones and what rounding took (null: nothing), and that from f32 values
  void (*join)(float* out, const uint16_t* high, const int16_t* rest, int64_t n);
  void (*split)(int16_t* rest, const float* x, int64_t n);
  // Pairs of rows of bf16 [rows][48]: out [ceil(rows / 2)][48]
  void (*interleave)(uint32_t* out, const uint16_t* x, int rows);
};

// C [M, N] (+)= A B with K steps, both operands of one precision. The bits of an element depend on K alone: k ascends in
// passes of kDepth, whatever M, N and the split into tasks.
struct Product {
  const MatmulKernels& kernels;
  Compute compute;
  int64_t M, N, K;
  Rows A;
  const uint32_t* B;
  float* C;
  int64_t ldc;
  bool accumulate;
  const float* bias;  // [N] or null
  // Where pairs of B are multiplied by floats: [threads][kUnpacked], so that one tile of a panel's takes them apart for all. Null: each for
  // itself. Their order is the same.
  uint32_t* floats = nullptr;
  // Where a task makes the rows of A that it multiplies: floats [M, K] that they are made of, and room for [threads][kRowBlock] rows.
  const float* source = nullptr;
  uint32_t* made = nullptr;
  // Tile rows [i0, i1) x panels [j0, j1), on this thread; panel `next` is brought in during the last one.
  void block(int64_t i0, int64_t i1, int64_t j0, int64_t j1, int64_t next, int thread) const;
  void run(ThreadPool& pool) const;
};

}  // namespace rank_grpo
