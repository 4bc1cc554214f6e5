// What the parts of Policy share (policy.cc, generate.cc, recommend.cc, memory_plan.cc): the state behind it.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "../core/error.h"
#include "memory.h"
#include "policy.h"
#include "transformer.h"

namespace rank_grpo {

constexpr int64_t kPrefillTokens = 2048;  // prompts computed in one pass while generating (a longer prompt goes alone)

struct Policy::Impl {
  Impl(std::shared_ptr<Backend> b, ModelConfig c, PolicyOptions o);

  std::shared_ptr<Backend> backend;
  const ModelConfig config;
  const ParameterTable table;  // every parameter, fused matrices side by side
  const PolicyOptions options;
  const ParameterTable held;  // where they lie in `weights`: as in `table`, or without the matrices that panels hold
  const MemoryUse memory;
  DeviceBuffer weights;          // [held.total]
  DeviceBuffer gradients, m, v;  // [table.total] each where trainable
  Transformer transformer;
  int64_t steps = 0;
  std::vector<std::string> vocabulary;  // bytes of each id; empty: unknown

  DeviceBuffer cache;  // keys and values of one layer in passes over whole batches
  DeviceBuffer head;   // hidden rows of predicted tokens, their gradients, results
  DeviceBuffer store;  // what a pass keeps for its backward pass, or every layer's keys and values while generating

  // A pass over one micro-batch: hidden rows gathered into h [R, C].
  struct Pass {
    Layout layout;
    float *h, *dh;                   // [R, C]
    float *logprob, *entropy, *lse;  // [R]
    int32_t* rows;                   // [R]
  };
  int64_t micro_batch_tokens(const ForwardOptions& options) const;  // of a pass with gradient: no more than activations allow
  Pass forward(const Batch& batch, MicroBatch rows, const ForwardOptions& options, bool keep, bool entropies);
  // Into the batch's arrays (entropies where the pass has them); NOT_FINITE where a log-prob is none.
  void download_scores(const Pass& pass, std::vector<float>& logprobs, std::vector<float>& entropies) const;
  void backward(const Pass& pass, const std::vector<float>& dlogp, const std::vector<float>& dentropy, float temperature);
};

inline size_t parameter_bytes(const ParameterTable& table) { return static_cast<size_t>(table.total) * sizeof(float); }

// Refuses options that the device cannot have, and what does not fit into its memory.
MemoryUse plan_memory(const Backend& backend, const ModelConfig& config, const ParameterTable& full, const ParameterTable& held,
                      const PolicyOptions& options);

// OUT_OF_MEMORY, with what is asked, what there is and what helps, before any of it is allocated: Linux promises more than there is
// and ends the process later.
inline void expect_memory(size_t available, size_t bytes, const std::string& what, const std::string& help) {
  if (bytes > available)
    fail("OUT_OF_MEMORY", "Expected " + std::to_string(bytes >> 20) + " MiB of free memory for " + what + ", got " +
                              std::to_string(available >> 20) + " MiB. " + help);
}
inline void expect_memory(const Backend& backend, size_t bytes, const std::string& what, const std::string& help) {
  if (bytes >= size_t{64} << 20) expect_memory(backend.available_bytes(), bytes, what, help);
}

// The logits are divided by it: its inverse must be a float too.
inline void check_temperature(float temperature) {
  expect(temperature >= 1e-6f && temperature <= 1e6f, "a number from 1e-6 to 1e6 (greedy is an option of its own)", "temperature",
         std::to_string(temperature));
}

inline void check_abort(const std::atomic<bool>* abort) {
  if (abort && abort->load(std::memory_order_relaxed)) throw Error("ABORTED", "The operation was aborted; weights are as before it.");
}

}  // namespace rank_grpo
