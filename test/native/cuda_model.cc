// Whole models on the CUDA backend: log-probs and gradients of the tiny checkpoints against the CPU's, an RL update, generation,
// and sampler = trainer as bits.
#include "../../native/model/checkpoint.h"
#include "../../native/model/policy.h"
#include "cuda_check.h"

using namespace cuda_check;
using namespace rank_grpo;

namespace {

std::unique_ptr<Policy> load(const std::shared_ptr<Backend>& backend, const char* model, PolicyOptions options = {}) {
  const std::string config = shared(std::string("models/tiny/") + model + "/config.json");
  const auto checkpoint = Checkpoint::open(config.substr(0, config.rfind('/')));
  auto policy = std::make_unique<Policy>(backend, checkpoint->config(), options);
  Floats values;
  const auto& parameters = policy->table().parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    values.resize(static_cast<size_t>(parameters[i].size()));
    checkpoint->read(parameters[i], values.data());
    policy->set_parameter(i, values.data());
  }
  policy->parameters_changed();
  return policy;
}

struct Pair {
  explicit Pair(const char* model, PolicyOptions options = {})
      : cpu(load(make_cpu_backend(1), model, options)), cuda(load(make_cuda_backend(), model, options)) {}
  std::unique_ptr<Policy> cpu, cuda;
};

Batch two_groups(int vocab) {
  Batch batch;
  batch.prompt_offsets = {0, 11, 45};
  batch.prompt_ids = random_ints(45, vocab);
  batch.completion_offsets = {0, 9, 10, 24, 30};
  batch.completion_ids = random_ints(30, vocab);
  batch.group_offsets = {0, 3, 4};
  return batch;
}

// Largest difference of any tensor, relative to its norm.
double gradient_error(const Policy& got, const Policy& wanted) {
  double worst = 0;
  for (size_t i = 0; i < wanted.table().parameters.size(); ++i) {
    Floats a(static_cast<size_t>(wanted.table().parameters[i].size())), b(a.size());
    got.get_gradient(i, a.data());
    wanted.get_gradient(i, b.data());
    double difference = 0, size = 0;
    for (size_t j = 0; j < a.size(); ++j) {
      difference += std::pow(static_cast<double>(a[j]) - static_cast<double>(b[j]), 2);
      size += std::pow(static_cast<double>(b[j]), 2);
    }
    CHECK(size > 0);
    worst = std::max(worst, std::sqrt(difference / size));
  }
  return worst;
}

ObjectiveSpec clip_objective() {
  ObjectiveSpec spec;
  spec.rule = "clip";
  spec.params = {0.06, 0.08, INFINITY};
  spec.kl_beta = 0.01;
  spec.entropy_coef = 0.001;
  return spec;
}

StepInputs step_inputs(const Batch& batch, const Floats& old_logprobs) {
  StepInputs inputs;
  inputs.advantages = random_floats(batch.tokens());
  inputs.weights.assign(static_cast<size_t>(batch.tokens()), 1.f / static_cast<float>(batch.tokens()));
  inputs.old_logprobs = old_logprobs;
  inputs.ref_logprobs = old_logprobs;
  for (float& x : inputs.ref_logprobs) x -= 0.01f;
  inputs.segment_offsets = {0};
  for (size_t row = 0; row + 1 < batch.completion_offsets.size(); ++row)
    for (int32_t t = batch.completion_offsets[row]; t < batch.completion_offsets[row + 1]; ++t) {
      inputs.segment_tokens.push_back(t);
      if ((t - batch.completion_offsets[row]) % 4 == 3 || t + 1 == batch.completion_offsets[row + 1])
        inputs.segment_offsets.push_back(static_cast<int32_t>(inputs.segment_tokens.size()));
    }
  return inputs;
}

}  // namespace

TEST(cuda_model_equals_the_cpu) {
  for (const char* model : {"llama-default", "qwen3", "qwen2", "odd-shapes"})
    for (const bool recompute : {false, true}) {
      if (recompute && std::strcmp(model, "qwen3") != 0) continue;
      PolicyOptions options;
      options.activation_bytes = recompute ? 0 : -1;
      const Pair pair(model, options);
      const Batch batch = two_groups(pair.cpu->config().vocab);
      const ForwardOptions forward;
      const Scores wanted = pair.cpu->score(batch, forward, true), got = pair.cuda->score(batch, forward, true);
      near(got.logprobs, wanted.logprobs, 1e-5, "log-probs", __LINE__);
      near(got.entropies, wanted.entropies, 1e-5, "entropies", __LINE__);
      const StepInputs inputs = step_inputs(batch, wanted.logprobs);
      pair.cpu->accumulate(batch, inputs, clip_objective(), forward);
      pair.cuda->accumulate(batch, inputs, clip_objective(), forward);
      CHECK_NEAR(gradient_error(*pair.cuda, *pair.cpu), 0, 5e-6);
    }
}

