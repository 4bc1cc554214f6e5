// Policy: scoring, gradients of any objective, and the optimizer step. Generation is in generate.cc, memory in memory_plan.cc.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "../core/philox.h"
#include "live.h"
#include "micro_batch.h"
#include "policy_impl.h"

namespace rank_grpo {
namespace {

DeviceBuffer make_moments(Backend& backend, const ParameterTable& table, const MemoryUse& memory) {
  if (memory.moments == 0) return {};
  if (memory.host > 0) return DeviceBuffer::on_host(backend, parameter_bytes(table));
  return DeviceBuffer(backend, parameter_bytes(table));
}

}  // namespace

Policy::Impl::Impl(std::shared_ptr<Backend> b, ModelConfig c, PolicyOptions o)
    : backend(std::move(b)),
      config((c.validate(), std::move(c))),
      table(config),
      options(o),
      held(config, !backend->panels_hold_weights(o.weights)),
      memory(plan_memory(*backend, config, table, held, o)),
      weights(*backend, parameter_bytes(held)),
      gradients(o.trainable ? DeviceBuffer(*backend, parameter_bytes(table)) : DeviceBuffer()),
      m(make_moments(*backend, table, memory)),
      v(make_moments(*backend, table, memory)),
      transformer(*backend, config, table, held, weights.floats(), o.compute, o.trainable && o.weights == Compute::f32) {}

Policy::Policy(std::shared_ptr<Backend> backend, ModelConfig config, PolicyOptions options)
    : impl_(std::make_unique<Impl>(std::move(backend), std::move(config), options)) {}
Policy::~Policy() = default;

const ModelConfig& Policy::config() const { return impl_->config; }
const ParameterTable& Policy::table() const { return impl_->table; }
const PolicyOptions& Policy::options() const { return impl_->options; }
const char* Policy::device() const { return impl_->backend->name(); }

void Policy::initialize(uint64_t seed, float std) {
  std::vector<float> values;
  uint32_t index = 0;
  for (const auto& p : impl_->table.parameters) {
    values.assign(static_cast<size_t>(p.size()), 0.f);
    const bool norm = p.vector && p.name.find("norm") != std::string::npos;
    for (size_t i = 0; i < values.size(); i += 2) {
      if (p.vector) {
        values[i] = norm ? 1.f : 0.f;
        if (i + 1 < values.size()) values[i + 1] = values[i];
        continue;
      }
      const auto r = philox(seed, static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), index, 0x1417u);
      const double radius = std * std::sqrt(-2 * std::log(1.0 - static_cast<double>(uniform(r.x[0]))));  // Box and Muller
      const double angle = 6.283185307179586 * static_cast<double>(uniform(r.x[1]));
      values[i] = static_cast<float>(radius * std::cos(angle));
      if (i + 1 < values.size()) values[i + 1] = static_cast<float>(radius * std::sin(angle));
    }
    set_parameter(index++, values.data());
  }
  parameters_changed();
}

void Policy::set_vocabulary(std::vector<std::string> bytes) { impl_->vocabulary = std::move(bytes); }

int64_t Policy::Impl::micro_batch_tokens(const ForwardOptions& o) const {
  const int64_t sample = 64, least = transformer.kept_bytes(sample, 0) / sample;  // bytes a token
  // Not below a few hundred: a prompt is computed once a pass, and a pass's scratch is of the same size.
  return std::clamp<int64_t>(memory.activations / least, std::min<int64_t>(256, o.micro_batch_tokens), o.micro_batch_tokens);
}

