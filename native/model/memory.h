// Owned memory: one block of a device's or, for what visits it, of the host's; and an arena that hands out pieces of one block pass after pass.
#pragma once
#include <cstdint>
#include <utility>

#include "../core/backend.h"

namespace rank_grpo {

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(Backend& backend, size_t bytes) : backend_(&backend), data_(backend.allocate(bytes)), bytes_(bytes) {}
  static DeviceBuffer on_host(Backend& backend, size_t bytes) {  // of Backend::allocate_host
    DeviceBuffer buffer;
    buffer.data_ = backend.allocate_host(bytes);
    buffer.backend_ = &backend;
    buffer.bytes_ = bytes;
    buffer.on_host_ = true;
    return buffer;
  }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer() {
    if (!data_) return;
    if (on_host_) {
      backend_->release_host(data_, bytes_);
    } else {
      backend_->release(data_, bytes_);
    }
  }
  float* floats() const { return static_cast<float*>(data_); }
  int32_t* ints() const { return static_cast<int32_t*>(data_); }
  void* data() const { return data_; }
  bool on_host() const { return on_host_; }
  size_t bytes() const { return bytes_; }
  size_t growth(size_t bytes) const { return bytes > bytes_ ? bytes - bytes_ : 0; }  // of reserve(bytes)
  // At least `bytes`, contents lost where it grows. The old block goes first: both never exist together.
  void reserve(Backend& backend, size_t bytes) {
    if (bytes <= bytes_) return;
    *this = DeviceBuffer();
    *this = DeviceBuffer(backend, bytes);
  }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(backend_, other.backend_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(on_host_, other.on_host_);
  }
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  size_t bytes_ = 0;
  bool on_host_ = false;
};

// Pieces of a block that grows only between passes: plan with `Arena(nullptr)`, reserve `used()`, then take again.
class Arena {
 public:
  explicit Arena(float* base) : base_(base) {}
  float* take(int64_t floats) {
    const int64_t start = used_;
    used_ += (floats + 15) / 16 * 16;
    return base_ ? base_ + start : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  float* base_;
  int64_t used_ = 0;
};

}  // namespace rank_grpo
