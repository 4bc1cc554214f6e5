// See safetensors.h. The header is 8 bytes of length, JSON, then data without gaps.
#include "safetensors.h"

#include <algorithm>
#include <cstring>

#include "../core/error.h"
#include "checkpoint.h"
#include "json.h"

namespace rank_grpo {
namespace {

constexpr uint64_t kLongestHeader = 100'000'000;  // the format's own limit

int dtype_bytes(const std::string& dtype) {
  static const std::map<std::string, int> sizes = {{"F64", 8}, {"F32", 4}, {"F16", 2},  {"BF16", 2}, {"I64", 8}, {"I32", 4}, {"I16", 2},
                                                   {"I8", 1},  {"U8", 1},  {"BOOL", 1}, {"U16", 2},  {"U32", 4}, {"U64", 8}};
  const auto it = sizes.find(dtype);
  return it == sizes.end() ? 0 : it->second;
}

}  // namespace

bool floating_storage(const std::string& dtype, Storage* storage) {
  for (Storage s : {Storage::f32, Storage::f16, Storage::bf16})
    if (dtype == storage_info(s).name) {
      *storage = s;
      return true;
    }
  return false;
}

Safetensors::Safetensors(const std::string& path) : file_(path) {
  auto bad = [&](const std::string& wanted, const std::string& got) {
    fail("BAD_CHECKPOINT", path + ": Expected " + wanted + ", got " + got + ".");
  };
  if (file_.size() < 8) bad("at least 8 bytes of safetensors", std::to_string(file_.size()));
  uint64_t length;
  std::memcpy(&length, file_.data(), 8);
  if (length > kLongestHeader) bad("a header of at most " + std::to_string(kLongestHeader) + " bytes", std::to_string(length));
  if (length > file_.size() - 8) bad("a header of at most " + std::to_string(file_.size() - 8) + " bytes", std::to_string(length));
  const Json header = Json::parse(file_.text().substr(8, length), path);
  if (!header.is(Json::Kind::object)) bad("a JSON object as header", header.describe());
  const int64_t data_size = static_cast<int64_t>(file_.size() - 8 - length);
  struct Range {
    int64_t begin, end;
    const std::string* name;
  };
  std::vector<Range> ranges;
  for (const auto& [name, entry] : header.object()) {
    if (name == "__metadata__") {
      if (!entry.is(Json::Kind::object)) bad("an object for __metadata__", entry.describe());
      metadata_ = "{";
      for (const auto& [key, value] : entry.object()) {
        if (!value.is(Json::Kind::string)) bad("a string for " + json_quote(key) + " of __metadata__", value.describe());
        metadata_ += (metadata_.size() > 1 ? ", " : "") + json_quote(key) + ": " + json_quote(value.string());
      }
      metadata_ += "}";
      continue;
    }
    const std::string what = "tensor " + json_quote(name);
    const Json *dtype = entry.find("dtype"), *shape = entry.find("shape"), *offsets = entry.find("data_offsets");
    if (!dtype || !dtype->is(Json::Kind::string) || dtype_bytes(dtype->string()) == 0)
      bad("a known dtype for " + what, dtype ? dtype->describe() : "nothing");
    if (!shape || !shape->is(Json::Kind::array)) bad("a shape for " + what, shape ? shape->describe() : "nothing");
    if (!offsets || offsets->array().size() != 2) bad("data_offsets [begin, end] for " + what, offsets ? offsets->describe() : "nothing");
    StoredTensor tensor{dtype->string(), {}, nullptr, 1};
    for (const Json& d : shape->array()) {
      if (!d.is(Json::Kind::integer) || d.integer() < 0) bad("whole numbers in the shape of " + what, d.describe());
      tensor.shape.push_back(d.integer());
      if (__builtin_mul_overflow(tensor.count, d.integer(), &tensor.count)) bad("a shape that fits into 64 bits for " + what, "more");
    }
    for (const Json& o : offsets->array())
      if (!o.is(Json::Kind::integer) || o.integer() < 0 || o.integer() > data_size)
        bad("data_offsets from 0 to " + std::to_string(data_size) + " (the end of the file) for " + what, o.describe());
    const int64_t begin = offsets->array()[0].integer(), end = offsets->array()[1].integer();
    int64_t bytes;
    if (begin > end || __builtin_mul_overflow(tensor.count, int64_t{dtype_bytes(tensor.dtype)}, &bytes) || bytes != end - begin)
      bad("the bytes of its shape and dtype for " + what, std::to_string(begin) + " to " + std::to_string(end));
    tensor.data = file_.data() + 8 + length + begin;
    ranges.push_back({begin, end, &name});
    tensors_.emplace(name, std::move(tensor));
  }
  std::sort(ranges.begin(), ranges.end(),
            [](const Range& a, const Range& b) { return a.begin < b.begin || (a.begin == b.begin && a.end < b.end); });
  int64_t at = 0;
  for (const auto& range : ranges) {
    if (range.begin != at)
      bad("data without gaps or overlaps: tensor " + json_quote(*range.name) + " at " + std::to_string(at), std::to_string(range.begin));
    at = range.end;
  }
  if (at != data_size) bad(std::to_string(at) + " bytes of data", std::to_string(data_size));
}

const StoredTensor& Safetensors::tensor(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) fail("BAD_CHECKPOINT", path() + ": Expected a tensor " + name + ", got none.");
  return it->second;
}

void Safetensors::read(const std::string& name, float* out) const {
  const auto& t = tensor(name);
  Storage storage;
  if (!floating_storage(t.dtype, &storage))
    fail("BAD_CHECKPOINT", path() + ": Expected F32, F16 or BF16 for " + name + ", got " + t.dtype + ".");
  dequantize(storage, t.data, t.count, out);
}

void write_safetensors(const std::string& path, const std::vector<TensorOut>& tensors, StorageType type, const std::string& metadata) {
  const int64_t width = type == StorageType::f32 ? 4 : 2;
  std::string header = "{\"__metadata__\": " + metadata;
  int64_t at = 0;
  auto count_of = [](const TensorOut& t) {
    int64_t n = 1;
    for (int64_t d : t.shape) n *= d;
    return n;
  };
  for (const auto& t : tensors) {
    std::string shape;
    for (int64_t d : t.shape) shape += (shape.empty() ? "" : ", ") + std::to_string(d);
    const int64_t end = at + count_of(t) * width;
    header += ", " + json_quote(t.name) + ": {\"dtype\": \"" + (type == StorageType::f32 ? "F32" : "BF16") + "\", \"shape\": [" + shape +
              "], \"data_offsets\": [" + std::to_string(at) + ", " + std::to_string(end) + "]}";
    at = end;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  AtomicFile file(path);
  const uint64_t length = header.size();
  file.write(&length, 8);
  file.write(header.data(), header.size());
  std::vector<float> values;
  std::vector<uint16_t> narrow;
  for (const auto& t : tensors) {
    values.resize(static_cast<size_t>(count_of(t)));
    t.read(values.data());
    if (type == StorageType::f32) {
      file.write(values.data(), values.size() * 4);
    } else {
      narrow.resize(values.size());
      std::transform(values.begin(), values.end(), narrow.begin(), to_bf16);
      file.write(narrow.data(), narrow.size() * 2);
    }
  }
  file.commit();
}

}  // namespace rank_grpo
