// What AdamW keeps on the CUDA backend: moments on the device or on the host, with the same bits, through steps, saving and loading; and
// weights in bf16 alone, rounded by chance.
#include <unistd.h>

#include <cstdio>
#include <filesystem>

#include "../../native/model/policy.h"
#include "../../native/model/store.h"
#include "cuda_check.h"

using namespace cuda_check;
using namespace rank_grpo;

namespace {

std::unique_ptr<Policy> make_policy(const PolicyOptions& options) {
  auto policy = std::make_unique<Policy>(make_cuda_backend(), small_model("qwen2"), options);
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
  const Policy policy(make_cpu_backend(1), small_model("qwen2"), options);
  CHECK(policy.memory().host == 0 && policy.memory().moments == 8 * policy.table().total);
}

// -- weights in bf16 alone

namespace {

float nearest_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  u = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
  std::memcpy(&x, &u, 4);
  return x;
}
float next_bf16(float x, int steps) {  // away from 0
  uint32_t u;
  std::memcpy(&u, &x, 4);
  u += static_cast<uint32_t>(steps) << 16;
  std::memcpy(&x, &u, 4);
  return x;
}

// A matrix of bf16 panels after one step from w, all elements alike where w and g are.
struct Step {
  int64_t rows, columns;
  uint64_t seed = 5;
  int64_t step = 1, first = 0;
  bool on_host = false;
  float learning_rate = 1, decay = 0;
  Floats run(const Floats& w, const Floats& g) const {
    auto& b = cuda();
    const Device<float> weights(b, w), gradient(b, g), m(b, Floats(w.size(), 0.f)), v(b, Floats(w.size(), 0.f)), out(b, w);
    const auto hm = DeviceBuffer::on_host(b, w.size() * 4), hv = DeviceBuffer::on_host(b, w.size() * 4);
    const auto panels = b.make_panels(rows, columns, Compute::bf16);
    b.pack_rows(*panels, weights, 0, rows);
    AdamW options{learning_rate, 0.9f, 0.99f, 1e-8f, decay, step, 1.f, on_host, seed, first};
    if (on_host) {
      b.adamw_panels(*panels, hm.floats(), hv.floats(), gradient, options);
    } else {
      b.adamw_panels(*panels, m, v, gradient, options);
    }
    b.unpack_rows(out, *panels, 0, rows);
    return out.get();
  }
};

}  // namespace

// Of many weights that are to end between two bf16, each becomes one of the two, and their mean is what f32 would give.
TEST(cuda_bf16_weights_are_rounded_without_bias) {
  const int64_t rows = 100, columns = 301;
  const auto n = static_cast<size_t>(rows * columns);
  for (const float start : {1.f, -1.f, 1.5f, 0.0123291015625f, -3072.f}) {
    const double spacing = std::abs(static_cast<double>(next_bf16(start, 1)) - static_cast<double>(start));
    for (const double share : {0.003, 0.25, 0.5, 0.9}) {
      Step step{rows, columns};
      step.learning_rate = static_cast<float>(share * spacing);  // the first step is the learning rate, against the gradient's sign
      const Floats got = step.run(Floats(n, start), Floats(n, start > 0 ? -1.f : 1.f));
      const Device<float> exact(cuda(), Floats{start}), m(cuda(), Floats{0}), v(cuda(), Floats{0}),
          g(cuda(), Floats{start > 0 ? -1.f : 1.f});
      cuda().adamw(exact, m, v, g, 1, {step.learning_rate, 0.9f, 0.99f, 1e-8f, 0, 1, 1.f});
      const double target = static_cast<double>(exact.get()[0]);
      const float beyond = next_bf16(start, 1);
      double sum = 0;
      for (const float x : got) {
        CHECK(x == start || x == beyond);
        sum += static_cast<double>(x);
      }
      const double p = (target - static_cast<double>(start)) / (static_cast<double>(beyond) - static_cast<double>(start));
      CHECK(p > 0.9 * share && p < 1.1 * share);  // f32 resolves it
      CHECK_NEAR(sum / static_cast<double>(n), target, 4.5 * spacing * std::sqrt(p * (1 - p) / static_cast<double>(n)));
    }
  }
}

