// The fast mode with a stand-in for cuBLAS: where it cannot be opened the backend's own kernels serve, and where it can, every product that
// goes to it has the right operands, transposes and strides.
#include <dlfcn.h>

#include <array>
#include <cstdlib>

#include "../../native/core/error.h"
#include "../../native/cuda/cublas.h"
#include "../../native/model/policy.h"
#include "cuda_check.h"
#include "reference.h"

using namespace cuda_check;
using namespace rank_grpo;
using reference::Values;
using reference::widen;

namespace {

// RANK_GRPO_CUBLAS for the length of a test.
struct Library {
  explicit Library(const char* path) { setenv("RANK_GRPO_CUBLAS", path, 1); }
  ~Library() { unsetenv("RANK_GRPO_CUBLAS"); }
};

int counted(const char* name) {
  void* library = dlopen(FAKE_CUBLAS, RTLD_NOW | RTLD_NOLOAD);
  if (!library) return 0;
  const int value = reinterpret_cast<int (*)()>(dlsym(library, name))();
  dlclose(library);
  return value;
}
int products() { return counted("fake_products"); }

Floats rounded(const Floats& x, Compute compute) {
  if (compute == Compute::f32) return x;
  const Values y = reference::round_bf16(widen(x));
  return {y.begin(), y.end()};
}
// Of a sum of K products in float64 that is rounded once, beside the start that is added.
void check_product(const Floats& got, const reference::Product& wanted, const Floats& start, const char* what) {
  for (size_t i = 0; i < got.size(); ++i) {
    const double added = start.empty() ? 0 : static_cast<double>(start[i]);
    const double error = std::abs(static_cast<double>(got[i]) - wanted.value[i] - added);
    if (!(error <= 1e-6 * (wanted.magnitude[i] + std::abs(added))))
      that(false,
           std::string(what) + " [" + std::to_string(i) + "]: " + std::to_string(got[i]) + " instead of " +
               std::to_string(wanted.value[i] + added),
           __FILE__, __LINE__);
  }
}

}  // namespace

TEST(cuda_shim_cublas_that_cannot_be_opened) {
  const Floats x = random_floats(100 * 256), w = random_floats(256 * 256);
  auto product = [&](Backend& b) {
    const Device<float> dx(b, x), dw(b, w), y(b, Floats(100 * 256));
    const auto panels = b.make_panels(256, 256, Compute::f32);
    b.pack(*panels, dw);
    b.linear_forward(y, dx, *panels, nullptr, 100);
    return y.get();
  };
  const Floats exact = product(cuda());
  for (const auto& [path, why] : {std::pair<const char*, const char*>{"/nowhere/libcublas.so.13", "/nowhere/libcublas.so.13"},
                                  {"libm.so.6", "libm.so.6 has no cublasCreate_v2"}}) {
    const Library library(path);
    std::string reason;
    CHECK(Cublas::open(reason) == nullptr && reason.find(why) != std::string::npos);
    CHECK(list_devices()[1].fast.find("own kernels, no cuBLAS (") == 0 && list_devices()[1].fast.find(why) != std::string::npos);
    const auto fast = make_backend("cuda", 1, Determinism::fast);
    CHECK(same_bits(product(*fast), exact));
  }
  std::string reason;  // without a path: the library of the runtime's major version
  if (!Cublas::open(reason)) CHECK(reason.find("libcublas.so.13") != std::string::npos);
  CHECK(list_devices()[0].fast.empty());
}

TEST(cuda_shim_cublas_is_named_and_only_the_fast_mode_uses_it) {
  const Library library(FAKE_CUBLAS);
  std::string reason;
  const auto held = Cublas::open(reason);  // keeps the stand-in, and its counts, in memory
  CHECK(held && held->version() == "13.2.5");
  CHECK(list_devices()[1].fast == "cuBLAS 13.2.5");
  CHECK(counted("fake_handles") == 0);
  const int before = products();
  for (const auto determinism : {Determinism::exact, Determinism::fast}) {
    const bool fast = determinism == Determinism::fast;
    const auto b = make_backend("cuda", 1, determinism);
    CHECK(counted("fake_handles") == (fast ? 1 : 0));
    for (const int64_t T : {int64_t{64}, int64_t{65}, int64_t{256}}) {  // few rows stay: decoding reads weights, whatever multiplies
      const int64_t N = 256, K = 256;
      const Device<float> x(*b, random_floats(T * K)), w(*b, random_floats(N * K)), y(*b, Floats(static_cast<size_t>(T * N)));
      const auto panels = b->make_panels(N, K, Compute::bf16);
      b->pack(*panels, w);
      const int start = products();
      b->linear_forward(y, x, *panels, nullptr, T);
      CHECK(products() - start == (fast && T > 64 ? 1 : 0));
    }
    const Device<float> x(*b, random_floats(100 * 16)), w(*b, random_floats(16 * 16)), dx(*b, random_floats(100 * 16));
    const int start = products();
    b->linear_backward_input(dx, x, w, 100, 16, 16, Compute::f32, false);  // small ones stay too
    CHECK(products() == start);
  }
  CHECK(counted("fake_handles") == 0 && products() > before);
}

