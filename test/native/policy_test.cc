// The policy's own bookkeeping: layers kept whole or computed again give the same bits, whatever share of them a budget allows.
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

std::vector<float> gradient_with(int64_t activation_bytes) {
  PolicyOptions options;
  options.activation_bytes = activation_bytes;
  Policy policy(std::shared_ptr<Backend>(make_cpu_backend(2)), small_model(), options);
  policy.initialize(3, 0.1f);
  Batch batch;
  for (int i = 0; i < 9; ++i) batch.prompt_ids.push_back(i * 5 % 61);
  for (int i = 0; i < 40; ++i) batch.completion_ids.push_back(i * 7 % 61);
  batch.prompt_offsets = {0, 9};
  batch.completion_offsets = {0, 21, 40};
  batch.group_offsets = {0, 2};
  std::vector<float> slopes;
  for (int i = 0; i < 40; ++i) slopes.push_back(0.1f * static_cast<float>(i % 5) - 0.2f);
  policy.backward(batch, slopes, {}, {});
  std::vector<float> all, one;
  for (size_t i = 0; i < policy.table().parameters.size(); ++i) {
    one.resize(static_cast<size_t>(policy.table().parameters[i].size()));
    policy.get_gradient(i, one.data());
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

}  // namespace

TEST(any_share_of_kept_layers_gives_the_same_gradient) {
  const auto wanted = gradient_with(int64_t{1} << 30);
  double norm = 0;
  for (float x : wanted) norm += static_cast<double>(x) * static_cast<double>(x);
  CHECK(norm > 1e-6);
  for (int64_t budget = 0; budget < 200000; budget += 20000) CHECK(gradient_with(budget) == wanted);
}
