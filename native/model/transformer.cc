// See transformer.h. Letters: T tokens, C hidden, F intermediate, W width of a qkv row, L layers.
#include "transformer.h"

#include <cmath>

namespace rank_grpo {

Transformer::Transformer(Backend& backend, const ModelConfig& config, const ParameterTable& table, const float* weights, Compute compute)
    : backend_(backend), config_(config), table_(table), weights_(weights), compute_(compute) {
  const int64_t C = config.hidden, F = config.intermediate, W = attention().width(), HD = int64_t{config.heads} * config.head_dim;
  for (int l = 0; l < config.layers; ++l)
    layers_.push_back({backend.make_panels(W, C, compute), backend.make_panels(C, HD, compute), backend.make_panels(2 * F, C, compute),
                       backend.make_panels(C, F, compute)});
  head_ = backend.make_panels(config.vocab, C, compute);

  // cos and sin of every position, in double before rounding: [max positions, D / 2, 2]
  const auto frequencies = config.inverse_frequencies();
  std::vector<float> angles;
  angles.reserve(static_cast<size_t>(config.max_positions) * frequencies.size() * 2);
  for (int p = 0; p < config.max_positions; ++p)
    for (double f : frequencies) {
      angles.push_back(static_cast<float>(std::cos(p * f)));
      angles.push_back(static_cast<float>(std::sin(p * f)));
    }
  rotary_ = DeviceBuffer(backend, angles.size() * sizeof(float));
  backend.upload(rotary_.data(), angles.data(), angles.size() * sizeof(float));
}

void Transformer::pack() {
  for (size_t l = 0; l < layers_.size(); ++l) {
    const auto& offsets = table_.layers[l];
    backend_.pack(*layers_[l].qkv, at(offsets.qkv));
    backend_.pack(*layers_[l].output, at(offsets.output));
    backend_.pack(*layers_[l].gate_up, at(offsets.gate_up));
    backend_.pack(*layers_[l].down, at(offsets.down));
  }
  backend_.pack(*head_, at(table_.head));
}

Transformer::Buffers Transformer::plan(Arena& arena, int64_t T, bool keep, bool recompute) const {
  const int64_t C = config_.hidden, F = config_.intermediate, W = attention().width(), H = config_.heads, HD = H * config_.head_dim;
  Buffers b{};
  const int sets = keep && !recompute ? config_.layers : 1;  // of what only one layer at a time needs otherwise
  const int inputs = keep ? config_.layers : 1;
  std::vector<Activations> own;
  for (int s = 0; s < sets; ++s)
    own.push_back({nullptr, config_.qk_norm ? arena.take(T * W) : nullptr, arena.take(T * W), arena.take(T * HD), arena.take(T * H),
                   arena.take(T * C), arena.take(T * 2 * F)});
  std::vector<float*> input;
  for (int s = 0; s < inputs; ++s) input.push_back(arena.take(T * C));
  for (int l = 0; l < config_.layers; ++l) {
    Activations a = own[static_cast<size_t>(l % sets)];
    a.input = input[static_cast<size_t>(l % inputs)];
    b.layers.push_back(a);
  }
  b.last = keep ? arena.take(T * C) : input[0];
  b.hidden = arena.take(T * C);
  b.normed = arena.take(T * C);
  b.inner = arena.take(T * F);
  if (keep) {
    b.dx = arena.take(T * C);
    b.dnormed = arena.take(T * C);
    b.dinner = arena.take(T * F);
    b.dgate_up = arena.take(T * 2 * F);
    b.dqkv = arena.take(T * W);
    b.dattended = arena.take(T * HD);
  }
  return b;
}

size_t Transformer::growth(int64_t tokens, bool keep, bool recompute) const {
  Arena arena(nullptr);
  plan(arena, tokens, keep, recompute);
  return arena_.growth(static_cast<size_t>(arena.used()) * sizeof(float));
}

void Transformer::forward_layer(int l, const Layout& layout, const Activations& a, float* out, float* cache, int64_t pages) {
  const int64_t T = layout.T(), C = config_.hidden, F = config_.intermediate;
  const auto shape = attention();
  const int64_t W = shape.width(), D = config_.head_dim;
  const auto& offsets = table_.layers[static_cast<size_t>(l)];
  const auto& panels = layers_[static_cast<size_t>(l)];
  const float eps = config_.norm_eps;

  backend_.norm_forward(buffers_.normed, a.input, at(offsets.input_norm), T, C, C, C, eps);
  float* raw = config_.qk_norm ? a.qkv_raw : a.qkv;
  backend_.linear_forward(raw, buffers_.normed, *panels.qkv, offsets.qkv_bias < 0 ? nullptr : at(offsets.qkv_bias), T);
  if (config_.qk_norm) {
    backend_.copy(a.qkv, raw, static_cast<size_t>(T * W) * sizeof(float));
    for (int h = 0; h < shape.heads + shape.kv_heads; ++h)
      backend_.norm_forward(a.qkv + h * D, raw + h * D, at(h < shape.heads ? offsets.q_norm : offsets.k_norm), T, D, W, W, eps);
  }
  backend_.rotary(a.qkv, indices_.ints() + T, rotary_.floats(), T, shape, false);
  backend_.attention_forward(a.attended, a.lse, a.qkv, cache, pages, layout.plan, shape);
  backend_.linear_forward(a.middle, a.attended, *panels.output, nullptr, T);
  backend_.add(a.middle, a.input, T * C);

  backend_.norm_forward(buffers_.normed, a.middle, at(offsets.post_norm), T, C, C, C, eps);
  backend_.linear_forward(a.gate_up, buffers_.normed, *panels.gate_up, nullptr, T);
  if (!out) return;  // recomputation stops at what the gradient reads
  backend_.swiglu_forward(buffers_.inner, a.gate_up, T, F);
  backend_.linear_forward(out, buffers_.inner, *panels.down, nullptr, T);
  backend_.add(out, a.middle, T * C);
}

const float* Transformer::forward(const Layout& layout, float* cache, int64_t cache_stride, int64_t pages, bool keep, bool recompute) {
  const int64_t T = layout.T(), C = config_.hidden;
  Arena sizes(nullptr);
  plan(sizes, T, keep, recompute);
  arena_.reserve(backend_, static_cast<size_t>(sizes.used()) * sizeof(float));
  Arena arena(arena_.floats());
  buffers_ = plan(arena, T, keep, recompute);
  recompute_ = recompute;
  indices_.reserve(backend_, static_cast<size_t>(2 * T) * sizeof(int32_t));  // ids, then positions
  backend_.upload(indices_.ints(), layout.ids.data(), static_cast<size_t>(T) * sizeof(int32_t));
  backend_.upload(indices_.ints() + T, layout.positions.data(), static_cast<size_t>(T) * sizeof(int32_t));

  const auto number = [](const void* p) { return static_cast<int64_t>(reinterpret_cast<intptr_t>(p)); };
  if (!keep && backend_.repeat(layout.plan, attention(),
                               {number(this), number(arena.take(0)), number(indices_.ints()), number(cache), cache_stride, pages, T}))
    return buffers_.hidden;
  backend_.embedding_forward(buffers_.layers.empty() ? buffers_.last : buffers_.layers[0].input, at(table_.embedding), indices_.ints(), T,
                             C);
  for (int l = 0; l < config_.layers; ++l) {
    const auto& a = buffers_.layers[static_cast<size_t>(l)];
    float* out = l + 1 < config_.layers ? buffers_.layers[static_cast<size_t>(l) + 1].input : buffers_.last;
    forward_layer(l, layout, a, out, cache + l * cache_stride, pages);
  }
  backend_.norm_forward(buffers_.hidden, buffers_.last, at(table_.final_norm), T, C, C, C, config_.norm_eps);
  if (!keep) backend_.end_repeat();
  return buffers_.hidden;
}

void Transformer::backward(const Layout& layout, float* dhidden, float* gradients, float* cache, int64_t pages) {
  const int64_t T = layout.T(), C = config_.hidden, F = config_.intermediate;
  const auto shape = attention();
  const int64_t W = shape.width(), D = config_.head_dim, HD = int64_t{shape.heads} * D;
  const float eps = config_.norm_eps;
  const Buffers& b = buffers_;
  auto gradient = [&](int64_t offset) { return gradients + offset; };

  backend_.norm_backward(b.dx, gradient(table_.final_norm), dhidden, b.last, at(table_.final_norm), T, C, C, eps, false);
  for (int l = config_.layers - 1; l >= 0; --l) {
    const auto& a = b.layers[static_cast<size_t>(l)];
    const auto& offsets = table_.layers[static_cast<size_t>(l)];
    if (recompute_) forward_layer(l, layout, a, nullptr, cache, pages);

    // feed-forward; norms and the inner activation are cheap and made again
    backend_.swiglu_forward(b.inner, a.gate_up, T, F);
    backend_.linear_backward_input(b.dinner, b.dx, at(offsets.down), T, C, F, compute_, false);
    backend_.linear_backward_weight(gradient(offsets.down), nullptr, b.dx, b.inner, T, C, F, compute_);
    backend_.swiglu_backward(b.dgate_up, b.dinner, a.gate_up, T, F);
    backend_.norm_forward(b.normed, a.middle, at(offsets.post_norm), T, C, C, C, eps);
    backend_.linear_backward_input(b.dnormed, b.dgate_up, at(offsets.gate_up), T, 2 * F, C, compute_, false);
    backend_.linear_backward_weight(gradient(offsets.gate_up), nullptr, b.dgate_up, b.normed, T, 2 * F, C, compute_);
    backend_.norm_backward(b.dx, gradient(offsets.post_norm), b.dnormed, a.middle, at(offsets.post_norm), T, C, C, eps, true);

    // attention
    backend_.linear_backward_input(b.dattended, b.dx, at(offsets.output), T, C, HD, compute_, false);
    backend_.linear_backward_weight(gradient(offsets.output), nullptr, b.dx, a.attended, T, C, HD, compute_);
    backend_.attention_backward(b.dqkv, b.dattended, a.qkv, a.attended, a.lse, T, layout.groups, shape);
    backend_.rotary(b.dqkv, indices_.ints() + T, rotary_.floats(), T, shape, true);
    if (config_.qk_norm) {
      for (int h = 0; h < shape.heads + shape.kv_heads; ++h) {
        const int64_t w = h < shape.heads ? offsets.q_norm : offsets.k_norm;
        backend_.norm_backward(b.dqkv + h * D, gradient(w), b.dqkv + h * D, a.qkv_raw + h * D, at(w), T, D, W, eps, false);
      }
    }
    backend_.norm_forward(b.normed, a.input, at(offsets.input_norm), T, C, C, C, eps);
    backend_.linear_backward_input(b.dnormed, b.dqkv, at(offsets.qkv), T, W, C, compute_, false);
    backend_.linear_backward_weight(gradient(offsets.qkv), offsets.qkv_bias < 0 ? nullptr : gradient(offsets.qkv_bias), b.dqkv, b.normed, T,
                                    W, C, compute_);
    backend_.norm_backward(b.dx, gradient(offsets.input_norm), b.dnormed, a.input, at(offsets.input_norm), T, C, C, eps, true);
  }
  backend_.embedding_backward(gradient(table_.embedding), b.dx, indices_.ints(), T, C);
}

}  // namespace rank_grpo