// Forward, with and without bias, input gradient, weight gradient, from weights in f32 and from panels of bf16, over sizes that are no multiples of
// anything: float64 sums over the operands as they are multiplied.
TEST(cuda_shim_cublas_products_have_their_layout) {
  const Library library(FAKE_CUBLAS);
  std::string reason;
  const auto held = Cublas::open(reason);
  const auto backend = make_backend("cuda", 1, Determinism::fast);
  auto& b = *backend;
  for (const auto compute : {Compute::f32, Compute::bf16})
    for (const auto& [T, N, K] : {std::array<int64_t, 3>{131, 203, 165}, {97, 331, 149}, {517, 67, 123}}) {
      const Floats x = random_floats(T * K), W = random_floats(N * K), dy = random_floats(T * N), bias = random_floats(N),
                   start_x = random_floats(T * K), start_w = random_floats(N * K);
      const Values rx = widen(rounded(x, compute)), rW = widen(rounded(W, compute)), rdy = widen(rounded(dy, compute));
      const auto forward = reference::linear(rx, rW, T, N, K), input = reference::linear_input(rdy, rW, T, N, K),
                 weight = reference::linear_weight(rdy, rx, T, N, K);
      const Device<float> dx(b, x), dW(b, W), ddy(b, dy), dbias(b, bias), y(b, Floats(static_cast<size_t>(T * N), NAN)),
          gx(b, Floats(static_cast<size_t>(T * K), NAN)), gx2(b, start_x), gW(b, start_w), gb(b, bias);
      const auto panels = b.make_panels(N, K, compute);
      b.pack(*panels, dW);
      const int before = products();
      b.linear_forward(y, dx, *panels, nullptr, T);
      check_product(y.get(), forward, {}, "y");
      b.linear_forward(y, dx, *panels, dbias, T);
      Floats biases;
      for (int64_t t = 0; t < T; ++t) biases.insert(biases.end(), bias.begin(), bias.end());
      check_product(y.get(), forward, biases, "y with bias");
      b.linear_backward_input(gx, ddy, dW, T, N, K, compute, false);
      check_product(gx.get(), input, {}, "dx");
      b.linear_backward_input(gx2, ddy, dW, T, N, K, compute, true);
      check_product(gx2.get(), input, start_x, "dx added");
      b.linear_backward_weight(gW, gb, ddy, dx, T, N, K, compute);
      check_product(gW.get(), weight, start_w, "dW");
      for (int64_t n = 0; n < N; ++n) {  // the bias has no product
        double sum = static_cast<double>(bias[static_cast<size_t>(n)]), size = std::abs(sum);
        for (int64_t t = 0; t < T; ++t) {
          sum += static_cast<double>(dy[static_cast<size_t>(t * N + n)]);
          size += std::abs(static_cast<double>(dy[static_cast<size_t>(t * N + n)]));
        }
        CHECK_NEAR(gb.get()[static_cast<size_t>(n)], sum, 1e-6 * size);
      }
      int wanted = 5;
      if (compute == Compute::bf16) {  // weights that panels alone hold
        const Device<float> from_panels(b, start_x);
        b.panels_backward_input(from_panels, ddy, *panels, T, true);
        check_product(from_panels.get(), input, start_x, "dx of panels");
        ++wanted;
      }
      CHECK(products() - before == wanted);
    }
}

// A model in the fast mode: its log-probs and gradients are the exact mode's but for rounding, and large products really went elsewhere.
TEST(cuda_cublas_trains_a_model) {
  const Library library(FAKE_CUBLAS);
  std::string reason;
  const auto held = Cublas::open(reason);
  ModelConfig config;
  config.family = "llama";
  config.vocab = 300;
  config.hidden = 128;
  config.intermediate = 192;
  config.layers = 1;
  config.heads = config.kv_heads = 2;
  config.head_dim = 64;
  config.max_positions = 256;
  Batch batch;
  batch.prompt_ids = random_ints(160, config.vocab);
  batch.prompt_offsets = {0, 160};
  batch.completion_ids = random_ints(80, config.vocab);
  batch.completion_offsets = {0, 40, 80};
  batch.group_offsets = {0, 2};
  const Floats slopes = random_floats(80);
  for (const auto compute : {Compute::f32, Compute::bf16}) {
    std::vector<Floats> logprobs, gradients;
    for (const auto determinism : {Determinism::exact, Determinism::fast}) {
      PolicyOptions options;
      options.compute = compute;
      Policy policy(std::shared_ptr<Backend>(make_backend("cuda", 1, determinism)), config, options);
      policy.initialize(3, 0.1f);
      const int before = products();
      logprobs.push_back(policy.backward(batch, slopes, {}, {}).logprobs);
      CHECK((products() > before) == (determinism == Determinism::fast));
      Floats all;
      for (size_t i = 0; i < policy.table().parameters.size(); ++i) {
        Floats g(static_cast<size_t>(policy.table().parameters[i].size()));
        policy.get_gradient(i, g.data());
        all.insert(all.end(), g.begin(), g.end());
      }
      gradients.push_back(all);
    }
    near(logprobs[1], logprobs[0], compute == Compute::f32 ? 1e-5 : 2e-2, "log-probs", __LINE__);
    near(gradients[1], gradients[0], compute == Compute::f32 ? 1e-5 : 2e-2, "gradients", __LINE__);
  }
}
