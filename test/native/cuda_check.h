// What the CUDA tests share: a backend of each kind, a small model, random arrays, arrays on both devices, and comparison with the CPU's result.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../native/core/device.h"
#include "../../native/model/config.h"
#include "../../native/model/memory.h"
#include "check.h"

namespace cuda_check {

using namespace check;

using Floats = std::vector<float>;
using Ints = std::vector<int32_t>;

inline std::mt19937& generator() {
  static std::mt19937 instance(7);
  return instance;
}
inline Floats random_floats(int64_t n, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  Floats out(static_cast<size_t>(n));
  for (float& x : out) x = normal(generator());
  return out;
}
inline Ints random_ints(int64_t n, int below) {
  Ints out(static_cast<size_t>(n));
  for (int32_t& x : out) x = static_cast<int32_t>(generator()() % static_cast<unsigned>(below));
  return out;
}

// Two layers of 16 channels; "qwen2" has biases.
inline rank_grpo::ModelConfig small_model(const std::string& family = "llama") {
  rank_grpo::ModelConfig config;
  config.family = family;
  config.vocab = 50;
  config.hidden = 16;
  config.intermediate = 24;
  config.layers = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 8;
  config.max_positions = 64;
  config.qkv_bias = family == "qwen2";
  return config;
}

// An array on a backend's device.
template <class T>
struct Device {
  Device(rank_grpo::Backend& b, const std::vector<T>& values)
      : backend(&b), count(values.size()), buffer(b, std::max<size_t>(1, values.size()) * sizeof(T)) {
    b.upload(buffer.data(), values.data(), count * sizeof(T));
  }
  operator T*() const { return static_cast<T*>(buffer.data()); }
  std::vector<T> get() const {
    std::vector<T> out(count);
    backend->download(out.data(), buffer.data(), count * sizeof(T));
    return out;
  }
  rank_grpo::Backend* backend;
  size_t count;
  rank_grpo::DeviceBuffer buffer;
};

inline rank_grpo::Backend& cpu() {
  static const auto backend = rank_grpo::make_cpu_backend(1);
  return *backend;
}
inline rank_grpo::Backend& cuda() {
  static const auto backend = rank_grpo::make_cuda_backend();
  return *backend;
}

// Largest |a - b| must be at most tolerance times the largest |b| (and at least `tolerance` itself where b is small).
inline void near(const Floats& a, const Floats& b, double tolerance, const char* what, int line) {
  that(a.size() == b.size(), std::string(what) + ": sizes differ", __FILE__, line);
  double largest = 1, worst = 0;
  size_t at = 0;
  for (float x : b) largest = std::max(largest, std::abs(static_cast<double>(x)));
  for (size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(d <= worst)) {
      worst = d;
      at = i;
    }
  }
  that(worst <= tolerance * largest,
       std::string(what) + ": " + std::to_string(a.empty() ? 0.f : a[at]) + " instead of " + std::to_string(b.empty() ? 0.f : b[at]) +
           " at " + std::to_string(at) + " (difference " + std::to_string(worst / largest * 1e9) + "e-9 of the largest)",
       __FILE__, line);
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}
template <class T>
std::vector<T> part(const std::vector<T>& v, int64_t first, int64_t count) {
  return std::vector<T>(v.begin() + first, v.begin() + first + count);
}

// Runs `body(backend)` on both; it returns arrays; they must agree.
template <class F>
void compare(double tolerance, const char* what, int line, F&& body) {
  const std::vector<Floats> wanted = body(cpu()), got = body(cuda());
  that(wanted.size() == got.size() && !wanted.empty(), std::string(what) + ": results", __FILE__, line);
  for (size_t i = 0; i < wanted.size(); ++i)
    near(got[i], wanted[i], tolerance, (std::string(what) + ", result " + std::to_string(i)).c_str(), line);
}

}  // namespace cuda_check

#define COMPARE(tolerance, what, ...) cuda_check::compare(tolerance, (what), __LINE__, __VA_ARGS__)