Policy::Impl::Pass Policy::Impl::forward(const Batch& batch, MicroBatch micro, const ForwardOptions& o, bool keep, bool entropies) {
  check_abort(o.abort);
  Pass pass;
  pass.layout = make_layout(batch, micro);
  const int64_t T = pass.layout.T(), R = pass.layout.R(), C = config.hidden;
  const size_t cache_size = backend->cache_bytes(pass.layout.pages, transformer.attention());
  Arena sizes(nullptr), arena(nullptr);
  auto carve = [&](Arena& a) {
    pass.h = a.take(R * C);
    pass.logprob = a.take(R);
    pass.entropy = a.take(R);
    pass.lse = a.take(R);
    pass.rows = reinterpret_cast<int32_t*>(a.take(R));
    pass.dh = keep ? a.take(R * C) : nullptr;
  };
  carve(sizes);
  const size_t head_size = static_cast<size_t>(sizes.used()) * sizeof(float);
  Transformer::Kept kept;
  kept.whole = keep ? transformer.fit(T, memory.activations) : 0;
  const size_t kept_size = keep ? static_cast<size_t>(transformer.kept_bytes(T, kept.whole)) : 0;
  expect_memory(
      *backend, cache.growth(cache_size) + head.growth(head_size) + store.growth(kept_size) + transformer.growth(T, keep, kept.whole),
      "a pass over " + std::to_string(T) + " tokens", keep ? "Lower microBatchTokens or activationMiB." : "Lower microBatchTokens.");
  cache.reserve(*backend, cache_size);
  head.reserve(*backend, head_size);
  arena = Arena(head.floats());
  carve(arena);
  if (keep) {
    store.reserve(*backend, kept_size);
    kept.memory = store.floats();
  }
  const float* hidden = transformer.forward(pass.layout, cache.floats(), 0, pass.layout.pages, kept);
  backend->upload(pass.rows, pass.layout.head_rows.data(), static_cast<size_t>(R) * sizeof(int32_t));
  backend->gather_rows(pass.h, hidden, pass.rows, R, C);
  const AllowedTokens* allowed = pass.layout.allowed.offsets.empty() ? nullptr : &pass.layout.allowed;
  if (!entropies) pass.entropy = nullptr;
  backend->head_forward(pass.logprob, pass.entropy, pass.lse, pass.h, transformer.head(), transformer.head_rows(),
                        pass.layout.targets.data(), allowed, R, o.temperature);
  return pass;
}

void Policy::Impl::backward(const Pass& pass, const std::vector<float>& dlogp, const std::vector<float>& dentropy, float temperature) {
  const int64_t T = pass.layout.T(), R = pass.layout.R(), C = config.hidden;
  const AllowedTokens* allowed = pass.layout.allowed.offsets.empty() ? nullptr : &pass.layout.allowed;
  backend->head_backward(pass.dh, gradients.floats() + table.head, pass.h, transformer.head_rows(), transformer.head(),
                         pass.layout.targets.data(), allowed, pass.lse, pass.entropy, dlogp.data(),
                         dentropy.empty() ? nullptr : dentropy.data(), R, temperature);
  backend->zero(transformer.dhidden(), static_cast<size_t>(T * C) * sizeof(float));
  backend->scatter_add_rows(transformer.dhidden(), pass.dh, pass.rows, R, C);
  transformer.backward(pass.layout, gradients.floats(), cache.floats(), pass.layout.pages);
}

void Policy::Impl::download_scores(const Pass& pass, std::vector<float>& logprobs, std::vector<float>& entropies) const {
  const size_t first = static_cast<size_t>(pass.layout.first_token), count = static_cast<size_t>(pass.layout.R());
  backend->download(&logprobs[first], pass.logprob, count * sizeof(float));
  if (pass.entropy) backend->download(&entropies[first], pass.entropy, count * sizeof(float));
  for (size_t t = first; t < first + count; ++t)
    if (!std::isfinite(logprobs[t]))
      fail("NOT_FINITE", "Expected finite log-probs, got " + std::to_string(logprobs[t]) + " for token " + std::to_string(t) +
                             ". The weights hold values that are not numbers, or that overflow.");
}

