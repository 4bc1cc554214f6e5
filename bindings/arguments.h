// Reading JavaScript values into plain C++ ones, with one form of complaint: Expected {what} for {name}, got {value}.
#pragma once
#include <napi.h>

#include <cmath>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

namespace rank_grpo {

inline std::string describe(const Napi::Value& v) {
  if (v.IsTypedArray()) {
    static const char* const names[] = {"Int8Array",   "Uint8Array",   "Uint8ClampedArray", "Int16Array",    "Uint16Array",   "Int32Array",
                                        "Uint32Array", "Float32Array", "Float64Array",      "BigInt64Array", "BigUint64Array"};
    const int type = v.As<Napi::TypedArray>().TypedArrayType();
    return type >= 0 && type < 11 ? names[type] : "a typed array";
  }
  if (v.IsUndefined()) return "undefined";
  if (v.IsNull()) return "null";
  if (v.IsNumber() || v.IsBoolean()) return v.ToString().Utf8Value();
  if (v.IsString()) return "\"" + v.As<Napi::String>().Utf8Value().substr(0, 60) + "\"";
  if (v.IsArray()) return "an array";
  if (v.IsFunction()) return "a function";
  return "an object";
}

[[noreturn]] inline void type_error(Napi::Env env, const std::string& what, const std::string& name, const Napi::Value& got) {
  throw Napi::TypeError::New(env, "Expected " + what + " for " + name + ", got " + describe(got) + ".");
}

template <class T>
struct ArrayKind;
template <>
struct ArrayKind<int32_t> {
  static constexpr napi_typedarray_type type = napi_int32_array;
  static constexpr const char* name = "an Int32Array";
};
template <>
struct ArrayKind<float> {
  static constexpr napi_typedarray_type type = napi_float32_array;
  static constexpr const char* name = "a Float32Array";
};
template <>
struct ArrayKind<double> {
  static constexpr napi_typedarray_type type = napi_float64_array;
  static constexpr const char* name = "a Float64Array";
};
template <>
struct ArrayKind<uint16_t> {
  static constexpr napi_typedarray_type type = napi_uint16_array;
  static constexpr const char* name = "a Uint16Array";
};
template <>
struct ArrayKind<uint8_t> {
  static constexpr napi_typedarray_type type = napi_uint8_array;
  static constexpr const char* name = "a Uint8Array";
};

// A copy: native threads never look at JavaScript's memory.
template <class T>
std::vector<T> to_vector(const Napi::Value& v, const std::string& name) {
  if (!v.IsTypedArray() || v.As<Napi::TypedArray>().TypedArrayType() != ArrayKind<T>::type)
    type_error(v.Env(), ArrayKind<T>::name, name, v);
  const auto array = v.As<Napi::TypedArrayOf<T>>();
  if (array.ElementLength() == 0) return {};
  return {array.Data(), array.Data() + array.ElementLength()};
}

inline double to_number(const Napi::Value& v, const std::string& name) {
  if (!v.IsNumber() || std::isnan(v.As<Napi::Number>().DoubleValue())) type_error(v.Env(), "a number", name, v);
  return v.As<Napi::Number>().DoubleValue();
}

inline int64_t to_integer(const Napi::Value& v, const std::string& name, int64_t low, int64_t high) {
  const double x = v.IsNumber() ? v.As<Napi::Number>().DoubleValue() : NAN;
  if (!(x >= static_cast<double>(low) && x <= static_cast<double>(high)) || x != std::floor(x)) {
    const std::string what = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
    if (v.IsNumber()) throw Napi::RangeError::New(v.Env(), "Expected " + what + " for " + name + ", got " + describe(v) + ".");
    type_error(v.Env(), what, name, v);
  }
  return static_cast<int64_t>(x);
}

inline std::string to_text(const Napi::Value& v, const std::string& name) {
  if (!v.IsString()) type_error(v.Env(), "a string", name, v);
  return v.As<Napi::String>().Utf8Value();
}

// A file's name; one with a zero byte would name another file than it says.
inline std::string to_path(const Napi::Value& v, const std::string& name) {
  const std::string path = to_text(v, name);
  if (path.empty() || path.find('\0') != std::string::npos) type_error(v.Env(), "a path", name, v);
  return path;
}

// The fields of an options object. Each is read once: a getter is JavaScript, and could answer again with another array than was checked.
class Fields {
 public:
  Fields(const Napi::Value& v, const std::string& name) : object_(v.IsObject() ? v.As<Napi::Object>() : Napi::Object()) {
    if (!v.IsObject()) type_error(v.Env(), "an object", name, v);
  }
  Napi::Value get(const std::string& key) const {
    const auto known = read_.find(key);
    return known != read_.end() ? known->second : read_.emplace(key, object_.Get(key)).first->second;
  }
  bool has(const char* key) const { return !get(key).IsUndefined() && !get(key).IsNull(); }
  template <class T>
  std::vector<T> array(const char* key) const {
    return to_vector<T>(get(key), key);
  }
  template <class T>
  std::vector<T> array_or_empty(const char* key) const {
    return has(key) ? array<T>(key) : std::vector<T>();
  }
  double number(const char* key, double fallback) const { return has(key) ? to_number(get(key), key) : fallback; }
  int64_t integer(const char* key, int64_t fallback, int64_t low, int64_t high) const {
    return has(key) ? to_integer(get(key), key, low, high) : fallback;
  }
  bool boolean(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!get(key).IsBoolean()) type_error(get(key).Env(), "true or false", key, get(key));
    return get(key).As<Napi::Boolean>().Value();
  }
  // What logits are divided by; its inverse is a float too.
  float temperature() const {
    const double t = number("temperature", 1);
    if (!(t >= 1e-6 && t <= 1e6))
      throw Napi::RangeError::New(object_.Env(), "Expected a number from 1e-6 to 1e6 for temperature, got " + describe(get("temperature")) +
                                                     ". Greedy decoding is an option of its own.");
    return static_cast<float>(t);
  }
  std::string text(const char* key, const std::string& fallback) const { return has(key) ? to_text(get(key), key) : fallback; }
  std::string device() const {
    const std::string name = text("device", "cpu");
    if (name != "auto" && name != "cpu" && name != "cuda")
      type_error(object_.Env(), "\"auto\", \"cpu\" or \"cuda\"", "device", get("device"));
    return name;
  }
  std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> out;
    if (!has(key)) return out;
    if (!get(key).IsArray()) type_error(get(key).Env(), "an array of strings", key, get(key));
    const auto list = get(key).As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) out.push_back(to_text(list.Get(i), key));
    return out;
  }

 private:
  Napi::Object object_;
  mutable std::map<std::string, Napi::Value> read_;
};

template <class T>
Napi::Value from_vector(Napi::Env env, const std::vector<T>& values) {
  auto array = Napi::TypedArrayOf<T>::New(env, values.size(), ArrayKind<T>::type);
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

}  // namespace rank_grpo
