// The policy without Node: what it refuses, what it promises as bits, and that nothing of a failed or aborted call stays behind.
#include <algorithm>
#include <atomic>
#include <new>

#include "../../native/model/policy.h"
#include "files.h"

using rank_grpo::Backend;
using rank_grpo::Batch;
using rank_grpo::Compute;
using rank_grpo::ForwardOptions;
using rank_grpo::GenerateRequest;
using rank_grpo::ModelConfig;
using rank_grpo::Policy;
using rank_grpo::PolicyOptions;
using rank_grpo::StepInputs;
using Values = std::vector<double>;

namespace {

std::shared_ptr<Backend> borrowed(Backend& backend) {
  return {&backend, [](Backend*) {}};
}

std::unique_ptr<Policy> make_policy(Backend& backend, const ModelConfig& config, PolicyOptions options = {}) {
  auto policy = std::make_unique<Policy>(borrowed(backend), config, options);
  for (size_t i = 0; i < policy->table().parameters.size(); ++i)
    policy->set_parameter(i, check::tiny_weights(policy->table().parameters[i], i).data());
  policy->parameters_changed();
  return policy;
}

GenerateRequest request() {
  GenerateRequest r;
  for (int length : {5, 33, 64, 1}) {
    const auto ids = check::integers(static_cast<size_t>(length), static_cast<uint32_t>(length), 29);
    r.prompt_ids.insert(r.prompt_ids.end(), ids.begin(), ids.end());
  }
  r.prompt_offsets = {0, 5, 38, 102, 103};
  r.group_size = 3;
  r.max_new_tokens = 40;
  r.max_rows = 7;
  r.sampling.temperature = 0.8f;
  r.stop_ids = {2};
  r.seed = 11;
  return r;
}

Batch batch_of(const GenerateRequest& r, const rank_grpo::Completions& c) {
  Batch b;
  b.prompt_ids = r.prompt_ids;
  b.prompt_offsets = r.prompt_offsets;
  b.completion_ids = c.ids;
  b.completion_offsets = c.offsets;
  for (int32_t p = 0; p < static_cast<int32_t>(r.prompt_offsets.size()); ++p) b.group_offsets.push_back(p * r.group_size);
  return b;
}

// Segments of three tokens within each row, the last ones shorter.
StepInputs step_of(const Batch& b) {
  StepInputs s;
  const size_t n = b.completion_ids.size();
  s.advantages = check::normal(n, 1);
  s.weights = std::vector<float>(n, 1.f / static_cast<float>(n));
  s.segment_offsets = {0};
  for (size_t r = 0; r + 1 < b.completion_offsets.size(); ++r)
    for (int32_t t = b.completion_offsets[r]; t < b.completion_offsets[r + 1]; ++t) {
      s.segment_tokens.push_back(t);
      if ((t - b.completion_offsets[r]) % 3 == 2 || t + 1 == b.completion_offsets[r + 1])
        s.segment_offsets.push_back(static_cast<int32_t>(s.segment_tokens.size()));
    }
  return s;
}

rank_grpo::ObjectiveSpec clip() {
  rank_grpo::ObjectiveSpec spec;
  spec.rule = "clip";
  spec.params = {0.06, 0.08, INFINITY};
  return spec;
}

std::vector<float> gradients(const Policy& policy) {
  std::vector<float> all;
  for (size_t i = 0; i < policy.table().parameters.size(); ++i) {
    std::vector<float> g(static_cast<size_t>(policy.table().parameters[i].size()));
    policy.get_gradient(i, g.data());
    all.insert(all.end(), g.begin(), g.end());
  }
  return all;
}
std::vector<float> weights(const Policy& policy) {
  std::vector<float> all;
  for (size_t i = 0; i < policy.table().parameters.size(); ++i) {
    std::vector<float> w(static_cast<size_t>(policy.table().parameters[i].size()));
    policy.get_parameter(i, w.data());
    all.insert(all.end(), w.begin(), w.end());
  }
  return all;
}
bool all_zero(const std::vector<float>& x) {
  return std::all_of(x.begin(), x.end(), [](float v) { return v == 0; });
}

}  // namespace

