// Small checkpoints written for a test, in a folder that goes with it.
#pragma once
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "../../native/model/checkpoint.h"
#include "backends.h"

namespace check {

class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& name)
      : path_(std::filesystem::temp_directory_path() / ("rank-grpo-" + name + "-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  that(file.good(), "writing " + path, __FILE__, __LINE__);
}
inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

inline rank_grpo::ModelConfig tiny_config(const std::string& family, bool tied = false) {
  rank_grpo::ModelConfig c;
  c.family = family;
  c.vocab = 29;
  c.hidden = 24;
  c.intermediate = 40;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.head_dim = family == "qwen3" ? 8 : 6;
  c.max_positions = 256;
  c.tied = tied;
  c.qkv_bias = family == "qwen2";
  c.qk_norm = family == "qwen3";
  c.stop_ids = {2};
  return c;
}

inline std::vector<float> tiny_weights(const rank_grpo::Parameter& p, size_t index) {
  auto values = normal(static_cast<size_t>(p.size()), 50 + static_cast<uint32_t>(index), p.vector ? 0.1 : 0.3);
  if (p.vector && p.name.find("norm") != std::string::npos)
    for (float& v : values) v += 1;
  return values;
}

// A Hugging Face folder of that config.
inline void write_folder(const std::string& folder, const rank_grpo::ModelConfig& config, rank_grpo::StorageType type) {
  std::filesystem::create_directories(folder);
  write_file(folder + "/config.json", rank_grpo::config_json(config, type));
  std::vector<rank_grpo::TensorOut> tensors;
  const rank_grpo::ParameterTable table(config);
  for (size_t i = 0; i < table.parameters.size(); ++i) {
    const auto& p = table.parameters[i];
    tensors.push_back({p.name, p.vector ? std::vector<int64_t>{p.rows} : std::vector<int64_t>{p.rows, p.columns}, [p, i](float* out) {
                         const auto values = tiny_weights(p, i);
                         std::copy(values.begin(), values.end(), out);
                       }});
  }
  rank_grpo::write_safetensors(folder + "/model.safetensors", tensors, type, "{\"format\": \"pt\"}");
}

// A GGUF file, put together by hand: what an independent writer would write.
class GgufWriter {
 public:
  void text(const std::string& key, const std::string& value) { begin(key, 8), string(metadata_, value); }
  void number(const std::string& key, uint32_t value) { begin(key, 4), put(metadata_, value); }
  void real(const std::string& key, float value) { begin(key, 6), put(metadata_, value); }
  void tensor(const std::string& name, const std::vector<int64_t>& shape, uint32_t type, const std::string& bytes) {
    string(tensors_, name);
    put(tensors_, static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i-- > 0;) put(tensors_, static_cast<uint64_t>(shape[i]));  // fastest first
    put(tensors_, type);
    data_.resize((data_.size() + 31) / 32 * 32, '\0');
    put(tensors_, static_cast<uint64_t>(data_.size()));
    data_ += bytes;
    ++tensor_count_;
  }
  std::string bytes(uint32_t version = 3) const {
    std::string out = "GGUF";
    put(out, version);
    put(out, tensor_count_);
    put(out, keys_);
    out += metadata_ + tensors_;
    out.resize((out.size() + 31) / 32 * 32, '\0');
    return out + data_;
  }
  template <class T>
  static void put(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof value);
  }

 private:
  void begin(const std::string& key, uint32_t type) {
    string(metadata_, key);
    put(metadata_, type);
    ++keys_;
  }
  static void string(std::string& out, const std::string& value) {
    put(out, static_cast<uint64_t>(value.size()));
    out += value;
  }
  std::string metadata_, tensors_, data_;
  uint64_t keys_ = 0, tensor_count_ = 0;
};

}  // namespace check
