// What the addon's files share: the state of one JavaScript environment, and the parts that register themselves on it.
#pragma once
#include <napi.h>

#include "../native/objectives/objective.h"
#include "arguments.h"

namespace rank_grpo {

struct Environment {
  Napi::FunctionReference policy, catalog, scores;
};

void define_policy(Napi::Env env, Napi::Object exports);
void define_catalog(Napi::Env env, Napi::Object exports);
void define_kernels(Napi::Env env, Napi::Object exports);
void define_bench(Napi::Env env, Napi::Object exports);
void define_demonstrate(Napi::Env env, Napi::Object exports);

ObjectiveSpec read_objective(const Fields& fields);
Napi::Object objective_to_js(Napi::Env env, const ObjectiveResult& result);

}  // namespace rank_grpo
