// The JavaScript class over Policy: copies arguments on the calling thread, works on the engine thread, one operation at a time.
#include <algorithm>

#include "../native/cpu/backend.h"
#include "../native/model/store.h"
#include "addon.h"
#include "catalog.h"
#include "engine.h"

namespace rank_grpo {
namespace {

struct PolicyState {
  std::unique_ptr<Policy> policy;
  std::string metadata;  // JSON text of the checkpoint (Checkpoint::metadata_json); empty for a created policy
  std::atomic<bool> abort{false};
  bool busy = false, disposed = false;  // JavaScript thread only
  ~PolicyState() { free(); }
  // On the engine thread, after the work that is under way: another policy's may use the same backend, and be at it.
  void free() {
    if (policy) Engine::instance().post([held = std::shared_ptr<Policy>(std::move(policy))]() mutable { held.reset(); });
  }
};
using State = std::shared_ptr<PolicyState>;

// Where a policy computes, and whether every bit counts.
struct Place {
  std::string device = "cpu";
  Determinism determinism = Determinism::exact;
  std::shared_ptr<Backend> backend() const { return Engine::instance().backend(device, determinism); }
};
Place read_place(const Napi::Value& value) {
  Place place;
  if (value.IsUndefined()) return place;
  const Fields f(value, "options");
  place.device = f.device();
  const std::string determinism = f.text("determinism", "exact");
  if (determinism != "exact" && determinism != "fast")
    type_error(value.Env(), "\"exact\" or \"fast\"", "determinism", f.get("determinism"));
  place.determinism = determinism == "fast" ? Determinism::fast : Determinism::exact;
  return place;
}

PolicyOptions read_options(const Napi::Value& value) {
  PolicyOptions options;
  if (value.IsUndefined()) return options;
  const Fields f(value, "options");
  const std::string compute = f.text("compute", "f32");
  if (compute != "f32" && compute != "bf16") type_error(value.Env(), "\"f32\" or \"bf16\"", "compute", f.get("compute"));
  options.compute = compute == "bf16" ? Compute::bf16 : Compute::f32;
  const std::string weights = f.text("weights", "f32");
  if (weights != "f32" && weights != "bf16") type_error(value.Env(), "\"f32\" or \"bf16\"", "weights", f.get("weights"));
  options.weights = weights == "bf16" ? Compute::bf16 : Compute::f32;
  options.trainable = f.boolean("trainable", true);
  const std::string state = f.text("optimizerState", "device");
  if (state != "device" && state != "host") type_error(value.Env(), "\"device\" or \"host\"", "optimizerState", f.get("optimizerState"));
  options.state_on_host = state == "host";
  const int64_t mib = f.integer("activationMiB", -1, 0, int64_t{1} << 30);
  options.activation_bytes = mib < 0 ? -1 : mib << 20;
  return options;
}

Batch read_batch(const Napi::Value& value) {
  const Fields f(value, "batch");
  Batch batch;
  batch.prompt_ids = f.array<int32_t>("promptIds");
  batch.prompt_offsets = f.array<int32_t>("promptOffsets");
  batch.completion_ids = f.array<int32_t>("completionIds");
  batch.completion_offsets = f.array<int32_t>("completionOffsets");
  batch.group_offsets = f.array<int32_t>("groupOffsets");
  batch.constraint = read_constraint(f, batch.prompt_offsets.empty() ? 0 : batch.prompt_offsets.size() - 1);
  return batch;
}

ForwardOptions read_forward(const Napi::Value& value, const State& state) {
  ForwardOptions options;
  options.abort = &state->abort;
  if (value.IsUndefined()) return options;
  const Fields f(value, "options");
  options.temperature = f.temperature();
  options.micro_batch_tokens = f.integer("microBatchTokens", 2048, 1, 1 << 30);
  return options;
}

Napi::Value scores_to_js(Napi::Env env, const Scores& scores, bool entropies) {
  auto out = Napi::Object::New(env);
  out.Set("logprobs", from_vector(env, scores.logprobs));
  if (entropies) out.Set("entropies", from_vector(env, scores.entropies));
  return out;
}

}  // namespace

class PolicyWrap : public Napi::ObjectWrap<PolicyWrap> {
 public:
  static constexpr napi_type_tag kTag = {0x72616e6b2d677270, 0x6f2d706f6c696379};

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativePolicy",
                       {StaticMethod("load", &PolicyWrap::load),
                        StaticMethod("create", &PolicyWrap::create),
                        InstanceMethod("generate", &PolicyWrap::generate),
                        InstanceMethod("recommend", &PolicyWrap::recommend),
                        InstanceMethod("score", &PolicyWrap::score),
                        InstanceMethod("accumulate", &PolicyWrap::accumulate),
                        InstanceMethod("backward", &PolicyWrap::backward),
                        InstanceMethod("optimizerStep", &PolicyWrap::optimizer_step),
                        InstanceMethod("zeroGradients", &PolicyWrap::zero_gradients),
                        InstanceMethod("initialize", &PolicyWrap::initialize),
                        InstanceMethod("copyFrom", &PolicyWrap::copy_from),
                        InstanceMethod("save", &PolicyWrap::save),
                        InstanceMethod("saveOptimizer", &PolicyWrap::save_optimizer_state),
                        InstanceMethod("loadOptimizer", &PolicyWrap::load_optimizer_state),
                        InstanceMethod("setVocabulary", &PolicyWrap::set_vocabulary),
                        InstanceMethod("getParameter", &PolicyWrap::get_parameter),
                        InstanceMethod("getGradient", &PolicyWrap::get_gradient),
                        InstanceMethod("setParameter", &PolicyWrap::set_parameter),
                        InstanceMethod("describe", &PolicyWrap::describe_policy),
                        InstanceMethod("workspace", &PolicyWrap::workspace),
                        InstanceMethod("abort", &PolicyWrap::abort),
                        InstanceMethod("dispose", &PolicyWrap::dispose)});
  }

  explicit PolicyWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<PolicyWrap>(info) {
    state_ = take_handed<State>(info, kTag, "NativePolicy.load or NativePolicy.create");
  }

 private:
  static Napi::Value wrap(Napi::Env env, State& state) { return construct(env, &Environment::policy, state); }

  static Napi::Value load(const Napi::CallbackInfo& info) {
    const std::string path = to_path(info[0], "path");
    const auto options = read_options(info[1]);
    const Place place = read_place(info[1]);
    return run_async<State>(
        info.Env(),
        [path, options, place] {
          auto state = std::make_shared<PolicyState>();
          state->policy = open_policy(place.backend(), path, options, state->metadata);
          return state;
        },
        wrap);
  }

  static Napi::Value create(const Napi::CallbackInfo& info) {
    const std::string json = to_text(info[0], "config");
    const auto options = read_options(info[1]);
    return run_async<State>(
        info.Env(),
        [json, options, place = read_place(info[1])] {
          auto state = std::make_shared<PolicyState>();
          state->policy = std::make_unique<Policy>(place.backend(), parse_config(json, "config"), options);
          return state;
        },
        wrap);
  }

  State claim(Napi::Env env) {
    check(env);
    state_->busy = true;
    state_->abort.store(false);
    return state_;
  }
  void check(Napi::Env env) const {
    if (state_->disposed) throw to_js_error(env, "DISPOSED", "Expected a live policy, got one that was disposed.");
    if (state_->busy)
      throw to_js_error(env, "BUSY", "Expected an idle policy, got one that is at work. Await the running operation first.");
  }

  static void release(const State& state) {
    state->busy = false;
    if (state->disposed) state->free();
  }

  enum class Gradients { untouched, changed };  // whether the operation works on them: half of a step's must not stay

  // An operation of this policy on the engine thread. Where one that changes the gradients fails or is aborted, they are dropped.
  template <class Result>
  Napi::Value operate(Napi::Env env, std::function<Result(Policy&)> work, std::function<Napi::Value(Napi::Env, Result&)> convert,
                      Gradients gradients = Gradients::untouched, State other = {}) {
    const State state = claim(env);
    if (other) other->busy = true;
    return run_async<Result>(
        env,
        [state, gradients, work = std::move(work)] {
          try {
            return work(*state->policy);
          } catch (...) {
            if (gradients == Gradients::changed) state->policy->zero_gradients();
            throw;
          }
        },
        std::move(convert),
        [state, other] {
          release(state);
          if (other) release(other);
        },
        AbortFlag(state, &state->abort));
  }
  Napi::Value operate_void(Napi::Env env, std::function<void(Policy&)> work) {
    return operate<int>(
        env,
        [work = std::move(work)](Policy& p) {
          work(p);
          return 0;
        },
        [](Napi::Env e, int&) { return e.Undefined(); });
  }

  Napi::Value generate(const Napi::CallbackInfo& info) {
    const Fields f(info[0], "request");
    GenerateRequest r;
    r.prompt_ids = f.array<int32_t>("promptIds");
    r.prompt_offsets = f.array<int32_t>("promptOffsets");
    r.prompt_keys = f.array_or_empty<int32_t>("promptKeys");
    r.group_size = static_cast<int>(f.integer("groupSize", 1, 1, 1 << 16));
    r.max_new_tokens = static_cast<int>(f.integer("maxNewTokens", 128, 1, 1 << 20));
    r.max_rows = static_cast<int>(f.integer("maxRows", 64, 1, 1 << 16));
    r.sampling.temperature = f.temperature();
    r.sampling.top_k = static_cast<int>(f.integer("topK", 0, 0, 1 << 30));
    r.sampling.top_p = static_cast<float>(f.number("topP", 1));
    r.sampling.min_p = static_cast<float>(f.number("minP", 0));
    r.sampling.greedy = f.boolean("greedy", false);
    r.stop_ids = f.array_or_empty<int32_t>("stopIds");
    r.stop_strings = f.texts("stopStrings");
    r.ignore_stop = f.boolean("ignoreStop", false);
    r.seed = static_cast<uint64_t>(f.integer("seed", 0, 0, int64_t{1} << 53));
    r.step = static_cast<uint32_t>(f.integer("step", 0, 0, (int64_t{1} << 32) - 1));
    r.constraint = read_constraint(f, r.prompt_offsets.empty() ? 0 : r.prompt_offsets.size() - 1);
    r.abort = &state_->abort;
    return operate<Completions>(
        info.Env(), [r = std::move(r)](Policy& p) { return p.generate(r); },
        [](Napi::Env env, Completions& c) {
          auto out = Napi::Object::New(env);
          out.Set("ids", from_vector(env, c.ids));
          out.Set("offsets", from_vector(env, c.offsets));
          out.Set("logprobs", from_vector(env, c.logprobs));
          out.Set("finish", from_vector(env, c.finish));
          return out;
        });
  }

  Napi::Value recommend(const Napi::CallbackInfo& info) {
    const Fields f(info[0], "request");
    RecommendRequest r;
    r.prompt_ids = f.array<int32_t>("promptIds");
    r.constraint = read_constraint(f, 1);
    r.last = f.boolean("last", false);
    r.top = static_cast<int>(f.integer("top", 20, 1, 1 << 24));
    r.branches = static_cast<int>(f.integer("branches", 32, 1, 1 << 12));
    r.temperature = f.temperature();
    r.abort = &state_->abort;
    return operate<Recommendations>(
        info.Env(), [r = std::move(r)](Policy& p) { return p.recommend(r); },
        [](Napi::Env env, Recommendations& c) -> Napi::Value {
          auto out = Napi::Object::New(env);
          out.Set("items", from_vector(env, c.items));
          out.Set("logprobs", from_vector(env, c.logprobs));
          out.Set("evaluated", static_cast<double>(c.evaluated));
          return out;
        });
  }

  Napi::Value score(const Napi::CallbackInfo& info) {
    const auto options = read_forward(info[1], state_);
    const bool entropies = info[1].IsObject() && Fields(info[1], "options").boolean("entropies", false);
    return operate<Scores>(
        info.Env(), [batch = read_batch(info[0]), options, entropies](Policy& p) { return p.score(batch, options, entropies); },
        [entropies](Napi::Env env, Scores& scores) { return scores_to_js(env, scores, entropies); });
  }

  Napi::Value accumulate(const Napi::CallbackInfo& info) {
    const Fields f(info[1], "inputs");
    StepInputs inputs;
    inputs.advantages = f.array<float>("advantages");
    inputs.weights = f.array<float>("weights");
    inputs.old_logprobs = f.array_or_empty<float>("oldLogprobs");
    inputs.ref_logprobs = f.array_or_empty<float>("refLogprobs");
    inputs.segment_offsets = f.array<int32_t>("segmentOffsets");
    inputs.segment_tokens = f.array<int32_t>("segmentTokens");
    const auto objective = read_objective(Fields(info[2], "objective"));
    const auto options = read_forward(info[3], state_);
    return operate<StepResult>(
        info.Env(),
        [batch = read_batch(info[0]), inputs = std::move(inputs), objective, options](Policy& p) {
          return p.accumulate(batch, inputs, objective, options);
        },
        [](Napi::Env env, StepResult& r) {
          auto out = objective_to_js(env, r.objective);
          out.Set("logprobs", from_vector(env, r.logprobs));
          if (!r.entropies.empty()) out.Set("entropies", from_vector(env, r.entropies));
          return out;
        },
        Gradients::changed);
  }

  Napi::Value backward(const Napi::CallbackInfo& info) {
    auto dlogprobs = to_vector<float>(info[1], "dlogprobs");
    auto dentropies = info[2].IsUndefined() ? std::vector<float>() : to_vector<float>(info[2], "dentropies");
    const auto options = read_forward(info[3], state_);
    return operate<Scores>(
        info.Env(),
        [batch = read_batch(info[0]), a = std::move(dlogprobs), b = std::move(dentropies), options](Policy& p) {
          return p.backward(batch, a, b, options);
        },
        [](Napi::Env env, Scores& scores) { return scores_to_js(env, scores, !scores.entropies.empty()); }, Gradients::changed);
  }

  Napi::Value optimizer_step(const Napi::CallbackInfo& info) {
    const Fields f(info[0], "options");
    OptimizerOptions o;
    o.learning_rate = f.number("learningRate", o.learning_rate);
    o.beta1 = f.number("beta1", o.beta1);
    o.beta2 = f.number("beta2", o.beta2);
    o.epsilon = f.number("epsilon", o.epsilon);
    o.weight_decay = f.number("weightDecay", o.weight_decay);
    o.max_grad_norm = f.number("maxGradNorm", o.max_grad_norm);
    o.seed = static_cast<uint64_t>(f.integer("seed", 0, 0, int64_t{1} << 53));
    return operate<double>(
        info.Env(), [o](Policy& p) { return p.optimizer_step(o); },
        [](Napi::Env env, double& norm) -> Napi::Value { return Napi::Number::New(env, norm); });
  }

  Napi::Value zero_gradients(const Napi::CallbackInfo& info) {
    return operate_void(info.Env(), [](Policy& p) { p.zero_gradients(); });
  }

  Napi::Value initialize(const Napi::CallbackInfo& info) {
    const uint64_t seed = static_cast<uint64_t>(to_integer(info[0], "seed", 0, int64_t{1} << 53));
    const float std = static_cast<float>(to_number(info[1], "std"));
    return operate_void(info.Env(), [seed, std](Policy& p) { p.initialize(seed, std); });
  }

  Napi::Value copy_from(const Napi::CallbackInfo& info) {
    if (!has_tag(info[0], kTag)) type_error(info.Env(), "a NativePolicy", "other", info[0]);
    const PolicyWrap* wrap = Unwrap(info[0].As<Napi::Object>());
    check(info.Env());
    wrap->check(info.Env());
    const State source = wrap->state_;
    if (source == state_) type_error(info.Env(), "another policy", "other", info[0]);
    auto work = [source](Policy& p) {
      const auto &from = source->policy->table().parameters, &to = p.table().parameters;
      auto same = [](const Parameter& a, const Parameter& b) { return a.name == b.name && a.rows == b.rows && a.columns == b.columns; };
      expect(std::equal(from.begin(), from.end(), to.begin(), to.end(), same) && source->policy->config().head_dim == p.config().head_dim,
             "a policy of the same shape", "other", "another one");
      std::vector<float> values;
      for (size_t i = 0; i < from.size(); ++i) {
        values.resize(static_cast<size_t>(from[i].size()));
        source->policy->get_parameter(i, values.data());
        p.set_parameter(i, values.data());
      }
      p.parameters_changed();
      return 0;
    };
    return operate<int>(
        info.Env(), work, [](Napi::Env e, int&) { return e.Undefined(); }, Gradients::untouched, source);
  }

  Napi::Value save(const Napi::CallbackInfo& info) {
    const std::string path = to_path(info[0], "path"), type = info[1].IsUndefined() ? "f32" : to_text(info[1], "dtype");
    if (type != "f32" && type != "bf16") type_error(info.Env(), "\"f32\" or \"bf16\"", "dtype", info[1]);
    return operate_void(info.Env(),
                        [path, type](Policy& p) { save_weights(p, path, type == "f32" ? StorageType::f32 : StorageType::bf16); });
  }
  Napi::Value save_optimizer_state(const Napi::CallbackInfo& info) {
    return operate_void(info.Env(), [path = to_path(info[0], "path")](Policy& p) { save_optimizer(p, path); });
  }
  Napi::Value load_optimizer_state(const Napi::CallbackInfo& info) {
    return operate_void(info.Env(), [path = to_path(info[0], "path")](Policy& p) { load_optimizer(p, path); });
  }

  Napi::Value set_vocabulary(const Napi::CallbackInfo& info) {
    const auto bytes = to_vector<uint8_t>(info[0], "bytes");
    const auto offsets = to_vector<int32_t>(info[1], "offsets");
    check(info.Env());
    const size_t vocab = static_cast<size_t>(state_->policy->config().vocab);
    if (offsets.size() != vocab + 1 || offsets.front() != 0 || static_cast<size_t>(offsets.back()) != bytes.size())
      throw Napi::RangeError::New(info.Env(), "Expected " + std::to_string(vocab + 1) + " offsets from 0 to the length of bytes, got " +
                                                  std::to_string(offsets.size()) + ".");
    std::vector<std::string> words;
    for (size_t i = 0; i < vocab; ++i) {
      if (offsets[i + 1] < offsets[i])
        throw Napi::RangeError::New(info.Env(), "Expected ascending offsets, got a smaller one at " + std::to_string(i + 1) + ".");
      words.emplace_back(bytes.begin() + offsets[i], bytes.begin() + offsets[i + 1]);
    }
    return operate_void(info.Env(), [words = std::move(words)](Policy& p) { p.set_vocabulary(words); });
  }

  size_t parameter_index(const Napi::CallbackInfo& info) const {
    check(info.Env());
    const std::string name = to_text(info[0], "name");
    const auto& parameters = state_->policy->table().parameters;
    for (size_t i = 0; i < parameters.size(); ++i)
      if (parameters[i].name == name) return i;
    throw Napi::RangeError::New(info.Env(), "Expected the name of a parameter, got \"" + name + "\".");
  }
  Napi::Value copy_of(const Napi::CallbackInfo& info, void (Policy::*get)(size_t, float*) const) {
    const size_t index = parameter_index(info);
    return operate<std::vector<float>>(
        info.Env(),
        [index, get](Policy& p) {
          std::vector<float> out(static_cast<size_t>(p.table().parameters[index].size()));
          (p.*get)(index, out.data());
          return out;
        },
        from_vector<float>);
  }
  Napi::Value get_parameter(const Napi::CallbackInfo& info) { return copy_of(info, &Policy::get_parameter); }
  Napi::Value get_gradient(const Napi::CallbackInfo& info) { return copy_of(info, &Policy::get_gradient); }
  Napi::Value set_parameter(const Napi::CallbackInfo& info) {
    const size_t index = parameter_index(info);
    auto values = to_vector<float>(info[1], "values");
    const int64_t size = state_->policy->table().parameters[index].size();
    if (static_cast<int64_t>(values.size()) != size)
      throw Napi::RangeError::New(info.Env(), "Expected " + std::to_string(size) + " values, got " + std::to_string(values.size()) + ".");
    return operate_void(info.Env(), [index, values = std::move(values)](Policy& p) {
      p.set_parameter(index, values.data());
      p.parameters_changed();
    });
  }

  Napi::Value describe_policy(const Napi::CallbackInfo& info) {
    check(info.Env());
    const auto env = info.Env();
    const auto& p = *state_->policy;
    auto out = Napi::Object::New(env);
    out.Set("device", p.device());
    out.Set("metadata", state_->metadata);
    out.Set("config", config_json(p.config(), StorageType::f32));
    out.Set("vocabSize", p.config().vocab);
    out.Set("maxPositions", p.config().max_positions);
    out.Set("bytes", static_cast<double>(p.bytes()));
    auto memory = Napi::Object::New(env);
    const MemoryUse use = p.memory();
    memory.Set("weights", static_cast<double>(use.weights));
    memory.Set("packedWeights", static_cast<double>(use.panels));
    memory.Set("gradients", static_cast<double>(use.gradients));
    memory.Set("optimizer", static_cast<double>(use.moments));
    memory.Set("activations", static_cast<double>(use.activations));
    memory.Set("onHost", static_cast<double>(use.host));
    out.Set("memory", memory);
    out.Set("optimizerSteps", static_cast<double>(p.optimizer_steps()));
    out.Set("stopIds", from_vector(env, p.config().stop_ids));
    auto names = Napi::Array::New(env);
    double count = 0;
    for (const auto& parameter : p.table().parameters) {
      names.Set(names.Length(), parameter.name);
      count += static_cast<double>(parameter.size());
    }
    out.Set("parameters", names);
    out.Set("parameterCount", count);
    return out;
  }

  Napi::Value workspace(const Napi::CallbackInfo& info) {
    const Fields f(info[0], "work");
    Workload work;
    work.pass_tokens = f.integer("passTokens", 0, 0, INT32_MAX);
    work.backward = f.boolean("backward", false);
    work.rows = f.integer("rows", 0, 0, INT32_MAX);
    work.group_size = f.integer("groupSize", 1, 1, INT32_MAX);
    work.prompt_tokens = f.integer("promptTokens", 0, 0, INT32_MAX);
    work.new_tokens = f.integer("newTokens", 0, 0, INT32_MAX);
    check(info.Env());  // after every option: a getter of one may have disposed of the policy
    auto out = Napi::Object::New(info.Env());
    out.Set("bytes", static_cast<double>(state_->policy->workspace_bytes(work)));
    out.Set("available", static_cast<double>(state_->policy->available_bytes()));
    return out;
  }

  void abort(const Napi::CallbackInfo&) { state_->abort.store(true); }

  void dispose(const Napi::CallbackInfo&) {
    state_->disposed = true;
    state_->abort.store(true);
    if (!state_->busy) state_->free();
  }

  State state_;
};

void define_policy(Napi::Env env, Napi::Object exports) {
  auto constructor = PolicyWrap::define(env);
  env.GetInstanceData<Environment>()->policy = Napi::Persistent(constructor);
  exports.Set("NativePolicy", constructor);
}

}  // namespace rank_grpo
