// The addon's entry: one Environment per JavaScript environment, no other state.
#include "addon.h"

#include "engine.h"
#include "../native/core/device.h"
#include "../native/cpu/kernels.h"
#include "../native/model/checkpoint.h"

#ifndef RANK_GRPO_VERSION
#error "Define RANK_GRPO_VERSION as the version of package.json: src/native.ts refuses an addon of another one."
#endif

namespace rank_grpo {
namespace {

Napi::Value device_info(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto out = Napi::Object::New(env);
  try {
    const Kernels& kernels = select_kernels();
    out.Set("device", "cpu");
    out.Set("isa", kernels.name);
  } catch (const Error& error) {
    throw to_js_error(env, error.code(), error.what());
  }
  out.Set("threads", Engine::instance().threads());
  auto devices = Napi::Array::New(env);
  for (const DeviceStatus& status : list_devices()) {
    auto device = Napi::Object::New(env);
    device.Set("device", status.device);
    device.Set("usable", status.usable());
    if (!status.usable()) device.Set("reason", status.reason);
    if (!status.name.empty()) device.Set("name", status.name);
    if (!status.fast.empty()) device.Set("fast", status.fast);
    if (status.memory_bytes) device.Set("memoryBytes", static_cast<double>(status.memory_bytes));
    devices.Set(devices.Length(), device);
  }
  out.Set("devices", devices);
  return out;
}

void set_threads(const Napi::CallbackInfo& info) {
  try {
    Engine::instance().set_threads(static_cast<int>(to_integer(info[0], "threads", 1, 256)));
  } catch (const Error& error) {
    throw to_js_error(info.Env(), error.code(), error.what());
  }
}

// Reads what stands around the weights (config, tokenizer); the file is mapped, its weights are not touched.
Napi::Value checkpoint_metadata(const Napi::CallbackInfo& info) {
  return run_async<std::string>(
      info.Env(), [path = to_path(info[0], "path")] { return Checkpoint::open(path)->metadata_json(); },
      [](Napi::Env env, std::string& json) -> Napi::Value { return Napi::String::New(env, json); });
}

}  // namespace

}  // namespace rank_grpo

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  using namespace rank_grpo;
  auto environment = std::make_unique<Environment>();
  environment->outlet = open_outlet(env);
  env.SetInstanceData(environment.release());  // the environment deletes it
  exports.Set("version", RANK_GRPO_VERSION);
  exports.Set("deviceInfo", Napi::Function::New(env, device_info, "deviceInfo"));
  exports.Set("setThreads", Napi::Function::New(env, set_threads, "setThreads"));
  exports.Set("checkpointMetadata", Napi::Function::New(env, checkpoint_metadata, "checkpointMetadata"));
  define_policy(env, exports);
  define_catalog(env, exports);
  define_kernels(env, exports);
  define_bench(env, exports);
  define_demonstrate(env, exports);
  return exports;
}

NODE_API_MODULE(rank_grpo, initialize)
