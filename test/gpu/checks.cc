// Whether the GPU computes what it should: against the CPU, and against itself in other batches.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "driver.h"

namespace driver {
namespace {

double worst(const std::vector<float>& a, const std::vector<float>& b) {
  double w = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    w = d <= w ? w : d;
  }
  return w;
}
struct ModelError {
  double relative = 0, rms = 0;  // of the worst tensor, relative to its norm; over all values
};
template <class Get>
ModelError model_error(const Policy& a, const Policy& b, Get&& get) {
  ModelError result;
  double squares = 0, count = 0;
  for (size_t i = 0; i < b.table().parameters.size(); ++i) {
    std::vector<float> x(static_cast<size_t>(b.table().parameters[i].size())), y(x.size());
    get(a, i, x.data());
    get(b, i, y.data());
    double difference = 0, size = 1e-30;
    for (size_t j = 0; j < x.size(); ++j) {
      difference += std::pow(static_cast<double>(x[j]) - static_cast<double>(y[j]), 2);
      size += std::pow(static_cast<double>(y[j]), 2);
    }
    result.relative = std::max(result.relative, std::sqrt(difference / size));
    squares += difference;
    count += static_cast<double>(x.size());
  }
  result.rms = std::sqrt(squares / count);
  return result;
}

}  // namespace

bool parity(const Options& options) {
  const auto cpu = random_policy(make_cpu_backend(4), little(), Compute::f32), cuda = random_policy(make_cuda_backend(), little(), Compute::f32);
  const auto request = request_of(2, 45, 3, 20, little().vocab);
  const Completions drawn = cpu->generate(request);
  bool ok = require(options, "parity/tokens that differ from the CPU's", drawn.ids == cuda->generate(request).ids ? 0 : 1, 0);
  const Batch batch = batch_of(request, drawn);
  const Scores wanted = cpu->score(batch, {}, true), got = cuda->score(batch, {}, true);
  ok &= require(options, "parity/log-probs", worst(got.logprobs, wanted.logprobs), 2e-5);
  ok &= require(options, "parity/entropies", worst(got.entropies, wanted.entropies), 2e-5);
  StepInputs inputs = inputs_of(batch, wanted.logprobs);
  OptimizerOptions optimizer;
  optimizer.learning_rate = 1e-3;
  for (int step = 0; step < 3; ++step) {
    const StepResult a = cpu->accumulate(batch, inputs, clip(), {}), b = cuda->accumulate(batch, inputs, clip(), {});
    ok &= require(options, "parity/loss of step " + std::to_string(step), std::abs(a.objective.loss - b.objective.loss), 1e-5);
    if (step == 0) {
      const auto error = model_error(*cuda, *cpu, [](const Policy& p, size_t i, float* out) { p.get_gradient(i, out); });
      ok &= require(options, "parity/gradient", error.relative, 1e-5);
    }
    cpu->optimizer_step(optimizer);
    cuda->optimizer_step(optimizer);
  }
  // By rms: Adam turns a gradient near zero into a step of up to the learning rate.
  const auto error = model_error(*cuda, *cpu, [](const Policy& p, size_t i, float* out) { p.get_parameter(i, out); });
  ok &= require(options, "parity/weights after 3 steps, rms", error.rms, 1e-2 * optimizer.learning_rate);
  return ok;
}

bool exact(const Options& options) {
  bool ok = true;
  for (const auto compute : {Compute::f32, Compute::bf16}) {
    const std::string name = compute == Compute::f32 ? "exact/f32 " : "exact/bf16 ";
    const std::shared_ptr<Backend> backend = make_cuda_backend();
    const ModelConfig config = qwen_half_billion(options.small);
    const auto policy = options.model.empty() ? random_policy(backend, config, compute) : load_policy(backend, options.model, compute);
    auto request = request_of(options.small ? 2 : 6, options.small ? 37 : 300, options.small ? 3 : 8, options.small ? 8 : 64, policy->config().vocab);
    const Completions drawn = policy->generate(request);
    request.max_rows = request.group_size;
    const Completions again = policy->generate(request);
    ok &= require(options, name + "rows that depend on the batch", drawn.ids == again.ids && worst(drawn.logprobs, again.logprobs) == 0 ? 0 : 1, 0);
    const Batch batch = batch_of(request, drawn);
    ForwardOptions forward;
    ok &= require(options, name + "sampler - trainer, micro-batches of 2048", worst(policy->score(batch, forward, false).logprobs, drawn.logprobs), 0);
    forward.micro_batch_tokens = 1;
    ok &= require(options, name + "sampler - trainer, row by row", worst(policy->score(batch, forward, true).logprobs, drawn.logprobs), 0);
    const auto inputs = inputs_of(batch, drawn.logprobs);
    const StepResult step = policy->accumulate(batch, inputs, clip(), {});
    ok &= require(options, name + "on-policy ratio - 1", std::max(step.objective.ratio_max - 1, 1 - step.objective.ratio_min), 0);
    std::vector<std::vector<float>> gradients(2);
    for (auto& g : gradients) {
      policy->zero_gradients();
      policy->accumulate(batch, inputs, clip(), {});
      g.resize(static_cast<size_t>(policy->table().parameters[0].size()));
      policy->get_gradient(0, g.data());
    }
    ok &= require(options, name + "gradient of a second pass", worst(gradients[0], gradients[1]), 0);
  }
  return ok;
}

}  // namespace driver
