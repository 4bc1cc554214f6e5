// CUDA kernels on the host, for tests: every CUDA thread is a fiber, a block runs at a time. It checks what a device would not
// tell: a barrier or shuffle that some threads never reach, a shuffle from an absent lane, and (with AddressSanitizer) every
// access out of bounds, shared memory included. Shared and allocated memory starts as NaN. `schedule` permutes the order in
// which threads run between two barriers, so that a missing barrier gives wrong numbers.
//
// Not shown: time, wgmma, TMA, memory order between blocks.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define GPU_SHARED(type, name, count) type* const name = static_cast<type*>(shim::shared_array(__COUNTER__, sizeof(type) * (count)))
#define GPU_DYNAMIC_SHARED(name) unsigned char* const name = shim::dynamic_shared()

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float4 {
  float x, y, z, w;
};
struct uint2 {
  unsigned x, y;
};
struct uint4 {
  unsigned x, y, z, w;
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// -- the part of the CUDA runtime that native/cuda calls; memory is the host's
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
using cudaStream_t = struct ShimStream*;
constexpr unsigned cudaStreamNonBlocking = 1;
struct cudaDeviceProp {
  char name[256];
  size_t totalGlobalMem;
  int major, minor, multiProcessorCount;
};
cudaError_t cudaMalloc(void** pointer, size_t bytes);
cudaError_t cudaFree(void* pointer);
constexpr unsigned cudaHostRegisterDefault = 0;
cudaError_t cudaHostRegister(void* pointer, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void* pointer);
// An error where a pointer that should be the device's is not of cudaMalloc, or one of the host's is.
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
// Graphs: what is launched while a stream records runs when the graph is launched; a transfer to or from the host, or an allocation,
// meanwhile is an error, as is what depends on it.
using cudaGraph_t = struct ShimGraph*;
using cudaGraphExec_t = struct ShimGraph*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal = 0, cudaStreamCaptureModeThreadLocal = 1, cudaStreamCaptureModeRelaxed = 2 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

namespace shim {

// What a test may set. One thread launches at a time.
struct Settings {
  unsigned schedule = 0;                   // 0: threads in order; else the seed of their permutations
  size_t memory_limit = size_t{64} << 30;  // bytes that cudaMalloc gives in all
  cudaError_t device_error = cudaSuccess;  // what cudaGetDeviceCount answers
  bool pinned = true;                      // whether cudaHostRegister works
  int devices = 1, major = 9, minor = 0, driver = 13000;
};
Settings& settings();
size_t allocated_bytes();
size_t pinned_blocks();
int64_t launches();
int64_t graph_launches();

enum class Wait : uint8_t { ready, block, shuffle, warp, mma, done };

void launch(cudaStream_t stream, const char* name, dim3 grid, dim3 block, size_t shared, const std::function<void()>& body);
void* shared_array(int key, size_t bytes);
unsigned char* dynamic_shared();
void wait(Wait kind, unsigned mask);  // until every thread of the block, or every lane of the mask, waits too
int lane();
void* exchange_slot(int lane, bool next);  // 32 bytes of a lane of this warp; `next`: begin a new exchange
int block_or(int predicate);
void require_lane(unsigned mask, int lane);

template <class T>
T exchange(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::memcpy(exchange_slot(lane(), true), &value, sizeof(T));
  wait(Wait::shuffle, mask);
  require_lane(mask, source & 31);
  T result;
  std::memcpy(&result, exchange_slot(source & 31, false), sizeof(T));
  return result;
}

}  // namespace shim

inline void __syncthreads() { shim::wait(shim::Wait::block, 0); }
inline int __syncthreads_or(int predicate) { return shim::block_or(predicate); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::wait(shim::Wait::warp, mask); }
template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return shim::exchange(mask, value, source);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int offset) {
  return shim::exchange(mask, value, shim::lane() ^ offset);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned offset) {
  const int l = shim::lane(), o = static_cast<int>(offset);
  return shim::exchange(mask, value, l >= o ? l - o : l);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned bits = 0;
  std::memcpy(shim::exchange_slot(shim::lane(), true), &predicate, sizeof predicate);
  shim::wait(shim::Wait::shuffle, mask);
  for (int l = 0; l < 32; ++l) {
    int other;
    std::memcpy(&other, shim::exchange_slot(l, false), sizeof other);
    if ((mask >> l & 1) && other) bits |= 1u << l;
  }
  return bits;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
template <class T>
T atomicAdd(T* p, T v) {
  const T old = *p;
  *p = static_cast<T>(old + v);
  return old;
}
inline unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
