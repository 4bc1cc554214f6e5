// One block's tile of a matrix product C [m, n] = sum over k of A(m, k) B(n, k), for linear layers and the head alike.
//
// The order of additions of every element, here and in any kernel that must give the same bits: k in chunks of kChunk; within a
// chunk one accumulator from 0, k ascending (f32: one fused product a step; bf16: one mma.m16n8k16 a step of 16); the chunks'
// sums added in ascending order to a total from 0. So neither the number of rows nor the tile a row falls into can be seen.
#pragma once
#include "kernel.h"

namespace rank_grpo {

constexpr int kTileThreads = 256;
constexpr int kTileDepth = 32;  // k steps of one pass through shared memory
constexpr int kChunk = 256;     // k steps of one accumulator: few rows spread their chunks over blocks

// Element (row, k): at row * stride + k where k lies contiguous, else at k * stride + row. `ids` (k contiguous only) picks rows.
template <class T, bool kDepthContiguous>
struct TileOperand {
  static constexpr bool kContiguous = kDepthContiguous;
  using Type = T;
  const T* data;
  int64_t stride, rows, depth;
  const int32_t* ids = nullptr;

  __device__ __forceinline__ const T* at(int64_t row, int64_t k) const {
    if constexpr (kDepthContiguous) return data + (ids ? int64_t{ids[row]} : row) * stride + k;
    return data + k * stride + row;
  }
};

__device__ __forceinline__ void load_quad(float* to, const float* from) {
  const float4 v = *reinterpret_cast<const float4*>(from);
  to[0] = v.x;
  to[1] = v.y;
  to[2] = v.z;
  to[3] = v.w;
}
__device__ __forceinline__ void load_quad(float* to, const uint16_t* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  to[0] = __uint_as_float(v.x << 16);
  to[1] = __uint_as_float(v.x & 0xffff0000u);
  to[2] = __uint_as_float(v.y << 16);
  to[3] = __uint_as_float(v.y & 0xffff0000u);
}

// ROWS x kTileDepth elements of an operand on their way from memory to shared memory: four at a time, zero beyond the edges.
template <int ROWS, class Source>
struct Passage {
  static constexpr int kQuads = ROWS * kTileDepth / 4 / kTileThreads;
  float quads[kQuads][4];

  // Where quad i of this thread lies in the tile.
  __device__ __forceinline__ static void place(int i, int& row, int& k) {
    const int q = static_cast<int>(threadIdx.x) + i * kTileThreads;
    if constexpr (Source::kContiguous) {
      row = q / (kTileDepth / 4);
      k = q % (kTileDepth / 4) * 4;
    } else {
      row = q % (ROWS / 4) * 4;
      k = q / (ROWS / 4);
    }
  }
  __device__ __forceinline__ void fetch(const Source& source, int64_t row0, int64_t k0) {
    GPU_UNROLL
    for (int i = 0; i < kQuads; ++i) {
      int r, d;
      place(i, r, d);
      const int64_t row = row0 + r, k = k0 + d;
      constexpr int along_row = Source::kContiguous ? 0 : 3, along_k = Source::kContiguous ? 3 : 0;
      const bool inside = row + along_row < source.rows && k + along_k < source.depth;
      if (inside && (reinterpret_cast<uintptr_t>(source.at(row, k)) & (4 * sizeof(typename Source::Type) - 1)) == 0) {
        load_quad(quads[i], source.at(row, k));
        continue;
      }
      GPU_UNROLL
      for (int j = 0; j < 4; ++j) {
        const int64_t rj = row + (Source::kContiguous ? 0 : j), kj = k + (Source::kContiguous ? j : 0);
        quads[i][j] = rj < source.rows && kj < source.depth ? as_float(*source.at(rj, kj)) : 0.f;
      }
    }
  }
  template <class Store>
  __device__ __forceinline__ void store(Store&& put) const {
    GPU_UNROLL
    for (int i = 0; i < kQuads; ++i) {
      int r, k;
      place(i, r, k);
      put(r, k, quads[i]);
    }
  }
};

// f32: 64 x 128, 4 x 8 elements a thread. Shared tiles are [k][row], so that a thread reads its rows as float4.
struct TileF32 {
  static constexpr int kRows = 64, kColumns = 128;
  static constexpr int kStrideA = kRows + 4, kStrideB = kColumns + 4;
  static constexpr size_t kShared = size_t{kTileDepth} * (kStrideA + kStrideB) * sizeof(float);
  float total[4][8];

