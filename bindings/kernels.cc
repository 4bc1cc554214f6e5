// `rank-grpo/kernels`: log-probs from logits and from hidden states, segment ratios and policy losses, without a model.
#include "../native/core/device.h"
#include "addon.h"
#include "engine.h"

namespace rank_grpo {

ObjectiveSpec read_objective(const Fields& f) {
  ObjectiveSpec spec;
  spec.rule = f.text("rule", "clip");
  const Napi::Value params = f.get("params");
  if (params.IsArray())
    for (uint32_t i = 0; i < params.As<Napi::Array>().Length(); ++i)
      spec.params.push_back(to_number(params.As<Napi::Array>().Get(i), "params"));
  const std::string spread = f.text("spread", "pooled"), pool = f.text("pool", "mean"), kl = f.text("kl", "k3");
  if (pool != "mean" && pool != "sum") type_error(params.Env(), "\"mean\" or \"sum\"", "pool", f.get("pool"));
  spec.pool = pool == "sum" ? Pool::sum : Pool::mean;
  if (spread != "pooled" && spread != "token") type_error(params.Env(), "\"pooled\" or \"token\"", "spread", f.get("spread"));
  spec.spread = spread == "token" ? Spread::token : Spread::pooled;
  if (kl != "k1" && kl != "k2" && kl != "k3") type_error(params.Env(), "\"k1\", \"k2\" or \"k3\"", "kl", f.get("kl"));
  spec.kl = kl == "k1" ? Kl::k1 : kl == "k2" ? Kl::k2 : Kl::k3;
  spec.kl_beta = f.number("klBeta", 0);
  spec.entropy_coef = f.number("entropyCoef", 0);
  return spec;
}

Napi::Object objective_to_js(Napi::Env env, const ObjectiveResult& r) {
  auto out = Napi::Object::New(env);
  out.Set("loss", r.loss);
  out.Set("policyLoss", r.policy_loss);
  out.Set("klSum", r.kl_sum);
  out.Set("entropySum", r.entropy_sum);
  out.Set("ratioMin", r.ratio_min);
  out.Set("ratioMax", r.ratio_max);
  out.Set("ratioSum", r.ratio_sum);
  out.Set("covered", static_cast<double>(r.covered));
  out.Set("segments", static_cast<double>(r.nonempty_segments));
  out.Set("clippedLow", static_cast<double>(r.clipped_low));
  out.Set("clippedHigh", static_cast<double>(r.clipped_high));
  out.Set("clippedDual", static_cast<double>(r.clipped_dual));
  out.Set("dlogp", from_vector(env, r.dlogp));
  if (!r.dentropy.empty()) out.Set("dentropy", from_vector(env, r.dentropy));
  out.Set("segmentLogRatio", from_vector(env, r.segment_log_ratio));
  out.Set("tokenLoss", from_vector(env, r.token_loss));
  out.Set("tokenKl", from_vector(env, r.token_kl));
  return out;
}

namespace {

[[noreturn]] void range_error(Napi::Env env, const std::string& what, const std::string& name, const std::string& got) {
  throw Napi::RangeError::New(env, "Expected " + what + " for " + name + ", got " + got + ".");
}

void expect_length(Napi::Env env, size_t got, size_t wanted, const char* name) {
  if (got != wanted) range_error(env, std::to_string(wanted) + " values", name, std::to_string(got));
}

void expect_indices(Napi::Env env, const std::vector<int32_t>& values, int64_t count, const char* name) {
  for (int32_t v : values)
    if (v < 0 || v >= count) range_error(env, "indices from 0 to " + std::to_string(count - 1), name, std::to_string(v));
}

void expect_finite(Napi::Env env, const std::vector<float>& values, const char* name) {
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i])) range_error(env, "finite numbers", name, std::to_string(values[i]) + " at " + std::to_string(i));
}

// Matrices are the caller's own memory, not copied: hence run_waiting. And they are read after every option: a getter of an options
// object is JavaScript, which could detach an array that was looked at before.

