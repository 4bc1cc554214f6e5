// See gguf.h. Every length is held against the bytes that are left before anything is allocated for it.
#include "gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../core/error.h"
#include "checkpoint.h"
#include "json.h"

namespace rank_grpo {
namespace {

class Reader {
 public:
  explicit Reader(const MappedFile& file) : file_(file) {}
  [[noreturn]] void bad(const std::string& wanted, const std::string& got) const {
    fail("BAD_CHECKPOINT", file_.path() + ": Expected " + wanted + " at byte " + std::to_string(at_) + ", got " + got + ".");
  }
  size_t at() const { return at_; }
  uint64_t left() const { return file_.size() - at_; }
  template <class T>
  T take(const char* what) {
    if (left() < sizeof(T)) bad(what, "the end of the file");
    T value;
    std::memcpy(&value, file_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }
  std::string string(const char* what) {
    const uint64_t n = take<uint64_t>(what);
    if (n > left()) bad(std::string(what) + " of at most " + std::to_string(left()) + " bytes", std::to_string(n));
    std::string s(reinterpret_cast<const char*>(file_.data()) + at_, n);
    at_ += n;
    return s;
  }
  GgufValue value(uint32_t type, int depth) {
    if (++values_ > kMostValues) bad("at most " + std::to_string(kMostValues) + " metadata values", "more");
    GgufValue v{GgufValue::Kind::integer, 0, 0, {}, {}};
    switch (type) {
      case 0: v.integer = take<uint8_t>("a value"); return v;
      case 1: v.integer = take<int8_t>("a value"); return v;
      case 2: v.integer = take<uint16_t>("a value"); return v;
      case 3: v.integer = take<int16_t>("a value"); return v;
      case 4: v.integer = take<uint32_t>("a value"); return v;
      case 5: v.integer = take<int32_t>("a value"); return v;
      case 10: v.integer = static_cast<int64_t>(take<uint64_t>("a value")); return v;
      case 11: v.integer = take<int64_t>("a value"); return v;
      case 6:
        v.kind = GgufValue::Kind::number;
        v.number = static_cast<double>(take<float>("a value"));
        return v;
      case 12:
        v.kind = GgufValue::Kind::number;
        v.number = take<double>("a value");
        return v;
      case 7:
        v.kind = GgufValue::Kind::boolean;
        v.integer = take<uint8_t>("a value") != 0;
        return v;
      case 8:
        v.kind = GgufValue::Kind::string;
        v.string = string("a string");
        return v;
      case 9: break;
      default: bad("a value type from 0 to 12", std::to_string(type));
    }
    if (depth > 8) bad("at most 8 levels of arrays", "more");
    v.kind = GgufValue::Kind::array;
    const uint32_t inner = take<uint32_t>("an array type");
    const uint64_t n = take<uint64_t>("an array length");
    static constexpr int kSmallest[] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
    if (inner > 12) bad("a value type from 0 to 12", std::to_string(inner));
    if (n > left() / static_cast<uint64_t>(kSmallest[inner])) bad("an array that fits into the file", std::to_string(n) + " values");
    if (n > kMostValues) bad("at most " + std::to_string(kMostValues) + " metadata values", std::to_string(n));
    v.array.reserve(n);
    for (uint64_t i = 0; i < n; ++i) v.array.push_back(value(inner, depth + 1));
    return v;
  }

 private:
  // A value takes up to 90 times its bytes in memory: a file of a few hundred MiB must not ask for all there is. The largest
  // vocabularies have 256 thousand tokens and as many merges, types and scores.
  static constexpr uint64_t kMostValues = uint64_t{1} << 22;
  const MappedFile& file_;
  size_t at_ = 0;
  uint64_t values_ = 0;
};

bool storage_of(uint32_t type, Storage* storage) {
  static const std::map<uint32_t, Storage> types = {{0, Storage::f32},   {1, Storage::f16},   {2, Storage::q4_0},  {3, Storage::q4_1},
                                                    {6, Storage::q5_0},  {7, Storage::q5_1},  {8, Storage::q8_0},  {10, Storage::q2_k},
                                                    {11, Storage::q3_k}, {12, Storage::q4_k}, {13, Storage::q5_k}, {14, Storage::q6_k},
                                                    {30, Storage::bf16}};
  const auto it = types.find(type);
  if (it == types.end()) return false;
  *storage = it->second;
  return true;
}

}  // namespace

Gguf::Gguf(const std::string& path) : file_(path) {
  Reader r(file_);
  if (file_.size() < 24 || file_.text().substr(0, 4) != "GGUF")
    r.bad("a GGUF file (magic \"GGUF\" and a header of 24 bytes)",
          file_.size() < 24 ? std::to_string(file_.size()) + " bytes" : json_quote("another magic"));
  r.take<uint32_t>("magic");
  const uint32_t version = r.take<uint32_t>("version");
  if (version != 2 && version != 3) r.bad("GGUF version 2 or 3", std::to_string(version));
  const uint64_t tensor_count = r.take<uint64_t>("tensor count"), key_count = r.take<uint64_t>("key count");
  if (key_count > r.left() / 13) r.bad("a key count that fits into the file", std::to_string(key_count));
  for (uint64_t i = 0; i < key_count; ++i) {
    std::string key = r.string("a key");
    const uint32_t type = r.take<uint32_t>("a value type");
    GgufValue value = r.value(type, 0);
    if (!metadata_.emplace(key, std::move(value)).second) r.bad("every key once", json_quote(key) + " twice");
  }
  if (tensor_count > r.left() / 24) r.bad("a tensor count that fits into the file", std::to_string(tensor_count));
  struct Place {
    std::string name;
    GgufTensor tensor;
    uint64_t offset;
  };
  std::vector<Place> places;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    Place p{r.string("a tensor name"), {Storage::f32, {}, nullptr, 1}, 0};
    const std::string what = "tensor " + json_quote(p.name);
    const uint32_t dims = r.take<uint32_t>("a dimension count");
    if (dims < 1 || dims > 4) r.bad("1 to 4 dimensions for " + what, std::to_string(dims));
    for (uint32_t d = 0; d < dims; ++d) {
      const uint64_t n = r.take<uint64_t>("a dimension");
      if (n == 0 || n > (uint64_t{1} << 40) || __builtin_mul_overflow(p.tensor.count, static_cast<int64_t>(n), &p.tensor.count))
        r.bad("dimensions that fit into the file for " + what, std::to_string(n));
      p.tensor.shape.insert(p.tensor.shape.begin(), static_cast<int64_t>(n));
    }
    const uint32_t type = r.take<uint32_t>("a tensor type");
    if (!storage_of(type, &p.tensor.storage))
      r.bad("F32, F16, BF16, Q4_0 to Q8_0 or Q2_K to Q6_K for " + what, "type " + std::to_string(type));
    if (p.tensor.shape.back() % storage_info(p.tensor.storage).block != 0)
      r.bad("rows of whole blocks (" + std::to_string(storage_info(p.tensor.storage).block) + " values) for " + what,
            std::to_string(p.tensor.shape.back()));
    p.offset = r.take<uint64_t>("a tensor offset");
    places.push_back(std::move(p));
  }
  uint64_t alignment = 32;
  if (const GgufValue* a = find("general.alignment")) {
    if (a->integer < 1 || a->integer > 65536 || (a->integer & (a->integer - 1)))
      r.bad("a power of two for general.alignment", std::to_string(a->integer));
    alignment = static_cast<uint64_t>(a->integer);
  }
  const uint64_t start = (r.at() + alignment - 1) / alignment * alignment;
  const uint64_t room = start > file_.size() ? 0 : file_.size() - start;
  for (auto& p : places) {
    const auto& info = storage_info(p.tensor.storage);
    const uint64_t blocks = static_cast<uint64_t>(p.tensor.count / info.block);
    uint64_t bytes;
    if (p.offset % alignment != 0)
      r.bad("an offset that is a multiple of " + std::to_string(alignment) + " for tensor " + json_quote(p.name), std::to_string(p.offset));
    if (__builtin_mul_overflow(blocks, static_cast<uint64_t>(info.bytes), &bytes) || p.offset > room || bytes > room - p.offset)
      r.bad("data inside the file for tensor " + json_quote(p.name),
            "offset " + std::to_string(p.offset) + " of " + std::to_string(room) + " bytes");
    p.tensor.data = file_.data() + start + p.offset;
    if (!tensors_.emplace(p.name, std::move(p.tensor)).second) r.bad("every tensor once", json_quote(p.name) + " twice");
  }
}

const GgufValue* Gguf::find(const std::string& key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

namespace {

// GGUF keeps Llama 3's scaling as what each frequency is divided by. The rule's constants, found again, are what a config.json needs:
// 1 / d = (1 - s) / factor + s with s = a / wavelength - b between two wavelengths, d = 1 below and factor above them. False where no
// constants give these divisors.
bool fit_llama3(ModelConfig& c, const std::vector<float>& divisors) {
  ModelConfig plain = c;
  plain.llama3_rope = false;
  const auto frequencies = plain.inverse_frequencies();
  constexpr double kTurn = 6.283185307179586;
  double factor = 1;
  for (float d : divisors) {
    if (!(d >= 0.999f) || !std::isfinite(d)) return false;
    factor = std::max(factor, static_cast<double>(d));
  }
  struct Point {
    double wavelength, s;
  };
  std::vector<Point> blended;
  double longest_kept = 0;
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double d = static_cast<double>(divisors[i]), wavelength = kTurn / frequencies[i];
    if (std::abs(d - 1) < 1e-6) {
      longest_kept = std::max(longest_kept, wavelength);
    } else if (factor - d > 1e-6 * factor) {
      blended.push_back({wavelength, (1 / d - 1 / factor) / (1 - 1 / factor)});
    }
  }
  if (factor == 1) return true;  // no scaling
  // Only a / b and a / (1 + b) show in the result: low_freq_factor is 1 by choice, as in every published model. With fewer than two
  // blended frequencies the high one is taken to be 4, as there.
  double b = 1.0 / 3, a = longest_kept * (1 + b);
  if (blended.size() == 1) a = (blended[0].s + b) * blended[0].wavelength;
  if (blended.size() >= 2) {
    const Point &p = blended.front(), &q = blended.back();
    a = (p.s - q.s) / (1 / p.wavelength - 1 / q.wavelength);
    b = a / p.wavelength - p.s;
  }
  if (!(a > 0 && b > 0)) return false;
  auto fits = [&](double high, double original) {
    ModelConfig tried = c;
    tried.llama3_rope = true;
    tried.rope = {factor, 1, high, original};
    const auto scaled = tried.inverse_frequencies();
    for (size_t i = 0; i < divisors.size(); ++i)
      if (std::abs(frequencies[i] / scaled[i] / static_cast<double>(divisors[i]) - 1) > 1e-6) return false;
    c = tried;
    return true;
  };
  const double high = 1 + 1 / b, original = a / b;
  return fits(std::round(high * 100) / 100, std::round(original)) || fits(high, original);
}

}  // namespace

ModelConfig Gguf::config() const {
  auto bad = [&](const std::string& key, const std::string& wanted, const std::string& got) {
    fail("BAD_CHECKPOINT", path() + ": Expected " + wanted + " for " + key + ", got " + got + ".");
  };
  const GgufValue* architecture = find("general.architecture");
  if (!architecture || (architecture->string != "llama" && architecture->string != "qwen2" && architecture->string != "qwen3"))
    bad("general.architecture", "llama, qwen2 or qwen3", architecture ? "\"" + architecture->string + "\"" : "nothing");
  ModelConfig c;
  c.family = architecture->string;
  auto integer = [&](const std::string& name, int64_t fallback) {
    const std::string key = c.family + "." + name;
    const GgufValue* v = find(key);
    if (!v && fallback < 0) bad(key, "a whole number", "nothing");
    const int64_t n = v ? v->integer : fallback;
    if ((v && v->kind != GgufValue::Kind::integer) || n < 1 || n > (1 << 24)) bad(key, "a whole number above 0", std::to_string(n));
    return static_cast<int>(n);
  };
  auto number = [&](const std::string& name, double fallback) {
    const GgufValue* v = find(c.family + "." + name);
    return v ? v->kind == GgufValue::Kind::number ? v->number : static_cast<double>(v->integer) : fallback;
  };
  c.hidden = integer("embedding_length", -1);
  c.layers = integer("block_count", -1);
  c.intermediate = integer("feed_forward_length", -1);
  c.heads = integer("attention.head_count", -1);
  c.kv_heads = integer("attention.head_count_kv", c.heads);
  c.head_dim = integer("attention.key_length", std::max(1, c.hidden / c.heads));
  c.max_positions = integer("context_length", 2048);
  c.norm_eps = static_cast<float>(number("attention.layer_norm_rms_epsilon", 1e-6));
  c.rope_theta = number("rope.freq_base", 10000);
  if (integer("rope.dimension_count", c.head_dim) != c.head_dim)
    bad(c.family + ".rope.dimension_count", std::to_string(c.head_dim) + " (the whole head)",
        std::to_string(integer("rope.dimension_count", c.head_dim)));
  if (const GgufValue* scaling = find(c.family + ".rope.scaling.type"))
    if (scaling->string != "none" && !scaling->string.empty())
      bad(c.family + ".rope.scaling.type", "none (or the tensor rope_freqs.weight)", "\"" + scaling->string + "\"");
  const auto embedding = tensors_.find("token_embd.weight");
  if (embedding == tensors_.end() || embedding->second.shape.size() != 2) bad("token_embd.weight", "a matrix", "none");
  c.vocab = static_cast<int>(std::min<int64_t>(embedding->second.shape[0], 1 << 22));
  c.tied = tensors_.count("output.weight") == 0;
  c.qkv_bias = c.family == "qwen2";
  c.qk_norm = c.family == "qwen3";
  const auto divisors = tensors_.find("rope_freqs.weight");
  if (divisors != tensors_.end()) {
    if (divisors->second.count != c.head_dim / 2)
      bad("rope_freqs.weight", std::to_string(c.head_dim / 2) + " values", std::to_string(divisors->second.count));
    std::vector<float> values(static_cast<size_t>(c.head_dim / 2));
    dequantize(divisors->second.storage, divisors->second.data, divisors->second.count, values.data());
    if (!fit_llama3(c, values)) bad("rope_freqs.weight", "the divisors of the llama3 rule", "others");
  }
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"})
    if (const GgufValue* id = find(key))
      if (id->integer >= 0 && id->integer < c.vocab && (c.stop_ids.empty() || c.stop_ids[0] != id->integer))
        c.stop_ids.push_back(static_cast<int32_t>(id->integer));
  try {
    c.validate();
  } catch (const Error& error) {
    fail("BAD_CHECKPOINT", path() + ": " + error.what());
  }
  return c;
}

}  // namespace rank_grpo
