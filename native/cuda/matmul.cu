// Linear layers forward and backward, all through the tiles of tile.h but for large ones in the fast mode, which go to cuBLAS. f32 products are
// f32 throughout (never TF32).
#include "matmul.h"

#include <algorithm>
#include <climits>

#include "cublas.h"

namespace rank_grpo {
namespace {

template <class Tile, class A, class B>
__global__ void __launch_bounds__(kTileThreads)
    matmul_kernel(float* __restrict__ C, A a, B b, const float* __restrict__ bias, bool accumulate) {
  GPU_DYNAMIC_SHARED(shared);
  const TileCorner corner = tile_corner<Tile>(a.rows, b.rows);
  Tile tile;
  tile.multiply(a, b, corner.m, corner.n, shared);
  tile.each([&](int row, int column, float value) {
    const int64_t m = corner.m + row, n = corner.n + column;
    if (m >= a.rows || n >= b.rows) return;
    float* c = C + m * b.rows + n;
    if (bias) value += bias[n];
    *c = accumulate ? *c + value : value;
  });
}

// -- few rows (decoding): the chunks of k go to blocks of their own, so that every processor reads weights; then their sums are added in
// the order of tile.h. The same bits as the tiles, at the speed of reading the weights once.

constexpr int kFewRowsBf16 = 64, kFewRowsF32 = 32;
constexpr int kFewColumnsBf16 = kTileThreads / kWarp * 8, kFewColumnsF32 = kWarp;
constexpr int kChunkStride = kChunk + 8;  // of a row of x in shared memory: the eight rows of a fragment in different banks

// partial [chunks][rows][N]: a warp eight columns, its weights straight from memory, all of the chunk's loads in flight at once.
__global__ void __launch_bounds__(kTileThreads)
    few_rows_bf16_kernel(float* __restrict__ partial, const float* __restrict__ x, int rows, TileOperand<uint16_t, true> W) {
  GPU_DYNAMIC_SHARED(shared);
  uint16_t* sx = reinterpret_cast<uint16_t*>(shared);  // [rows up to 16][kChunkStride]
  const int tid = static_cast<int>(threadIdx.x), lane = tid % kWarp, g = lane / 4, t = lane % 4, K = static_cast<int>(W.depth);
  const int k0 = static_cast<int>(blockIdx.y) * kChunk, tiles = (rows + 15) / 16;
  const int64_t n = int64_t{blockIdx.x} * kFewColumnsBf16 + tid / kWarp * 8 + g;
  uint32_t weights[kChunk / 8];
  GPU_UNROLL
  for (int i = 0; i < kChunk / 8; ++i) {  // rows are padded with zeros to a multiple of 8
    const int k = k0 + i * 8 + 2 * t;
    weights[i] = n < W.rows && k < W.stride ? *reinterpret_cast<const uint32_t*>(W.at(n, k)) : 0u;
  }
  for (int r = tid / kWarp; r < tiles * 16; r += kTileThreads / kWarp)
    for (int k = lane; k < kChunk; k += kWarp)
      sx[r * kChunkStride + k] = r < rows && k0 + k < K ? to_bf16(x[int64_t{r} * K + k0 + k]) : uint16_t{0};
  __syncthreads();
  for (int tile = 0; tile < tiles; ++tile) {
    float sum[4] = {0.f, 0.f, 0.f, 0.f};
    GPU_UNROLL
    for (int i = 0; i < kChunk / 16; ++i) {
      if (k0 + i * 16 < K) {  // as many steps as the tiles take
        const uint16_t* at = sx + (tile * 16 + g) * kChunkStride + i * 16 + 2 * t;
        const uint32_t a[4] = {*reinterpret_cast<const uint32_t*>(at), *reinterpret_cast<const uint32_t*>(at + 8 * kChunkStride),
                               *reinterpret_cast<const uint32_t*>(at + 8), *reinterpret_cast<const uint32_t*>(at + 8 * kChunkStride + 8)};
        mma_bf16(sum, a, weights + 2 * i);
      }
    }
    const int64_t column = int64_t{blockIdx.x} * kFewColumnsBf16 + tid / kWarp * 8 + 2 * t;
    GPU_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int row = tile * 16 + g + e / 2 * 8;
      if (row < rows && column + e % 2 < W.rows) partial[(int64_t{blockIdx.y} * rows + row) * W.rows + column + e % 2] = sum[e];
    }
  }
}

// The same in f32: a lane a column, four rows a warp.
__global__ void __launch_bounds__(kTileThreads)
    few_rows_f32_kernel(float* __restrict__ partial, const float* __restrict__ x, int rows, TileOperand<float, true> W) {
  constexpr int kStep = 64, kRowsOfWarp = kFewRowsF32 * kWarp / kTileThreads;
  GPU_SHARED(float, sw, kStep*(kFewColumnsF32 + 1));
  GPU_SHARED(float, sx, kFewRowsF32* kStep);
  const int tid = static_cast<int>(threadIdx.x), lane = tid % kWarp, warp = tid / kWarp, K = static_cast<int>(W.depth);
  const int end = smaller_of(K, (static_cast<int>(blockIdx.y) + 1) * kChunk);
  const int64_t n0 = int64_t{blockIdx.x} * kFewColumnsF32;
  float sum[kRowsOfWarp];
  GPU_UNROLL
  for (int i = 0; i < kRowsOfWarp; ++i) sum[i] = 0.f;
  for (int k0 = static_cast<int>(blockIdx.y) * kChunk; k0 < end; k0 += kStep) {
    for (int i = tid; i < kStep * kFewColumnsF32; i += kTileThreads) {
      const int c = i / kStep, k = i % kStep;
      sw[k * (kFewColumnsF32 + 1) + c] = n0 + c < W.rows && k0 + k < end ? *W.at(n0 + c, k0 + k) : 0.f;
    }
    for (int i = tid; i < kStep * kFewRowsF32; i += kTileThreads) {
      const int r = i / kStep, k = i % kStep;
      sx[i] = r < rows && k0 + k < end ? x[int64_t{r} * K + k0 + k] : 0.f;
    }
    __syncthreads();
    for (int k = 0; k < kStep; ++k) {
      const float w = sw[k * (kFewColumnsF32 + 1) + lane];
      GPU_UNROLL
      for (int i = 0; i < kRowsOfWarp; ++i) sum[i] = fmaf(sx[(warp * kRowsOfWarp + i) * kStep + k], w, sum[i]);
    }
    __syncthreads();
  }
  GPU_UNROLL
  for (int i = 0; i < kRowsOfWarp; ++i) {
    const int row = warp * kRowsOfWarp + i;
    if (row < rows && n0 + lane < W.rows) partial[(int64_t{blockIdx.y} * rows + row) * W.rows + n0 + lane] = sum[i];
  }
}

__global__ void add_chunks_kernel(float* __restrict__ y, const float* __restrict__ partial, const float* __restrict__ bias, int chunks,
                                  int64_t count, int64_t N) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float total = 0.f;
  for (int c = 0; c < chunks; ++c) total += partial[c * count + i];
  y[i] = bias ? total + bias[i % N] : total;
}

