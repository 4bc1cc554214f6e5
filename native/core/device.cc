// See device.h.
#include "device.h"

#include "error.h"

namespace rank_grpo {
namespace {

DeviceStatus cuda_status() {
#ifdef RANK_GRPO_CUDA
  return cuda_device();
#else
  return {"cuda", "this build has no CUDA (build with RANK_GRPO_CUDA=ON and nvcc)", "", 0, ""};
#endif
}

}  // namespace

std::vector<DeviceStatus> list_devices() {
  std::vector<DeviceStatus> devices{{"cpu", "", "", 0, ""}, cuda_status()};
#ifdef RANK_GRPO_CUDA
  if (devices[1].usable()) devices[1].fast = cuda_fast();
#endif
  return devices;
}

std::string resolve_device(const std::string& device) {
  expect(device == "auto" || device == "cpu" || device == "cuda", "\"auto\", \"cpu\" or \"cuda\"", "device", "\"" + device + "\"");
  if (device == "cpu") return device;
  const DeviceStatus cuda = cuda_status();
  if (cuda.usable()) return "cuda";
  if (device == "auto") return "cpu";
  fail("NO_DEVICE", "Expected a usable GPU for device cuda, got none: " + cuda.reason + ". Use device cpu or auto.");
}

std::unique_ptr<Backend> make_backend(const std::string& device, int threads, Determinism determinism) {
#ifdef RANK_GRPO_CUDA
  if (resolve_device(device) == "cuda") return make_cuda_backend(determinism);
#else
  resolve_device(device);
  static_cast<void>(determinism);
#endif
  return make_cpu_backend(threads);
}

}  // namespace rank_grpo
