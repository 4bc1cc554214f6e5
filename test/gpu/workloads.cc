// See driver.h: figures, random numbers, models and batches.
#include <cmath>
#include <cstdio>

#include "core/philox.h"
#include "driver.h"
#include "model/checkpoint.h"

namespace driver {

void report(const Options& options, const std::string& name, double value, const std::string& unit, const std::string& extra) {
  std::printf("%-52s %12.5g %s %s\n", name.c_str(), value, unit.c_str(), extra.c_str());
  std::fflush(stdout);
  if (options.json.empty()) return;
  if (FILE* f = std::fopen(options.json.c_str(), "a")) {
    std::fprintf(f, "{\"name\": \"%s\", \"value\": %.9g, \"unit\": \"%s\"%s}\n", name.c_str(), std::isfinite(value) ? value : -1, unit.c_str(), extra.c_str());
    std::fclose(f);
  }
}
bool require(const Options& options, const std::string& name, double value, double limit) {
  const bool ok = value <= limit;
  report(options, name, value, "error", ", \"limit\": " + std::to_string(limit) + ", \"passed\": " + (ok ? "true" : "false"));
  return ok;
}

std::vector<float> normal(size_t n, uint32_t key, float scale) {
  std::vector<float> out(n);
  for (size_t i = 0; i < n; ++i) {
    const auto r = philox(1, static_cast<uint32_t>(i), key, 0, 0);
    out[i] = scale * static_cast<float>(std::sqrt(-2 * std::log((r.x[0] + 0.5) * 0x1p-32)) * std::cos(6.283185307179586 * r.x[1] * 0x1p-32));
  }
  return out;
}
std::vector<int32_t> integers(size_t n, uint32_t key, int bound) {
  std::vector<int32_t> out(n);
  for (size_t i = 0; i < n; ++i) out[i] = static_cast<int32_t>(philox(2, static_cast<uint32_t>(i), key, 0, 0).x[0] % static_cast<uint32_t>(bound));
  return out;
}

namespace {
ModelConfig shape(const char* family, int vocab, int hidden, int intermediate, int layers, int heads, int kv_heads, int positions) {
  ModelConfig c;
  c.family = family;
  c.vocab = vocab;
  c.hidden = hidden;
  c.intermediate = intermediate;
  c.layers = layers;
  c.heads = heads;
  c.kv_heads = kv_heads;
  c.head_dim = hidden / heads;
  c.max_positions = positions;
  c.tied = true;
  c.qkv_bias = c.family == "qwen2";
  c.rope_theta = 1e6;
  return c;
}
}  // namespace
ModelConfig little() { return shape("qwen2", 515, 96, 160, 2, 6, 2, 256); }
ModelConfig qwen_half_billion(bool small) { return small ? little() : shape("qwen2", 151936, 896, 4864, 24, 14, 2, 1024); }

std::unique_ptr<Policy> random_policy(const std::shared_ptr<Backend>& backend, const ModelConfig& config, Compute compute, bool trainable) {
  PolicyOptions options;
  options.compute = compute;
  options.trainable = trainable;
  auto policy = std::make_unique<Policy>(backend, config, options);
  policy->initialize(7, 0.05f);
  return policy;
}
std::unique_ptr<Policy> load_policy(const std::shared_ptr<Backend>& backend, const std::string& path, Compute compute) {
  const auto checkpoint = Checkpoint::open(path);
  PolicyOptions options;
  options.compute = compute;
  auto policy = std::make_unique<Policy>(backend, checkpoint->config(), options);
  std::vector<float> values;
  for (size_t i = 0; i < policy->table().parameters.size(); ++i) {
    values.resize(static_cast<size_t>(policy->table().parameters[i].size()));
    checkpoint->read(policy->table().parameters[i], values.data());
    policy->set_parameter(i, values.data());
  }
  policy->parameters_changed();
  return policy;
}

GenerateRequest request_of(int prompts, int prompt_length, int group, int tokens, int vocab) {
  GenerateRequest r;
  r.prompt_offsets = {0};
  for (int p = 0; p < prompts; ++p) r.prompt_offsets.push_back((p + 1) * prompt_length);
  r.prompt_ids = integers(static_cast<size_t>(prompts * prompt_length), 3, vocab);
  r.group_size = group;
  r.max_new_tokens = tokens;
  r.max_rows = prompts * group;
  r.ignore_stop = true;
  r.seed = 9;
  return r;
}
Batch batch_of(const GenerateRequest& r, const Completions& c) {
  Batch b;
  b.prompt_ids = r.prompt_ids;
  b.prompt_offsets = r.prompt_offsets;
  b.completion_ids = c.ids;
  b.completion_offsets = c.offsets;
  for (size_t p = 0; p < r.prompt_offsets.size(); ++p) b.group_offsets.push_back(static_cast<int32_t>(p) * r.group_size);
  return b;
}
StepInputs inputs_of(const Batch& b, const std::vector<float>& old) {
  StepInputs in;
  in.old_logprobs = old;
  in.segment_offsets = {0};
  const size_t T = b.completion_ids.size();
  in.weights.assign(T, 1.f / static_cast<float>(T));
  in.advantages = normal(T, 17);
  for (size_t row = 0; row + 1 < b.completion_offsets.size(); ++row)
    for (int32_t t = b.completion_offsets[row]; t < b.completion_offsets[row + 1]; ++t) {
      in.segment_tokens.push_back(t);
      if ((t - b.completion_offsets[row]) % 10 == 9 || t + 1 == b.completion_offsets[row + 1]) in.segment_offsets.push_back(static_cast<int32_t>(in.segment_tokens.size()));
    }
  return in;
}
ObjectiveSpec clip() {
  ObjectiveSpec spec;
  spec.rule = "clip";
  for (const auto& info : objective_list())
    if (spec.rule == info.name)
      for (const auto& p : info.parameters) spec.params.push_back(p.value);
  return spec;
}

}  // namespace driver