// The ratio of an on-policy step is exactly 1: old log-probs are the sampler's, and training finds the same bits.
BACKEND_TEST(policy_sampler_is_trainer) {
  for (const char* family : {"llama", "qwen2", "qwen3"})
    for (Compute compute : {Compute::f32, Compute::bf16}) {
      PolicyOptions options;
      options.compute = compute;
      const auto policy = make_policy(backend, check::tiny_config(family), options);
      const auto r = request();
      const auto c = policy->generate(r);
      CHECK(c.offsets.size() == 13 && c.finish.size() == 12);
      const Batch b = batch_of(r, c);
      ForwardOptions forward;
      forward.temperature = 0.8f;
      for (int64_t tokens : {100, 4096}) {
        forward.micro_batch_tokens = tokens;
        check::same_bits(policy->score(b, forward, true).logprobs, c.logprobs, std::string(family) + " scored");
        auto inputs = step_of(b);
        inputs.old_logprobs = c.logprobs;
        const auto step = policy->accumulate(b, inputs, clip(), forward);
        check::same_bits(step.logprobs, c.logprobs, std::string(family) + " trained");
        CHECK(step.objective.ratio_min == 1 && step.objective.ratio_max == 1);
      }
    }
}

// Groups whose last rows go on hold their prompt's pages while others are admitted: rows draw what they draw with no group beside theirs.
BACKEND_TEST(policy_admits_prompts_beside_what_is_left_of_groups) {
  const auto policy = make_policy(backend, check::tiny_config("llama"));
  GenerateRequest r;
  constexpr int32_t kPrompts = 12, kLength = 95;  // two whole pages, and the next one nearly
  r.prompt_ids = check::integers(kPrompts * kLength, 5, 29);
  for (int32_t p = 0; p <= kPrompts; ++p) r.prompt_offsets.push_back(p * kLength);
  r.group_size = 4;
  r.max_new_tokens = 35;
  r.stop_ids = {2, 3};
  r.seed = 7;
  r.max_rows = 4;
  const auto alone = policy->generate(r);
  for (int max_rows : {8, 13, 32}) {
    r.max_rows = max_rows;
    const auto beside = policy->generate(r);
    CHECK(beside.ids == alone.ids && beside.offsets == alone.offsets);
    check::same_bits(beside.logprobs, alone.logprobs, std::to_string(max_rows) + " rows");
  }
}

// As many tokens as generation gives, scoring takes: the last one is never an input.
BACKEND_TEST(policy_to_the_end_of_the_context) {
  const auto policy = make_policy(backend, check::tiny_config("llama"));
  GenerateRequest r;
  r.prompt_ids = check::integers(64, 3, 29);
  r.prompt_offsets = {0, 64};
  r.max_new_tokens = 256 - 64 + 1;
  r.ignore_stop = true;
  const auto c = policy->generate(r);
  CHECK(c.ids.size() == 193);
  check::same_bits(policy->score(batch_of(r, c), ForwardOptions(), false).logprobs, c.logprobs, "scored");
  ++r.max_new_tokens;
  CHECK_THROWS(policy->generate(r), "INVALID_ARGUMENT");
}

// Micro-batches, and recomputation, change the order of additions of the gradient and nothing else.
BACKEND_TEST(policy_gradient_whatever_the_split) {
  const auto config = check::tiny_config("qwen3", true);
  const auto r = request();
  const auto policy = make_policy(backend, config);
  const Batch b = batch_of(r, policy->generate(r));
  const auto inputs = step_of(b);
  ForwardOptions forward;
  policy->accumulate(b, inputs, clip(), forward);
  const auto whole = gradients(*policy);
  const double scale = check::largest(Values(whole.begin(), whole.end()));
  CHECK(scale > 1e-3);
  policy->zero_gradients();
  forward.micro_batch_tokens = 60;
  policy->accumulate(b, inputs, clip(), forward);
  check::close(gradients(*policy), Values(whole.begin(), whole.end()), 1e-5 * scale, "micro-batches");
  PolicyOptions options;
  options.activation_bytes = 0;
  const auto again = make_policy(backend, config, options);
  again->accumulate(b, inputs, clip(), forward);
  check::same_bits(gradients(*again), gradients(*policy), "recomputed");
}

