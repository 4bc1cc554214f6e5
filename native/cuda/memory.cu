// Device memory, transfers, and which devices there are.
#include <cstdlib>
#include <cstring>
#include <string>

#include "../core/device.h"
#include "backend.h"
#include "cublas.h"

namespace rank_grpo {
namespace {

constexpr int kOldestMajor = 8;  // mma.sync on bf16 begins with sm_80
constexpr size_t kHostPage = 4096;
constexpr size_t kSmallScratch = size_t{1} << 20;
constexpr int64_t kCublasWorkspace = int64_t{32} << 20;  // what NVIDIA advises for Hopper

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

// Why device 0 cannot be used; empty where it can.
std::string refusal(std::string& name, int64_t& memory) {
  int count = 0, driver = 0, runtime = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    const std::string text = cudaGetErrorString(error);
    if (driver == 0) return "no NVIDIA driver (" + text + ")";
    if (driver / 1000 < runtime / 1000)
      return "the NVIDIA driver supports CUDA " + version(driver) + ", this build needs " + version(runtime) + " (" + text + ")";
    return text;
  }
  if (count == 0) return "the NVIDIA driver shows no GPU";
  cudaDeviceProp properties;
  const cudaError_t query = cudaGetDeviceProperties(&properties, 0);
  if (query != cudaSuccess) return cudaGetErrorString(query);
  name = properties.name;
  memory = static_cast<int64_t>(properties.totalGlobalMem);
  if (properties.major < kOldestMajor)
    return name + " has compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
           ", this build needs 8.0 or newer";
  return "";
}

}  // namespace

DeviceStatus cuda_device() {
  DeviceStatus status{"cuda", "", "", 0, ""};
  status.reason = refusal(status.name, status.memory_bytes);
  return status;
}

std::string cuda_fast() {
  std::string reason;
  const auto cublas = Cublas::open(reason);
  return cublas ? "cuBLAS " + cublas->version() : "own kernels, no cuBLAS (" + reason + ")";
}

std::unique_ptr<Backend> make_cuda_backend(Determinism determinism) { return std::make_unique<CudaBackend>(determinism); }

CudaBackend::CudaBackend(Determinism determinism) {
  std::string name;
  int64_t memory = 0;
  const std::string why = refusal(name, memory);
  if (!why.empty()) fail("NO_DEVICE", "Expected a usable GPU for device cuda, got none: " + why + ". Use device cpu or auto.");
  check(cudaSetDevice(0), "selecting the device");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  if (determinism == Determinism::exact) return;
  std::string reason;
  cublas_ = Cublas::open(reason);  // without it, own kernels: cuda_fast() says so
  if (cublas_) cublas_->attach(stream_, workspace_.reserve<unsigned char>(kCublasWorkspace), kCublasWorkspace);
}

CudaBackend::~CudaBackend() {
  forget_step();
  cudaStreamSynchronize(stream_);
  cublas_.reset();
  cudaStreamDestroy(stream_);
}

void* CudaBackend::allocate(size_t bytes) {
  forget_step();
  void* p = nullptr;
  const size_t rounded = (bytes + 255) / 256 * 256 + (bytes == 0 ? 256 : 0);
  const cudaError_t error = cudaMalloc(&p, rounded);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    fail("OUT_OF_MEMORY", "Expected " + std::to_string(rounded >> 20) + " MiB of free GPU memory, got " + std::to_string(free >> 20) +
                              " MiB of " + std::to_string(total >> 20) +
                              " MiB. Lower microBatchTokens, maxRows or activationMiB, or use bf16 compute.");
  }
  check(error, "an allocation");
  zero(p, rounded);
  return p;
}

size_t CudaBackend::available_bytes() const {
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "asking for free memory");
  return free;
}

// cudaFree waits for the work that uses the memory.
void CudaBackend::release(void* pointer, size_t) noexcept {
  if (!pointer) return;
  forget_step();
  cudaFree(pointer);
}

// Host memory is pageable: the call returns when it may be used again.
void CudaBackend::upload(void* device, const void* host, size_t bytes) {
  if (bytes) check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "an upload");
}
void CudaBackend::download(void* host, const void* device, size_t bytes) {
  if (bytes) check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "a download");
  check(cudaStreamSynchronize(stream_), "its work");
}
void CudaBackend::copy(void* to, const void* from, size_t bytes) {
  if (bytes) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "a copy");
}
void CudaBackend::zero(void* device, size_t bytes) {
  if (bytes) check(cudaMemsetAsync(device, 0, bytes, stream_), "clearing memory");
}

// Pinning may fail (a limit of the system's): then the memory stays as it is, and transfers are slower.
void* CudaBackend::allocate_host(size_t bytes) {
  const size_t rounded = (bytes + kHostPage - 1) / kHostPage * kHostPage + (bytes == 0 ? kHostPage : 0);
  void* p = std::aligned_alloc(kHostPage, rounded);
  if (!p) fail("OUT_OF_MEMORY", "Expected " + std::to_string(rounded >> 20) + " MiB of host memory, got none.");
  std::memset(p, 0, rounded);
  if (cudaHostRegister(p, rounded, cudaHostRegisterDefault) != cudaSuccess) cudaGetLastError();
  return p;
}
void CudaBackend::release_host(void* pointer, size_t) noexcept {
  if (!pointer) return;
  if (cudaHostUnregister(pointer) != cudaSuccess) cudaGetLastError();
  std::free(pointer);
}

// A small block doubles: what gains an entry now and then (the pages of a growing text) would else wait for the device and forget the
// recorded step each time.
void DeviceScratch::grow(size_t bytes) {
  if (bytes <= bytes_) return;
  if (bytes < kSmallScratch) bytes *= 2;
  backend_.release(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
  data_ = backend_.allocate(bytes);
  bytes_ = bytes;
}

const void* Uploaded::get_bytes(const void* values, size_t bytes) {
  const bool held = held_.size() == bytes && (bytes == 0 || std::memcmp(held_.data(), values, bytes) == 0);
  if (!held) held_.clear();  // before what may fail: memory that was given up for more holds nothing
  void* device = scratch_.reserve<unsigned char>(static_cast<int64_t>(bytes));
  if (held) return device;
  const auto* begin = static_cast<const unsigned char*>(values);
  backend_.upload(device, values, bytes);
  held_.assign(begin, begin + bytes);
  return device;
}

}  // namespace rank_grpo