__global__ void to_bf16_kernel(uint16_t* __restrict__ out, const float* __restrict__ W, int64_t N, int64_t K, int64_t stride) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < N * stride) out[i] = i % stride < K ? to_bf16(W[i / stride * K + i % stride]) : uint16_t{0};
}

__global__ void from_bf16_kernel(float* __restrict__ W, const uint16_t* __restrict__ x, int64_t N, int64_t K, int64_t stride) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < N * K) W[i] = from_bf16(x[i / K * stride + i % K]);
}

// One block a row.
__global__ void gather_bf16_kernel(float* __restrict__ y, const uint16_t* __restrict__ x, const int32_t* __restrict__ rows, int64_t K,
                                   int64_t stride) {
  const uint16_t* from = x + int64_t{rows[blockIdx.x]} * stride;
  for (int64_t k = threadIdx.x; k < K; k += blockDim.x) y[int64_t{blockIdx.x} * K + k] = from_bf16(from[k]);
}

__global__ void fill_rows_kernel(float* __restrict__ y, const float* __restrict__ row, int64_t count, int64_t N) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < count) y[i] = row[i % N];
}

// Multiply-adds from which a product is worth a call of cuBLAS.
constexpr int64_t kLargeProduct = int64_t{1} << 22;

template <class Tile, class A, class B>
void product(cudaStream_t stream, const char* name, float* C, const A& a, const B& b, const float* bias, bool accumulate) {
  launch(name, stream, matmul_kernel<Tile, A, B>, tile_grid<Tile>(a.rows, b.rows), dim3(kTileThreads), Tile::kShared, C, a, b, bias,
         accumulate);
}
template <class A, class B>
void product(Compute compute, cudaStream_t stream, const char* name, float* C, const A& a, const B& b, bool accumulate) {
  if (compute == Compute::bf16) {
    product<TileBf16>(stream, name, C, a, b, nullptr, accumulate);
  } else {
    product<TileF32>(stream, name, C, a, b, nullptr, accumulate);
  }
}

}  // namespace

