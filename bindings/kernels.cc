// `rank-grpo/kernels`: log-probs from logits and from hidden states, segment ratios and policy losses, without a model.
#include "../native/cpu/logprob.h"
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
  const std::string spread = f.text("spread", "pooled"), kl = f.text("kl", "k3");
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

void expect_length(Napi::Env env, size_t got, size_t wanted, const char* name) {
  if (got != wanted)
    throw Napi::RangeError::New(env, "Expected " + std::to_string(wanted) + " values for " + name + ", got " + std::to_string(got) + ".");
}

void expect_targets(Napi::Env env, const std::vector<int32_t>& targets, int64_t V) {
  for (int32_t t : targets)
    if (t < 0 || t >= V)
      throw Napi::RangeError::New(env, "Expected targets from 0 to " + std::to_string(V - 1) + ", got " + std::to_string(t) + ".");
}

// Large inputs are not copied: the arrays are kept alive by a reference until the promise settles, and the caller is told not to
// write to them meanwhile.
struct Pinned {
  explicit Pinned(const Napi::Value& v) : reference(Napi::Persistent(v.As<Napi::Object>())) {}
  Napi::ObjectReference reference;
};

struct Logits {
  const float* f32 = nullptr;
  const uint16_t* bf16 = nullptr;
  size_t length = 0;
};

Logits read_logits(const Napi::Value& v) {
  Logits out;
  if (v.IsTypedArray()) {
    const auto array = v.As<Napi::TypedArray>();
    out.length = array.ElementLength();
    if (array.TypedArrayType() == napi_float32_array) out.f32 = v.As<Napi::Float32Array>().Data();
    if (array.TypedArrayType() == napi_uint16_array) out.bf16 = v.As<Napi::Uint16Array>().Data();
  }
  if (!v.IsTypedArray() || (!out.f32 && !out.bf16 && out.length > 0))
    type_error(v.Env(), "a Float32Array or a Uint16Array of bf16 bits", "logits", v);
  return out;
}

Napi::Value logprob_forward(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const Logits logits = read_logits(info[0]);
  auto targets = to_vector<int32_t>(info[1], "targets");
  const Fields f(info[2], "options");
  const int64_t V = to_integer(f.get("vocabulary"), "vocabulary", 1, 1 << 30), T = static_cast<int64_t>(targets.size());
  const float temperature = static_cast<float>(f.number("temperature", 1));
  const bool entropy = f.boolean("entropies", false);
  expect_length(env, logits.length, static_cast<size_t>(T * V), "logits");
  expect_targets(env, targets, V);
  auto pin = std::make_shared<Pinned>(info[0]);
  struct Out {
    std::vector<float> logprob, entropy, lse;
  };
  return run_async<Out>(
      env,
      [=, targets = std::move(targets)] {
        Out out{std::vector<float>(static_cast<size_t>(T)), std::vector<float>(entropy ? static_cast<size_t>(T) : 0),
                std::vector<float>(static_cast<size_t>(T))};
        auto& backend = *Engine::instance().backend();
        float* h = entropy ? out.entropy.data() : nullptr;
        if (logits.bf16) {
          logits_forward(backend, out.logprob.data(), h, out.lse.data(), logits.bf16, targets.data(), T, V, temperature);
        } else {
          logits_forward(backend, out.logprob.data(), h, out.lse.data(), logits.f32, targets.data(), T, V, temperature);
        }
        return out;
      },
      [pin](Napi::Env e, Out& out) -> Napi::Value {
        auto object = Napi::Object::New(e);
        object.Set("logprobs", from_vector(e, out.logprob));
        object.Set("logSumExp", from_vector(e, out.lse));
        if (!out.entropy.empty()) object.Set("entropies", from_vector(e, out.entropy));
        return object;
      },
      [pin]() mutable { pin.reset(); });
}

