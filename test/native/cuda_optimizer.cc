// What AdamW keeps on the CUDA backend: moments on the device or on the host, with the same bits, through steps, saving and loading.
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "../../native/model/policy.h"
#include "../../native/model/store.h"
#include "cuda_check.h"

using namespace cuda_check;
using namespace rank_grpo;

namespace {

ModelConfig small_model() {
  ModelConfig config;
  config.family = "qwen2";
  config.vocab = 50;
  config.hidden = 16;
  config.intermediate = 24;
  config.layers = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.head_dim = 8;
  config.max_positions = 64;
  config.qkv_bias = true;
  return config;
}

std::unique_ptr<Policy> make_policy(const PolicyOptions& options) {
  auto policy = std::make_unique<Policy>(make_cuda_backend(), small_model(), options);
  policy->initialize(3, 0.2f);
  return policy;
}
std::unique_ptr<Policy> make_policy(bool state_on_host) {
  PolicyOptions options;
  options.state_on_host = state_on_host;
  return make_policy(options);
}

// Any step: two lists of one prompt, slopes by the number of the step.
void train(Policy& policy, int step, const OptimizerOptions& options = {1e-2, 0.9, 0.99, 1e-8, 0.1, 1}) {
  Batch batch;
  batch.prompt_ids = {1, 2, 3, 4, 5};
  batch.prompt_offsets = {0, 5};
  batch.completion_ids = {6, 7, 8, 9, 10, 11, 12};
  batch.completion_offsets = {0, 3, 7};
  batch.group_offsets = {0, 2};
  Floats slopes;
  for (int t = 0; t < 7; ++t) slopes.push_back(std::sin(static_cast<float>(10 * step + t)));
  policy.backward(batch, slopes, {}, {});
  policy.optimizer_step(options);
}

struct State {
  Floats weights, m, v;
};
State state_of(const Policy& policy) {
  State all;
  for (size_t i = 0; i < policy.table().parameters.size(); ++i) {
    Floats w(static_cast<size_t>(policy.table().parameters[i].size())), m(w.size()), v(w.size());
    policy.get_parameter(i, w.data());
    policy.get_moments(i, m.data(), v.data());
    all.weights.insert(all.weights.end(), w.begin(), w.end());
    all.m.insert(all.m.end(), m.begin(), m.end());
    all.v.insert(all.v.end(), v.begin(), v.end());
  }
  return all;
}
void check_same(const State& a, const State& b) { CHECK(same_bits(a.weights, b.weights) && same_bits(a.m, b.m) && same_bits(a.v, b.v)); }

}  // namespace

TEST(cuda_moments_on_the_host_give_the_same_bits) {
  auto& b = cuda();
  for (const int64_t n : {int64_t{1}, int64_t{777}, (int64_t{1} << 20) + 1003}) {  // the last: more than one visit
    const Floats w = random_floats(n), start(static_cast<size_t>(n), 0.f);
    const Device<float> dw(b, w), dm(b, start), dv(b, start), hw(b, w);
    const auto m = DeviceBuffer::on_host(b, static_cast<size_t>(n) * sizeof(float)),
               v = DeviceBuffer::on_host(b, static_cast<size_t>(n) * sizeof(float));
    for (int64_t step = 1; step <= 2; ++step) {
      const Device<float> g(b, random_floats(n));
      AdamW options{1e-2f, 0.9f, 0.99f, 1e-8f, 0.1f, step, 0.5f};
      b.adamw(dw, dm, dv, g, n, options);
      options.state_on_host = true;
      b.adamw(hw, m.floats(), v.floats(), g, n, options);
    }
    CHECK(same_bits(hw.get(), dw.get()));
    CHECK(!same_bits(hw.get(), w));
    CHECK(same_bits(Floats(m.floats(), m.floats() + n), dm.get()) && same_bits(Floats(v.floats(), v.floats() + n), dv.get()));
  }
}

TEST(cuda_policy_with_moments_on_the_host) {
  const auto device = make_policy(false), host = make_policy(true);
  const int64_t moments = device->memory().moments;
  CHECK(moments == 8 * device->table().total && host->memory().moments == moments);
  CHECK(device->memory().host == 0 && host->memory().host == moments);
  CHECK(device->bytes() - host->bytes() == moments);
  for (int step = 1; step <= 3; ++step) {
    train(*device, step);
    train(*host, step);
  }
  check_same(state_of(*device), state_of(*host));

  // Saved from either and loaded into either, training goes on the same.
  const std::string path = (std::filesystem::temp_directory_path() / ("rank-grpo-moments-" + std::to_string(getpid()))).string();
  for (const bool from_host : {false, true}) {
    Policy& source = from_host ? *host : *device;
    save_optimizer(source, path);
    const auto other = make_policy(!from_host);
    load_optimizer(*other, path);
    for (size_t i = 0; i < source.table().parameters.size(); ++i) {
      Floats w(static_cast<size_t>(source.table().parameters[i].size()));
      source.get_parameter(i, w.data());
      other->set_parameter(i, w.data());
    }
    other->parameters_changed();
    check_same(state_of(*other), state_of(source));
    train(*other, 4);
    train(source, 4);
    check_same(state_of(*other), state_of(source));
  }
  std::remove(path.c_str());
}

// The host's own backend has one memory: the option changes nothing.
TEST(cuda_moments_on_the_host_mean_nothing_on_the_cpu) {
  PolicyOptions options;
  options.state_on_host = true;
  const Policy policy(make_cpu_backend(1), small_model(), options);
  CHECK(policy.memory().host == 0 && policy.memory().moments == 8 * policy.table().total);
}
