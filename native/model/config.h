// Shape of a model, as config.json or GGUF metadata describe it, and the table of its parameters.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace rank_grpo {

struct ModelConfig {
  std::string family;  // "llama", "qwen2", "qwen3": config.json's model_type
  int vocab = 0, hidden = 0, intermediate = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int max_positions = 2048;
  float norm_eps = 1e-6f;
  double rope_theta = 10000;
  struct Llama3Scaling {
    double factor = 1, low_freq_factor = 1, high_freq_factor = 4, original_max_positions = 8192;
  };
  bool llama3_rope = false;
  Llama3Scaling rope;
  bool tied = false;              // the head is the embedding
  bool qkv_bias = false;          // qwen2
  bool qk_norm = false;           // qwen3
  std::vector<int32_t> stop_ids;  // eos_token_id of config.json / generation_config.json, as far as given

  // Throws INVALID_ARGUMENT or BAD_CHECKPOINT naming the field; called by every reader before anything is allocated.
  void validate() const;
  std::vector<double> inverse_frequencies() const;  // head_dim / 2 values after scaling
};

// A tensor of the checkpoint (Hugging Face name and layout) inside the one flat f32 buffer of parameters. q, k, v of a
// layer (and their biases) lie one behind the other, as do gate and up, so that each set is also one fused matrix.
struct Parameter {
  std::string name;
  int64_t rows, columns;  // columns = 1 for a vector of `rows`
  int64_t offset;         // in floats
  bool vector;            // 1-D in the checkpoint (norms, biases)
  int64_t size() const { return rows * columns; }
};

struct LayerOffsets {
  int64_t input_norm, qkv, qkv_bias, q_norm, k_norm, output, post_norm, gate_up, down;  // -1 where absent
};

class ParameterTable {
 public:
  // matrices = false: those that lie in panels alone have no place here (offset -1); what is left is norms, biases and, where it is not
  // the head too, the embedding.
  explicit ParameterTable(const ModelConfig& config, bool matrices = true);
  std::vector<Parameter> parameters;
  std::vector<LayerOffsets> layers;
  int64_t embedding = 0, final_norm = 0, head = 0;  // head = embedding where tied
  int64_t total = 0;                                // floats, multiple of 16
};

}  // namespace rank_grpo