Napi::Value logprob_backward(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const Logits logits = read_logits(info[0]);
  auto targets = to_vector<int32_t>(info[1], "targets");
  const Fields f(info[2], "options");
  auto lse = f.array<float>("logSumExp"), dlogprobs = f.array<float>("dlogprobs"), entropies = f.array_or_empty<float>("entropies"),
       dentropies = f.array_or_empty<float>("dentropies");
  const int64_t V = to_integer(f.get("vocabulary"), "vocabulary", 1, 1 << 30), T = static_cast<int64_t>(targets.size());
  const float temperature = static_cast<float>(f.number("temperature", 1));
  const Napi::Value target = f.get("out");
  if (!target.IsTypedArray() || target.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
    type_error(env, "a Float32Array", "out", target);
  float* out = target.As<Napi::Float32Array>().Data();
  expect_length(env, target.As<Napi::Float32Array>().ElementLength(), static_cast<size_t>(T * V), "out");
  expect_length(env, logits.length, static_cast<size_t>(T * V), "logits");
  expect_length(env, lse.size(), targets.size(), "logSumExp");
  expect_length(env, dlogprobs.size(), targets.size(), "dlogprobs");
  if (!dentropies.empty()) {
    expect_length(env, dentropies.size(), targets.size(), "dentropies");
    expect_length(env, entropies.size(), targets.size(), "entropies");
  }
  expect_targets(env, targets, V);
  auto pin = std::make_shared<Pinned>(info[0]), pin_out = std::make_shared<Pinned>(target);
  return run_async<int>(
      env,
      [=, targets = std::move(targets), lse = std::move(lse), dlogprobs = std::move(dlogprobs), entropies = std::move(entropies),
       dentropies = std::move(dentropies)] {
        auto& backend = *Engine::instance().backend();
        const float *h = dentropies.empty() ? nullptr : entropies.data(), *dh = dentropies.empty() ? nullptr : dentropies.data();
        if (logits.bf16) {
          logits_backward(backend, out, logits.bf16, targets.data(), lse.data(), h, dlogprobs.data(), dh, T, V, temperature);
        } else {
          logits_backward(backend, out, logits.f32, targets.data(), lse.data(), h, dlogprobs.data(), dh, T, V, temperature);
        }
        return 0;
      },
      [pin_out](Napi::Env, int&) -> Napi::Value { return pin_out->reference.Value(); }, [pin]() mutable { pin.reset(); });
}

// hidden [T, C] x head [V, C]: log-probs, entropies and, where dlogprobs is given, dhidden and dhead.
Napi::Value head(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto hidden = to_vector<float>(info[0], "hidden"), weight = to_vector<float>(info[1], "head");
  auto targets = to_vector<int32_t>(info[2], "targets");
  const Fields f(info[3], "options");
  const int64_t V = to_integer(f.get("vocabulary"), "vocabulary", 1, 1 << 30), T = static_cast<int64_t>(targets.size());
  const bool bf16 = f.boolean("bf16", false), entropy = f.boolean("entropies", false) || f.has("dentropies");
  const float temperature = static_cast<float>(f.number("temperature", 1));
  auto dlogprobs = f.array_or_empty<float>("dlogprobs"), dentropies = f.array_or_empty<float>("dentropies");
  if (T == 0 || hidden.size() % static_cast<size_t>(T) != 0)
    throw Napi::RangeError::New(
        env, "Expected a multiple of the number of targets for hidden, got " + std::to_string(hidden.size()) + " values.");
  const int64_t C = static_cast<int64_t>(hidden.size()) / T;
  expect_length(env, weight.size(), static_cast<size_t>(V * C), "head");
  expect_targets(env, targets, V);
  const bool backward = !dlogprobs.empty() || !dentropies.empty();
  if (backward) expect_length(env, dlogprobs.size(), targets.size(), "dlogprobs");
  if (!dentropies.empty()) expect_length(env, dentropies.size(), targets.size(), "dentropies");
  struct Out {
    std::vector<float> logprob, entropy, lse, dhidden, dhead;
  };
  return run_async<Out>(
      env,
      [=, hidden = std::move(hidden), weight = std::move(weight), targets = std::move(targets), dlogprobs = std::move(dlogprobs),
       dentropies = std::move(dentropies)] {
        auto& backend = *Engine::instance().backend();
        const auto panels = backend.make_panels(V, C, bf16 ? Compute::bf16 : Compute::f32);
        backend.pack(*panels, weight.data());
        const size_t n = static_cast<size_t>(T);
        Out out{std::vector<float>(n), std::vector<float>(entropy ? n : 0), std::vector<float>(n), {}, {}};
        float* h = entropy ? out.entropy.data() : nullptr;
        backend.head_forward(out.logprob.data(), h, out.lse.data(), hidden.data(), *panels, targets.data(), nullptr, T, temperature);
        if (backward) {
          out.dhidden.resize(hidden.size());
          out.dhead.resize(weight.size());
          backend.head_backward(out.dhidden.data(), out.dhead.data(), hidden.data(), weight.data(), *panels, targets.data(), nullptr,
                                out.lse.data(), h, dlogprobs.data(), dentropies.empty() ? nullptr : dentropies.data(), T, temperature);
        }
        return out;
      },
      [](Napi::Env e, Out& out) -> Napi::Value {
        auto object = Napi::Object::New(e);
        object.Set("logprobs", from_vector(e, out.logprob));
        object.Set("logSumExp", from_vector(e, out.lse));
        if (!out.entropy.empty()) object.Set("entropies", from_vector(e, out.entropy));
        if (!out.dhead.empty()) {
          object.Set("dhidden", from_vector(e, out.dhidden));
          object.Set("dhead", from_vector(e, out.dhead));
        }
        return object;
      });
}

Napi::Value policy_loss(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const Fields f(info[0], "inputs");
  const auto logprobs = f.array<float>("logprobs"), old = f.array_or_empty<float>("oldLogprobs"),
             ref = f.array_or_empty<float>("refLogprobs"), entropies = f.array_or_empty<float>("entropies"),
             advantages = f.array<float>("advantages"), weights = f.array<float>("weights");
  const auto offsets = f.array<int32_t>("segmentOffsets"), tokens = f.array<int32_t>("segmentTokens");
  expect_length(env, advantages.size(), logprobs.size(), "advantages");
  expect_length(env, weights.size(), logprobs.size(), "weights");
  if (f.has("oldLogprobs")) expect_length(env, old.size(), logprobs.size(), "oldLogprobs");
  if (f.has("refLogprobs")) expect_length(env, ref.size(), logprobs.size(), "refLogprobs");
  if (f.has("entropies")) expect_length(env, entropies.size(), logprobs.size(), "entropies");
  if (offsets.empty() || offsets.front() != 0 || static_cast<size_t>(offsets.back()) != tokens.size())
    throw Napi::RangeError::New(env, "Expected offsets from 0 to " + std::to_string(tokens.size()) + " for segmentOffsets.");
  for (size_t i = 1; i < offsets.size(); ++i)
    if (offsets[i] < offsets[i - 1])
      throw Napi::RangeError::New(env, "Expected ascending segmentOffsets, got a smaller one at " + std::to_string(i) + ".");
  expect_targets(env, tokens, static_cast<int64_t>(logprobs.size()));
  ObjectiveInputs in;
  in.tokens = static_cast<int64_t>(logprobs.size());
  in.segments = static_cast<int64_t>(offsets.size()) - 1;
  in.logprobs = logprobs.data();
  in.old_logprobs = old.empty() ? nullptr : old.data();
  in.ref_logprobs = ref.empty() ? nullptr : ref.data();
  in.entropies = entropies.empty() ? nullptr : entropies.data();
  in.advantages = advantages.data();
  in.weights = weights.data();
  in.segment_offsets = offsets.data();
  in.segment_tokens = tokens.data();
  try {
    return objective_to_js(env, evaluate_objective(read_objective(Fields(info[1], "objective")), in));
  } catch (const Error& error) {
    throw to_js_error(env, error.code(), error.what());
  }
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
  exports.Set("head", Napi::Function::New(env, head, "head"));
  exports.Set("policyLoss", Napi::Function::New(env, policy_loss, "policyLoss"));
  exports.Set("objectiveList", Napi::Function::New(env, list_objectives, "objectiveList"));
}

}  // namespace rank_grpo
