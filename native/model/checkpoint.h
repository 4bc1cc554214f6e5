// Reading and writing checkpoints: Hugging Face folders (safetensors, sharded or not) and GGUF files. Files are memory-mapped,
// every length and offset is checked before use, and nothing is allocated by an untrusted number.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "config.h"

namespace rank_grpo {

enum class StorageType { f32, bf16 };

class Checkpoint {
 public:
  // `path`: a folder with config.json and *.safetensors, or a .gguf file. Throws BAD_CHECKPOINT or IO (file, what was expected, what came).
  // Every parameter of the model is known to be there, with the right shape and a floating type, when this returns; a tensor that
  // belongs to no parameter is an error too (rotary_emb.inv_freq and, where tied, lm_head.weight aside).
  static std::unique_ptr<Checkpoint> open(const std::string& path);
  virtual ~Checkpoint() = default;
  const ModelConfig& config() const { return config_; }
  // Parameter as f32 in checkpoint layout (dequantised, rows permuted back where GGUF permutes); NOT_FINITE on NaN or infinity.
  virtual void read(const Parameter& parameter, float* out) const = 0;
  // JSON text of what TypeScript needs: for a folder the raw config.json; for GGUF {"config": {...HF style}, "tokenizer": {tokenizer.json-like},
  // "tokenizer_config": {"chat_template", "bos_token", "eos_token", ...}}; "tokenizer": null where the file has none, with
  // "tokenizer_error" where it has one of a kind that is not read here.
  virtual std::string metadata_json() const = 0;

 protected:
  ModelConfig config_;
};

ModelConfig parse_config(const std::string& json, const std::string& where);  // config.json text; `where` names it in errors
std::string config_json(const ModelConfig& config, StorageType type);         // what transformers reads (architectures, model_type, ...)

// Writes `path` (a safetensors file) under a temporary name beside it, syncs, renames. `read` gives each tensor's f32 values.
struct TensorOut {
  std::string name;
  std::vector<int64_t> shape;
  std::function<void(float*)> read;
};
void write_safetensors(const std::string& path, const std::vector<TensorOut>& tensors, StorageType type,
                       const std::string& metadata_json_object);

}  // namespace rank_grpo
