// See transformer.h. Letters: T tokens, C hidden, F intermediate, W width of a qkv row, L layers.
#include "transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace rank_grpo {

Transformer::Transformer(Backend& backend, const ModelConfig& config, const ParameterTable& full, const ParameterTable& held,
                         const float* weights, Compute compute, bool master)
    : backend_(backend), config_(config), full_(full), held_(held), weights_(weights), compute_(compute) {
  const int64_t C = config.hidden, F = config.intermediate, W = attention().width(), HD = int64_t{config.heads} * config.head_dim;
  for (int l = 0; l < config.layers; ++l)
    layers_.push_back({backend.make_panels(W, C, compute), backend.make_panels(C, HD, compute), backend.make_panels(2 * F, C, compute),
                       backend.make_panels(C, F, compute)});
  head_ = backend.make_panels(config.vocab, C, compute);
  for (size_t l = 0; l < layers_.size(); ++l) {
    const auto& offsets = full.layers[l];
    const auto& panels = layers_[l];
    for (const auto& matrix : {Matrix{panels.qkv.get(), offsets.qkv},
                               {panels.output.get(), offsets.output},
                               {panels.gate_up.get(), offsets.gate_up},
                               {panels.down.get(), offsets.down}})
      matrices_.push_back(matrix);
  }
  matrices_.push_back({head_.get(), full.head});
  if (master)
    for (const auto& matrix : matrices_) backend.keep_master(*matrix.panels);

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
  for (const auto& matrix : matrices_) backend_.pack(*matrix.panels, at(matrix.offset));
}

Transformer::Place Transformer::place(size_t parameter) const {
  const auto& p = full_.parameters[parameter];
  if (!p.vector)
    for (const auto& [panels, offset] : matrices_)
      if (p.offset >= offset && p.offset < offset + panels->rows * panels->columns) return {panels, (p.offset - offset) / panels->columns};
  return {};
}

int64_t Transformer::slab(int64_t T) const {
  return std::min(T, backend_.slab_rows(3 * int64_t{config_.intermediate} + 2 * config_.hidden));
}

Transformer::Activations Transformer::layer_set(Arena& arena, int64_t T, bool keep) const {
  const int64_t C = config_.hidden, F = config_.intermediate, W = attention().width(), H = config_.heads, HD = H * config_.head_dim,
                S = keep ? T : slab(T);
  Activations a{};
  a.qkv_raw = config_.qk_norm ? arena.take(T * W) : nullptr;
  a.qkv = arena.take(T * W);
  a.attended = arena.take(T * HD);
  a.lse = arena.take(T * H);
  a.middle = arena.take(S * C);
  a.gate_up = arena.take(S * 2 * F);
  return a;
}

Transformer::Buffers Transformer::plan(Arena& scratch, Arena& kept, int64_t T, bool keep, int whole) const {
  const int64_t C = config_.hidden, F = config_.intermediate, W = attention().width(), HD = int64_t{config_.heads} * config_.head_dim;
  const int L = config_.layers, own = keep ? whole : 0;
  Buffers b{};
  Activations shared{};
  if (own < L) shared = layer_set(scratch, T, keep);
  float* input = keep ? nullptr : scratch.take(T * C);
  for (int l = 0; l < L; ++l) {
    Activations a = l < L - own ? shared : layer_set(kept, T, keep);
    a.input = keep ? kept.take(T * C) : input;
    b.layers.push_back(a);
  }
  b.last = keep ? kept.take(T * C) : input;
  b.hidden = b.dnormed = scratch.take(T * C);
  b.normed = scratch.take((keep ? T : slab(T)) * C);
  b.inner = scratch.take((keep ? T : slab(T)) * F);
  if (keep) {
    b.dx = scratch.take(T * C);
    b.dqkv = scratch.take(T * W);
    b.dattended = scratch.take(T * HD);
  }
  return b;
}

int64_t Transformer::kept_bytes(int64_t T, int whole) const {
  Arena scratch(nullptr), kept(nullptr);
  plan(scratch, kept, T, true, whole);
  return kept.used() * static_cast<int64_t>(sizeof(float));
}

size_t Transformer::growth(int64_t T, bool keep, int whole) const {
  Arena scratch(nullptr), kept(nullptr);
  plan(scratch, kept, T, keep, whole);
  return arena_.growth(static_cast<size_t>(scratch.used()) * sizeof(float));
}

int Transformer::fit(int64_t T, int64_t budget) const {
  const int64_t least = kept_bytes(T, 0);
  Arena one(nullptr);
  layer_set(one, T, true);
  const int64_t layer = one.used() * static_cast<int64_t>(sizeof(float));
  return static_cast<int>(std::clamp<int64_t>((budget - least) / layer, 0, config_.layers));
}

