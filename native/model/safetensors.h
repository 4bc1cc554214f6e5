// The safetensors container: a checked header over a mapped file.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dequantize.h"
#include "mapped_file.h"

namespace rank_grpo {

struct StoredTensor {
  std::string dtype;  // as in the file: "F32", "BF16", "I64", ...
  std::vector<int64_t> shape;
  const unsigned char* data;
  int64_t count;  // values
};

class Safetensors {
 public:
  explicit Safetensors(const std::string& path);  // BAD_CHECKPOINT naming the file and the fault
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  const StoredTensor& tensor(const std::string& name) const;      // BAD_CHECKPOINT where there is none
  void read(const std::string& name, float* out) const;           // F32, F16, BF16 to f32
  const std::string& metadata_json() const { return metadata_; }  // "__metadata__" object, "{}" where absent
  const std::string& path() const { return file_.path(); }

 private:
  MappedFile file_;
  std::map<std::string, StoredTensor> tensors_;
  std::string metadata_ = "{}";
};

bool floating_storage(const std::string& dtype, Storage* storage);  // F32, F16, BF16

}  // namespace rank_grpo