  template <class A, class B>
  __device__ void multiply(const A& a, const B& b, int64_t m0, int64_t n0, unsigned char* shared) {
    float* sa = reinterpret_cast<float*>(shared);
    float* sb = sa + kTileDepth * kStrideA;
    const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
    Passage<kRows, A> pa;
    Passage<kColumns, B> pb;
    float sum[4][8];
    GPU_UNROLL
    for (int i = 0; i < 4; ++i) {
      GPU_UNROLL
      for (int j = 0; j < 8; ++j) total[i][j] = sum[i][j] = 0.f;
    }
    pa.fetch(a, m0, 0);
    pb.fetch(b, n0, 0);
    for (int64_t k0 = 0; k0 < a.depth; k0 += kTileDepth) {
      pa.store([&](int r, int k, const float* v) { put<A::kContiguous>(sa, kStrideA, r, k, v); });
      pb.store([&](int r, int k, const float* v) { put<B::kContiguous>(sb, kStrideB, r, k, v); });
      __syncthreads();
      if (k0 + kTileDepth < a.depth) {
        pa.fetch(a, m0, k0 + kTileDepth);
        pb.fetch(b, n0, k0 + kTileDepth);
      }
      GPU_UNROLL
      for (int k = 0; k < kTileDepth; ++k) {
        float x[4], y[8];
        load_quad(x, sa + k * kStrideA + ty * 4);
        load_quad(y, sb + k * kStrideB + tx * 4);
        load_quad(y + 4, sb + k * kStrideB + 64 + tx * 4);
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
          GPU_UNROLL
          for (int j = 0; j < 8; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
        }
      }
      __syncthreads();
      if ((k0 + kTileDepth) % kChunk == 0 || k0 + kTileDepth >= a.depth) {
        GPU_UNROLL
        for (int i = 0; i < 4; ++i) {
          GPU_UNROLL
          for (int j = 0; j < 8; ++j) {
            total[i][j] += sum[i][j];
            sum[i][j] = 0.f;
          }
        }
      }
    }
  }

  // f(row, column, value) of every element that this thread holds; row and column count from the tile's corner.
  template <class F>
  __device__ __forceinline__ void each(F&& f) const {
    const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
    GPU_UNROLL
    for (int i = 0; i < 4; ++i) {
      GPU_UNROLL
      for (int j = 0; j < 8; ++j) f(ty * 4 + i, (j < 4 ? 0 : 60) + tx * 4 + j, total[i][j]);
    }
  }

 private:
  template <bool kContiguous>
  __device__ __forceinline__ static void put(float* tile, int stride, int row, int k, const float* v) {
    GPU_UNROLL
    for (int j = 0; j < 4; ++j) tile[(k + (kContiguous ? j : 0)) * stride + row + (kContiguous ? 0 : j)] = v[j];
  }
};

// bf16 operands, f32 sums on the tensor cores: 128 x 128, eight warps of 64 x 32. Shared tiles are [row][k]; a stride of 40 keeps
// the eight rows of a fragment in different banks.
struct TileBf16 {
  static constexpr int kRows = 128, kColumns = 128;
  static constexpr int kStride = kTileDepth + 8;
  static constexpr int kM = 4, kN = 4;  // mma tiles of a warp
  static constexpr size_t kShared = size_t{kRows + kColumns} * kStride * sizeof(uint16_t);
  float total[kM][kN][4];

