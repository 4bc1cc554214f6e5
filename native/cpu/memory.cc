// Host memory as a device: large blocks come straight from the system with huge pages (10 % faster products), zeroed.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "../core/error.h"
#include "backend.h"

namespace rank_grpo {
namespace {

constexpr size_t kMapped = size_t{1} << 20;  // blocks of this size and more are mapped

// A number behind `key` in a file of "key: number" lines, or the file's only number; SIZE_MAX where there is none ("max").
size_t read_number(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string word, rest;
  if (key.empty()) {
    size_t value;
    return file >> value ? value : SIZE_MAX;
  }
  for (size_t value; file >> word >> value; std::getline(file, rest))
    if (word == key) return value;
  return SIZE_MAX;
}

// Linux promises more memory than there is and kills later; so ask first: the machine, and the group of processes that shares a limit.
size_t available_memory() {
  const size_t machine = read_number("/proc/meminfo", "MemAvailable:");
  size_t free = machine == SIZE_MAX ? SIZE_MAX : machine * 1024;
  const size_t limit = read_number("/sys/fs/cgroup/memory.max", ""), used = read_number("/sys/fs/cgroup/memory.current", "");
  const size_t cache = read_number("/sys/fs/cgroup/memory.stat", "inactive_file");  // given back when needed
  if (limit != SIZE_MAX && used != SIZE_MAX && cache != SIZE_MAX)
    free = std::min(free, limit - std::min(limit, used - std::min(used, cache)));
  return free;
}

[[noreturn]] void out_of_memory(size_t bytes, size_t available) {
  fail("OUT_OF_MEMORY", "Expected " + std::to_string(bytes >> 20) + " MiB of free memory, got " + std::to_string(available >> 20) +
                            " MiB. Lower microBatchTokens, maxRows or activationMiB, or use bf16 compute.");
}

}  // namespace

int64_t CpuBackend::available_bytes() const { return static_cast<int64_t>(std::min<size_t>(available_memory(), INT64_MAX)); }

void* CpuBackend::allocate(size_t bytes) {
  if (bytes == 0) bytes = 64;
  if (bytes >= kMapped) {
    const size_t available = bytes >= (kMapped << 6) ? available_memory() : SIZE_MAX;
    if (bytes > available) out_of_memory(bytes, available);
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) out_of_memory(bytes, available_memory());
    madvise(p, bytes, MADV_HUGEPAGE);
    return p;
  }
  const size_t rounded = (bytes + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, rounded);
  if (!p) out_of_memory(bytes, available_memory());
  std::memset(p, 0, rounded);
  return p;
}

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
void CpuBackend::copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
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

CpuBackend::~CpuBackend() {
  for (Scratch* scratch : {&scratch_a_, &scratch_b_, &scratch_h_, &scratch_attention_, &scratch_logits_, &scratch_few_, &scratch_rows_})
    scratch->free(*this);
}

std::unique_ptr<Backend> make_cpu_backend(int threads) { return std::make_unique<CpuBackend>(threads); }

}  // namespace rank_grpo
