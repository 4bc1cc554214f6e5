// What the parts of the GPU driver share: its options, one line a figure, random numbers, and models and batches to work on.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/device.h"
#include "model/memory.h"
#include "model/policy.h"

namespace driver {
using namespace rank_grpo;

struct Options {
  bool small = false;
  std::string json, model, peer;
};

bool parity(const Options& options);       // a model on the GPU against the CPU: log-probs, gradients, an RL update
bool exact(const Options& options);        // sampler = trainer, as bits, whatever the batch
bool bench(const Options& options);        // what a training run does, timed

// A figure: printed, and a line of options.json. @param extra more keys of that line: `, "limit": 1`
void report(const Options& options, const std::string& name, double value, const std::string& unit, const std::string& extra = "");
// Reports an error; whether it is within the limit.
bool require(const Options& options, const std::string& name, double value, double limit);

// Numbers by their key: normal ones, and whole ones below `bound`.
std::vector<float> normal(size_t n, uint32_t key, float scale = 1);
std::vector<int32_t> integers(size_t n, uint32_t key, int bound);
template <class T>
DeviceBuffer on(Backend& backend, const std::vector<T>& values) {
  DeviceBuffer buffer(backend, values.size() * sizeof(T));
  backend.upload(buffer.data(), values.data(), values.size() * sizeof(T));
  return buffer;
}

ModelConfig little();                       // some thousand weights
ModelConfig qwen_half_billion(bool small);  // small: the little one
std::unique_ptr<Policy> random_policy(const std::shared_ptr<Backend>& backend, const ModelConfig& config, Compute compute, bool trainable = true);
std::unique_ptr<Policy> load_policy(const std::shared_ptr<Backend>& backend, const std::string& path, Compute compute);

GenerateRequest request_of(int prompts, int prompt_length, int group, int tokens, int vocab);
Batch batch_of(const GenerateRequest& r, const Completions& c);
StepInputs inputs_of(const Batch& b, const std::vector<float>& old);  // a list item every ten tokens; advantages alternate
ObjectiveSpec clip();

}  // namespace driver
