// Device functions that several kernels share: the one f32 exponential, bf16, warp and block reductions in fixed order, and the
// tensor-core product of one warp.
#pragma once
#include "gpu.h"

namespace rank_grpo {

constexpr float kNegativeInfinity = -__builtin_huge_valf();

// Of a NaN and a number the number, whichever stands first: lanes that change places must come to one answer.
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ float at_least(float x, float floor) { return x < floor ? floor : x; }  // NaN stays
template <class T>
__host__ __device__ constexpr T smaller_of(T a, T b) {
  return a < b ? a : b;
}
template <class T>
__host__ __device__ constexpr T larger_of(T a, T b) {
  return a > b ? a : b;
}

// e^x for x <= 100 (infinite from 88.8 on), the polynomial and order of native/cpu/vec.h; relative error 7.7e-8. Below -104 it is 0;
// -infinity gives 0, NaN stays NaN.
__device__ __forceinline__ float exp_f32(float x) {
  x = at_least(x, -110.f);
  const float n = rintf(x * 1.44269504088896341f);
  float r = fmaf(-n, 0.693359375f, x);
  r = fmaf(-n, -2.12194440e-4f, r);
  float p = 0x1.6a23d0p-10f;
  p = fmaf(p, r, 0x1.123a20p-7f);
  p = fmaf(p, r, 0x1.5558f2p-5f);
  p = fmaf(p, r, 0x1.555492p-3f);
  p = fmaf(p, r, 0x1.fffffcp-2f);
  p = fmaf(p, r, 1.f);
  p = fmaf(p, r, 1.f);
  // 2^n as two factors, so that results below 2^-126 come out denormal
  const int i = n == n ? static_cast<int>(n) : 0, half = i >> 1;
  return p * __uint_as_float(static_cast<unsigned>(half + 127) << 23) * __uint_as_float(static_cast<unsigned>(i - half + 127) << 23);
}

// Below -89 e^-x is infinite and the sigmoid exactly 0, so that x sigmoid(x) is 0 for the largest negative x too.
__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + exp_f32(-at_least(x, -100.f))); }

// bf16 bits, rounded to nearest even; NaN stays NaN.
__device__ __forceinline__ uint16_t to_bf16(float x) {
  const unsigned u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
__device__ __forceinline__ float from_bf16(uint16_t x) { return __uint_as_float(static_cast<unsigned>(x) << 16); }
__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(uint16_t x) { return from_bf16(x); }

// Trees over the lanes of a warp: every lane gets the same bits.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  GPU_UNROLL
  for (int offset = 16; offset; offset >>= 1) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  GPU_UNROLL
  for (int offset = 16; offset; offset >>= 1) x = larger(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

// The same over a block of whole warps; `scratch` holds one T a warp. Ends with a barrier, so scratch may be used again.
template <class T, class Combine>
__device__ T block_reduce(T x, T* scratch, T identity, Combine combine) {
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5, warps = static_cast<int>(blockDim.x) >> 5;
  GPU_UNROLL
  for (int offset = 16; offset; offset >>= 1) x = combine(x, __shfl_xor_sync(kAllLanes, x, offset));
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = identity;
  for (int w = 0; w < warps; ++w) x = combine(x, scratch[w]);
  __syncthreads();
  return x;
}
template <class T>
__device__ T block_sum(T x, T* scratch) {
  return block_reduce(x, scratch, T(0), [](T a, T b) { return a + b; });
}

// D [16, 8] += A [16, 16] B [16, 8] on a warp; bf16 pairs, f32 sums. Registers as PTX documents mma.m16n8k16: with g = lane / 4 and
// t = lane % 4, a = {A[g][2t..], A[g + 8][2t..], A[g][2t + 8..], A[g + 8][2t + 8..]}, b = {B[2t..][g], B[2t + 8..][g]},
// d = {D[g][2t], D[g][2t + 1], D[g + 8][2t], D[g + 8][2t + 1]}.
#ifdef __CUDACC__
__device__ __forceinline__ void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#else
inline void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  char* own = static_cast<char*>(shim::exchange_slot(shim::lane(), true));
  std::memcpy(own, a, 16);
  std::memcpy(own + 16, b, 8);
  shim::wait(shim::Wait::mma, kAllLanes);
  auto half = [](int lane, int word, int upper) {
    uint32_t pair;
    std::memcpy(&pair, static_cast<char*>(shim::exchange_slot(lane, false)) + 4 * word, 4);
    return __uint_as_float(upper ? pair & 0xffff0000u : pair << 16);
  };
  const int g = shim::lane() / 4, t = shim::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + i / 2 * 8, column = 2 * t + i % 2;
    for (int k = 0; k < 16; ++k)
      d[i] += half(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2) * half(column * 4 + k % 8 / 2, 4 + k / 8, k % 2);
  }
}
#endif

}  // namespace rank_grpo
