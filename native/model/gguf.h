// The GGUF container (versions 2 and 3): checked metadata and tensor places over a mapped file.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config.h"
#include "dequantize.h"
#include "mapped_file.h"

namespace rank_grpo {

struct GgufValue {
  enum class Kind { integer, number, boolean, string, array } kind;
  int64_t integer = 0;
  double number = 0;
  std::string string;
  std::vector<GgufValue> array;
};

struct GgufTensor {
  Storage storage;
  std::vector<int64_t> shape;  // rows first, as in Hugging Face's layout
  const unsigned char* data;
  int64_t count;
};

class Gguf {
 public:
  explicit Gguf(const std::string& path);
  const std::string& path() const { return file_.path(); }
  const GgufValue* find(const std::string& key) const;
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  ModelConfig config() const;
  std::string metadata_json() const;  // see Checkpoint::metadata_json

 private:
  MappedFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, GgufTensor> tensors_;
};

}  // namespace rank_grpo
