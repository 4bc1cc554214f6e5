// What a policy takes before any of it is allocated, and what its work will take besides.
#include <algorithm>

#include "../core/host.h"
#include "policy_impl.h"

namespace rank_grpo {

MemoryUse plan_memory(const Backend& backend, const ModelConfig& config, const ParameterTable& full, const ParameterTable& held,
                      const PolicyOptions& options) {
  if (options.weights == Compute::bf16) {
    expect(options.compute == Compute::bf16, "f32 (weights in bf16 need bf16 compute)", "weights", "bf16");
    expect(backend.panels_hold_weights(options.weights),
           std::string("f32 on device ") + backend.name() + " (weights in bf16 are for a GPU)", "weights", "bf16");
  }
  MemoryUse use;
  use.weights = static_cast<int64_t>(parameter_bytes(held));
  if (backend.panels_hold_weights(options.weights)) {
    // in bf16, panels that are trained hold the other half of each f32 too, where it is kept
    const bool both = options.compute == Compute::f32 || (options.trainable && options.weights == Compute::f32);
    use.panels = full.total * (both ? 4 : 2);
  } else {
    use.panels = options.compute == Compute::bf16 ? full.total * 2 : 0;  // copies; f32 products read the weights
  }
  if (options.trainable) {
    use.gradients = static_cast<int64_t>(parameter_bytes(full));
    use.moments = 2 * use.gradients;
    use.host = options.state_on_host && backend.has_own_memory() ? use.moments : 0;
    use.activations = options.activation_bytes < 0 ? backend.activation_budget() : options.activation_bytes;
  }
  const int64_t rotary = int64_t{config.max_positions} * config.head_dim * static_cast<int64_t>(sizeof(float));
  const bool apart = use.host > 0, may_part = use.moments > 0 && backend.has_own_memory() && !apart;
  expect_memory(backend, static_cast<size_t>(use.weights + use.gradients + use.moments - use.host + use.panels + rotary),
                !options.trainable ? "the model's weights"
                : apart            ? "the model's weights and gradients"
                                   : "the model's weights, gradients and optimizer state",
                !options.trainable ? "Use a smaller model, or compute: bf16."
                : may_part ? "Use a smaller model, optimizer state in host memory (optimizerState: host), or trainable: false for a "
                             "model that is not trained."
                           : "Use a smaller model, or trainable: false for a model that is not trained.");
  if (apart)
    expect_memory(free_host_bytes(), static_cast<size_t>(use.host), "the optimizer state",
                  "Use a smaller model, or leave it on the device.");
  return use;
}

int64_t Policy::available_bytes() const { return static_cast<int64_t>(std::min<size_t>(impl_->backend->available_bytes(), INT64_MAX)); }

int64_t Policy::workspace_bytes(const Workload& work) const {
  const auto& i = *impl_;
  const int64_t C = i.config.hidden, widest = 2 * int64_t{i.config.intermediate}, size = sizeof(float);
  const auto shape = i.transformer.attention();
  int64_t cache = 0, head = 0, store = 0, arena = 0, scratch = 0;
  if (work.pass_tokens > 0) {
    ForwardOptions options;
    options.micro_batch_tokens = work.pass_tokens;
    const int64_t T = work.backward ? i.micro_batch_tokens(options) : work.pass_tokens;
    const int whole = work.backward ? i.transformer.fit(T, i.memory.activations) : 0;
    cache = static_cast<int64_t>(i.backend->cache_bytes(2 * T / kPageSize + 1, shape));  // sequences end within pages
    head = (work.backward ? 2 : 1) * T * C * size;
    store = work.backward ? i.transformer.kept_bytes(T, whole) : 0;
    arena = static_cast<int64_t>(i.transformer.growth(T, work.backward, whole));
    // operands in the shape that products read, the hidden rows of live tokens, logits a piece at a time
    scratch = T * widest * size / 2 + (work.backward ? widest * C * size + 2 * T * C * size : 0) + (int64_t{8} << 20);
  }
  if (work.rows > 0) {
    const int64_t own = (2 * kPageSize - 2 + work.new_tokens) / kPageSize, groups = (work.rows + work.group_size - 1) / work.group_size;
    const int64_t pages = groups * (work.prompt_tokens / kPageSize) + work.rows * own;
    const int64_t T = std::max({work.rows, work.prompt_tokens, std::min(kPrefillTokens, groups * work.prompt_tokens)});
    store = std::max(store, static_cast<int64_t>(i.backend->cache_bytes(pages, shape)) * i.config.layers);
    arena = std::max(arena, static_cast<int64_t>(i.transformer.growth(T, false, 0)));
    scratch = std::max(scratch, std::min<int64_t>(work.rows, 64) * i.config.vocab * size + T * widest * size / 2);
  }
  return cache + head + std::max<int64_t>(0, store - static_cast<int64_t>(i.store.bytes())) + arena + scratch;
}

MemoryUse Policy::memory() const { return impl_->memory; }

int64_t Policy::bytes() const {
  const auto& i = *impl_;
  size_t bytes = static_cast<size_t>(i.memory.panels);
  for (const auto* buffer : {&i.weights, &i.gradients, &i.m, &i.v, &i.cache, &i.head, &i.store})
    if (!buffer->on_host()) bytes += buffer->bytes();
  return static_cast<int64_t>(bytes) + static_cast<int64_t>(i.transformer.bytes());
}

}  // namespace rank_grpo
