// What policy.cc and generate.cc share: the state behind Policy.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "../core/error.h"
#include "memory.h"
#include "policy.h"
#include "transformer.h"

namespace rank_grpo {

struct Policy::Impl {
  Impl(std::shared_ptr<Backend> b, ModelConfig c, PolicyOptions o);

  std::shared_ptr<Backend> backend;
  const ModelConfig config;
  const ParameterTable table;  // every parameter, fused matrices side by side
  const PolicyOptions options;
  const ParameterTable held;  // where they lie in `weights`: as in `table`, or without the matrices that panels hold
  const MemoryUse memory;
  DeviceBuffer weights, gradients, m, v;  // [held.total] each; the last three where trainable
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
  void backward(const Pass& pass, const std::vector<float>& dlogp, const std::vector<float>& dentropy, float temperature);
};

inline void check_abort(const std::atomic<bool>* abort) {
  if (abort && abort->load(std::memory_order_relaxed)) throw Error("ABORTED", "The operation was aborted; weights are as before it.");
}

}  // namespace rank_grpo
