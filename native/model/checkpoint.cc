// Checkpoints as parameters by name: a Hugging Face folder or a GGUF file behind one interface.
#include "checkpoint.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "../core/error.h"
#include "gguf.h"
#include "json.h"
#include "safetensors.h"

namespace rank_grpo {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void bad(const std::string& where, const std::string& wanted, const std::string& got) {
  fail("BAD_CHECKPOINT", where + ": Expected " + wanted + ", got " + got + ".");
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

std::vector<int64_t> shape_of(const Parameter& p) {
  return p.vector ? std::vector<int64_t>{p.rows} : std::vector<int64_t>{p.rows, p.columns};
}

void check_finite(const Parameter& p, const float* values, const std::string& where) {
  for (int64_t i = 0; i < p.size(); ++i)
    if (!std::isfinite(values[i]))
      fail("NOT_FINITE",
           where + ": Expected finite weights for " + p.name + ", got " + std::to_string(values[i]) + " at " + std::to_string(i) + ".");
}

class FolderCheckpoint final : public Checkpoint {
 public:
  explicit FolderCheckpoint(const fs::path& folder) {
    const fs::path config_path = folder / "config.json";
    raw_config_ = std::string(MappedFile(config_path).text());
    config_ = parse_config(raw_config_, config_path);
    read_generation_config(folder / "generation_config.json");
    const fs::path index = folder / "model.safetensors.index.json";
    std::error_code ignored;  // what cannot be looked at is refused when it is opened
    if (fs::exists(index, ignored)) {
      open_shards(folder, index);
    } else {
      files_.push_back(std::make_unique<Safetensors>(folder / "model.safetensors"));
      for (const auto& entry : files_[0]->tensors()) tensors_[entry.first] = {files_[0].get(), &entry.second};
    }
    check_table();
  }

  void read(const Parameter& p, float* out) const override {
    const Safetensors* file = tensors_.at(p.name).first;
    file->read(p.name, out);
    check_finite(p, out, file->path());
  }
  std::string metadata_json() const override { return raw_config_; }

 private:
  // Its eos_token_id may list more ids than config.json's (Llama 3: end of text, of message, of turn).
  void read_generation_config(const fs::path& path) {
    if (!fs::exists(path)) return;
    const Json json = Json::parse(MappedFile(path).text(), path);
    const Json* eos = json.find("eos_token_id");
    if (!eos || eos->is(Json::Kind::null)) return;
    const std::vector<Json> ids = eos->is(Json::Kind::array) ? eos->array() : std::vector<Json>{*eos};
    for (const Json& id : ids) {
      if (!id.is(Json::Kind::integer) || id.integer() < 0 || id.integer() >= config_.vocab)
        bad(path, "token ids below " + std::to_string(config_.vocab) + " for eos_token_id", id.describe());
      const auto known = std::find(config_.stop_ids.begin(), config_.stop_ids.end(), id.integer());
      if (known == config_.stop_ids.end()) config_.stop_ids.push_back(static_cast<int32_t>(id.integer()));
    }
  }

  void open_shards(const fs::path& folder, const fs::path& index) {
    const Json json = Json::parse(MappedFile(index).text(), index);
    const Json* map = json.find("weight_map");
    if (!map || !map->is(Json::Kind::object)) bad(index, "an object weight_map", map ? map->describe() : "nothing");
    if (map->object().empty()) bad(index, "tensors in weight_map", "none");
    std::map<std::string, const Safetensors*> shards;
    for (const auto& [name, shard] : map->object()) {
      if (!shard.is(Json::Kind::string)) bad(index, "a file name for " + json_quote(name), shard.describe());
      if (fs::path(shard.string()).filename() != shard.string() || shard.string().empty())
        bad(index, "a file of this folder for " + json_quote(name), json_quote(shard.string()));
      auto& file = shards[shard.string()];
      if (!file) {
        std::error_code ignored;
        if (!fs::exists(folder / shard.string(), ignored)) bad(index, "the shard " + shard.string() + " beside it", "no such file");
        files_.push_back(std::make_unique<Safetensors>(folder / shard.string()));
        file = files_.back().get();
      }
      const auto it = file->tensors().find(name);
      if (it == file->tensors().end()) bad(index, "tensor " + json_quote(name) + " in " + shard.string(), "none");
      tensors_[name] = {file, &it->second};
    }
    for (const auto& file : files_)
      for (const auto& entry : file->tensors())
        if (!tensors_.count(entry.first)) bad(file->path(), "only tensors that the index names", json_quote(entry.first));
  }

