// Work that is left out or done twice changes no gradient: layers computed again, and tokens behind the last live segment.
#include <cmath>

#include "backends.h"
#include "model/policy.h"

using namespace rank_grpo;

namespace {

ModelConfig small_model() {
  ModelConfig c;
  c.family = "llama";
  c.vocab = 61;
  c.hidden = 24;
  c.intermediate = 40;
  c.layers = 5;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = 6;
  c.max_positions = 64;
  c.tied = true;
  return c;
}

std::unique_ptr<Policy> make_policy(int64_t activation_bytes) {
  PolicyOptions options;
  options.activation_bytes = activation_bytes;
  auto policy = std::make_unique<Policy>(std::shared_ptr<Backend>(make_cpu_backend(2)), small_model(), options);
  policy->initialize(3, 0.1f);
  return policy;
}

// Two prompts; completions of 21, 19, 12 and 8 tokens.
Batch make_batch() {
  Batch batch;
  for (int i = 0; i < 14; ++i) batch.prompt_ids.push_back(i * 5 % 61);
  for (int i = 0; i < 60; ++i) batch.completion_ids.push_back(i * 7 % 61);
  batch.prompt_offsets = {0, 9, 14};
  batch.completion_offsets = {0, 21, 40, 52, 60};
  batch.group_offsets = {0, 2, 4};
  return batch;
}

std::vector<float> gradient(const Policy& policy) {
  std::vector<float> all, one;
  for (size_t i = 0; i < policy.table().parameters.size(); ++i) {
    one.resize(static_cast<size_t>(policy.table().parameters[i].size()));
    policy.get_gradient(i, one.data());
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

std::vector<float> gradient_with(int64_t activation_bytes) {
  const auto policy = make_policy(activation_bytes);
  std::vector<float> slopes;
  for (int i = 0; i < 60; ++i) slopes.push_back(0.1f * static_cast<float>(i % 5) - 0.2f);
  policy->backward(make_batch(), slopes, {}, {});
  return gradient(*policy);
}

}  // namespace

TEST(any_share_of_kept_layers_gives_the_same_gradient) {
  const auto wanted = gradient_with(int64_t{1} << 30);
  double norm = 0;
  for (float x : wanted) norm += static_cast<double>(x) * static_cast<double>(x);
  CHECK(norm > 1e-6);
  for (int64_t budget = 0; budget < 320000; budget += 20000) CHECK(gradient_with(budget) == wanted);
}

TEST(tokens_behind_the_last_live_segment_are_left_out) {
  const Batch batch = make_batch();
  StepInputs inputs;
  inputs.weights.assign(60, 1.f / 60);
  inputs.advantages.assign(60, 0.f);
  inputs.segment_offsets = {0};
  for (size_t row = 0; row + 1 < batch.completion_offsets.size(); ++row)
    for (int32_t t = batch.completion_offsets[row]; t < batch.completion_offsets[row + 1]; ++t) {
      inputs.segment_tokens.push_back(t);
      if ((t - batch.completion_offsets[row]) % 4 == 3 || t + 1 == batch.completion_offsets[row + 1])
        inputs.segment_offsets.push_back(static_cast<int32_t>(inputs.segment_tokens.size()));
    }
  // live: a token of the third segment of row 0, of the first of row 1, the whole of row 3; row 2 not at all
  inputs.advantages[9] = 1.5f;
  inputs.advantages[22] = -0.5f;
  for (size_t t = 52; t < 60; ++t) inputs.advantages[t] = 0.25f;
  ObjectiveSpec clip;
  clip.rule = "clip";
  clip.params = {0.06, 0.08, INFINITY};
  for (const bool off_policy : {false, true}) {
    const auto policy = make_policy(-1), plain = make_policy(-1);
    const auto scores = plain->score(batch, {}, false);
    if (off_policy) {
      inputs.old_logprobs = scores.logprobs;
      for (size_t t = 0; t < 60; ++t) inputs.old_logprobs[t] += 0.01f * static_cast<float>(t % 3);
    }
    const StepResult step = policy->accumulate(batch, inputs, clip, {});
    plain->backward(batch, step.objective.dlogp, {}, {});
    const auto got = gradient(*policy), wanted = gradient(*plain);
    for (size_t i = 0; i < got.size(); ++i) CHECK_NEAR(got[i], wanted[i], 1e-7);
    for (size_t t = 0; t < 60; ++t) {
      const bool computed = t < 12 || (t >= 21 && t < 25) || t >= 52;
      CHECK(std::isnan(step.logprobs[t]) == !computed);
      if (computed) CHECK(step.logprobs[t] == scores.logprobs[t]);
      CHECK(computed || step.objective.dlogp[t] == 0);
    }
    CHECK(step.objective.covered == 60);
    CHECK(step.objective.nonempty_segments == 3 + 1 + 2);
    CHECK(step.objective.dlogp[8] != 0);  // pooled with token 9
  }
  // KL needs every token, also where it is only measured
  inputs.ref_logprobs.assign(60, -1.f);
  clip.kl_beta = 0.1;
  const StepResult held = make_policy(-1)->accumulate(batch, inputs, clip, {});
  for (float x : held.logprobs) CHECK(std::isfinite(x));
  clip.kl_beta = 0;
  CHECK(held.objective.kl_sum > 0);
  CHECK(make_policy(-1)->accumulate(batch, inputs, clip, {}).objective.kl_sum == held.objective.kl_sum);
  // and no live token at all means no pass
  inputs.ref_logprobs.clear();
  inputs.advantages.assign(60, 0.f);
  const auto none = make_policy(-1)->accumulate(batch, inputs, clip, {});
  for (float x : none.objective.dlogp) CHECK(x == 0);
  CHECK(none.objective.loss == 0);
  clip.params = {0.06};
  CHECK_THROWS(make_policy(-1)->accumulate(batch, inputs, clip, {}), "INVALID_ARGUMENT");
}
