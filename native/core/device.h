// Which devices there are, which can be used, and the backend of one of them. A device is a run-time answer: a build with CUDA
// also loads where there is no driver, and a build without it says so.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"

namespace rank_grpo {

// exact: the promises of backend.h. fast: large products may go to the vendor's library, whose order of additions is its own; a row's bits may then
// depend on its batch. Backends that have no such library, the CPU's among them, are exact either way.
enum class Determinism { exact, fast };

struct DeviceStatus {
  std::string device;        // "cpu" or "cuda"
  std::string reason;        // why it cannot be used; empty where it can
  std::string name;          // what the hardware calls itself; empty where unknown
  int64_t memory_bytes = 0;  // of its own; 0 where unknown or shared with the host
  std::string fast;          // what multiplies in the fast mode; empty where the device cannot be used or there is but one mode
  bool usable() const { return reason.empty(); }
};

std::vector<DeviceStatus> list_devices();

// "cpu", "cuda" (NO_DEVICE with the reason where it cannot be used), or "auto": cuda where it can be used, else cpu.
std::string resolve_device(const std::string& device);
std::unique_ptr<Backend> make_backend(const std::string& device, int threads, Determinism determinism = Determinism::exact);

// native/cuda; absent from a build without CUDA
DeviceStatus cuda_device();
std::string cuda_fast();  // DeviceStatus::fast
std::unique_ptr<Backend> make_cuda_backend(Determinism determinism = Determinism::exact);

}  // namespace rank_grpo