TEST(cuda_bf16_weights_that_f32_gives_exactly_are_kept) {
  Step step{3, 7};
  step.learning_rate = 0;
  Floats w = random_floats(21);
  for (float& x : w) x = nearest_bf16(x);
  w[5] = INFINITY;
  const Floats got = step.run(w, random_floats(21));
  CHECK(same_bits(got, w));
  w[5] = NAN;
  CHECK(std::isnan(step.run(w, Floats(21, 1.f))[5]));
}

// A weight's bits depend on seed, step and its own number: not on the piece, the host, or the matrix that it is in.
TEST(cuda_bf16_weights_are_reproducible) {
  const int64_t rows = 3001, columns = 351;  // more than one visit from the host
  const Floats g = random_floats(rows * columns);
  Floats w = random_floats(rows * columns);
  for (float& x : w) x = nearest_bf16(x);
  Step step{rows, columns};
  step.learning_rate = 1e-3f;
  step.decay = 0.1f;
  const Floats whole = step.run(w, g);
  CHECK(!same_bits(whole, w));
  Step again = step;
  CHECK(same_bits(again.run(w, g), whole));
  again.on_host = true;
  CHECK(same_bits(again.run(w, g), whole));
  Step rest = step;  // the same weights as rows of another matrix
  rest.rows = 17;
  rest.first = 1234 * columns;
  CHECK(same_bits(rest.run(part(w, rest.first, 17 * columns), part(g, rest.first, 17 * columns)), part(whole, rest.first, 17 * columns)));
  rest.first += 1;
  CHECK(!same_bits(rest.run(part(w, 1234 * columns, 17 * columns), part(g, 1234 * columns, 17 * columns)),
                   part(whole, 1234 * columns, 17 * columns)));
  Step other = rest;
  other.first = 0;
  const Floats small_w = part(w, 0, 17 * columns), small_g = part(g, 0, 17 * columns), first = other.run(small_w, small_g);
  other.seed = 6;
  CHECK(!same_bits(other.run(small_w, small_g), first));
}

namespace {

std::unique_ptr<Policy> bf16_policy(Compute weights, bool tied, bool state_on_host = false) {
  PolicyOptions options;
  options.compute = Compute::bf16;
  options.weights = weights;
  options.state_on_host = state_on_host;
  ModelConfig config = small_model("qwen2");
  config.tied = tied;
  auto policy = std::make_unique<Policy>(make_cuda_backend(), config, options);
  policy->initialize(3, 0.2f);
  return policy;
}
// Every parameter as the nearest bf16.
void round_weights(Policy& policy) {
  for (size_t i = 0; i < policy.table().parameters.size(); ++i) {
    Floats w(static_cast<size_t>(policy.table().parameters[i].size()));
    policy.get_parameter(i, w.data());
    for (float& x : w) x = nearest_bf16(x);
    policy.set_parameter(i, w.data());
  }
  policy.parameters_changed();
}

}  // namespace

// Products, the embedding, the head and all gradients read the same numbers, whether these are all there is or copies of an f32.
TEST(cuda_bf16_weights_give_the_bits_of_f32_weights_that_are_bf16) {
  for (const bool tied : {false, true}) {
    const auto whole = bf16_policy(Compute::f32, tied), narrow = bf16_policy(Compute::bf16, tied);
    round_weights(*whole);
    round_weights(*narrow);
    CHECK(narrow->memory().weights + narrow->memory().panels < whole->memory().weights + whole->memory().panels);
    GenerateRequest request;
    request.prompt_offsets = {0, 5};
    request.prompt_ids = {1, 2, 3, 4, 5};
    request.group_size = 2;
    request.max_new_tokens = 12;
    request.ignore_stop = true;
    const Completions drawn = whole->generate(request), also = narrow->generate(request);
    CHECK(same_bits(drawn.ids, also.ids) && same_bits(drawn.logprobs, also.logprobs));
    Batch batch;
    batch.prompt_ids = request.prompt_ids;
    batch.prompt_offsets = request.prompt_offsets;
    batch.completion_ids = drawn.ids;
    batch.completion_offsets = drawn.offsets;
    batch.group_offsets = {0, 2};
    CHECK(same_bits(whole->score(batch, {}, true).entropies, narrow->score(batch, {}, true).entropies));
    const Floats slopes = random_floats(batch.tokens()), more = random_floats(batch.tokens());
    for (Policy* policy : {whole.get(), narrow.get()}) policy->backward(batch, slopes, more, {});
    for (size_t i = 0; i < whole->table().parameters.size(); ++i) {
      Floats a(static_cast<size_t>(whole->table().parameters[i].size())), b(a.size());
      whole->get_gradient(i, a.data());
      narrow->get_gradient(i, b.data());
      CHECK(same_bits(a, b));
    }
  }
}

