// What the addon's files share: the state of one JavaScript environment, and the parts that register themselves on it.
#pragma once
#include <napi.h>

#include <string>
#include <memory>
#include <utility>

#include "../native/objectives/objective.h"
#include "arguments.h"
#include "engine.h"

namespace rank_grpo {

struct Environment {
  Napi::FunctionReference policy, catalog, scores;  // constructors
  void* handed = nullptr;                           // what construct() gives to the constructor it calls
  std::shared_ptr<Outlet> outlet;                   // results of operations come in here
};

// An object of one of the addon's classes that holds `payload`. It goes to the constructor through the environment: no JavaScript
// value stands for it that somebody else could pass.
template <class T>
Napi::Object construct(Napi::Env env, Napi::FunctionReference Environment::*constructor, T& payload) {
  auto& environment = *env.GetInstanceData<Environment>();
  environment.handed = &payload;
  return (environment.*constructor).New({});
}
// In the constructor: the payload, and the class's mark on the object. A TypeError where JavaScript calls it.
template <class T>
T take_handed(const Napi::CallbackInfo& info, const napi_type_tag& tag, const char* instead) {
  auto& environment = *info.Env().GetInstanceData<Environment>();
  T* const handed = static_cast<T*>(std::exchange(environment.handed, nullptr));
  if (!handed) throw Napi::TypeError::New(info.Env(), std::string("Expected ") + instead + ", got a constructor call.");
  info.This().As<Napi::Object>().TypeTag(&tag);
  return *handed;
}
// Whether `v` was made by construct() with that tag: instanceof can be talked into anything.
inline bool has_tag(const Napi::Value& v, const napi_type_tag& tag) { return v.IsObject() && v.As<Napi::Object>().CheckTypeTag(&tag); }

void define_policy(Napi::Env env, Napi::Object exports);
void define_catalog(Napi::Env env, Napi::Object exports);
void define_kernels(Napi::Env env, Napi::Object exports);
void define_bench(Napi::Env env, Napi::Object exports);
void define_demonstrate(Napi::Env env, Napi::Object exports);

ObjectiveSpec read_objective(const Fields& fields);
Napi::Object objective_to_js(Napi::Env env, const ObjectiveResult& result);

}  // namespace rank_grpo