void Transformer::forward_layer(int l, const Layout& layout, const Activations& a, float* out, float* cache, int64_t pages) {
  const int64_t T = layout.T(), C = config_.hidden, F = config_.intermediate;
  const auto shape = attention();
  const int64_t W = shape.width(), D = config_.head_dim;
  const auto& offsets = held_.layers[static_cast<size_t>(l)];
  const auto& panels = layers_[static_cast<size_t>(l)];
  const float eps = config_.norm_eps;

  const int64_t slab = this->slab(T), HD = int64_t{shape.heads} * D;
  for (int64_t t = 0; t < T; t += slab) {
    const int64_t n = std::min(slab, T - t);
    float *qkv = a.qkv + t * W, *raw = config_.qk_norm ? a.qkv_raw + t * W : qkv;
    backend_.norm_forward(buffers_.normed, a.input + t * C, at(offsets.input_norm), n, C, C, C, eps);
    backend_.linear_forward(raw, buffers_.normed, *panels.qkv, offsets.qkv_bias < 0 ? nullptr : at(offsets.qkv_bias), n);
    if (config_.qk_norm) {
      backend_.copy(qkv, raw, static_cast<size_t>(n * W) * sizeof(float));
      for (int h = 0; h < shape.heads + shape.kv_heads; ++h)
        backend_.norm_forward(qkv + h * D, raw + h * D, at(h < shape.heads ? offsets.q_norm : offsets.k_norm), n, D, W, W, eps);
    }
    backend_.rotary(qkv, indices_.ints() + T + t, rotary_.floats(), n, shape, false);
  }
  backend_.attention_forward(a.attended, a.lse, a.qkv, cache, pages, layout.plan, shape);
  for (int64_t t = 0; t < T; t += slab) {
    const int64_t n = std::min(slab, T - t), place = buffers_.dx ? t : 0;  // without a backward pass, over the slab before
    float *middle = a.middle + place * C, *gate_up = a.gate_up + place * 2 * F;
    backend_.linear_forward(middle, a.attended + t * HD, *panels.output, nullptr, n);
    backend_.add(middle, a.input + t * C, n * C);
    backend_.norm_forward(buffers_.normed, middle, at(offsets.post_norm), n, C, C, C, eps);
    backend_.linear_forward(gate_up, buffers_.normed, *panels.gate_up, nullptr, n);
    if (!out) continue;  // recomputation stops at what the gradient reads
    backend_.swiglu_forward(buffers_.inner, gate_up, n, F);
    backend_.linear_forward(out + t * C, buffers_.inner, *panels.down, nullptr, n);
    backend_.add(out + t * C, middle, n * C);
  }
}

void Transformer::embed(float* x, int64_t T) {
  // In bf16 a tied embedding is read as the head's products read it, trained or not, so that a copy of a policy scores as the policy does.
  if (held_.embedding < 0) {
    backend_.embedding_from_panels(x, *head_, indices_.ints(), T);
  } else {
    backend_.embedding_forward(x, at(held_.embedding), indices_.ints(), T, config_.hidden);
  }
}

const float* Transformer::forward(const Layout& layout, float* cache, int64_t cache_stride, int64_t pages, const Kept& kept) {
  const int64_t T = layout.T(), C = config_.hidden;
  const bool keep = kept.memory != nullptr;
  whole_ = keep ? kept.whole : 0;
  Arena sizes(nullptr), elsewhere(nullptr);
  plan(sizes, elsewhere, T, keep, whole_);
  arena_.reserve(backend_, static_cast<size_t>(sizes.used()) * sizeof(float));
  Arena scratch(arena_.floats()), memory(kept.memory);
  buffers_ = plan(scratch, memory, T, keep, whole_);
  indices_.reserve(backend_, static_cast<size_t>(2 * T) * sizeof(int32_t));  // ids, then positions
  backend_.upload(indices_.ints(), layout.ids.data(), static_cast<size_t>(T) * sizeof(int32_t));
  backend_.upload(indices_.ints() + T, layout.positions.data(), static_cast<size_t>(T) * sizeof(int32_t));

  const auto number = [](const void* p) { return static_cast<int64_t>(reinterpret_cast<intptr_t>(p)); };
  if (!keep && backend_.repeat(layout.plan, attention(),
                               {number(this), number(scratch.take(0)), number(indices_.ints()), number(cache), cache_stride, pages, T}))
    return buffers_.hidden;
  embed(buffers_.layers.empty() ? buffers_.last : buffers_.layers[0].input, T);
  for (int l = 0; l < config_.layers; ++l) {
    const auto& a = buffers_.layers[static_cast<size_t>(l)];
    float* out = l + 1 < config_.layers ? buffers_.layers[static_cast<size_t>(l) + 1].input : buffers_.last;
    forward_layer(l, layout, a, out, cache + l * cache_stride, pages);
  }
  backend_.norm_forward(buffers_.hidden, buffers_.last, at(held_.final_norm), T, C, C, C, config_.norm_eps);
  if (!keep) backend_.end_repeat();
  return buffers_.hidden;
}

