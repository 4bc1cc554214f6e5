// The Llama / Qwen2 / Qwen3 transformer, forward and backward, written once over Backend's operations.
#pragma once
#include <memory>
#include <vector>

#include "config.h"
#include "layout.h"
#include "memory.h"

namespace rank_grpo {

class Transformer {
 public:
  // `weights`: the flat parameter buffer on the device, in the table's layout; it outlives the transformer.
  Transformer(Backend& backend, const ModelConfig& config, const ParameterTable& table, const float* weights, Compute compute);

  void pack();  // after the weights changed

  // Final hidden states [T, C] of a batch. Keys and values go to `cache` of layer l: cache + l * cache_stride floats (a stride
  // of 0: one scratch layer for all). `keep`: everything the backward pass needs stays until the next forward.
  // `recompute`: keep each layer's input only.
  const float* forward(const Layout& layout, float* cache, int64_t cache_stride, int64_t pages, bool keep, bool recompute);
  // Adds to `gradients` (the table's layout) the gradient of a loss whose derivative by the hidden states is dhidden [T, C]
  // (overwritten). Belongs to the last forward with keep.
  void backward(const Layout& layout, float* dhidden, float* gradients, float* cache, int64_t pages);

  Backend& backend() const { return backend_; }
  const Panels& head() const { return *head_; }
  AttentionShape attention() const { return {config_.heads, config_.kv_heads, config_.head_dim}; }
  size_t bytes() const { return rotary_.bytes() + arena_.bytes() + indices_.bytes(); }  // held besides weights and panels
  size_t growth(int64_t tokens, bool keep, bool recompute) const;  // bytes that a forward pass over so many tokens will add

 private:
  struct Layer {
    std::unique_ptr<Panels> qkv, output, gate_up, down;
  };
  struct Activations {                                                 // of one layer
    float *input, *qkv_raw, *qkv, *attended, *lse, *middle, *gate_up;  // [T, C] [T, W] [T, W] [T, H D] [T, H] [T, C] [T, 2 F]
  };
  struct Buffers {
    std::vector<Activations> layers;
    float *last, *hidden;                                        // [T, C] both
    float *normed, *inner;                                       // scratch [T, C], [T, F]
    float *dx, *dnormed, *dinner, *dgate_up, *dqkv, *dattended;  // backward scratch
  };
  Buffers plan(Arena& arena, int64_t T, bool keep, bool recompute) const;
  void forward_layer(int l, const Layout& layout, const Activations& a, float* out, float* cache, int64_t pages);
  const float* at(int64_t offset) const { return weights_ + offset; }

  Backend& backend_;
  const ModelConfig& config_;
  const ParameterTable& table_;
  const float* weights_;
  Compute compute_;
  std::vector<Layer> layers_;
  std::unique_ptr<Panels> head_;
  DeviceBuffer rotary_, arena_, indices_;
  Buffers buffers_{};
  bool recompute_ = false;
};

}  // namespace rank_grpo
