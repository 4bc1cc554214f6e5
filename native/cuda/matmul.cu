// Linear layers forward and backward, all through the tiles of tile.h. f32 products are f32 throughout (never TF32).
#include "matmul.h"

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

__global__ void to_bf16_kernel(uint16_t* __restrict__ out, const float* __restrict__ W, int64_t N, int64_t K, int64_t stride) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < N * stride) out[i] = i % stride < K ? to_bf16(W[i / stride * K + i % stride]) : uint16_t{0};
}

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
  if (p.bf16)
    launch("pack", stream_, to_bf16_kernel, dim3(blocks_of(p.rows * p.stride(), kTileThreads)), dim3(kTileThreads), 0, p.bf16, W, p.rows,
           p.columns, p.stride());
}

void CudaBackend::linear_forward(float* y, const float* x, const Panels& W, const float* bias, int64_t T) {
  const auto& p = static_cast<const CudaPanels&>(W);
  const Operand<float, true> a{x, p.columns, T, p.columns};
  if (p.bf16) {
    product<TileBf16>(stream_, "linear_forward", y, a, p.bf16_rows(), bias, false);
  } else {
    product<TileF32>(stream_, "linear_forward", y, a, p.f32_rows(), bias, false);
  }
}

void CudaBackend::linear_backward_input(float* dx, const float* dy, const float* W, int64_t T, int64_t N, int64_t K, Compute compute,
                                        bool accumulate) {
  const Operand<float, true> a{dy, N, T, N};
  const Operand<float, false> b{W, K, K, N};
  product(compute, stream_, "linear_backward_input", dx, a, b, accumulate);
}

void CudaBackend::linear_backward_weight(float* dW, float* dbias, const float* dy, const float* x, int64_t T, int64_t N, int64_t K,
                                         Compute compute) {
  const Operand<float, false> a{dy, N, N, T}, b{x, K, K, T};
  product(compute, stream_, "linear_backward_weight", dW, a, b, true);
  if (dbias) add_column_sums(dbias, dy, T, N);
}

}  // namespace rank_grpo
