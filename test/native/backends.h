// The backends the kernel table runs on, device memory between guards, and comparisons with float64 references.
//
// BACKEND_TEST(name) { ... backend ... } runs once for each device: the CPU with each of its instruction sets, and any other
// that devices() lists. What a device cannot do here is skipped and counted. Data goes through upload and download alone, so
// a test never knows where it runs.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../../native/core/backend.h"
#ifdef RANK_GRPO_CUDA_TABLE
#include "../../native/core/device.h"
#endif
#include "../../native/core/error.h"
#include "../../native/core/philox.h"
#include "check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace check {

using rank_grpo::Backend;
using rank_grpo::Compute;

// -- devices

struct Device {
  std::string name;
  std::string isa;  // forces the CPU's instruction set
};

inline std::vector<Device> devices() {
  static const std::vector<Device> list = [] {
#ifdef RANK_GRPO_CUDA_TABLE  // the CUDA backend, on the host's shim or on a GPU
    return std::vector<Device>{{"cuda", ""}};
#endif
    const char* only = std::getenv("RANK_GRPO_ISA");
    if (only) return std::vector<Device>{{std::string("cpu ") + only, only}};
    return std::vector<Device>{{"cpu avx512bf16", "avx512bf16"}, {"cpu avx512", "avx512"}, {"cpu avx2", "avx2"}, {"cpu plain", "plain"}};
  }();
  return list;
}

inline int test_threads() {
  const char* text = std::getenv("RANK_GRPO_THREADS");
  return text ? std::max(1, std::atoi(text)) : 2;
}

inline std::unique_ptr<Backend> make_backend(const Device& device, int threads) {
#ifdef RANK_GRPO_CUDA_TABLE
  if (device.name == "cuda") return rank_grpo::make_cuda_backend();
#endif
  setenv("RANK_GRPO_ISA", device.isa.c_str(), 1);
  try {
    return rank_grpo::make_cpu_backend(threads);
  } catch (const rank_grpo::Error& error) {
    throw Skip(error.what());
  }
}

// One backend for each device and number of threads, kept for all tests.
inline Backend& backend_of(const Device& device, int threads) {
  static std::map<std::pair<std::string, int>, std::unique_ptr<Backend>> made;
  auto& slot = made[{device.name, threads}];
  if (!slot) slot = make_backend(device, threads);
  return *slot;
}

struct RegisterOnBackends {
  RegisterOnBackends(const std::string& name, void (*body)(Backend&)) {
    for (const Device& device : devices())
      Register(name + " [" + device.name + "]", [device, body] { body(backend_of(device, test_threads())); });
  }
};
#define BACKEND_TEST(name)                                             \
  static void name(rank_grpo::Backend& backend);                       \
  static const check::RegisterOnBackends register_##name(#name, name); \
  static void name(rank_grpo::Backend& backend)

// -- memory between guards

// The guard's bits are a NaN as a float and a negative number as an integer: a value read from beyond the end poisons the result or
// the address, a value written there is found by read() and by the destructor's caller.
constexpr uint32_t kGuard = 0xffc0dead;
constexpr size_t kGuardValues = 64;  // keeps the middle 64-byte aligned

// n values of 4 bytes on a device. Under AddressSanitizer the guards are poisoned as well, so reads beyond are found too.
template <class T>
class Buffer {
  static_assert(sizeof(T) == 4, "guards are 4 bytes each");

 public:
  Buffer(Backend& backend, const std::vector<T>& values) : backend_(backend), count_(values.size()) {
    base_ = static_cast<T*>(backend.allocate(bytes()));
    std::vector<uint32_t> all(count_ + 2 * kGuardValues, kGuard);
    if (count_) std::memcpy(all.data() + kGuardValues, values.data(), count_ * 4);
    backend.upload(base_, all.data(), bytes());
    poison(true);
  }
  Buffer(Backend& backend, size_t count, T fill) : Buffer(backend, std::vector<T>(count, fill)) {}
  ~Buffer() {
    poison(false);
    backend_.release(base_, bytes());
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return base_ + kGuardValues; }
  operator T*() { return data(); }
  std::vector<T> read() {
    std::vector<uint32_t> all(count_ + 2 * kGuardValues);
    poison(false);
    backend_.download(all.data(), base_, bytes());
    poison(true);
    for (size_t i = 0; i < kGuardValues; ++i) {
      that(all[i] == kGuard, "written " + std::to_string(kGuardValues - i) + " values before the buffer", __FILE__, __LINE__);
      that(all[kGuardValues + count_ + i] == kGuard, "written " + std::to_string(i + 1) + " values beyond the buffer", __FILE__, __LINE__);
    }
    std::vector<T> values(count_);
    if (count_) std::memcpy(values.data(), all.data() + kGuardValues, count_ * 4);
    return values;
  }