// Lists of a catalog: sampler, trainer and gradient with 1 and 2 threads, and what the search finds whatever its batches.
TEST(policy_same_lists_everywhere) {
  rank_grpo::TokenLines line, last;
  std::vector<std::string> names;
  for (int32_t i = 0; i < 24; ++i) {
    for (auto* form : {&line, &last}) {
      for (int32_t token : {4 + i % 3, 8 + i / 3 % 2, 4 + i / 6}) form->tokens.push_back(token);
      form->tokens.push_back(form == &line ? 3 : 2);
      form->offsets.push_back(static_cast<uint32_t>(form->tokens.size()));
    }
    names.push_back(std::to_string(i));
  }
  const auto catalog = rank_grpo::TokenCatalog::build(names, line, last);
  check::same_everywhere([&](Backend& backend) {
    const auto policy = make_policy(backend, check::tiny_config("qwen3"));
    auto r = request();
    r.constraint = {catalog, {3, 5, false}, {{}, {1, 2, 3}, {0, 8, 16}, {23}}};
    const auto c = policy->generate(r);
    for (uint8_t finish : c.finish) CHECK(finish == 0);
    Batch b = batch_of(r, c);
    b.constraint = r.constraint;
    ForwardOptions forward;
    forward.temperature = 0.8f;
    forward.micro_batch_tokens = 90;
    check::same_bits(policy->score(b, forward, true).logprobs, c.logprobs, "scorer");
    auto step = step_of(b);
    const auto result = policy->accumulate(b, step, clip(), forward);
    check::same_bits(result.logprobs, c.logprobs, "trainer");
    auto all = gradients(*policy);
    rank_grpo::RecommendRequest search;
    search.prompt_ids = {7, 5, 3, 20, 11};
    search.constraint = {catalog, {}, {{5, 6}}};
    search.top = 22;
    for (int branches : {1, 5, 32}) {
      search.branches = branches;
      const auto found = policy->recommend(search);
      CHECK(found.items.size() == 22 && std::count(found.items.begin(), found.items.end(), 5) == 0);
      all.insert(all.end(), found.logprobs.begin(), found.logprobs.end());
      for (int32_t item : found.items) all.push_back(static_cast<float>(item));
    }
    const size_t n = 44;
    check::same_bits(std::vector<float>(all.end() - n, all.end()), std::vector<float>(all.end() - 2 * n, all.end() - n), "branches");
    all.insert(all.end(), c.logprobs.begin(), c.logprobs.end());
    all.insert(all.end(), c.ids.begin(), c.ids.end());
    return all;
  });
}

TEST(policy_same_bits_everywhere) {
  check::same_everywhere([](Backend& backend) {
    const auto policy = make_policy(backend, check::tiny_config("qwen2"));
    const auto r = request();
    const auto c = policy->generate(r);
    const Batch b = batch_of(r, c);
    policy->accumulate(b, step_of(b), clip(), ForwardOptions());
    auto all = gradients(*policy);
    rank_grpo::OptimizerOptions o;
    o.learning_rate = 1e-3;
    all.push_back(static_cast<float>(policy->optimizer_step(o)));
    for (const auto& part : {c.logprobs, weights(*policy), std::vector<float>(c.ids.begin(), c.ids.end())})
      all.insert(all.end(), part.begin(), part.end());
    return all;
  });
}

