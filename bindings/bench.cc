// `rank-grpo bench`: the native measurements, on the engine thread.
#include "../native/bench/bench.h"
#include "addon.h"
#include "engine.h"

namespace rank_grpo {
namespace {

Napi::Value probe(const Napi::CallbackInfo& info) {
  return run_async<Bounds>(
      info.Env(), [] { return probe_bounds(*Engine::instance().backend()); },
      [](Napi::Env env, Bounds& b) -> Napi::Value {
        auto out = Napi::Object::New(env);
        out.Set("readBytes", b.read);
        out.Set("updateBytes", b.update);
        out.Set("flopsF32", b.multiply_f32);
        out.Set("flopsBf16", b.multiply_bf16);
        return out;
      });
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
  exports.Set("benchProbe", Napi::Function::New(env, probe));
  exports.Set("benchNative", Napi::Function::New(env, native_suite));
}

}  // namespace rank_grpo
