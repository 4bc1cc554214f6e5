// Host memory as a device: large blocks come straight from the system with huge pages (10 % faster products), zeroed.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../core/error.h"
#include "../core/host.h"
#include "backend.h"

namespace rank_grpo {
namespace {

constexpr size_t kMapped = size_t{1} << 20;  // blocks of this size and more are mapped

[[noreturn]] void out_of_memory(size_t bytes, size_t available) {
  fail("OUT_OF_MEMORY", "Expected " + std::to_string(bytes >> 20) + " MiB of free memory, got " + std::to_string(available >> 20) +
                            " MiB. Lower microBatchTokens, maxRows or activationMiB, or use bf16 compute.");
}

}  // namespace

void* CpuBackend::allocate(size_t bytes) {
  if (bytes == 0) bytes = 64;
  if (bytes >= kMapped) {
    const size_t available = bytes >= (kMapped << 6) ? free_host_bytes() : SIZE_MAX;
    if (bytes > available) out_of_memory(bytes, available);
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) out_of_memory(bytes, free_host_bytes());
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
  }
  const size_t rounded = (bytes + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, rounded);
  if (!p) out_of_memory(bytes, free_host_bytes());
  std::memset(p, 0, rounded);
  return p;
}

size_t CpuBackend::available_bytes() const { return free_host_bytes(); }

void CpuBackend::release(void* pointer, size_t bytes) noexcept {
  if (!pointer) return;
  if (bytes >= kMapped) {
    munmap(pointer, bytes);
  } else {
    std::free(pointer);
  }
}

void CpuBackend::upload(void* device, const void* host, size_t bytes) {
  if (bytes) std::memcpy(device, host, bytes);
}
void CpuBackend::download(void* host, const void* device, size_t bytes) {
  if (bytes) std::memcpy(host, device, bytes);
}
void CpuBackend::copy(void* to, const void* from, size_t bytes) {
  if (bytes) std::memcpy(to, from, bytes);
}
void CpuBackend::zero(void* device, size_t bytes) {
  constexpr size_t range = size_t{1} << 20;
  pool_.run(static_cast<int>((bytes + range - 1) / range), [&](int i) {
    const size_t first = static_cast<size_t>(i) * range;
    std::memset(static_cast<char*>(device) + first, 0, std::min(range, bytes - first));
  });
}

uint32_t* Scratch::words(Backend& backend, int64_t count) {
  const size_t bytes = static_cast<size_t>(count) * 4;
  if (bytes > bytes_) {
    free(backend);
    data_ = backend.allocate(bytes);
    bytes_ = bytes;
  }
  return static_cast<uint32_t*>(data_);
}

void Scratch::free(Backend& backend) noexcept {
  backend.release(data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

CpuBackend::~CpuBackend() { free_scratch(); }

void CpuBackend::free_scratch() noexcept {
  for (Scratch* scratch : {&scratch_a_, &scratch_b_, &scratch_floats_, &scratch_h_, &scratch_attention_, &scratch_logits_, &scratch_rows_})
    scratch->free(*this);
  few_.free(*this);
}

std::unique_ptr<Backend> make_cpu_backend(int threads) { return std::make_unique<CpuBackend>(threads); }

}  // namespace rank_grpo
