// The JavaScript class over Stage1Scores (native/demonstrate): arguments are copied on the calling thread, work runs on the engine thread.
#include "../native/cpu/backend.h"
#include "../native/demonstrate/scores.h"
#include "addon.h"
#include "engine.h"

namespace rank_grpo {
namespace {

using State = std::shared_ptr<std::unique_ptr<Stage1Scores>>;  // the inner pointer is null once disposed; touched on the engine thread

SparseMatrix read_sparse(const Napi::Value& value, const char* name, bool with_values) {
  const Fields f(value, name);
  SparseMatrix m;
  m.offsets = f.array<int32_t>("offsets");
  m.columns = f.array<int32_t>("columns");
  if (with_values) m.values = f.array<float>("values");
  return m;
}

ScoreInputs read_inputs(const Napi::Value& value) {
  const Fields f(value, "inputs");
  ScoreInputs in;
  in.dialogues = f.integer("dialogues", 0, 0, INT32_MAX);
  in.teacher_items = f.integer("teacherItems", 0, 0, INT32_MAX);
  in.items = f.integer("items", 0, 1, INT32_MAX);
  in.positions = read_sparse(f.get("positions"), "positions", true);
  in.membership = f.array<int32_t>("membership");
  in.lambda = static_cast<float>(f.number("lambda", 1));
  if (f.has("excluded")) in.excluded = read_sparse(f.get("excluded"), "excluded", false);
  if (f.has("truths")) in.truths = read_sparse(f.get("truths"), "truths", false);
  if (f.has("features")) {
    const Fields g(f.get("features"), "features");
    in.features.width = g.integer("width", 0, 1, INT32_MAX);
    in.features.dense = g.boolean("dense", false);
    if (in.features.dense) {
      in.features.items = g.array<float>("items");
      in.features.teacher = g.array<float>("teacher");
      in.features.context = g.array_or_empty<float>("context");
    } else {
      in.features.sparse_items = read_sparse(g.get("items"), "features.items", true);
      in.features.sparse_teacher = read_sparse(g.get("teacher"), "features.teacher", true);
      if (g.has("context")) in.features.sparse_context = read_sparse(g.get("context"), "features.context", true);
    }
  }
  return in;
}

Stage1Scores& alive(const State& state) {
  if (!*state) fail("DISPOSED", "Expected scores in use, got disposed ones.");
  return **state;
}

}  // namespace

class ScoresWrap : public Napi::ObjectWrap<ScoresWrap> {
 public:
  static constexpr napi_type_tag kTag = {0x72616e6b2d677270, 0x6f2d73746167652d};
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeStage1",
                       {StaticMethod("create", &ScoresWrap::create), InstanceMethod("setRatings", &ScoresWrap::set_ratings),
                        InstanceMethod("dense", &ScoresWrap::dense), InstanceMethod("rank", &ScoresWrap::rank),
                        InstanceMethod("slope", &ScoresWrap::slope), InstanceMethod("curvature", &ScoresWrap::curvature),
                        InstanceMethod("dispose", &ScoresWrap::dispose)});
  }

  explicit ScoresWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<ScoresWrap>(info) {
    state_ = take_handed<State>(info, kTag, "NativeStage1.create");
  }

 private:
  static Napi::Value create(const Napi::CallbackInfo& info) {
    auto in = std::make_shared<ScoreInputs>(read_inputs(info[0]));
    return run_async<State>(
        info.Env(),
        [in] {
          return std::make_shared<std::unique_ptr<Stage1Scores>>(
              std::make_unique<Stage1Scores>(Engine::instance().backend(), std::move(*in)));
        },
        [](Napi::Env env, State& state) -> Napi::Value { return construct(env, &Environment::scores, state); });
  }

  Napi::Value set_ratings(const Napi::CallbackInfo& info) {
    auto ratings = std::make_shared<SparseMatrix>(read_sparse(info[0], "ratings", true));
    const float gamma = static_cast<float>(to_number(info[1], "gamma"));
    return run_async<int>(
        info.Env(),
        [state = state_, ratings, gamma] {
          alive(state).set_ratings(std::move(*ratings), gamma);
          return 0;
        },
        [](Napi::Env env, int&) { return env.Undefined(); });
  }

  Napi::Value dense(const Napi::CallbackInfo& info) {
    return run_async<std::vector<float>>(
        info.Env(), [state = state_, rows = to_vector<int32_t>(info[0], "rows")] { return alive(state).dense(rows); }, from_vector<float>);
  }

  Napi::Value rank(const Napi::CallbackInfo& info) {
    const Fields f(info[1], "options");
    return run_async<Ranking>(
        info.Env(),
        [state = state_, rows = to_vector<int32_t>(info[0], "rows"), n = f.integer("n", 20, 1, INT32_MAX), w = f.array_or_empty<float>("w"),
         b = f.array_or_empty<float>("b")] { return alive(state).rank(rows, n, w, b); },
        [](Napi::Env env, Ranking& ranking) -> Napi::Value {
          auto out = Napi::Object::New(env);
          out.Set("items", from_vector(env, ranking.items));
          out.Set("scores", from_vector(env, ranking.scores));
          return out;
        });
  }

  Napi::Value slope(const Napi::CallbackInfo& info) {
    return run_async<Slope>(
        info.Env(),
        [state = state_, rows = to_vector<int32_t>(info[0], "rows"), w = to_vector<float>(info[1], "w"),
         b = to_vector<float>(info[2], "b")] { return alive(state).slope(rows, w, b); },
        [](Napi::Env env, Slope& slope) -> Napi::Value {
          auto out = Napi::Object::New(env);
          out.Set("loss", slope.loss);
          out.Set("dw", from_vector(env, slope.dw));
          out.Set("db", from_vector(env, slope.db));
          return out;
        });
  }

  Napi::Value curvature(const Napi::CallbackInfo& info) {
    return run_async<Curvature>(
        info.Env(),
        [state = state_, rows = to_vector<int32_t>(info[0], "rows"), w = to_vector<float>(info[1], "w"),
         b = to_vector<float>(info[2], "b")] { return alive(state).curvature(rows, w, b); },
        [](Napi::Env env, Curvature& curvature) -> Napi::Value {
          auto out = Napi::Object::New(env);
          out.Set("ww", from_vector(env, curvature.ww));
          out.Set("wb", from_vector(env, curvature.wb));
          out.Set("bb", from_vector(env, curvature.bb));
          return out;
        });
  }

  // Frees on the engine thread, after the work that is under way.
  void dispose(const Napi::CallbackInfo&) {
    Engine::instance().post([state = state_] { state->reset(); });
  }

  State state_;
};

void define_demonstrate(Napi::Env env, Napi::Object exports) {
  auto constructor = ScoresWrap::define(env);
  env.GetInstanceData<Environment>()->scores = Napi::Persistent(constructor);
  exports.Set("NativeStage1", constructor);
}

}  // namespace rank_grpo