CudaPanels::CudaPanels(Backend& backend, int64_t N, int64_t K, Compute compute) : Panels(N, K, compute), backend_(backend) {
  if (compute == Compute::bf16)
    bf16 = static_cast<uint16_t*>(backend.allocate(static_cast<size_t>(N * ((K + 7) / 8 * 8)) * sizeof(uint16_t)));
}
CudaPanels::~CudaPanels() { backend_.release(bf16, bytes()); }

std::unique_ptr<Panels> CudaBackend::make_panels(int64_t N, int64_t K, Compute compute) {
  return std::make_unique<CudaPanels>(*this, N, K, compute);
}

void CudaBackend::pack(Panels& panels, const float* W) {
  auto& p = static_cast<CudaPanels&>(panels);
  p.f32 = W;
  if (p.bf16) pack_rows(p, W, 0, p.rows);
}

// -- the fast mode

Factor CudaBackend::in_type(DeviceScratch& scratch, const Factor& x, int64_t rows, int64_t K, Compute type) {
  if (x.type == type) return x;
  const int64_t lines = x.depth_contiguous ? rows : K, length = x.depth_contiguous ? K : rows, stride = (length + 7) / 8 * 8;
  auto* bits = scratch.reserve<uint16_t>(lines * stride);
  launch("to_bf16", stream_, to_bf16_kernel, dim3(blocks_of(lines * stride, kTileThreads)), dim3(kTileThreads), 0, bits,
         static_cast<const float*>(x.data), lines, length, stride);
  return {bits, type, x.depth_contiguous, stride};
}

bool CudaBackend::fast_product(float* C, const Factor& a, const Factor& b, const float* bias, int64_t M, int64_t N, int64_t K,
                               Compute compute, bool accumulate) {
  if (!cublas_ || M * N * K < kLargeProduct || std::max({M, N, K, a.stride, b.stride}) > INT_MAX) return false;
  if (bias) launch("bias", stream_, fill_rows_kernel, dim3(blocks_of(M * N, kTileThreads)), dim3(kTileThreads), 0, C, bias, M * N, N);
  cublas_->multiply(C, in_type(fast_a_, a, M, K, compute), in_type(fast_b_, b, N, K, compute), M, N, K, accumulate || bias);
  return true;
}

// -- panels that hold all there is of a weight: bf16, and nothing beside it

void CudaBackend::pack_rows(Panels& panels, const float* W, int64_t first, int64_t count) {
  auto& p = static_cast<CudaPanels&>(panels);
  launch("pack", stream_, to_bf16_kernel, dim3(blocks_of(count * p.stride(), kTileThreads)), dim3(kTileThreads), 0,
         p.bf16 + first * p.stride(), W, count, p.columns, p.stride());
}
void CudaBackend::widen_rows(float* W, const uint16_t* x, int64_t N, int64_t K, int64_t stride) {
  launch("widen", stream_, from_bf16_kernel, dim3(blocks_of(N * K, kTileThreads)), dim3(kTileThreads), 0, W, x, N, K, stride);
}
void CudaBackend::unpack_rows(float* W, const Panels& panels, int64_t first, int64_t count) {
  const auto& p = static_cast<const CudaPanels&>(panels);
  widen_rows(W, p.bf16 + first * p.stride(), count, p.columns, p.stride());
}
void CudaBackend::embedding_from_panels(float* x, const Panels& panels, const int32_t* ids, int64_t T) {
  const auto& p = static_cast<const CudaPanels&>(panels);
  launch("embedding_from_panels", stream_, gather_bf16_kernel, dim3(static_cast<unsigned>(T)), dim3(kTileThreads), 0, x, p.bf16, ids,
         p.columns, p.stride());
}
void CudaBackend::panels_backward_input(float* dx, const float* dy, const Panels& panels, int64_t T, bool accumulate) {
  rows_backward_input(dx, dy, static_cast<const CudaPanels&>(panels), 0, panels.rows, T, accumulate);
}
void CudaBackend::rows_backward_input(float* dx, const float* dy, const CudaPanels& p, int64_t first, int64_t n, int64_t T,
                                      bool accumulate) {
  if (fast_product(dx, {dy, Compute::f32, true, n}, {p.bf16 + first * p.stride(), Compute::bf16, false, p.stride()}, nullptr, T, p.columns,
                   n, Compute::bf16, accumulate))
    return;
  const TileOperand<float, true> a{dy, n, T, n};
  const TileOperand<uint16_t, false> b{p.bf16 + first * p.stride(), p.stride(), p.columns, n};
  product<TileBf16>(stream_, "linear_backward_input", dx, a, b, nullptr, accumulate);
}