void Transformer::backward_input(float* dx, const float* dy, const Panels& W, int64_t offset, int64_t T) {
  if (offset < 0) {
    backend_.panels_backward_input(dx, dy, W, T, false);
  } else {
    backend_.linear_backward_input(dx, dy, at(offset), T, W.rows, W.columns, compute_, false);
  }
}

void Transformer::backward(const Layout& layout, float* gradients, float* cache, int64_t pages) {
  const int64_t T = layout.T(), C = config_.hidden, F = config_.intermediate;
  const auto shape = attention();
  const int64_t W = shape.width(), D = config_.head_dim, HD = int64_t{shape.heads} * D;
  const float eps = config_.norm_eps;
  const Buffers& b = buffers_;
  auto gradient = [&](int64_t offset) { return gradients + offset; };

  backend_.norm_backward(b.dx, gradient(full_.final_norm), b.dx, b.last, at(held_.final_norm), T, C, C, eps, false);
  for (int l = config_.layers - 1; l >= 0; --l) {
    const auto& a = b.layers[static_cast<size_t>(l)];
    const auto &offsets = held_.layers[static_cast<size_t>(l)], &full = full_.layers[static_cast<size_t>(l)];
    const auto& panels = layers_[static_cast<size_t>(l)];
    if (l + 1 < config_.layers - whole_) forward_layer(l, layout, a, nullptr, cache, pages);  // the last of these still lies there

    // feed-forward; norms and the inner activation are cheap and made again, gradients take the place of what they are read from
    backend_.swiglu_forward(b.inner, a.gate_up, T, F);
    backend_.linear_backward_weight(gradient(full.down), nullptr, b.dx, b.inner, T, C, F, compute_);
    backward_input(b.inner, b.dx, *panels.down, offsets.down, T);
    backend_.swiglu_backward(a.gate_up, b.inner, a.gate_up, T, F);
    backend_.norm_forward(b.normed, a.middle, at(offsets.post_norm), T, C, C, C, eps);
    backward_input(b.dnormed, a.gate_up, *panels.gate_up, offsets.gate_up, T);
    backend_.linear_backward_weight(gradient(full.gate_up), nullptr, a.gate_up, b.normed, T, 2 * F, C, compute_);
    backend_.norm_backward(b.dx, gradient(full.post_norm), b.dnormed, a.middle, at(offsets.post_norm), T, C, C, eps, true);

    // attention
    backward_input(b.dattended, b.dx, *panels.output, offsets.output, T);
    backend_.linear_backward_weight(gradient(full.output), nullptr, b.dx, a.attended, T, C, HD, compute_);
    backend_.attention_backward(b.dqkv, b.dattended, a.qkv, a.attended, a.lse, T, layout.groups, shape);
    backend_.rotary(b.dqkv, indices_.ints() + T, rotary_.floats(), T, shape, true);
    if (config_.qk_norm) {
      for (int h = 0; h < shape.heads + shape.kv_heads; ++h) {
        const bool query = h < shape.heads;
        backend_.norm_backward(b.dqkv + h * D, gradient(query ? full.q_norm : full.k_norm), b.dqkv + h * D, a.qkv_raw + h * D,
                               at(query ? offsets.q_norm : offsets.k_norm), T, D, W, eps, false);
      }
    }
    backend_.norm_forward(b.normed, a.input, at(offsets.input_norm), T, C, C, C, eps);
    backward_input(b.dnormed, b.dqkv, *panels.qkv, offsets.qkv, T);
    backend_.linear_backward_weight(gradient(full.qkv), offsets.qkv_bias < 0 ? nullptr : gradient(full.qkv_bias), b.dqkv, b.normed, T, W, C,
                                    compute_);
    backend_.norm_backward(b.dx, gradient(full.input_norm), b.dnormed, a.input, at(offsets.input_norm), T, C, C, eps, true);
  }
  backend_.embedding_backward(gradient(full_.embedding), b.dx, indices_.ints(), T, C);
}

}  // namespace rank_grpo