Scores Policy::score(const Batch& batch, const ForwardOptions& o, bool entropies) {
  auto& i = *impl_;
  validate_batch(batch, i.config);
  check_temperature(o.temperature);
  Scores scores;
  scores.logprobs.resize(static_cast<size_t>(batch.tokens()));
  if (entropies) scores.entropies.resize(scores.logprobs.size());
  for (const auto& micro : split_batch(batch, o.micro_batch_tokens)) {
    i.download_scores(i.forward(batch, micro, o, false, entropies), scores.logprobs, scores.entropies);
  }
  return scores;
}

StepResult Policy::accumulate(const Batch& batch, const StepInputs& inputs, const ObjectiveSpec& objective, const ForwardOptions& o) {
  auto& i = *impl_;
  expect(i.options.trainable, "a trainable policy", "policy", "one loaded with trainable: false");
  validate_batch(batch, i.config);
  check_temperature(o.temperature);
  const int64_t tokens = batch.tokens();
  expect_size(inputs.advantages, tokens, "advantages", false);
  expect_size(inputs.weights, tokens, "weights", false);
  expect_size(inputs.old_logprobs, tokens, "oldLogprobs", true);
  expect_size(inputs.ref_logprobs, tokens, "refLogprobs", true);
  expect_finite(inputs.advantages, "advantages");
  expect_finite(inputs.weights, "weights");
  expect_finite(inputs.old_logprobs, "oldLogprobs");
  expect_finite(inputs.ref_logprobs, "refLogprobs");
  const bool entropies = objective.entropy_coef != 0;

  StepResult result;
  result.logprobs.resize(static_cast<size_t>(tokens));
  if (entropies) result.entropies.resize(static_cast<size_t>(tokens));
  auto& total = result.objective;
  for (auto* array : {&total.dlogp, &total.token_loss, &total.token_kl}) array->resize(static_cast<size_t>(tokens));
  if (entropies) total.dentropy.resize(static_cast<size_t>(tokens));
  total.segment_log_ratio.resize(inputs.segment_offsets.empty() ? 0 : inputs.segment_offsets.size() - 1);
  const int64_t covered_tokens = check_segments(inputs, batch);
  if (LiveStep live; leave_out_dead(batch, inputs, objective, live)) {
    StepResult part;
    if (live.tokens.empty()) {
      part.objective = evaluate_objective(objective, {});  // refuses what it would refuse with tokens
    } else {
      part = accumulate(live.batch, live.inputs, objective, o);
    }
    return spread_out(part, live, batch, inputs);
  }

  for (const auto& micro : split_batch(batch, i.micro_batch_tokens(o))) {
    const auto pass = i.forward(batch, micro, o, true, entropies);
    const int64_t R = pass.layout.R(), first = pass.layout.first_token;
    i.download_scores(pass, result.logprobs, result.entropies);

    const SegmentSlice segments = slice_segments(inputs, first, R);
    const auto old_logprobs = slice(inputs.old_logprobs, first, R), ref_logprobs = slice(inputs.ref_logprobs, first, R);
    ObjectiveInputs local;
    local.tokens = R;
    local.segments = static_cast<int64_t>(segments.numbers.size());
    local.logprobs = &result.logprobs[static_cast<size_t>(first)];
    local.old_logprobs = old_logprobs.empty() ? nullptr : old_logprobs.data();
    local.ref_logprobs = ref_logprobs.empty() ? nullptr : ref_logprobs.data();
    local.entropies = entropies ? &result.entropies[static_cast<size_t>(first)] : nullptr;
    local.advantages = &inputs.advantages[static_cast<size_t>(first)];
    local.weights = &inputs.weights[static_cast<size_t>(first)];
    local.segment_offsets = segments.offsets.data();
    local.segment_tokens = segments.tokens.data();
    local.covered_tokens = covered_tokens;
    const ObjectiveResult part = evaluate_objective(objective, local);
    if (!std::isfinite(part.loss))
      fail("NOT_FINITE",
           "Expected a finite loss, got " + std::to_string(part.loss) + ". Lower the learning rate, or check rewards and old log-probs.");
    merge(total, part, first, segments.numbers);
    i.backward(pass, part.dlogp, part.dentropy, o.temperature);
  }
  return result;
}