void CudaBackend::linear_forward(float* y, const float* x, const Panels& W, const float* bias, int64_t T) {
  const auto& p = static_cast<const CudaPanels&>(W);
  if (T == 0) return;
  if (T <= (p.bf16 ? kFewRowsBf16 : kFewRowsF32)) {
    const unsigned chunks = blocks_of(p.columns, kChunk);
    const int rows = static_cast<int>(T);
    float* partial = partial_.reserve<float>(chunks * T * p.rows);
    if (p.bf16) {
      launch("linear_few_rows", stream_, few_rows_bf16_kernel, dim3(blocks_of(p.rows, kFewColumnsBf16), chunks), dim3(kTileThreads),
             static_cast<size_t>((rows + 15) / 16 * 16 * kChunkStride) * sizeof(uint16_t), partial, x, rows, p.bf16_rows());
    } else {
      launch("linear_few_rows", stream_, few_rows_f32_kernel, dim3(blocks_of(p.rows, kFewColumnsF32), chunks), dim3(kTileThreads), 0,
             partial, x, rows, p.f32_rows());
    }
    launch("linear_few_rows", stream_, add_chunks_kernel, dim3(blocks_of(T * p.rows, kTileThreads)), dim3(kTileThreads), 0, y, partial,
           bias, static_cast<int>(chunks), T * p.rows, p.rows);
    return;
  }
  const Factor weights = p.bf16 ? Factor{p.bf16, Compute::bf16, true, p.stride()} : Factor{p.f32, Compute::f32, true, p.stride()};
  if (fast_product(y, {x, Compute::f32, true, p.columns}, weights, bias, T, p.rows, p.columns, p.compute, false)) return;
  const TileOperand<float, true> a{x, p.columns, T, p.columns};
  if (p.bf16) {
    product<TileBf16>(stream_, "linear_forward", y, a, p.bf16_rows(), bias, false);
  } else {
    product<TileF32>(stream_, "linear_forward", y, a, p.f32_rows(), bias, false);
  }
}

void CudaBackend::linear_backward_input(float* dx, const float* dy, const float* W, int64_t T, int64_t N, int64_t K, Compute compute,
                                        bool accumulate) {
  if (fast_product(dx, {dy, Compute::f32, true, N}, {W, Compute::f32, false, K}, nullptr, T, K, N, compute, accumulate)) return;
  const TileOperand<float, true> a{dy, N, T, N};
  const TileOperand<float, false> b{W, K, K, N};
  product(compute, stream_, "linear_backward_input", dx, a, b, accumulate);
}

void CudaBackend::linear_backward_weight(float* dW, float* dbias, const float* dy, const float* x, int64_t T, int64_t N, int64_t K,
                                         Compute compute) {
  if (!fast_product(dW, {dy, Compute::f32, false, N}, {x, Compute::f32, false, K}, nullptr, N, K, T, compute, true)) {
    const TileOperand<float, false> a{dy, N, N, T}, b{x, K, K, T};
    product(compute, stream_, "linear_backward_weight", dW, a, b, true);
  }
  if (dbias) add_column_sums(dbias, dy, T, N);
}

}  // namespace rank_grpo
