// config.json in and out, the checks every model passes before memory is asked for, and the parameter table.
#include "config.h"

#include <cmath>
#include <cstdio>

#include "../core/error.h"
#include "checkpoint.h"
#include "json.h"

namespace rank_grpo {
namespace {

// Typed access to the fields of config.json; every complaint names the file, the field, what was expected and what came.
class Fields {
 public:
  Fields(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  const Json* find(const char* key) const {
    const Json* v = json_.find(key);
    return v && !v->is(Json::Kind::null) ? v : nullptr;
  }
  [[noreturn]] void bad(const std::string& key, const std::string& wanted, const std::string& got) const {
    fail("BAD_CHECKPOINT", where_ + ": Expected " + wanted + " for " + key + ", got " + got + ".");
  }
  const Json& need(const char* key, const char* wanted) const {
    const Json* v = find(key);
    if (!v) bad(key, wanted, "nothing");
    return *v;
  }
  int integer(const char* key, int low, int high) const {
    const std::string wanted = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
    const Json& v = need(key, wanted.c_str());
    if (!v.is(Json::Kind::integer) || v.integer() < low || v.integer() > high) bad(key, wanted, v.describe());
    return static_cast<int>(v.integer());
  }
  int integer_or(const char* key, int fallback, int low, int high) const { return find(key) ? integer(key, low, high) : fallback; }
  double positive(const char* key) const {
    const Json& v = need(key, "a number above 0");
    if (!v.is_number() || !(v.number() > 0) || !std::isfinite(v.number())) bad(key, "a number above 0", v.describe());
    return v.number();
  }
  bool boolean_or(const char* key, bool fallback) const {
    const Json* v = find(key);
    if (!v) return fallback;
    if (!v->is(Json::Kind::boolean)) bad(key, "true or false", v->describe());
    return v->boolean();
  }
  std::string text(const char* key, const char* wanted) const {
    const Json& v = need(key, wanted);
    if (!v.is(Json::Kind::string)) bad(key, wanted, v.describe());
    return v.string();
  }

 private:
  const Json& json_;
  std::string where_;
};

// transformers' reading: `rope_scaling` goes before the newer `rope_parameters`, and a theta inside before the one at the top.
void read_rope(ModelConfig& c, const Fields& fields, const std::string& where) {
  const Json* scaling = nullptr;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* found = fields.find(key);
    if (found && !found->is(Json::Kind::object)) fields.bad(key, "an object", found->describe());
    if (found && !found->object().empty()) scaling = found;
  }
  if (scaling && scaling->find("rope_theta")) {
    c.rope_theta = Fields(*scaling, where).positive("rope_theta");
  } else if (fields.find("rope_theta")) {
    c.rope_theta = fields.positive("rope_theta");
  }
  if (!scaling) return;
  const Fields rope(*scaling, where);
  for (const auto& [key, value] : scaling->object())
    if (value.is(Json::Kind::object)) fields.bad("rope_parameters." + key, "a number or a text", value.describe());
  const std::string type = rope.find("rope_type") ? rope.text("rope_type", "default or llama3")
                           : rope.find("type")    ? rope.text("type", "default or llama3")
                                                  : "default";
  if (type == "default") return;
  if (type != "llama3") fields.bad("rope_scaling.rope_type", "default or llama3", "\"" + type + "\"");
  c.llama3_rope = true;
  c.rope.factor = rope.positive("factor");
  c.rope.low_freq_factor = rope.positive("low_freq_factor");
  c.rope.high_freq_factor = rope.positive("high_freq_factor");
  c.rope.original_max_positions = rope.positive("original_max_position_embeddings");
}

std::string number(double x) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.17g", x);
  return buffer;
}
// With a point, where transformers insists on a float.
std::string real(double x) {
  const std::string text = number(x);
  return text.find_first_not_of("-0123456789") == std::string::npos ? text + ".0" : text;
}

}  // namespace