BACKEND_TEST(policy_refuses_bad_batches) {
  const auto policy = make_policy(backend, check::tiny_config("llama"));
  Batch good;
  good.prompt_ids = {1, 2, 3};
  good.prompt_offsets = {0, 3};
  good.completion_ids = {4, 5, 6, 7, 8};
  good.completion_offsets = {0, 3, 5};
  good.group_offsets = {0, 2};
  policy->score(good, ForwardOptions(), false);
  auto refused = [&](auto&& edit) {
    Batch b = good;
    edit(b);
    CHECK_THROWS(policy->score(b, ForwardOptions(), false), "INVALID_ARGUMENT");
  };
  refused([](Batch& b) { b.prompt_ids[0] = -1; });
  refused([](Batch& b) { b.completion_ids[4] = 29; });
  refused([](Batch& b) { b.prompt_offsets = {}; });
  refused([](Batch& b) { b.prompt_offsets = {0, 0}; });
  refused([](Batch& b) { b.prompt_offsets = {0, 4}; });
  refused([](Batch& b) { b.prompt_offsets = {1, 3}; });
  refused([](Batch& b) { b.completion_offsets = {0, 5, 3}; });
  refused([](Batch& b) { b.completion_offsets = {0, INT32_MIN, 5}; });
  refused([](Batch& b) { b.completion_offsets = {}; });
  refused([](Batch& b) { b.group_offsets = {0, 3}; });
  refused([](Batch& b) { b.group_offsets = {0, 1, 2}; });
  refused([](Batch& b) { b.group_offsets = {}; });
  refused([](Batch& b) { b.completion_ids.assign(300, 1), b.completion_offsets = {0, 295, 300}; });  // longer than the context
  // lists of a catalog: 4 5 6, then 7 8
  auto constrained = [&](auto&& edit) {
    return [&](Batch& b) {
      const rank_grpo::TokenLines line{{0, 2, 4, 6}, {4, 9, 7, 9, 1, 9}}, last{{0, 3, 5, 7}, {4, 5, 6, 7, 8, 1, 8}};
      b.constraint.catalog = rank_grpo::TokenCatalog::build({"a", "b", "c"}, line, last);
      b.constraint.excluded = {{2}};
      edit(b);
    };
  };
  Batch list = good;
  constrained([](Batch&) {})(list);
  policy->score(list, ForwardOptions(), false);
  refused(constrained([](Batch& b) { b.constraint.excluded = {}; }));
  refused(constrained([](Batch& b) { b.constraint.excluded = {{1}}; }));  // holds an excluded item
  refused(constrained([](Batch& b) { b.constraint.excluded = {{3}}; }));
  refused(constrained([](Batch& b) { b.constraint.excluded = {{-1}}; }));
  refused(constrained([](Batch& b) { b.constraint.excluded = {{2, 2}}; }));
  refused(constrained([](Batch& b) { b.constraint.rules = {2, 2, false}; }));  // a list that ends too early
  refused(constrained([](Batch& b) { b.constraint.rules = {2, 1, false}; }));
  refused(constrained([](Batch& b) { b.completion_ids[1] = 7; }));
  for (float temperature : {0.f, -1.f, NAN, INFINITY, 1e-30f}) {
    ForwardOptions o;
    o.temperature = temperature;
    CHECK_THROWS(policy->score(good, o, false), "INVALID_ARGUMENT");
  }
  Batch none;
  none.prompt_offsets = none.completion_offsets = none.group_offsets = {0};
  CHECK(policy->score(none, ForwardOptions(), true).logprobs.empty());
}

BACKEND_TEST(policy_refuses_bad_steps) {
  const auto policy = make_policy(backend, check::tiny_config("llama"));
  Batch b;
  b.prompt_ids = {1, 2};
  b.prompt_offsets = {0, 2};
  b.completion_ids = {4, 5, 6, 7, 8};
  b.completion_offsets = {0, 3, 5};
  b.group_offsets = {0, 2};
  const StepInputs good{std::vector<float>(5, 1.f), std::vector<float>(5, 0.2f), {}, {}, {0, 3, 3, 5}, {0, 1, 2, 3, 4}};
  policy->accumulate(b, good, clip(), ForwardOptions());
  auto refused = [&](const char* code, auto&& edit) {
    StepInputs s = good;
    edit(s);
    CHECK_THROWS(policy->accumulate(b, s, clip(), ForwardOptions()), code);
  };
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.advantages.pop_back(); });
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.weights.push_back(1); });
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.old_logprobs = {1}; });
  refused("NOT_FINITE", [](StepInputs& s) { s.advantages[2] = NAN; });
  refused("NOT_FINITE", [](StepInputs& s) { s.weights[0] = INFINITY; });
  refused("NOT_FINITE", [](StepInputs& s) { s.old_logprobs = std::vector<float>(5, NAN); });
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.segment_offsets = {}; });
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.segment_offsets = {0, 1000000}; });  // once read past the tokens
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.segment_offsets = {0, 4, 3, 5}; });
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.segment_offsets = {-1, 5}; });
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.segment_offsets = {0, 4, 5}; });  // across two completions
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.segment_tokens[4] = 5; });
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.segment_tokens[4] = -1; });
  refused("INVALID_ARGUMENT", [](StepInputs& s) { s.segment_tokens[4] = 3; });  // twice
  CHECK_THROWS(policy->backward(b, {1, 2}, {}, ForwardOptions()), "INVALID_ARGUMENT");
  CHECK_THROWS(policy->backward(b, {1, 2, 3, 4, NAN}, {}, ForwardOptions()), "NOT_FINITE");
  CHECK_THROWS(policy->backward(b, {1, 2, 3, 4, 5}, {1}, ForwardOptions()), "INVALID_ARGUMENT");

  const auto before = weights(*policy);
  for (auto edit : std::vector<void (*)(rank_grpo::OptimizerOptions&)>{
           [](auto& o) { o.learning_rate = -1; }, [](auto& o) { o.learning_rate = INFINITY; }, [](auto& o) { o.learning_rate = NAN; },
           [](auto& o) { o.beta1 = 1; }, [](auto& o) { o.beta2 = 1 - 1e-12; }, [](auto& o) { o.beta2 = -0.1; },
           [](auto& o) { o.epsilon = 0; }, [](auto& o) { o.epsilon = NAN; }, [](auto& o) { o.weight_decay = -1; },
           [](auto& o) { o.max_grad_norm = NAN; }}) {
    rank_grpo::OptimizerOptions o;
    edit(o);
    CHECK_THROWS(policy->optimizer_step(o), "INVALID_ARGUMENT");
  }
  check::same_bits(weights(*policy), before, "weights");
  PolicyOptions frozen;
  frozen.trainable = false;
  const auto reference = make_policy(backend, check::tiny_config("llama"), frozen);
  CHECK_THROWS(reference->accumulate(b, good, clip(), ForwardOptions()), "INVALID_ARGUMENT");
  CHECK_THROWS(reference->optimizer_step({}), "INVALID_ARGUMENT");
  float one = 0;
  CHECK_THROWS(reference->get_gradient(0, &one), "INVALID_ARGUMENT");
  CHECK_THROWS(reference->get_parameter(1000, &one), "INVALID_ARGUMENT");
}