  template <class A, class B>
  __device__ void multiply(const A& a, const B& b, int64_t m0, int64_t n0, unsigned char* shared) {
    uint16_t* sa = reinterpret_cast<uint16_t*>(shared);
    uint16_t* sb = sa + kRows * kStride;
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
    Passage<kRows, A> pa;
    Passage<kColumns, B> pb;
    float sum[kM][kN][4];
    GPU_UNROLL
    for (int i = 0; i < kM; ++i) {
      GPU_UNROLL
      for (int j = 0; j < kN; ++j) {
        GPU_UNROLL
        for (int e = 0; e < 4; ++e) total[i][j][e] = sum[i][j][e] = 0.f;
      }
    }
    pa.fetch(a, m0, 0);
    pb.fetch(b, n0, 0);
    for (int64_t k0 = 0; k0 < a.depth; k0 += kTileDepth) {
      pa.store([&](int r, int k, const float* v) { put<A::kContiguous>(sa, r, k, v); });
      pb.store([&](int r, int k, const float* v) { put<B::kContiguous>(sb, r, k, v); });
      __syncthreads();
      if (k0 + kTileDepth < a.depth) {
        pa.fetch(a, m0, k0 + kTileDepth);
        pb.fetch(b, n0, k0 + kTileDepth);
      }
      GPU_UNROLL
      for (int k = 0; k < kTileDepth; k += 16) {
        uint32_t fa[kM][4], fb[kN][2];
        GPU_UNROLL
        for (int i = 0; i < kM; ++i) {
          const uint16_t* at = sa + (warp_row() + i * 16 + g) * kStride + k + 2 * t;
          fa[i][0] = pair(at);
          fa[i][1] = pair(at + 8 * kStride);
          fa[i][2] = pair(at + 8);
          fa[i][3] = pair(at + 8 * kStride + 8);
        }
        GPU_UNROLL
        for (int j = 0; j < kN; ++j) {
          const uint16_t* at = sb + (warp_column() + j * 8 + g) * kStride + k + 2 * t;
          fb[j][0] = pair(at);
          fb[j][1] = pair(at + 8);
        }
        GPU_UNROLL
        for (int i = 0; i < kM; ++i) {
          GPU_UNROLL
          for (int j = 0; j < kN; ++j) mma_bf16(sum[i][j], fa[i], fb[j]);
        }
      }
      __syncthreads();
      if ((k0 + kTileDepth) % kChunk == 0 || k0 + kTileDepth >= a.depth) {
        GPU_UNROLL
        for (int i = 0; i < kM; ++i) {
          GPU_UNROLL
          for (int j = 0; j < kN; ++j) {
            GPU_UNROLL
            for (int e = 0; e < 4; ++e) {
              total[i][j][e] += sum[i][j][e];
              sum[i][j][e] = 0.f;
            }
          }
        }
      }
    }
  }

  template <class F>
  __device__ __forceinline__ void each(F&& f) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
    GPU_UNROLL
    for (int i = 0; i < kM; ++i) {
      GPU_UNROLL
      for (int j = 0; j < kN; ++j) {
        GPU_UNROLL
        for (int e = 0; e < 4; ++e) f(warp_row() + i * 16 + g + e / 2 * 8, warp_column() + j * 8 + 2 * t + e % 2, total[i][j][e]);
      }
    }
  }

 private:
  __device__ __forceinline__ static int warp_row() { return static_cast<int>(threadIdx.x) / kWarp / 4 * (kM * 16); }
  __device__ __forceinline__ static int warp_column() { return static_cast<int>(threadIdx.x) / kWarp % 4 * (kN * 8); }
  __device__ __forceinline__ static uint32_t pair(const uint16_t* p) { return *reinterpret_cast<const uint32_t*>(p); }
  template <bool kContiguous>
  __device__ __forceinline__ static void put(uint16_t* tile, int row, int k, const float* v) {
    if constexpr (kContiguous) {
      uint2 packed;
      packed.x = to_bf16(v[0]) | static_cast<unsigned>(to_bf16(v[1])) << 16;
      packed.y = to_bf16(v[2]) | static_cast<unsigned>(to_bf16(v[3])) << 16;
      *reinterpret_cast<uint2*>(tile + row * kStride + k) = packed;
    } else {
      GPU_UNROLL
      for (int j = 0; j < 4; ++j) tile[(row + j) * kStride + k] = to_bf16(v[j]);
    }
  }
};

// Corner of this block's tile: bands of sixteen row tiles pass all columns, so that both operands stay in the second-level cache.
struct TileCorner {
  int64_t m, n;
};
template <class Tile>
__device__ __forceinline__ TileCorner tile_corner(int64_t M, int64_t N) {
  constexpr int64_t band = 16;
  const int64_t rows = (M + Tile::kRows - 1) / Tile::kRows, columns = (N + Tile::kColumns - 1) / Tile::kColumns;
  const int64_t flat = blockIdx.x, first = flat / (band * columns) * band, height = smaller_of(band, rows - first);
  const int64_t inner = flat % (band * columns);
  return {(first + inner % height) * Tile::kRows, inner / height * Tile::kColumns};
}
template <class Tile>
dim3 tile_grid(int64_t M, int64_t N) {
  return dim3(static_cast<unsigned>((M + Tile::kRows - 1) / Tile::kRows * ((N + Tile::kColumns - 1) / Tile::kColumns)));
}

}  // namespace rank_grpo
