// A policy: weights, gradients and optimizer state on a device, and everything one does with them. Node-free; the
// bindings call it from the engine thread, one operation at a time.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../catalog/cursor.h"
#include "../core/backend.h"
#include "../objectives/objective.h"
#include "config.h"

namespace rank_grpo {

// Ragged rows: group p is prompt p and completions group_offsets[p] .. group_offsets[p + 1). Every prompt has at least one
// token, every completion too. Token ids lie in [0, vocab).
struct Batch {
  std::vector<int32_t> prompt_ids, prompt_offsets;          // [P + 1]
  std::vector<int32_t> completion_ids, completion_offsets;  // [R + 1]
  std::vector<int32_t> group_offsets;                       // [P + 1]
  ListConstraint constraint;                                // completions are lists of its catalog, and so is the distribution
  int64_t tokens() const { return static_cast<int64_t>(completion_ids.size()); }
};

struct Scores {
  std::vector<float> logprobs, entropies;  // per completion token; nats
};

struct ForwardOptions {
  float temperature = 1;
  int64_t micro_batch_tokens = 2048;  // prompt and completion tokens in one pass; a group is split where it does not fit
  const std::atomic<bool>* abort = nullptr;
};

// Per completion token data of a whole step; see ObjectiveInputs for the meaning.
struct StepInputs {
  std::vector<float> advantages, weights, old_logprobs, ref_logprobs;
  std::vector<int32_t> segment_offsets, segment_tokens;  // a segment's tokens belong to one completion
};

struct StepResult {
  ObjectiveResult objective;               // sums over the whole step; dlogp and the other [T] arrays in completion order
  std::vector<float> logprobs, entropies;  // of the pass that gave the gradient; entropies only where asked for
};

struct GenerateRequest {
  std::vector<int32_t> prompt_ids, prompt_offsets;  // [P + 1]
  std::vector<int32_t> prompt_keys;                 // [P]: identifies the prompt in the random numbers (empty: its index)
  int group_size = 1;                               // completions of each prompt
  int max_new_tokens = 128;
  int max_rows = 64;  // rows decoded together
  Sampling sampling;
  std::vector<int32_t> stop_ids;          // ends a row; the stop token is part of the completion
  std::vector<std::string> stop_strings;  // bytes; ends a row after the token that completes one (needs the vocabulary)
  bool ignore_stop = false;
  // With a constraint, lists from its catalog alone. Tokens without an alternative are not drawn: they have log-prob 0 and go through the model
  // together with the next drawn one. Stop ids and strings play no part; a list ends by the rules.
  ListConstraint constraint;
  uint64_t seed = 0;
  uint32_t step = 0;  // random numbers are keyed by (seed, step, prompt key, sample, position)
  const std::atomic<bool>* abort = nullptr;
  std::function<void(int64_t done_rows, int64_t rows, int64_t tokens)> progress;  // called now and then, may be empty
};

enum class Finish : uint8_t { stop = 0, length = 1 };

struct Completions {
  std::vector<int32_t> ids, offsets;  // rows ordered prompt by prompt, group_size each
  std::vector<float> logprobs;        // of the temperature-scaled distribution, per token
  std::vector<uint8_t> finish;        // Finish
};

struct RecommendRequest {
  std::vector<int32_t> prompt_ids;
  ListConstraint constraint;  // of one prompt; its rules play no part
  bool last = false;          // the lines as a list's last ones: ended by the stop token, not by a newline
  int top = 20;
  int branches = 32;  // open branches evaluated together
  float temperature = 1;
  const std::atomic<bool>* abort = nullptr;
};

// Items by descending probability of being the next line, log-probs of the distribution over the catalog.
struct Recommendations {
  std::vector<int32_t> items;
  std::vector<float> logprobs;
  int64_t evaluated = 0;  // tokens that went through the model, the prompt included
};

struct PolicyOptions {
  Compute compute = Compute::f32;
  // What is kept of the matrices that products read. bf16: nothing but the bf16 (needs bf16 compute and a backend that can), and AdamW rounds its
  // steps up or down by chance.
  Compute weights = Compute::f32;
  bool trainable = true;  // false: no gradients or optimizer state (a reference, or inference)
  // Memory for what a pass keeps for its backward pass, in bytes; -1: the device's default. As many layers as fit are kept whole, the
  // others keep their input and are computed again (all of them: a third more work). Where not even the inputs fit, passes get shorter.
  int64_t activation_bytes = -1;
  // AdamW's moments in the host's memory: they visit the device in each step, which gives the same bits. Where the device has no memory of its
  // own they lie there anyway.
  bool state_on_host = false;
};

// What a policy holds, in bytes.
struct MemoryUse {
  int64_t weights = 0, gradients = 0, moments = 0, panels = 0;
  int64_t activations = 0;  // the most a pass may keep; while generating, keys and values take this place and may be more
  int64_t host = 0;         // of the moments: what lies in the host's memory, apart from the device's
  int64_t total() const { return weights + gradients + moments + panels + activations; }
};

// The most that a policy will be asked for.
struct Workload {
  int64_t pass_tokens = 0;                                              // of a micro-batch; 0: no passes over batches
  bool backward = false;                                                // with their gradient
  int64_t rows = 0, group_size = 1, prompt_tokens = 0, new_tokens = 0;  // generated together; rows 0: nothing is generated
};

struct OptimizerOptions {
  double learning_rate = 1e-6, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0, max_grad_norm = 1;  // 0: no clipping
  uint64_t seed = 0;  // of the rounding of weights that are kept in bf16
};

class Policy {
 public:
  // Zero weights; fill them through set_parameter or initialize.
  Policy(std::shared_ptr<Backend> backend, ModelConfig config, PolicyOptions options);
  ~Policy();