BACKEND_TEST(policy_refuses_bad_requests) {
  const auto policy = make_policy(backend, check::tiny_config("llama"));
  auto refused = [&](auto&& edit) {
    GenerateRequest r = request();
    edit(r);
    CHECK_THROWS(policy->generate(r), "INVALID_ARGUMENT");
  };
  for (float t : {0.f, -1.f, NAN, INFINITY, 1e-20f}) refused([t](GenerateRequest& r) { r.sampling.temperature = t; });
  for (float p : {0.f, -1.f, NAN, 1.5f}) refused([p](GenerateRequest& r) { r.sampling.top_p = p; });
  for (float p : {-0.1f, NAN, 1.5f}) refused([p](GenerateRequest& r) { r.sampling.min_p = p; });
  refused([](GenerateRequest& r) { r.sampling.top_k = -1; });
  refused([](GenerateRequest& r) { r.group_size = 0; });
  refused([](GenerateRequest& r) { r.max_rows = 0; });
  refused([](GenerateRequest& r) { r.max_new_tokens = 0; });
  refused([](GenerateRequest& r) { r.max_new_tokens = 250; });  // beyond the context
  refused([](GenerateRequest& r) { r.prompt_keys = {1}; });
  refused([](GenerateRequest& r) { r.stop_strings = {"x"}; });  // no vocabulary
  refused([](GenerateRequest& r) { r.prompt_offsets = {0, 5}; });
  refused([](GenerateRequest& r) { r.prompt_ids[3] = 29; });
  policy->set_vocabulary(std::vector<std::string>(29, "ab"));
  refused([](GenerateRequest& r) { r.stop_strings = {""}; });
  GenerateRequest r = request();
  r.stop_strings = {"bab"};  // completed by every second token
  for (size_t i = 0; i < 12; ++i) CHECK(policy->generate(r).offsets[i + 1] <= policy->generate(r).offsets[i] + 2);
  GenerateRequest none;
  none.prompt_offsets = {0};
  CHECK(policy->generate(none).ids.empty());
}

// A token of a catalogue beyond the model's vocabulary must be refused before it is looked up.
BACKEND_TEST(policy_refuses_a_catalog_of_another_vocabulary) {
  const auto policy = make_policy(backend, check::tiny_config("llama"));
  auto catalog = [](int32_t token) {
    const rank_grpo::TokenLines line{{0, 2, 4}, {5, token, 6, 7}};
    return rank_grpo::TokenCatalog::build({"a", "b"}, line, line);
  };
  GenerateRequest r = request();
  r.constraint.excluded.resize(4);
  r.constraint.catalog = catalog(28);
  policy->generate(r);
  r.constraint.catalog = catalog(29);
  CHECK_THROWS(policy->generate(r), "INVALID_ARGUMENT");
  CHECK_THROWS(catalog(-1), "INVALID_ARGUMENT");
}