ModelConfig parse_config(const std::string& text, const std::string& where) {
  const Json json = Json::parse(text, where);
  if (!json.is(Json::Kind::object)) fail("BAD_CHECKPOINT", where + ": Expected a JSON object, got " + json.describe() + ".");
  const Fields f(json, where);
  ModelConfig c;
  c.family = f.text("model_type", "llama, qwen2 or qwen3");
  if (c.family != "llama" && c.family != "qwen2" && c.family != "qwen3")
    f.bad("model_type", "llama, qwen2 or qwen3", "\"" + c.family + "\"");
  c.vocab = f.integer("vocab_size", 1, 1 << 22);
  c.hidden = f.integer("hidden_size", 1, 1 << 17);
  c.intermediate = f.integer("intermediate_size", 1, 1 << 19);
  c.layers = f.integer("num_hidden_layers", 1, 1024);
  c.heads = f.integer("num_attention_heads", 1, 4096);
  c.kv_heads = f.integer_or("num_key_value_heads", c.heads, 1, 4096);
  if (c.family != "qwen3" && !f.find("head_dim") && c.hidden % c.heads != 0)
    f.bad("hidden_size", "a multiple of num_attention_heads (" + std::to_string(c.heads) + ")", std::to_string(c.hidden));
  c.head_dim = f.integer_or("head_dim", c.family == "qwen3" ? 128 : c.hidden / c.heads, 2, 256);
  c.max_positions = f.integer_or("max_position_embeddings", c.family == "llama" ? 2048 : 32768, 1, 1 << 24);
  c.norm_eps = static_cast<float>(f.find("rms_norm_eps") ? f.positive("rms_norm_eps") : 1e-6);
  if (f.find("hidden_act") && f.text("hidden_act", "silu") != "silu") f.bad("hidden_act", "silu", f.find("hidden_act")->describe());
  c.tied = f.boolean_or("tie_word_embeddings", false);
  c.qkv_bias = c.family == "qwen2";
  c.qk_norm = c.family == "qwen3";
  if (c.family != "qwen2" && f.boolean_or("attention_bias", false)) f.bad("attention_bias", "false", "true");
  if (f.boolean_or("mlp_bias", false)) f.bad("mlp_bias", "false", "true");
  if (f.boolean_or("use_sliding_window", false)) f.bad("use_sliding_window", "false", "true");
  if (f.find("partial_rotary_factor") && f.positive("partial_rotary_factor") != 1)
    f.bad("partial_rotary_factor", "1", f.find("partial_rotary_factor")->describe());
  read_rope(c, f, where);
  if (const Json* eos = f.find("eos_token_id")) {
    auto take = [&](const Json& id) {
      if (!id.is(Json::Kind::integer) || id.integer() < 0 || id.integer() >= c.vocab)
        f.bad("eos_token_id", "a token id below " + std::to_string(c.vocab) + " or a list of them", id.describe());
      c.stop_ids.push_back(static_cast<int32_t>(id.integer()));
    };
    if (!eos->is(Json::Kind::array)) take(*eos);
    for (const Json& id : eos->array()) take(id);
  }
  try {
    c.validate();
  } catch (const Error& error) {
    fail("BAD_CHECKPOINT", where + ": " + error.what());
  }
  return c;
}

void ModelConfig::validate() const {
  auto positive = [](int value, const char* name) { expect(value > 0, "a whole number above 0", name, std::to_string(value)); };
  positive(vocab, "vocab_size");
  positive(hidden, "hidden_size");
  positive(intermediate, "intermediate_size");
  positive(layers, "num_hidden_layers");
  positive(heads, "num_attention_heads");
  positive(kv_heads, "num_key_value_heads");
  positive(max_positions, "max_position_embeddings");
  expect(heads % kv_heads == 0, "a divisor of num_attention_heads (" + std::to_string(heads) + ")", "num_key_value_heads",
         std::to_string(kv_heads));
  expect(head_dim >= 2 && head_dim <= 256 && head_dim % 2 == 0, "an even number from 2 to 256", "head_dim", std::to_string(head_dim));
  auto sound = [](double value, const char* name) { expect(value > 0 && std::isfinite(value), "a number above 0", name, number(value)); };
  sound(static_cast<double>(norm_eps), "rms_norm_eps");
  sound(rope_theta, "rope_theta");
  if (llama3_rope) {
    sound(rope.factor, "rope_scaling.factor");
    sound(rope.low_freq_factor, "rope_scaling.low_freq_factor");
    sound(rope.original_max_positions, "rope_scaling.original_max_position_embeddings");
    expect(rope.high_freq_factor > rope.low_freq_factor, "more than low_freq_factor (" + number(rope.low_freq_factor) + ")",
           "rope_scaling.high_freq_factor", number(rope.high_freq_factor));
  }
  for (int32_t id : stop_ids)
    expect(id >= 0 && id < vocab, "a token id below " + std::to_string(vocab), "eos_token_id", std::to_string(id));
  // A tensor's size stays far inside 64 bits, and the whole below what any machine holds.
  const double matrices =
      static_cast<double>(layers) * hidden * (2.0 * (heads + kv_heads) * head_dim + 3.0 * intermediate) + 2.0 * vocab * hidden;
  expect(matrices < 1e12, "fewer than 1e12 parameters", "the model's shape", number(matrices));
}