// f32 or bf16 bits
Operand read_matrix(const Napi::Value& v, const char* name, size_t& length) {
  Operand out;
  const auto type = v.IsTypedArray() ? v.As<Napi::TypedArray>().TypedArrayType() : napi_int8_array;
  if (type != napi_float32_array && type != napi_uint16_array)
    type_error(v.Env(), "a Float32Array, or a Uint16Array of bf16 bits", name, v);
  length = v.As<Napi::TypedArray>().ElementLength();
  if (type == napi_float32_array) out.f32 = v.As<Napi::Float32Array>().Data();
  if (type == napi_uint16_array) out.bf16 = v.As<Napi::Uint16Array>().Data();
  return out;
}

float* read_output(const Napi::Value& v, const char* name, size_t length) {
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) type_error(v.Env(), "a Float32Array", name, v);
  expect_length(v.Env(), v.As<Napi::TypedArray>().ElementLength(), length, name);
  return v.As<Napi::Float32Array>().Data();
}

// Outputs may not lie across other matrices: rows are worked on in any order. `in_place`: the very same f32 values are fine.
void expect_apart(Napi::Env env, const float* out, size_t length, const Operand& x, size_t x_length, const char* name, bool in_place) {
  const auto begin = reinterpret_cast<uintptr_t>(out), end = begin + length * 4;
  const auto other = x.bf16 ? reinterpret_cast<uintptr_t>(x.bf16) : reinterpret_cast<uintptr_t>(x.f32);
  const auto other_end = other + x_length * (x.bf16 ? 2 : 4);
  if (begin >= other_end || other >= end || (in_place && x.f32 == out)) return;
  range_error(env, in_place ? "memory of its own, or the f32 logits themselves," : "memory of its own", name,
              "memory that an input shares");
}

struct Forward {
  std::vector<float> logprob, entropy, lse;
  bool with_entropy = false;  // also of no rows
  Forward() = default;
  Forward(size_t n, bool entropies) : logprob(n), entropy(entropies ? n : 0), lse(n), with_entropy(entropies) {}
  float* entropies() { return entropy.empty() ? nullptr : entropy.data(); }
};

Napi::Value forward_to_js(Napi::Env env, Forward& out) {
  auto object = Napi::Object::New(env);
  object.Set("logprobs", from_vector(env, out.logprob));
  object.Set("logSumExp", from_vector(env, out.lse));
  if (out.with_entropy) object.Set("entropies", from_vector(env, out.entropy));
  return object;
}

// What a backward pass reads per row, lengths checked.
struct RowGradients {
  std::vector<float> lse, dlogprob, entropy, dentropy;
  RowGradients(Napi::Env env, const Fields& f, size_t rows)
      : lse(f.array<float>("logSumExp")),
        dlogprob(f.array<float>("dlogprobs")),
        entropy(f.array_or_empty<float>("entropies")),
        dentropy(f.array_or_empty<float>("dentropies")) {
    expect_length(env, lse.size(), rows, "logSumExp");
    expect_length(env, dlogprob.size(), rows, "dlogprobs");
    if (f.has("dentropies")) {
      expect_length(env, dentropy.size(), rows, "dentropies");
      expect_length(env, entropy.size(), rows, "entropies");
    }
  }
  const float* entropies() const { return dentropy.empty() ? nullptr : entropy.data(); }
  const float* dentropies() const { return dentropy.empty() ? nullptr : dentropy.data(); }
};

// logits [T, V] and targets [T], as both directions read them; `take` once all options are read.
struct LogitsCall {
  Operand logits;
  std::vector<int32_t> targets;
  Fields options;
  int64_t T, V;
  float temperature;
  std::string device;
  explicit LogitsCall(const Napi::CallbackInfo& info) : targets(to_vector<int32_t>(info[1], "targets")), options(info[2], "options") {
    T = static_cast<int64_t>(targets.size());
    V = to_integer(options.get("vocabulary"), "vocabulary", 1, 1 << 30);
    temperature = options.temperature();
    device = options.device();
    expect_indices(info.Env(), targets, V, "targets");
  }
  void take(const Napi::CallbackInfo& info) {
    size_t length = 0;
    logits = read_matrix(info[0], "logits", length);
    expect_length(info.Env(), length, static_cast<size_t>(T * V), "logits");
  }
};