TEST(cuda_model_in_bf16_is_near_the_cpus_bf16) {
  PolicyOptions options;
  options.compute = Compute::bf16;
  const Pair pair("llama-default", options);
  const Batch batch = two_groups(pair.cpu->config().vocab);
  const Scores wanted = pair.cpu->score(batch, {}, false), got = pair.cuda->score(batch, {}, false);
  // Judged by what bf16 itself costs: the distance of the CPU's bf16 from its f32.
  const Scores exact = load(make_cpu_backend(1), "llama-default")->score(batch, {}, false);
  double bf16_error = 0, error = 0;
  for (size_t i = 0; i < exact.logprobs.size(); ++i) {
    bf16_error = std::max(bf16_error, std::abs(static_cast<double>(wanted.logprobs[i]) - static_cast<double>(exact.logprobs[i])));
    error = std::max(error, std::abs(static_cast<double>(got.logprobs[i]) - static_cast<double>(exact.logprobs[i])));
  }
  CHECK(bf16_error > 0 && error <= 2 * bf16_error);
}

TEST(cuda_rl_steps_equal_the_cpus) {
  const Pair pair("llama-default");
  const Batch batch = two_groups(pair.cpu->config().vocab);
  StepInputs inputs = step_inputs(batch, pair.cpu->score(batch, {}, false).logprobs);
  OptimizerOptions optimizer;
  optimizer.learning_rate = 1e-3;
  for (int step = 0; step < 3; ++step) {
    const StepResult wanted = pair.cpu->accumulate(batch, inputs, clip_objective(), {}),
                     got = pair.cuda->accumulate(batch, inputs, clip_objective(), {});
    CHECK_NEAR(got.objective.loss, wanted.objective.loss, 2e-6);
    CHECK(got.objective.clipped_low == wanted.objective.clipped_low && got.objective.clipped_high == wanted.objective.clipped_high);
    const double norm = pair.cpu->optimizer_step(optimizer), cuda_norm = pair.cuda->optimizer_step(optimizer);
    CHECK_NEAR(cuda_norm, norm, 2e-5 * norm);
  }
  double squares = 0, count = 0;
  for (size_t i = 0; i < pair.cpu->table().parameters.size(); ++i) {
    Floats a(static_cast<size_t>(pair.cpu->table().parameters[i].size())), b(a.size());
    pair.cuda->get_parameter(i, a.data());
    pair.cpu->get_parameter(i, b.data());
    for (size_t j = 0; j < a.size(); ++j) squares += std::pow(static_cast<double>(a[j]) - static_cast<double>(b[j]), 2);
    count += static_cast<double>(a.size());
  }
  CHECK_NEAR(std::sqrt(squares / count), 0, 5e-6);  // rms: Adam turns a gradient near zero into a step of up to the learning rate
}

// What the sampler said of its tokens is what the trainer says of them, bit for bit: alone, in groups, split, behind a shared prompt.
TEST(cuda_sampler_equals_trainer_as_bits) {
  for (const char* model : {"llama-default", "qwen3"})
    for (const auto compute : {Compute::f32, Compute::bf16}) {
      PolicyOptions options;
      options.compute = compute;
      const auto policy = load(make_cuda_backend(), model, options);
      GenerateRequest request;
      request.prompt_offsets = {0, 37, 42};
      request.prompt_ids = random_ints(42, policy->config().vocab);
      request.group_size = 3;
      request.max_new_tokens = 9;
      request.seed = 5;
      request.sampling.temperature = 0.8f;
      request.ignore_stop = true;
      const Completions whole = policy->generate(request);
      CHECK(whole.offsets.size() == 7 && whole.ids.size() == 54);
      GenerateRequest narrow = request;
      narrow.max_rows = 3;
      const Completions again = policy->generate(narrow);
      CHECK(same_bits(whole.ids, again.ids) && same_bits(whole.logprobs, again.logprobs));
      Batch batch;
      batch.prompt_ids = request.prompt_ids;
      batch.prompt_offsets = request.prompt_offsets;
      batch.completion_ids = whole.ids;
      batch.completion_offsets = whole.offsets;
      batch.group_offsets = {0, 3, 6};
      ForwardOptions forward;
      forward.temperature = request.sampling.temperature;
      CHECK(same_bits(policy->score(batch, forward, false).logprobs, whole.logprobs));
      forward.micro_batch_tokens = 1;  // every row alone
      CHECK(same_bits(policy->score(batch, forward, true).logprobs, whole.logprobs));
    }
}

TEST(cuda_generates_the_cpus_tokens) {
  const Pair pair("llama-default");
  GenerateRequest request;
  request.prompt_offsets = {0, 7};
  request.prompt_ids = random_ints(7, pair.cpu->config().vocab);
  request.group_size = 4;
  request.max_new_tokens = 12;
  request.ignore_stop = true;
  CHECK(same_bits(pair.cuda->generate(request).ids, pair.cpu->generate(request).ids));
  request.sampling.greedy = true;
  CHECK(same_bits(pair.cuda->generate(request).ids, pair.cpu->generate(request).ids));
}
