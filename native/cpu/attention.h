// Tile kernels of attention; attention.cc splits the work and lays out pages.
#pragma once
#include <cstdint>

#include "../core/backend.h"

namespace rank_grpo {

constexpr int kTileRows = 8;      // query rows (token x head) whose sums a tile keeps at hand together
constexpr int kSharedRows = 24;   // of a tile that reads pages for all of them
constexpr int kMaxHeadDim = 256;  // local buffers are sized by it

// One tile of queries that share a key/value head. Row r attends to positions 0 .. last[r] of its sequence. Rows of one sequence lie side
// by side; sequences that begin with the same pages read those together.
struct AttentionTile {
  const float *keys, *values;         // of page 0 and this head, in words: see AttentionKernels
  int64_t page;                       // words from one page to the next
  const int32_t* table[kSharedRows];  // the sequence's pages, up to that of its largest last[r]; one pointer for all rows of a sequence
  int shared;                         // first pages that all tables have in common and every row sees whole
  int rows;                           // 1 .. kSharedRows
  int height;                         // rows that are taken together, at most kTileRows: whole sequences where there are several
  const float* query[kSharedRows];    // [D]
  float* out[kSharedRows];            // [D]
  float* lse[kSharedRows];            // one value each; null: not wanted
  int last[kSharedRows];
};

// The gradient's tile, over any number of key blocks.
struct AttentionBackwardTile {
  int rows;
  const float* query[kTileRows];  // [D]
  const float* dout[kTileRows];   // [D]
  float* dquery[kTileRows];       // [D], written
  float lse[kTileRows];
  float delta[kTileRows];  // dout . out
  int last[kTileRows];     // position
};

// At most kPageSize keys at consecutive positions.
struct KeyBlock {
  const float *kt, *vt;  // [D][kPageSize]
  const float* k;        // [kPageSize][Dp]
  float *dk, *dv;        // [kPageSize][Dp], +=
  int first, keys;       // position of the first, count
};

// Pages of floats: keys [D][kPageSize], values [kPageSize][Dp]. Pages of pairs of bf16: keys [ceil(D / 2)][kPageSize][2], values
// [kPageSize / 2][Dp][2], and queries are rounded too, with a dot product of pairs also weights. The gradient takes blocks of floats, which
// hold what the pages held.
struct AttentionKernels {
  struct {
    // Keys first .. first + count of a page of one head from rows of k and v, `ld` floats apart
    void (*write)(float* keys, float* values, int first, int count, const float* k, const float* v, int64_t ld, int D);
    void (*forward)(const AttentionTile& tile, int D, float scale);
    void (*backward)(const AttentionBackwardTile& tile, const KeyBlock* blocks, int count, int D, float scale);
  } floats, pairs;
  float (*dot)(const float* a, const float* b, int n);
};

inline int padded(int D) { return (D + 15) / 16 * 16; }

}  // namespace rank_grpo
