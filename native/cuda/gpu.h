// What every kernel file includes, and nothing else of CUDA: under nvcc the runtime and a checked launch on a stream of our own,
// elsewhere the shim, where the same source runs one fiber per CUDA thread (shim.h).
//
// Rules of the house, so that the shim and a device give the same bits: compiled with --fmad=false (a fused product is written
// fmaf), f32 exponentials come from math.h, and no kernel reads a value whose order of additions depends on the launch.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "../core/error.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
#define GPU_SHARED(type, name, count) __shared__ type name[count]
#define GPU_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#define GPU_UNROLL _Pragma("unroll")
#else
#include "shim.h"
#define GPU_UNROLL
#endif

namespace rank_grpo {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr size_t kStaticShared = size_t{48} << 10;  // beyond it a kernel has to ask

// Turns a CUDA error into ours. An allocation says so itself, with the size (memory.cu); all else means the device is lost.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // a failed call must not be reported again by the next one
  fail(error == cudaErrorMemoryAllocation ? "OUT_OF_MEMORY" : "NO_DEVICE",
       std::string("Expected the GPU to finish ") + what + ", got \"" + cudaGetErrorString(error) +
           (error == cudaErrorMemoryAllocation ? "\". Lower microBatchTokens, maxRows or activationMiB, or use bf16 compute."
                                               : "\". Run on the CPU (device: cpu), or start the process again."));
}

// kernel<<<grid, block, shared, stream>>>(arguments...), checked. An empty grid is no launch.
template <class... Parameters, class... Arguments>
void launch(const char* name, cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#ifdef __CUDACC__
  if (shared > kStaticShared)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), name);
  kernel<<<grid, block, shared, stream>>>(static_cast<Parameters>(arguments)...);
#else
  shim::launch(stream, name, grid, block, shared, [=] { kernel(static_cast<Parameters>(arguments)...); });
#endif
  check(cudaGetLastError(), name);
}

inline unsigned blocks_of(int64_t count, int64_t per_block) { return static_cast<unsigned>((count + per_block - 1) / per_block); }

}  // namespace rank_grpo