Napi::Value logprob_forward(const Napi::CallbackInfo& info) {
  LogitsCall call(info);
  const bool entropy = call.options.boolean("entropies", false);
  call.take(info);
  return run_waiting<Forward>(
      info.Env(),
      [&call, entropy] {
        Forward out(call.targets.size(), entropy);
        Engine::instance()
            .backend(call.device)
            ->given_logits_forward(out.logprob.data(), out.entropies(), out.lse.data(), call.logits, call.targets.data(), call.T, call.V,
                                   call.temperature);
        return out;
      },
      forward_to_js);
}

Napi::Value logprob_backward(const Napi::CallbackInfo& info) {
  LogitsCall call(info);
  const RowGradients rows(info.Env(), call.options, call.targets.size());
  const Napi::Value out_array = call.options.get("out");
  call.take(info);
  const size_t length = static_cast<size_t>(call.T * call.V);
  float* out = read_output(out_array, "out", length);
  expect_apart(info.Env(), out, length, call.logits, length, "out", true);
  return run_waiting<int>(
      info.Env(),
      [&call, &rows, out] {
        Engine::instance()
            .backend(call.device)
            ->given_logits_backward(out, call.logits, call.targets.data(), rows.lse.data(), rows.entropies(), rows.dlogprob.data(),
                                    rows.dentropies(), call.T, call.V, call.temperature);
        return 0;
      },
      [](Napi::Env env, int&) -> Napi::Value { return env.Undefined(); });
}

// hidden [T, C] x head [V, C] and targets [T], as both directions read them; `take` once all options are read.
struct HeadCall {
  Operand hidden, head;
  std::vector<int32_t> targets;
  Fields options;
  int64_t T, C = 0, V;
  float temperature;
  std::string device, compute_name;
  explicit HeadCall(const Napi::CallbackInfo& info) : targets(to_vector<int32_t>(info[2], "targets")), options(info[3], "options") {
    T = static_cast<int64_t>(targets.size());
    V = to_integer(options.get("vocabulary"), "vocabulary", 1, 1 << 30);
    temperature = options.temperature();
    device = options.device();
    expect_indices(info.Env(), targets, V, "targets");
    compute_name = options.text("compute", "");
    if (!compute_name.empty() && compute_name != "f32" && compute_name != "bf16")
      type_error(info.Env(), "\"f32\" or \"bf16\"", "compute", options.get("compute"));
  }
  void take(const Napi::CallbackInfo& info) {
    size_t hidden_length = 0, head_length = 0;
    hidden = read_matrix(info[0], "hidden", hidden_length);
    head = read_matrix(info[1], "head", head_length);
    C = static_cast<int64_t>(head_length) / V;
    if (C == 0 || C * V != static_cast<int64_t>(head_length))
      range_error(info.Env(), "a multiple of " + std::to_string(V) + " values", "head", std::to_string(head_length));
    expect_length(info.Env(), hidden_length, static_cast<size_t>(T * C), "hidden");
  }
  Compute compute() const {  // bf16 where asked for, or where both matrices are and nothing is asked for
    return compute_name == "bf16" || (compute_name.empty() && hidden.bf16 && head.bf16) ? Compute::bf16 : Compute::f32;
  }
};

Napi::Value head_forward(const Napi::CallbackInfo& info) {
  HeadCall call(info);
  const bool entropy = call.options.boolean("entropies", false);
  call.take(info);
  return run_waiting<Forward>(
      info.Env(),
      [&call, entropy] {
        Forward out(call.targets.size(), entropy);
        Engine::instance()
            .backend(call.device)
            ->given_head_forward(out.logprob.data(), out.entropies(), out.lse.data(), call.hidden, call.head, call.targets.data(), call.T,
                                 call.C, call.V, call.temperature, call.compute());
        return out;
      },
      forward_to_js);
}