BACKEND_TEST(policy_of_weights_that_are_no_numbers) {
  const auto policy = make_policy(backend, check::tiny_config("llama"));
  const auto r = request();
  const Batch b = batch_of(r, policy->generate(r));
  const auto& third = policy->table().parameters[3];
  policy->set_parameter(3, std::vector<float>(static_cast<size_t>(third.size()), NAN).data());
  policy->parameters_changed();
  CHECK_THROWS(policy->generate(r), "NOT_FINITE");
  CHECK_THROWS(policy->score(b, ForwardOptions(), true), "NOT_FINITE");
  CHECK_THROWS(policy->accumulate(b, step_of(b), clip(), ForwardOptions()), "NOT_FINITE");
  CHECK_THROWS(policy->backward(b, std::vector<float>(b.completion_ids.size(), 1.f), {}, ForwardOptions()), "NOT_FINITE");
  // a gradient that overflows leaves the weights as they were, and itself at zero
  policy->set_parameter(3, check::tiny_weights(third, 3).data());
  policy->parameters_changed();
  const auto before = weights(*policy);
  policy->backward(b, std::vector<float>(b.completion_ids.size(), 3e38f), {}, ForwardOptions());
  CHECK_THROWS(policy->optimizer_step({}), "NOT_FINITE");
  CHECK(policy->optimizer_steps() == 0 && all_zero(gradients(*policy)));
  check::same_bits(weights(*policy), before, "weights");
}

// An abort stops between tokens and micro-batches.
BACKEND_TEST(policy_aborts) {
  const auto policy = make_policy(backend, check::tiny_config("llama"));
  std::atomic<bool> abort{true};
  GenerateRequest r = request();
  const Batch b = batch_of(r, policy->generate(r));
  r.abort = &abort;
  CHECK_THROWS(policy->generate(r), "ABORTED");
  ForwardOptions o;
  o.abort = &abort;
  o.micro_batch_tokens = 50;
  CHECK_THROWS(policy->score(b, o, false), "ABORTED");
  abort = false;
  int64_t steps = 0;
  r.ignore_stop = true;
  r.progress = [&](int64_t, int64_t, int64_t) { abort = ++steps == 3; };
  CHECK_THROWS(policy->generate(r), "ABORTED");
  CHECK(steps == 3);
  abort = false;
  r.progress = nullptr;
  CHECK(policy->generate(r).ids.size() == 12 * 40);  // and goes on as if nothing had been
}

// Asked for before anything is allocated, and said in the terms of the options that help.
BACKEND_TEST(policy_refuses_what_does_not_fit) {
  ModelConfig huge = check::tiny_config("llama");
  huge.hidden = 1 << 14;
  huge.intermediate = 1 << 16;
  huge.heads = huge.kv_heads = 128;
  huge.head_dim = 128;
  huge.layers = 200;  // 800 G parameters
  CHECK_THROWS(Policy(borrowed(backend), huge, {}), "OUT_OF_MEMORY");
  ModelConfig positions = check::tiny_config("llama");
  positions.max_positions = 1 << 24;
  positions.heads = 1, positions.kv_heads = 1, positions.head_dim = 256;
  PolicyOptions frozen;
  frozen.trainable = false;
  try {  // 16 GiB of rotary tables: refused, or there is that much
    if (backend.available_bytes() < size_t{16} << 30) CHECK_THROWS(Policy(borrowed(backend), positions, frozen), "OUT_OF_MEMORY");
  } catch (const std::bad_alloc&) {
    CHECK(false);
  }
  ModelConfig long_context = check::tiny_config("llama");
  long_context.max_positions = 1 << 21;
  const auto policy = make_policy(backend, long_context, frozen);
  GenerateRequest r = request();
  r.group_size = 1 << 16;
  r.max_new_tokens = 1 << 20;
  CHECK_THROWS(policy->generate(r), "OUT_OF_MEMORY");
}

// Two policies on one backend: their scratch is shared, their weights are not.
BACKEND_TEST(policies_side_by_side) {
  const auto a = make_policy(backend, check::tiny_config("llama")), b = make_policy(backend, check::tiny_config("qwen3"));
  const auto r = request();
  const auto first = a->generate(r);
  const auto other = b->generate(r);
  check::same_bits(a->generate(r).logprobs, first.logprobs, "a again");
  check::same_bits(b->generate(r).logprobs, other.logprobs, "b again");
  CHECK(first.ids != other.ids);
}