Scores Policy::backward(const Batch& batch, const std::vector<float>& dlogprobs, const std::vector<float>& dentropies,
                        const ForwardOptions& o) {
  auto& i = *impl_;
  expect(i.options.trainable, "a trainable policy", "policy", "one loaded with trainable: false");
  validate_batch(batch, i.config);
  check_temperature(o.temperature);
  expect_size(dlogprobs, batch.tokens(), "dlogprobs", false);
  expect_size(dentropies, batch.tokens(), "dentropies", true);
  expect_finite(dlogprobs, "dlogprobs");
  expect_finite(dentropies, "dentropies");
  const bool entropies = !dentropies.empty();
  Scores scores;
  scores.logprobs.resize(static_cast<size_t>(batch.tokens()));
  if (entropies) scores.entropies.resize(scores.logprobs.size());
  for (const auto& micro : split_batch(batch, i.micro_batch_tokens(o))) {
    const auto pass = i.forward(batch, micro, o, true, entropies);
    const int64_t R = pass.layout.R(), first = pass.layout.first_token;
    i.download_scores(pass, scores.logprobs, scores.entropies);
    i.backward(pass, slice(dlogprobs, first, R), slice(dentropies, first, R), o.temperature);
  }
  return scores;
}

double Policy::optimizer_step(const OptimizerOptions& o) {
  auto& i = *impl_;
  expect(i.options.trainable, "a trainable policy", "policy", "one loaded with trainable: false");
  auto bounded = [](double x, double low, double high, const char* name) {
    char range[80];
    std::snprintf(range, sizeof range, "a number from %g to %g", low, high);
    expect(x >= low && x <= high, range, name, std::to_string(x));
  };
  bounded(o.learning_rate, 0, 1e6, "learningRate");
  for (const auto& [beta, name] : {std::pair{o.beta1, "beta1"}, {o.beta2, "beta2"}})
    expect(beta >= 0 && static_cast<float>(beta) < 1, "a number from 0 to below 1", name, std::to_string(beta));
  bounded(o.epsilon, 1e-30, 1, "epsilon");  // 0 would divide a gradient of 0 by 0
  bounded(o.weight_decay, 0, 1e6, "weightDecay");
  bounded(o.max_grad_norm, 0, 1e30, "maxGradNorm");
  const double norm = std::sqrt(i.backend->squared_norm(i.gradients.floats(), i.table.total));
  if (!std::isfinite(norm)) {
    zero_gradients();
    fail("NOT_FINITE", "Expected a finite gradient, got norm " + std::to_string(norm) +
                           ". The weights were left as they were; lower the learning rate or check the rewards.");
  }
  AdamW adamw;
  adamw.learning_rate = static_cast<float>(o.learning_rate);
  adamw.beta1 = static_cast<float>(o.beta1);
  adamw.beta2 = static_cast<float>(o.beta2);
  adamw.epsilon = static_cast<float>(o.epsilon);
  adamw.weight_decay = static_cast<float>(o.weight_decay);
  adamw.step = ++i.steps;
  adamw.grad_scale = o.max_grad_norm > 0 ? static_cast<float>(std::min(1.0, o.max_grad_norm / (norm + 1e-6))) : 1.f;
  adamw.state_on_host = i.memory.host > 0;
  adamw.seed = o.seed;
  float *w = i.weights.floats(), *m = i.m.floats(), *v = i.v.floats();
  const float* g = i.gradients.floats();
  if (i.held.total == i.table.total) {
    i.backend->adamw(w, m, v, g, i.table.total, adamw);
  } else {
    for (const auto& [panels, offset] : i.transformer.matrices()) {
      adamw.first = offset;
      i.backend->adamw_panels(*panels, m + offset, v + offset, g + offset, adamw);
    }
    for (size_t p = 0; p < i.table.parameters.size(); ++p) {
      const int64_t from = i.held.parameters[p].offset, at = i.table.parameters[p].offset;
      if (from >= 0) i.backend->adamw(w + from, m + at, v + at, g + at, i.table.parameters[p].size(), adamw);
    }
  }
  zero_gradients();
  parameters_changed();
  return norm;
}