Napi::Value head_backward(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  HeadCall call(info);
  const RowGradients rows(env, call.options, call.targets.size());
  const Napi::Value dhidden_array = call.options.get("dhidden"), dhead_array = call.options.get("dhead");
  call.take(info);
  const size_t hidden_length = static_cast<size_t>(call.T * call.C), head_length = static_cast<size_t>(call.V * call.C);
  float* dhidden = read_output(dhidden_array, "dhidden", hidden_length);
  float* dhead = dhead_array.IsUndefined() || dhead_array.IsNull() ? nullptr : read_output(dhead_array, "dhead", head_length);
  expect_apart(env, dhidden, hidden_length, call.hidden, hidden_length, "dhidden", false);
  expect_apart(env, dhidden, hidden_length, call.head, head_length, "dhidden", false);
  if (dhead) {
    expect_apart(env, dhead, head_length, call.hidden, hidden_length, "dhead", false);
    expect_apart(env, dhead, head_length, call.head, head_length, "dhead", false);
    expect_apart(env, dhead, head_length, {dhidden, nullptr}, hidden_length, "dhead", false);
  }
  return run_waiting<int>(
      env,
      [&call, &rows, dhidden, dhead] {
        Engine::instance()
            .backend(call.device)
            ->given_head_backward(dhidden, dhead, call.hidden, call.head, call.targets.data(), rows.lse.data(), rows.entropies(),
                                  rows.dlogprob.data(), rows.dentropies(), call.T, call.C, call.V, call.temperature, call.compute());
        return 0;
      },
      [](Napi::Env e, int&) -> Napi::Value { return e.Undefined(); });
}

// CSR segments over `tokens` tokens, checked.
struct Segments {
  std::vector<int32_t> offsets, tokens;
  Segments(Napi::Env env, const Fields& f, size_t count)
      : offsets(f.array<int32_t>("segmentOffsets")), tokens(f.array<int32_t>("segmentTokens")) {
    const std::string wanted = "offsets from 0 to " + std::to_string(tokens.size());
    if (offsets.empty() || offsets.front() != 0 || static_cast<size_t>(offsets.back()) != tokens.size())
      range_error(env, wanted, "segmentOffsets",
                  offsets.empty() ? "none" : std::to_string(offsets.front()) + " to " + std::to_string(offsets.back()));
    for (size_t i = 1; i < offsets.size(); ++i)
      if (offsets[i] < offsets[i - 1])
        range_error(env, "ascending offsets", "segmentOffsets", std::to_string(offsets[i]) + " at " + std::to_string(i));
    expect_indices(env, tokens, static_cast<int64_t>(count), "segmentTokens");
  }
};

// What takes no time to speak of is computed on this thread where the host computes, else on the engine's, which has the device.
template <class Result>
Napi::Value compute_at_once(Napi::Env env, const std::string& device, const std::function<Result()>& on_host,
                            const std::function<Result(Backend&)>& on_device, std::function<Napi::Value(Napi::Env, Result&)> convert) {
  try {
    if (resolve_device(device) == "cpu") {
      Result result = on_host();
      return convert(env, result);
    }
  } catch (const Error& error) {
    throw to_js_error(env, error.code(), error.what());
  }
  return run_at_once<Result>(
      env, [&] { return on_device(*Engine::instance().backend(device)); }, std::move(convert));
}

Napi::Value segment_ratios(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const Fields f(info[0], "inputs");
  const auto logprobs = f.array<float>("logprobs"), old = f.array<float>("oldLogprobs");
  expect_length(env, old.size(), logprobs.size(), "oldLogprobs");
  expect_finite(env, logprobs, "logprobs");
  expect_finite(env, old, "oldLogprobs");
  const Segments segments(env, f, logprobs.size());
  std::vector<char> covered(logprobs.size(), 0);
  for (const int32_t t : segments.tokens)
    if (std::exchange(covered[static_cast<size_t>(t)], 1))
      range_error(env, "each token in one segment at most", "segmentTokens", std::to_string(t) + " twice");
  using Means = std::vector<double>;
  return compute_at_once<Means>(
      env, f.device(), [&] { return mean_log_ratios(logprobs.data(), old.data(), segments.offsets, segments.tokens); },
      [&](Backend& backend) { return backend.mean_log_ratios(logprobs.data(), old.data(), segments.offsets, segments.tokens); },
      [](Napi::Env e, Means& means) -> Napi::Value {
        std::vector<float> ratios, logs;
        for (double mean : means) {
          logs.push_back(static_cast<float>(mean));
          ratios.push_back(static_cast<float>(std::exp(mean)));
        }
        auto out = Napi::Object::New(e);
        out.Set("ratios", from_vector(e, ratios));
        out.Set("logRatios", from_vector(e, logs));
        return out;
      });
}