// The head alone, over few allowed tokens a row: its backward pass reads panels where there is nothing else.
TEST(cuda_bf16_head_over_allowed_tokens) {
  auto& b = cuda();
  const int64_t R = 5, V = 40, C = 17;
  Floats W = random_floats(V * C);
  for (float& x : W) x = nearest_bf16(x);
  const Device<float> h(b, random_floats(R * C)), dW(b, W), logprob(b, Floats(R)), lse(b, Floats(R));
  const Device<float> from_rows(b, Floats(static_cast<size_t>(R * C), NAN)), from_panels(b, Floats(static_cast<size_t>(R * C), NAN));
  const Ints target{3, 9, 0, 39, 20};
  const Floats slopes = random_floats(R);
  const AllowedTokens allowed{{0, 2, 3, 6, 8, 10}, {3, 30, 9, 0, 1, 2, 5, 39, 20, 21}};
  const auto panels = b.make_panels(V, C, Compute::bf16);
  b.pack(*panels, dW);
  b.head_forward(logprob, nullptr, lse, h, *panels, nullptr, target.data(), &allowed, R, 0.9f);
  b.head_backward(from_rows, nullptr, h, dW, *panels, target.data(), &allowed, lse, nullptr, slopes.data(), nullptr, R, 0.9f);
  b.head_backward(from_panels, nullptr, h, nullptr, *panels, target.data(), &allowed, lse, nullptr, slopes.data(), nullptr, R, 0.9f);
  CHECK(same_bits(from_panels.get(), from_rows.get()));
  CHECK(std::abs(from_panels.get()[0]) > 0);
}

// Training is the same every time, with the moments on either side, and after a break.
TEST(cuda_bf16_weights_train_reproducibly) {
  OptimizerOptions options{1e-3, 0.9, 0.99, 1e-8, 0.1, 1};
  options.seed = 9;
  const auto once = bf16_policy(Compute::bf16, true), twice = bf16_policy(Compute::bf16, true, true),
             other = bf16_policy(Compute::bf16, true);
  const State start = state_of(*once);
  OptimizerOptions elsewhere = options;
  elsewhere.seed = 10;
  for (int step = 1; step <= 2; ++step) {
    train(*once, step, options);
    train(*twice, step, options);
    train(*other, step, elsewhere);
  }
  check_same(state_of(*once), state_of(*twice));
  CHECK(!same_bits(state_of(*once).weights, state_of(*other).weights));
  CHECK(!same_bits(state_of(*once).weights, start.weights));
  // A break: weights through the parameters, moments and the number of steps through a file.
  const std::string path = (std::filesystem::temp_directory_path() / ("rank-grpo-bf16-" + std::to_string(getpid()))).string();
  save_optimizer(*once, path);
  const auto resumed = bf16_policy(Compute::bf16, true);
  load_optimizer(*resumed, path);
  std::remove(path.c_str());
  for (size_t i = 0; i < once->table().parameters.size(); ++i) {
    Floats w(static_cast<size_t>(once->table().parameters[i].size()));
    once->get_parameter(i, w.data());
    if (!once->table().parameters[i].vector)
      for (const float x : w) CHECK(x == nearest_bf16(x));
    resumed->set_parameter(i, w.data());
  }
  resumed->parameters_changed();
  train(*once, 3, options);
  train(*resumed, 3, options);
  check_same(state_of(*once), state_of(*resumed));
}

TEST(bf16_weights_are_refused_where_they_make_no_sense) {
  PolicyOptions options;
  options.weights = Compute::bf16;
  CHECK_THROWS(Policy(make_cuda_backend(), small_model("qwen2"), options), "INVALID_ARGUMENT");  // in f32 compute
  options.compute = Compute::bf16;
  CHECK_THROWS(Policy(make_cpu_backend(1), small_model("qwen2"), options), "INVALID_ARGUMENT");
}