void Policy::zero_gradients() {
  if (impl_->options.trainable) impl_->backend->zero(impl_->gradients.data(), parameter_bytes(impl_->table));
}

namespace {
const Parameter& checked(const ParameterTable& table, size_t index) {
  expect(index < table.parameters.size(), "an index below " + std::to_string(table.parameters.size()), "parameter", std::to_string(index));
  return table.parameters[index];
}
}  // namespace

void Policy::get_parameter(size_t index, float* out) const {
  const auto& p = checked(impl_->held, index);
  auto& backend = *impl_->backend;
  const size_t bytes = static_cast<size_t>(p.size()) * sizeof(float);
  if (p.offset >= 0) return backend.download(out, impl_->weights.floats() + p.offset, bytes);
  const auto place = impl_->transformer.place(index);
  const DeviceBuffer rows(backend, bytes);
  backend.unpack_rows(rows.floats(), *place.panels, place.row, p.rows);
  backend.download(out, rows.data(), bytes);
}
void Policy::set_parameter(size_t index, const float* values) {
  const auto& p = checked(impl_->held, index);
  auto& backend = *impl_->backend;
  const size_t bytes = static_cast<size_t>(p.size()) * sizeof(float);
  if (p.offset >= 0) return backend.upload(impl_->weights.floats() + p.offset, values, bytes);
  const auto place = impl_->transformer.place(index);
  const DeviceBuffer rows(backend, bytes);
  backend.upload(rows.data(), values, bytes);
  backend.pack_rows(*place.panels, rows.floats(), place.row, p.rows);
}
void Policy::get_gradient(size_t index, float* out) const {
  const auto& p = checked(impl_->table, index);
  expect(impl_->options.trainable, "a trainable policy", "policy", "one loaded with trainable: false");
  impl_->backend->download(out, impl_->gradients.floats() + p.offset, static_cast<size_t>(p.size()) * sizeof(float));
}
void Policy::get_moments(size_t index, float* m, float* v) const {
  const auto& p = checked(impl_->table, index);
  expect(impl_->options.trainable, "a trainable policy", "policy", "one loaded with trainable: false");
  const size_t bytes = static_cast<size_t>(p.size()) * sizeof(float);
  for (const auto& [to, from] : {std::pair{m, impl_->m.floats()}, {v, impl_->v.floats()}}) {
    if (impl_->memory.host > 0) {
      std::memcpy(to, from + p.offset, bytes);
    } else {
      impl_->backend->download(to, from + p.offset, bytes);
    }
  }
}
void Policy::set_moments(size_t index, const float* m, const float* v) {
  const auto& p = checked(impl_->table, index);
  expect(impl_->options.trainable, "a trainable policy", "policy", "one loaded with trainable: false");
  const size_t bytes = static_cast<size_t>(p.size()) * sizeof(float);
  for (const auto& [to, from] : {std::pair{impl_->m.floats(), m}, {impl_->v.floats(), v}}) {
    if (impl_->memory.host > 0) {
      std::memcpy(to + p.offset, from, bytes);
    } else {
      impl_->backend->upload(to + p.offset, from, bytes);
    }
  }
}
int64_t Policy::optimizer_steps() const { return impl_->steps; }
void Policy::set_optimizer_steps(int64_t steps) { impl_->steps = steps; }
void Policy::parameters_changed() {
  if (impl_->held.total == impl_->table.total) impl_->transformer.pack();
}

}  // namespace rank_grpo
