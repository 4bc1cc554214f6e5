// Tile kernels of attention; attention.cc splits the work and lays out pages.
#pragma once
#include <cstdint>

namespace rank_grpo {

constexpr int kTileRows = 8;      // query rows (token x head) of one tile
constexpr int kMaxHeadDim = 256;  // local buffers are sized by it

// One tile of queries that share a key/value head. Row r attends to positions 0 .. last[r].
struct AttentionTile {
  int rows;                       // 1 .. kTileRows
  const float* query[kTileRows];  // [D]
  float* out[kTileRows];          // [D]
  float* lse[kTileRows];          // one value each; null: not wanted
  int last[kTileRows];
};

// The gradient's tile: rows share one key block of at most kPageSize keys.
struct AttentionBackwardTile {
  int rows;
  const float* query[kTileRows];  // [D]
  const float* dout[kTileRows];   // [D]
  float* dquery[kTileRows];       // [Dp], +=
  float lse[kTileRows];
  float delta[kTileRows];  // dout . out
  int valid[kTileRows];    // keys of the block that the row sees, 0 .. kPageSize
};

struct AttentionKernels {
  // keys[p] [D][kPageSize] and values[p] [kPageSize][Dp] of page p, up to the page of the largest last[r]
  void (*forward)(const AttentionTile& tile, const float* const* keys, const float* const* values, int D, float scale);
  // kt, vt [D][kPageSize]; k, dk, dv [kPageSize][Dp]
  void (*backward)(const AttentionBackwardTile& tile, const float* kt, const float* vt, const float* k, float* dk, float* dv, int D,
                   float scale);
  float (*dot)(const float* a, const float* b, int n);
};

inline int padded(int D) { return (D + 15) / 16 * 16; }

}  // namespace rank_grpo
