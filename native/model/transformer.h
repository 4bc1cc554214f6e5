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
  // `full`: every parameter, the layout of gradients. `weights`: the parameter buffer on the device, in the layout of `held`; it outlives
  // the transformer. Matrices that `held` gives no place lie in panels alone (Backend::panels_hold_weights); `master`: with the whole f32.
  Transformer(Backend& backend, const ModelConfig& config, const ParameterTable& full, const ParameterTable& held, const float* weights,
              Compute compute, bool master);

  void pack();  // after the weights changed, where their matrices are held

  // Every matrix that products read, and where it starts in the full table.
  struct Matrix {
    Panels* panels;
    int64_t offset;
  };
  const std::vector<Matrix>& matrices() const { return matrices_; }
  // The panels that a parameter lies in, and its first row there. Null for a vector, and for an embedding that is not the head.
  struct Place {
    Panels* panels = nullptr;
    int64_t row = 0;
  };
  Place place(size_t parameter) const;

  // What a pass over T tokens keeps for its backward pass: each layer's input, and of the last `whole` layers everything the gradient
  // reads; the others compute that again. Made by fit().
  struct Kept {
    float* memory = nullptr;  // bytes() of it, untouched until the backward pass; null: there will be none
    int whole = 0;
  };
  int64_t kept_bytes(int64_t T, int whole) const;
  int fit(int64_t T, int64_t budget) const;  // whole layers that a budget of bytes allows

  // Final hidden states [T, C] of a batch. Keys and values go to `cache` of layer l: cache + l * cache_stride floats (a stride
  // of 0: one scratch layer for all).
  const float* forward(const Layout& layout, float* cache, int64_t cache_stride, int64_t pages, const Kept& kept);
  // Where the derivative of a loss by the hidden states [T, C] goes before backward(). The hidden states are lost when it is filled.
  float* dhidden() const { return buffers_.dx; }
  // Adds the gradient of that loss to `gradients` (layout of `full`). Belongs to the last forward that kept.
  void backward(const Layout& layout, float* gradients, float* cache, int64_t pages);

  const Panels& head() const { return *head_; }
  // The head's rows as they lie in memory, null where panels alone hold them.
  const float* head_rows() const { return held_.head < 0 ? nullptr : at(held_.head); }
  AttentionShape attention() const { return {config_.heads, config_.kv_heads, config_.head_dim, compute_}; }
  size_t bytes() const { return rotary_.bytes() + arena_.bytes() + indices_.bytes(); }  // held besides weights and panels
  size_t growth(int64_t T, bool keep, int whole) const;  // bytes that a forward pass over so many tokens will add

 private:
  struct Layer {
    std::unique_ptr<Panels> qkv, output, gate_up, down;
  };
  struct Activations {                                                 // of one layer
    float *input, *qkv_raw, *qkv, *attended, *lse, *middle, *gate_up;  // [T, C] [T, W] [T, W] [T, H D] [T, H] [T, C] [T, 2 F]
  };
  struct Buffers {
    std::vector<Activations> layers;
    float *last, *hidden;                    // [T, C] both
    float *normed, *inner;                   // scratch [T, C], [T, F]; without a backward pass of a slab, as middle and gate_up
    float *dx, *dnormed, *dqkv, *dattended;  // backward scratch
  };
  int64_t slab(int64_t T) const;                                    // rows that one operation hands to the next at a time
  Activations layer_set(Arena& arena, int64_t T, bool keep) const;  // all but the input
  Buffers plan(Arena& scratch, Arena& kept, int64_t T, bool keep, int whole) const;
  void embed(float* x, int64_t T);
  void backward_input(float* dx, const float* dy, const Panels& W, int64_t offset, int64_t T);
  void forward_layer(int l, const Layout& layout, const Activations& a, float* out, float* cache, int64_t pages);
  const float* at(int64_t offset) const { return weights_ + offset; }

  Backend& backend_;
  const ModelConfig& config_;
  const ParameterTable &full_, &held_;
  const float* weights_;
  Compute compute_;
  std::vector<Layer> layers_;
  std::unique_ptr<Panels> head_;
  std::vector<Matrix> matrices_;
  DeviceBuffer rotary_, arena_, indices_;
  Buffers buffers_{};
  int whole_ = 0;
};

}  // namespace rank_grpo