// transformers' default and llama3 rules (modeling_rope_utils.py), in double.
std::vector<double> ModelConfig::inverse_frequencies() const {
  std::vector<double> result;
  for (int i = 0; i < head_dim / 2; ++i) {
    double f = std::pow(rope_theta, -2.0 * i / head_dim);
    if (llama3_rope) {
      const double wavelength = 6.283185307179586 / f;
      const double low = rope.original_max_positions / rope.low_freq_factor, high = rope.original_max_positions / rope.high_freq_factor;
      if (wavelength > low) {
        f /= rope.factor;
      } else if (wavelength >= high) {
        const double smooth =
            (rope.original_max_positions / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
        f = (1 - smooth) * f / rope.factor + smooth * f;
      }
    }
    result.push_back(f);
  }
  return result;
}

std::string config_json(const ModelConfig& c, StorageType type) {
  const std::string architecture = c.family == "llama" ? "LlamaForCausalLM" : c.family == "qwen2" ? "Qwen2ForCausalLM" : "Qwen3ForCausalLM";
  std::string out = "{\n";
  auto line = [&](const std::string& key, const std::string& value) {
    out += (out.size() > 2 ? ",\n" : "") + ("  \"" + key + "\": " + value);
  };
  line("architectures", "[\"" + architecture + "\"]");
  line("model_type", "\"" + c.family + "\"");
  line("vocab_size", std::to_string(c.vocab));
  line("hidden_size", std::to_string(c.hidden));
  line("intermediate_size", std::to_string(c.intermediate));
  line("num_hidden_layers", std::to_string(c.layers));
  line("num_attention_heads", std::to_string(c.heads));
  line("num_key_value_heads", std::to_string(c.kv_heads));
  line("head_dim", std::to_string(c.head_dim));
  line("hidden_act", "\"silu\"");
  line("max_position_embeddings", std::to_string(c.max_positions));
  line("rms_norm_eps", number(static_cast<double>(c.norm_eps)));
  line("rope_theta", number(c.rope_theta));
  if (c.llama3_rope)
    line("rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": " + real(c.rope.factor) + ", \"low_freq_factor\": " +
                             real(c.rope.low_freq_factor) + ", \"high_freq_factor\": " + real(c.rope.high_freq_factor) +
                             ", \"original_max_position_embeddings\": " + number(c.rope.original_max_positions) + "}");
  line("tie_word_embeddings", c.tied ? "true" : "false");
  if (c.family == "llama") line("attention_bias", "false");
  if (!c.stop_ids.empty()) {
    std::string ids;
    for (int32_t id : c.stop_ids) ids += (ids.empty() ? "" : ", ") + std::to_string(id);
    line("eos_token_id", c.stop_ids.size() == 1 ? ids : "[" + ids + "]");
  }
  line("torch_dtype", type == StorageType::f32 ? "\"float32\"" : "\"bfloat16\"");
  return out + "\n}\n";
}

ParameterTable::ParameterTable(const ModelConfig& c, bool matrices) {
  const int64_t C = c.hidden, F = c.intermediate, D = c.head_dim;
  auto align = [&] { total = (total + 15) / 16 * 16; };
  auto add = [&](const std::string& name, int64_t rows, int64_t columns, bool vector) {
    parameters.push_back({name, rows, columns, total, vector});
    const int64_t at = total;
    total += rows * columns;
    return at;
  };
  // Of a fused matrix all but the first part follow without a gap.
  auto part = [&](const std::string& name, int64_t rows, int64_t columns) {
    if (matrices || (!c.tied && name == "model.embed_tokens.weight")) return add(name, rows, columns, false);
    parameters.push_back({name, rows, columns, -1, false});
    return int64_t{-1};
  };
  auto matrix = [&](const std::string& name, int64_t rows, int64_t columns) {
    align();
    return part(name, rows, columns);
  };
  auto vector = [&](const std::string& name, int64_t size) {
    align();
    return add(name, size, 1, true);
  };
  embedding = matrix("model.embed_tokens.weight", c.vocab, C);
  for (int l = 0; l < c.layers; ++l) {
    const std::string p = "model.layers." + std::to_string(l) + ".";
    LayerOffsets o{};
    o.input_norm = vector(p + "input_layernorm.weight", C);
    o.qkv = matrix(p + "self_attn.q_proj.weight", c.heads * D, C);
    part(p + "self_attn.k_proj.weight", c.kv_heads * D, C);
    part(p + "self_attn.v_proj.weight", c.kv_heads * D, C);
    o.qkv_bias = o.q_norm = o.k_norm = -1;
    if (c.qkv_bias) {
      o.qkv_bias = vector(p + "self_attn.q_proj.bias", c.heads * D);
      add(p + "self_attn.k_proj.bias", c.kv_heads * D, 1, true);
      add(p + "self_attn.v_proj.bias", c.kv_heads * D, 1, true);
    }
    if (c.qk_norm) {
      o.q_norm = vector(p + "self_attn.q_norm.weight", D);
      o.k_norm = vector(p + "self_attn.k_norm.weight", D);
    }
    o.output = matrix(p + "self_attn.o_proj.weight", C, c.heads * D);
    o.post_norm = vector(p + "post_attention_layernorm.weight", C);
    o.gate_up = matrix(p + "mlp.gate_proj.weight", F, C);
    part(p + "mlp.up_proj.weight", F, C);
    o.down = matrix(p + "mlp.down_proj.weight", C, F);
    layers.push_back(o);
  }
  final_norm = vector("model.norm.weight", C);
  head = c.tied ? embedding : matrix("lm_head.weight", c.vocab, C);
  align();
}

}  // namespace rank_grpo