  const ModelConfig& config() const;
  const ParameterTable& table() const;
  const PolicyOptions& options() const;
  const char* device() const;  // "cpu", "cuda"
  int64_t bytes() const;       // held on the device now
  MemoryUse memory() const;    // what training will hold, known when the policy is made: then it is held against what is free
  int64_t workspace_bytes(const Workload& work) const;  // what passes and generation will add to what is held now: an estimate
  int64_t available_bytes() const;                      // free on the device; INT64_MAX where unknown

  void initialize(uint64_t seed, float std);            // normal weights, norms 1, biases 0
  void set_vocabulary(std::vector<std::string> bytes);  // token id -> bytes, for stop strings

  Completions generate(const GenerateRequest& request);
  Recommendations recommend(const RecommendRequest& request);  // proven: no item outside the answer is more probable
  Scores score(const Batch& batch, const ForwardOptions& options, bool entropies);
  // Adds the gradient of the objective to the accumulated gradient.
  StepResult accumulate(const Batch& batch, const StepInputs& inputs, const ObjectiveSpec& objective, const ForwardOptions& options);
  // Adds the gradient of sum_t dlogprobs[t] * logprob[t] + dentropies[t] * entropy[t]: any loss written elsewhere.
  Scores backward(const Batch& batch, const std::vector<float>& dlogprobs, const std::vector<float>& dentropies,
                  const ForwardOptions& options);
  // Clips, applies AdamW, clears the gradient. Returns the norm before clipping; throws NOT_FINITE and leaves weights as they were
  // (gradient cleared) where it is not finite.
  double optimizer_step(const OptimizerOptions& options);
  void zero_gradients();

  // By index of table().parameters, f32 in checkpoint layout.
  void get_parameter(size_t index, float* out) const;
  void set_parameter(size_t index, const float* values);
  void get_gradient(size_t index, float* out) const;
  void get_moments(size_t index, float* m, float* v) const;
  void set_moments(size_t index, const float* m, const float* v);
  int64_t optimizer_steps() const;
  void set_optimizer_steps(int64_t steps);
  void parameters_changed();  // after set_parameter calls: refreshes packed weights

  struct Impl;  // policy_impl.h

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace rank_grpo