 private:
  size_t bytes() const { return (count_ + 2 * kGuardValues) * 4; }
  void poison(bool on) {
#if defined(__SANITIZE_ADDRESS__)
    for (T* guard : {base_, base_ + kGuardValues + count_}) {
      if (on) {
        ASAN_POISON_MEMORY_REGION(guard, kGuardValues * 4);
      } else {
        ASAN_UNPOISON_MEMORY_REGION(guard, kGuardValues * 4);
      }
    }
#else
    (void)on;
#endif
  }
  Backend& backend_;
  size_t count_;
  T* base_;
};
using Floats = Buffer<float>;
using Ints = Buffer<int32_t>;

// -- data

// Normal values: Box and Muller over Philox, so a case is the same everywhere.
inline std::vector<float> normal(size_t n, uint32_t seed, double scale = 1) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    const auto r = rank_grpo::philox(0x7e57, static_cast<uint32_t>(i), seed, 0, 0);
    const double radius = std::sqrt(-2 * std::log((r.x[0] + 0.5) * 0x1p-32));
    out[i] = static_cast<float>(scale * radius * std::cos(6.283185307179586 * r.x[1] * 0x1p-32));
  }
  return out;
}
// Whole numbers in [0, bound).
inline std::vector<int32_t> integers(size_t n, uint32_t seed, int bound) {
  std::vector<int32_t> out(n);
  for (size_t i = 0; i < n; ++i)
    out[i] = static_cast<int32_t>(rank_grpo::philox(0x7e57, static_cast<uint32_t>(i), seed, 1, 0).x[0] % static_cast<uint32_t>(bound));
  return out;
}

// -- comparison

constexpr double kEps = 0x1p-24;  // half the distance of two floats near 1

inline void close(const std::vector<float>& got, const std::vector<double>& wanted, const std::vector<double>& tolerance,
                  const std::string& what) {
  that(got.size() == wanted.size(), what + ": " + std::to_string(got.size()) + " values, expected " + std::to_string(wanted.size()),
       __FILE__, __LINE__);
  for (size_t i = 0; i < got.size(); ++i) {
    const double t = tolerance[tolerance.size() == 1 ? 0 : i], difference = std::abs(static_cast<double>(got[i]) - wanted[i]);
    if (!(difference <= t)) {
      char text[200];
      std::snprintf(text, sizeof text, "[%zu] = %.9g, expected %.9g within %.3g (difference %.3g)", i, static_cast<double>(got[i]),
                    wanted[i], t, difference);
      that(false, what + text, __FILE__, __LINE__);
    }
  }
}
inline void close(const std::vector<float>& got, const std::vector<double>& wanted, double tolerance, const std::string& what) {
  close(got, wanted, std::vector<double>{tolerance}, what);
}

template <class T>
void same_bits(const std::vector<T>& a, const std::vector<T>& b, const std::string& what) {
  that(a.size() == b.size(), what + ": sizes differ", __FILE__, __LINE__);
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0)
      that(false, what + "[" + std::to_string(i) + "]: " + std::to_string(a[i]) + " and " + std::to_string(b[i]) + " differ", __FILE__,
           __LINE__);
}

inline double rms_error(const std::vector<float>& got, const std::vector<double>& wanted) {
  double sum = 0;
  for (size_t i = 0; i < got.size(); ++i) sum += (static_cast<double>(got[i]) - wanted[i]) * (static_cast<double>(got[i]) - wanted[i]);
  return std::sqrt(sum / static_cast<double>(std::max<size_t>(1, got.size())));
}

inline double largest(const std::vector<double>& x) {
  double m = 0;
  for (double v : x) m = std::max(m, std::abs(v));
  return m;
}

// Runs `body` on every device that is here with 1 and with 2 threads and compares what it returns, bit for bit: threads on every device,
// AVX2 with AVX-512 (the plain kernels may differ: they multiply and add apart).
template <class Body>
void same_everywhere(Body&& body) {
  std::vector<std::pair<std::string, std::vector<float>>> vectors;
  for (const Device& device : devices()) {
    std::vector<float> one, two;
    try {
      one = body(backend_of(device, 1));
      two = body(backend_of(device, 2));
    } catch (const Skip&) {
      continue;  // counted by the BACKEND_TESTs
    }
    same_bits(one, two, device.name + ": 1 and 2 threads");
    if (device.isa.rfind("avx", 0) == 0) vectors.push_back({device.name, one});
  }
  for (size_t i = 1; i < vectors.size(); ++i)
    same_bits(vectors[0].second, vectors[i].second, vectors[0].first + " and " + vectors[i].first);
}

}  // namespace check
