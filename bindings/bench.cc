// `rank-grpo bench`: the native measurements, on the engine thread.
#include "../native/bench/bench.h"
#include "addon.h"
#include "engine.h"

namespace rank_grpo {
namespace {

// Touched on the engine thread alone. The backend outlives what it measures.
struct HeldProbe {
  std::shared_ptr<CpuBackend> backend;
  std::unique_ptr<Probe> probe;
};

// { measure(), release() } around a Probe, which is made at the first measurement.
Napi::Value make_probe(const Napi::CallbackInfo& info) {
  const auto held = std::make_shared<HeldProbe>();
  auto measure = [held](const Napi::CallbackInfo& info) {
    return run_async<Bounds>(
        info.Env(),
        [held] {
          if (!held->backend) held->backend = Engine::instance().backend();
          if (!held->probe) held->probe = std::make_unique<Probe>(*held->backend);
          return held->probe->all();
        },
        [](Napi::Env env, Bounds& b) -> Napi::Value {
          auto out = Napi::Object::New(env);
          out.Set("readBytes", b.read);
          out.Set("updateBytes", b.update);
          out.Set("flopsF32", b.multiply_f32);
          out.Set("flopsBf16", b.multiply_bf16);
          return out;
        });
  };
  auto release = [held](const Napi::CallbackInfo& info) {
    return run_async<std::nullptr_t>(
        info.Env(),
        [held] {
          held->probe.reset();
          return nullptr;
        },
        [](Napi::Env env, std::nullptr_t) -> Napi::Value { return env.Undefined(); });
  };
  auto out = Napi::Object::New(info.Env());
  out.Set("measure", Napi::Function::New(info.Env(), measure));
  out.Set("release", Napi::Function::New(info.Env(), release));
  return out;
}

Napi::Value native_suite(const Napi::CallbackInfo& info) {
  const std::string suite = to_text(info[0], "suite");
  const double seconds = to_number(info[1], "seconds");
  if (!(seconds > 0 && seconds <= 60))
    throw Napi::RangeError::New(info.Env(), "Expected a number above 0, at most 60, for seconds, got " + describe(info[1]) + ".");
  if (suite != "matmul" && suite != "attention") type_error(info.Env(), "\"matmul\" or \"attention\"", "suite", info[0]);
  return run_async<std::vector<Measurement>>(
      info.Env(),
      [suite, seconds] {
        auto& backend = *Engine::instance().backend();
        return suite == "matmul" ? bench_matmul(backend, seconds) : bench_attention(backend, seconds);
      },
      [](Napi::Env env, std::vector<Measurement>& rows) -> Napi::Value {
        auto out = Napi::Array::New(env);
        for (const auto& m : rows) {
          auto row = Napi::Object::New(env);
          auto samples = Napi::Array::New(env), read = Napi::Array::New(env);
          for (double s : m.seconds) samples.Set(samples.Length(), s * 1e3);
          for (double b : m.read_bounds) read.Set(read.Length(), b);
          row.Set("name", m.name);
          row.Set("shape", m.shape);
          row.Set("dtype", m.dtype);
          row.Set("samplesMs", samples);
          row.Set("readBytes", read);
          if (m.extra_bytes >= 0) row.Set("extraMiB", m.extra_bytes / (1 << 20));
          row.Set("flops", m.flops);
          row.Set("bytes", m.bytes);
          row.Set("error", m.error);
          out.Set(out.Length(), row);
        }
        return out;
      });
}

}  // namespace

void define_bench(Napi::Env env, Napi::Object exports) {
  exports.Set("benchProbe", Napi::Function::New(env, make_probe));
  exports.Set("benchNative", Napi::Function::New(env, native_suite));
}

}  // namespace rank_grpo