Napi::Value policy_loss(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const Fields f(info[0], "inputs");
  const auto logprobs = f.array<float>("logprobs"), old = f.array_or_empty<float>("oldLogprobs"),
             ref = f.array_or_empty<float>("refLogprobs"), entropies = f.array_or_empty<float>("entropies"),
             advantages = f.array<float>("advantages"), weights = f.array<float>("weights");
  for (const auto& [name, values] :
       {std::pair{"advantages", &advantages}, std::pair{"weights", &weights}, std::pair{"oldLogprobs", &old},
        std::pair{"refLogprobs", &ref}, std::pair{"entropies", &entropies}, std::pair{"logprobs", &logprobs}}) {
    if (f.has(name)) expect_length(env, values->size(), logprobs.size(), name);
    expect_finite(env, *values, name);
  }
  const Segments segments(env, f, logprobs.size());
  ObjectiveInputs in;
  in.tokens = static_cast<int64_t>(logprobs.size());
  in.segments = static_cast<int64_t>(segments.offsets.size()) - 1;
  in.logprobs = logprobs.data();
  in.old_logprobs = f.has("oldLogprobs") ? old.data() : nullptr;
  in.ref_logprobs = f.has("refLogprobs") ? ref.data() : nullptr;
  in.entropies = f.has("entropies") ? entropies.data() : nullptr;
  in.advantages = advantages.data();
  in.weights = weights.data();
  in.segment_offsets = segments.offsets.data();
  in.segment_tokens = segments.tokens.data();
  const ObjectiveSpec spec = read_objective(Fields(info[1], "objective"));
  return compute_at_once<ObjectiveResult>(
      env, f.device(), [&] { return evaluate_objective(spec, in); }, [&](Backend& backend) { return backend.objective(spec, in); },
      objective_to_js);
}

Napi::Value list_objectives(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto list = Napi::Array::New(env);
  for (const auto& rule : objective_list()) {
    auto object = Napi::Object::New(env);
    object.Set("name", rule.name);
    object.Set("source", rule.source);
    object.Set("formula", rule.formula);
    auto parameters = Napi::Array::New(env);
    for (const auto& p : rule.parameters) {
      auto entry = Napi::Object::New(env);
      entry.Set("name", p.name);
      entry.Set("value", p.value);
      entry.Set("min", p.min);
      entry.Set("max", p.max);
      entry.Set("reason", p.reason);
      parameters.Set(parameters.Length(), entry);
    }
    object.Set("parameters", parameters);
    list.Set(list.Length(), object);
  }
  return list;
}

}  // namespace

void define_kernels(Napi::Env env, Napi::Object exports) {
  exports.Set("logprobForward", Napi::Function::New(env, logprob_forward, "logprobForward"));
  exports.Set("logprobBackward", Napi::Function::New(env, logprob_backward, "logprobBackward"));
  exports.Set("headForward", Napi::Function::New(env, head_forward, "headForward"));
  exports.Set("headBackward", Napi::Function::New(env, head_backward, "headBackward"));
  exports.Set("segmentRatios", Napi::Function::New(env, segment_ratios, "segmentRatios"));
  exports.Set("policyLoss", Napi::Function::New(env, policy_loss, "policyLoss"));
  exports.Set("objectiveList", Napi::Function::New(env, list_objectives, "objectiveList"));
}

}  // namespace rank_grpo