  void check_table() const {
    std::map<std::string, bool> known;
    for (const auto& p : ParameterTable(config_).parameters) {
      known[p.name] = true;
      const auto it = tensors_.find(p.name);
      if (it == tensors_.end()) bad(files_[0]->path(), "a tensor " + p.name, "none");
      const auto& [file, tensor] = it->second;
      Storage storage;
      if (!floating_storage(tensor->dtype, &storage)) bad(file->path(), "F32, F16 or BF16 for " + p.name, tensor->dtype);
      if (tensor->shape != shape_of(p)) bad(file->path(), "shape " + shape_text(shape_of(p)) + " for " + p.name, shape_text(tensor->shape));
    }
    for (const auto& entry : tensors_) {
      const std::string& name = entry.first;
      const bool ignored = (config_.tied && name == "lm_head.weight") || name.find("rotary_emb.inv_freq") != std::string::npos;
      if (!known.count(name) && !ignored) bad(entry.second.first->path(), "only the tensors of the model", json_quote(name));
    }
  }

  std::string raw_config_;
  std::vector<std::unique_ptr<Safetensors>> files_;
  std::map<std::string, std::pair<const Safetensors*, const StoredTensor*>> tensors_;
};

// model.layers.3.self_attn.q_proj.weight -> blk.3.attn_q.weight
std::string gguf_name(const std::string& name) {
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  const size_t start = std::strlen("model.layers."), dot = name.find('.', start);
  const std::string layer = name.substr(start, dot - start), rest = name.substr(dot + 1);
  static const std::map<std::string, std::string> names = {{"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
                                                           {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
                                                           {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
                                                           {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
                                                           {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
                                                           {"mlp.down_proj", "ffn_down"}};
  const size_t last = rest.rfind('.');
  return "blk." + layer + "." + names.at(rest.substr(0, last)) + rest.substr(last);
}

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(const std::string& path) : file_(path) {
    config_ = file_.config();
    std::map<std::string, bool> known = {{"rope_freqs.weight", true}};
    for (const auto& p : ParameterTable(config_).parameters) {
      const std::string name = gguf_name(p.name);
      known[name] = true;
      const auto it = file_.tensors().find(name);
      if (it == file_.tensors().end()) bad(path, "a tensor " + name, "none");
      if (it->second.shape != shape_of(p)) bad(path, "shape " + shape_text(shape_of(p)) + " for " + name, shape_text(it->second.shape));
    }
    for (const auto& entry : file_.tensors())
      if (!known.count(entry.first)) bad(path, "only the tensors of the model", json_quote(entry.first));
  }

  void read(const Parameter& p, float* out) const override {
    const auto& tensor = file_.tensors().at(gguf_name(p.name));
    const bool q = p.name.find("self_attn.q_proj.weight") != std::string::npos,
               k = p.name.find("self_attn.k_proj.weight") != std::string::npos;
    if (config_.family == "llama" && (q || k)) {
      // GGUF keeps rotation pairs as neighbours: row h D + s D/2 + i of Hugging Face is row h D + 2 i + s
      std::vector<float> rows(static_cast<size_t>(p.size()));
      dequantize(tensor.storage, tensor.data, tensor.count, rows.data());
      const int64_t D = config_.head_dim;
      for (int64_t row = 0; row < p.rows; ++row) {
        const int64_t h = row / D, s = row % D / (D / 2), i = row % (D / 2);
        std::memcpy(out + row * p.columns, &rows[static_cast<size_t>((h * D + 2 * i + s) * p.columns)],
                    static_cast<size_t>(p.columns) * sizeof(float));
      }
    } else {
      dequantize(tensor.storage, tensor.data, tensor.count, out);
    }
    check_finite(p, out, file_.path());
  }
  std::string metadata_json() const override { return file_.metadata_json(); }

 private:
  Gguf file_;
};

}  // namespace

std::unique_ptr<Checkpoint> Checkpoint::open(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return std::make_unique<FolderCheckpoint>(path);
  if (fs::is_regular_file(path, ignored)) return std::make_unique<GgufCheckpoint>(path);
  fail("IO", "Expected a Hugging Face folder or a .gguf file at " + path + ", got nothing there.");
}

}  // namespace rank_grpo
