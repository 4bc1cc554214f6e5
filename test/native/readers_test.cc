// Checkpoint readers: JSON, safetensors, GGUF and the block formats; what they take, and what they refuse.
#include <algorithm>
#include <cmath>
#include <functional>

#include "../../native/core/error.h"
#include "../../native/model/dequantize.h"
#include "../../native/model/gguf.h"
#include "../../native/model/json.h"
#include "../../native/model/safetensors.h"
#include "files.h"
#include "reference.h"

using rank_grpo::Checkpoint;
using rank_grpo::Json;
using rank_grpo::ModelConfig;
using rank_grpo::Storage;

namespace {

void refuses_json(const std::string& text) {
  try {
    Json::parse(text, "here");
  } catch (const rank_grpo::Error& error) {
    check::that(std::string(error.code()) == "BAD_CHECKPOINT" && std::string(error.what()).find("here: Expected") == 0, error.what(),
                __FILE__, __LINE__);
    return;
  }
  check::that(false, "accepted " + text, __FILE__, __LINE__);
}

std::string f32_bytes(const std::vector<float>& x) { return {reinterpret_cast<const char*>(x.data()), x.size() * 4}; }

std::string gguf_name(const std::string& name) {
  static const std::pair<const char*, const char*> names[] = {{"model.embed_tokens", "token_embd"},
                                                              {"model.norm", "output_norm"},
                                                              {"lm_head", "output"},
                                                              {"model.layers.", "blk."},
                                                              {"input_layernorm", "attn_norm"},
                                                              {"self_attn.q_proj", "attn_q"},
                                                              {"self_attn.k_proj", "attn_k"},
                                                              {"self_attn.v_proj", "attn_v"},
                                                              {"self_attn.o_proj", "attn_output"},
                                                              {"self_attn.q_norm", "attn_q_norm"},
                                                              {"self_attn.k_norm", "attn_k_norm"},
                                                              {"post_attention_layernorm", "ffn_norm"},
                                                              {"mlp.gate_proj", "ffn_gate"},
                                                              {"mlp.up_proj", "ffn_up"},
                                                              {"mlp.down_proj", "ffn_down"}};
  std::string out = name;
  for (const auto& [from, to] : names)
    if (const size_t at = out.find(from); at != std::string::npos) out.replace(at, std::string(from).size(), to);
  return out;
}

}  // namespace

namespace check {

// The same model as write_folder's, as a GGUF file with F32 tensors; llama's q and k rows in GGUF's own order.
std::string gguf_of(const ModelConfig& c, const std::vector<float>& rope_divisors = {}) {
  GgufWriter w;
  w.text("general.architecture", c.family);
  const std::string p = c.family + ".";
  w.number(p + "embedding_length", static_cast<uint32_t>(c.hidden));
  w.number(p + "block_count", static_cast<uint32_t>(c.layers));
  w.number(p + "feed_forward_length", static_cast<uint32_t>(c.intermediate));
  w.number(p + "attention.head_count", static_cast<uint32_t>(c.heads));
  w.number(p + "attention.head_count_kv", static_cast<uint32_t>(c.kv_heads));
  w.number(p + "attention.key_length", static_cast<uint32_t>(c.head_dim));
  w.number(p + "context_length", static_cast<uint32_t>(c.max_positions));
  w.real(p + "attention.layer_norm_rms_epsilon", c.norm_eps);
  w.real(p + "rope.freq_base", static_cast<float>(c.rope_theta));
  w.number("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(c.stop_ids.at(0)));
  const rank_grpo::ParameterTable table(c);
  for (size_t i = 0; i < table.parameters.size(); ++i) {
    const auto& parameter = table.parameters[i];
    auto values = tiny_weights(parameter, i);
    const bool permuted = c.family == "llama" && (parameter.name.find("q_proj.weight") != std::string::npos ||
                                                  parameter.name.find("k_proj.weight") != std::string::npos);
    if (permuted) {
      const auto source = values;
      const int64_t D = c.head_dim;
      for (int64_t row = 0; row < parameter.rows; ++row) {
        const int64_t h = row / D, s = row % D / (D / 2), k = row % (D / 2);
        std::copy_n(&source[static_cast<size_t>(row * parameter.columns)], parameter.columns,
                    &values[static_cast<size_t>((h * D + 2 * k + s) * parameter.columns)]);
      }
    }
    w.tensor(gguf_name(parameter.name),
             parameter.vector ? std::vector<int64_t>{parameter.rows} : std::vector<int64_t>{parameter.rows, parameter.columns}, 0,
             f32_bytes(values));
  }
  if (!rope_divisors.empty()) w.tensor("rope_freqs.weight", {static_cast<int64_t>(rope_divisors.size())}, 0, f32_bytes(rope_divisors));
  return w.bytes();
}

}  // namespace check

TEST(json_takes_and_refuses) {
  const Json v = Json::parse(R"( {"a": [1, -2.5e3, true, null, "x\u00e9\ud83d\ude00\n"], "b": {}} )", "here");
  CHECK(v.find("a")->array().size() == 5 && v.find("a")->array()[0].integer() == 1 && v.find("a")->array()[1].number() == -2500);
  CHECK(v.find("a")->array()[4].string() == "x\xc3\xa9\xf0\x9f\x98\x80\n");
  CHECK(Json::parse("9223372036854775807", "here").integer() == INT64_MAX);
  CHECK(Json::parse("9223372036854775808", "here").kind() == Json::Kind::number);
  for (const char* text : {"",
                           " ",
                           "{",
                           "[1,",
                           "{\"a\"}",
                           "{\"a\":1,}",
                           "[1 2]",
                           "nul",
                           "tru",
                           "\"",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\x01\"",
                           "\"\xff\"",
                           "\"\xc0\xaf\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf5\x80\x80\x80\"",
                           "\"\xe2\x82\"",
                           "-",
                           "1-2",
                           "1e",
                           "{\"a\":1,\"a\":1}",
                           "{} {}",
                           "{1:2}",
                           "+1",
                           ".5",
                           "NaN",
                           "Infinity"})
    refuses_json(text);
  refuses_json(std::string(100000, '['));
  std::string many = "[0";
  for (int i = 0; i < 1 << 22; ++i) many += ",0";
  refuses_json(many + "]");
  refuses_json(std::string("\"a\0b\"", 5));
}

TEST(config_takes_and_refuses) {
  const std::string base = rank_grpo::config_json(check::tiny_config("llama"), rank_grpo::StorageType::f32);
  const ModelConfig c = rank_grpo::parse_config(base, "config.json");
  CHECK(c.hidden == 24 && c.head_dim == 6 && c.kv_heads == 2 && c.stop_ids == std::vector<int32_t>{2} && !c.tied);
  auto with = [&](const std::string& from, const std::string& to) {
    std::string text = base;
    const size_t at = text.find(from);
    CHECK(at != std::string::npos);
    return text.replace(at, from.size(), to);
  };
  for (const auto& [from, to] : {std::pair<const char*, const char*>{"\"hidden_size\": 24", "\"hidden_size\": 0"},
                                 {"\"hidden_size\": 24", "\"hidden_size\": 24.5"},
                                 {"\"hidden_size\": 24", "\"hidden_size\": 1e30"},
                                 {"\"num_hidden_layers\": 2", "\"num_hidden_layers\": -1"},
                                 {"\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"},
                                 {"\"head_dim\": 6", "\"head_dim\": 7"},
                                 {"\"head_dim\": 6", "\"head_dim\": 512"},
                                 {"\"rope_theta\": 10000", "\"rope_theta\": 0"},
                                 {"\"rope_theta\": 10000", "\"rope_theta\": 1e999"},
                                 {"\"eos_token_id\": 2", "\"eos_token_id\": 29"},
                                 {"\"eos_token_id\": 2", "\"eos_token_id\": 4294967298"},
                                 {"\"eos_token_id\": 2", "\"eos_token_id\": \"2\""},
                                 {"\"eos_token_id\": 2", "\"eos_token_id\": 2, \"partial_rotary_factor\": 0.5"},
                                 {"\"eos_token_id\": 2", "\"eos_token_id\": 2, \"use_sliding_window\": true"},
                                 {"\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\""},
                                 {"\"model_type\": \"llama\"", "\"model_type\": \"gpt2\""}})
    CHECK_THROWS(rank_grpo::parse_config(with(from, to), "config.json"), "BAD_CHECKPOINT");
}

// What transformers takes where a field is missing, or said twice.
TEST(config_defaults_and_precedence) {
  auto parsed = [](const std::string& family, const std::string& fields) {
    return rank_grpo::parse_config("{\"model_type\": \"" + family +
                                       "\", \"vocab_size\": 29, \"hidden_size\": 24, \"intermediate_size\": 32, \"num_hidden_layers\": 1, "
                                       "\"num_attention_heads\": 4" +
                                       fields + "}",
                                   "config.json");
  };
  const ModelConfig llama = parsed("llama", ""), qwen3 = parsed("qwen3", "");
  CHECK(llama.head_dim == 6 && llama.kv_heads == 4 && llama.max_positions == 2048 && llama.rope_theta == 10000 && !llama.tied);
  CHECK(qwen3.head_dim == 128 && qwen3.max_positions == 32768);
  const std::string llama3 =
      "\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": "
      "32}";
  const ModelConfig both =
      parsed("llama", ", \"rope_parameters\": {\"rope_theta\": 5, \"rope_type\": \"default\"}, \"rope_scaling\": {" + llama3);
  CHECK(both.llama3_rope && both.rope_theta == 10000);
  CHECK(parsed("llama", ", \"rope_theta\": 7, \"rope_scaling\": {\"rope_theta\": 9, " + llama3).rope_theta == 9);
  CHECK(parsed("llama", ", \"rope_theta\": 7, \"rope_scaling\": {" + llama3).rope_theta == 7);
  CHECK(parsed("llama", ", \"rope_scaling\": {}, \"rope_parameters\": {\"rope_theta\": 5}").rope_theta == 5);
  CHECK_THROWS(parsed("llama", ", \"rope_parameters\": {\"full_attention\": {\"rope_theta\": 5}}"), "BAD_CHECKPOINT");
}

// Every block format by hand: one block whose values can be worked out on paper.
TEST(dequantize_by_hand) {
  auto one = [](Storage storage, const std::vector<int>& bytes) {
    const auto& info = rank_grpo::storage_info(storage);
    std::vector<unsigned char> data(bytes.begin(), bytes.end());
    CHECK(static_cast<int>(data.size()) == info.bytes);
    std::vector<float> out(static_cast<size_t>(info.block), NAN);
    rank_grpo::dequantize(storage, data.data(), info.block, out.data());
    return out;
  };
  auto repeated = [](std::vector<int> start, size_t n, int value) {
    start.insert(start.end(), n, value);
    return start;
  };
  CHECK(one(Storage::f16, {0x00, 0x3c})[0] == 1.f && one(Storage::f16, {0x01, 0x00})[0] == 0x1p-24f &&
        one(Storage::f16, {0xff, 0xfb})[0] == -65504.f);
  CHECK(std::isinf(one(Storage::f16, {0x00, 0x7c})[0]) && std::isnan(one(Storage::f16, {0x01, 0x7c})[0]));
  CHECK(one(Storage::bf16, {0x80, 0xbf})[0] == -1.f);
  // d = 2 (0x4000), m = 0.5 (0x3800)
  auto q = one(Storage::q8_0, repeated({0x00, 0x40}, 32, 0xfd));
  for (float x : q) CHECK(x == -6.f);
  q = one(Storage::q4_0, repeated({0x00, 0x40}, 16, 0x9f));  // low 15 - 8, high 9 - 8
  CHECK(q[0] == 14.f && q[16] == 2.f && q[31] == 2.f);
  q = one(Storage::q4_1, repeated({0x00, 0x40, 0x00, 0x38}, 16, 0x9f));
  CHECK(q[0] == 30.5f && q[16] == 18.5f);
  q = one(Storage::q5_0, repeated({0x00, 0x40, 0x01, 0x00, 0x01, 0x00}, 16, 0x21));  // fifth bits of 0 and 16
  CHECK(q[0] == 2.f && q[1] == -30.f && q[16] == 4.f && q[17] == -28.f);
  q = one(Storage::q5_1, repeated({0x00, 0x40, 0x00, 0x38, 0x01, 0x00, 0x01, 0x00}, 16, 0x21));
  CHECK(q[0] == 34.5f && q[1] == 2.5f && q[16] == 36.5f && q[17] == 4.5f);
  // K formats: every scale 1 and every value the same
  auto k = repeated({}, 16, 0x11);  // q2_k: scale 1, minimum 1
  k = repeated(k, 64, 0xe4);        // values 0, 1, 2, 3 by shift
  for (int b : {0x00, 0x40, 0x00, 0x38}) k.push_back(b);
  q = one(Storage::q2_k, k);
  CHECK(q[0] == -0.5f && q[32] == 1.5f && q[64] == 3.5f && q[96] == 5.5f && q[128] == -0.5f);
  k = repeated(repeated({}, 128, 0x21), 64, 0x00);  // q6_k: low bits 1 then 2, scales 3, d 2
  k = repeated(k, 16, 3);
  for (int b : {0x00, 0x40}) k.push_back(b);
  q = one(Storage::q6_k, k);
  CHECK(q[0] == (1 - 32) * 6.f && q[64] == (2 - 32) * 6.f && q[255] == (2 - 32) * 6.f);
}

TEST(dequantize_against_gguf_py) {
  const rank_grpo::Safetensors file(check::shared("models/tiny/gguf/blocks.safetensors"));
  int formats = 0;
  for (Storage storage : {Storage::q8_0, Storage::q4_0, Storage::q4_1, Storage::q5_0, Storage::q5_1, Storage::q2_k, Storage::q3_k,
                          Storage::q4_k, Storage::q5_k, Storage::q6_k}) {
    const auto& info = rank_grpo::storage_info(storage);
    const auto &blocks = file.tensors().at(std::string(info.name) + ".blocks"),
               &values = file.tensors().at(std::string(info.name) + ".values");
    CHECK(blocks.count / info.bytes * info.block == values.count);
    std::vector<float> got(static_cast<size_t>(values.count)), wanted(got.size());
    rank_grpo::dequantize(storage, blocks.data, values.count, got.data());
    std::memcpy(wanted.data(), values.data, wanted.size() * 4);
    for (size_t i = 0; i < got.size(); ++i)  // the same numbers; -0 and 0 are one
      check::that(got[i] == wanted[i], std::string(info.name) + "[" + std::to_string(i) + "]", __FILE__, __LINE__);
    ++formats;
  }
  CHECK(formats == 10);
}

TEST(bf16_rounds_to_even) {
  CHECK(rank_grpo::to_bf16(1.f) == 0x3f80);
  auto bits = [](uint32_t u) {
    float f;
    std::memcpy(&f, &u, 4);
    return rank_grpo::to_bf16(f);
  };
  CHECK(bits(0x3f808000) == 0x3f80 && bits(0x3f818000) == 0x3f82 && bits(0x3f808001) == 0x3f81);
  CHECK(bits(0x7f7fffff) == 0x7f80);                                                    // beyond the largest: infinity
  CHECK((bits(0x7f800001) & 0x7fff) > 0x7f80 && (bits(0xffffffff) & 0x7fff) > 0x7f80);  // NaN stays NaN
}

TEST(folders_and_gguf_files_give_the_same_weights) {
  const check::TemporaryFolder folder("readers");
  for (const char* family : {"llama", "qwen2", "qwen3"})
    for (bool tied : {false, true}) {
      const ModelConfig config = check::tiny_config(family, tied);
      check::write_folder(folder / "hf", config, rank_grpo::StorageType::f32);
      check::write_file(folder / "model.gguf", check::gguf_of(config));
      const auto a = Checkpoint::open(folder / "hf"), b = Checkpoint::open(folder / "model.gguf");
      CHECK(a->config().family == family && b->config().tied == tied && a->config().stop_ids == b->config().stop_ids);
      for (const auto& p : rank_grpo::ParameterTable(config).parameters) {
        std::vector<float> x(static_cast<size_t>(p.size())), y(x.size());
        a->read(p, x.data());
        b->read(p, y.data());
        check::same_bits(x, y, p.name);
      }
    }
}

TEST(folder_in_shards) {
  const check::TemporaryFolder folder("shards");
  const ModelConfig config = check::tiny_config("llama");
  check::write_folder(folder / "hf", config, rank_grpo::StorageType::bf16);
  // the one file under a shard's name, and an index that names it
  const rank_grpo::ParameterTable table(config);
  std::filesystem::rename(folder / "hf/model.safetensors", folder / "hf/model-00001-of-00001.safetensors");
  auto index = [&](const std::string& body) { check::write_file(folder / "hf/model.safetensors.index.json", body); };
  std::string map;
  for (const auto& p : table.parameters) map += (map.empty() ? "" : ", ") + ("\"" + p.name + "\": \"model-00001-of-00001.safetensors\"");
  index("{\"weight_map\": {" + map + "}}");
  std::vector<float> x(static_cast<size_t>(table.parameters[0].size()));
  Checkpoint::open(folder / "hf")->read(table.parameters[0], x.data());
  const auto wanted = check::tiny_weights(table.parameters[0], 0);
  for (size_t i = 0; i < x.size(); ++i) CHECK(static_cast<double>(x[i]) == reference::bf16(static_cast<double>(wanted[i])));
  for (const char* body :
       {"", "{}", "{\"weight_map\": {}}", "{\"weight_map\": []}", "{\"weight_map\": {\"a\": 1}}",
        "{\"weight_map\": {\"a\": \"../model.safetensors\"}}", "{\"weight_map\": {\"a\": \"\"}}",
        "{\"weight_map\": {\"a\": \"absent.safetensors\"}}", "{\"weight_map\": {\"a\": \"model-00001-of-00001.safetensors\"}}"}) {
    index(body);
    CHECK_THROWS(Checkpoint::open(folder / "hf"), "BAD_CHECKPOINT");
  }
}

// Llama 3's scaling as divisors comes back as the constants of config.json: what is saved again must not lose it.
TEST(gguf_rope_divisors_are_the_llama3_rule) {
  const check::TemporaryFolder folder("rope");
  for (double factor : {8.0, 32.0})
    for (double original : {16.0, 64.0, 8192.0}) {
      ModelConfig config = check::tiny_config("llama");
      config.head_dim = 64;
      config.rope_theta = original > 1000 ? 500000 : 10000;
      ModelConfig scaled = config;
      scaled.llama3_rope = true;
      scaled.rope = {factor, 1, 4, original};
      std::vector<float> divisors;
      const auto plain = config.inverse_frequencies(), wanted = scaled.inverse_frequencies();
      for (size_t i = 0; i < plain.size(); ++i) divisors.push_back(static_cast<float>(plain[i] / wanted[i]));
      check::write_file(folder / "m.gguf", check::gguf_of(config, divisors));
      const ModelConfig got = Checkpoint::open(folder / "m.gguf")->config();
      const auto frequencies = got.inverse_frequencies();
      for (size_t i = 0; i < wanted.size(); ++i) CHECK_NEAR(frequencies[i] / wanted[i], 1, 1e-6);
      const auto again =
          rank_grpo::parse_config(rank_grpo::config_json(got, rank_grpo::StorageType::f32), "config.json").inverse_frequencies();
      for (size_t i = 0; i < wanted.size(); ++i) CHECK_NEAR(again[i] / wanted[i], 1, 1e-6);
      divisors[3] = 5.5f;  // no constants give this
      check::write_file(folder / "m.gguf", check::gguf_of(config, divisors));
      CHECK_THROWS(Checkpoint::open(folder / "m.gguf"), "BAD_CHECKPOINT");
    }
}

TEST(gguf_refuses) {
  const check::TemporaryFolder folder("gguf");
  const ModelConfig config = check::tiny_config("llama");
  auto refused = [&](const std::string& bytes, const std::string& part) {
    check::write_file(folder / "m.gguf", bytes);
    try {
      Checkpoint::open(folder / "m.gguf");
    } catch (const rank_grpo::Error& error) {
      check::that(std::string(error.code()) == "BAD_CHECKPOINT" && std::string(error.what()).find("m.gguf") != std::string::npos &&
                      std::string(error.what()).find(part) != std::string::npos,
                  error.what(), __FILE__, __LINE__);
      return;
    }
    check::that(false, "accepted: " + part, __FILE__, __LINE__);
  };
  auto with = [&](auto&& edit) {
    check::GgufWriter w;
    edit(w);
    return w.bytes();
  };
  refused(with([](auto& w) { w.text("general.architecture", "mamba"); }), "general.architecture");
  refused(with([](auto& w) { w.number("general.architecture", 3); }), "general.architecture");
  refused(with([](auto& w) {
            w.text("general.architecture", "llama");
            w.text("llama.embedding_length", "24");
          }),
          "llama.embedding_length");
  const std::string whole = check::gguf_of(config);
  auto changed = [&](const std::string& from, const std::string& to) {
    std::string bytes = whole;
    const size_t at = bytes.find(from);
    CHECK(at != std::string::npos && from.size() == to.size());
    return bytes.replace(at, from.size(), to);
  };
  refused(changed("blk.0.attn_q.weight", "blk.0.attn_z.weight"), "blk.0.attn_q.weight");
  refused(changed(std::string("\x0d\0\0\0\0\0\0\0output.weight", 21), std::string("\x0d\0\0\0\0\0\0\0outpot.weight", 21)), "outpot.weight");
  refused(changed("llama.block_count", "llama.block_caunt"), "llama.block_count");
  refused(whole.substr(0, whole.size() - 1), "inside the file");
}

TEST(safetensors_round_trip_keeps_the_old_file) {
  const check::TemporaryFolder folder("write");
  const std::string path = folder / "x.safetensors";
  const auto values = check::normal(7, 1);
  auto write = [&](std::function<void(float*)> read) {
    rank_grpo::write_safetensors(path,
                                 {{"a \"b\"", {7}, [&](float* out) { std::copy(values.begin(), values.end(), out); }},
                                  {"empty", {0, 3}, [](float*) {}},
                                  {"c", {1, 1}, read}},
                                 rank_grpo::StorageType::f32, "{\"steps\": \"3\"}");
  };
  write([](float* out) { *out = 5; });
  const rank_grpo::Safetensors file(path);
  CHECK(file.tensors().size() == 3 && file.metadata_json().find("\"3\"") != std::string::npos &&
        file.tensor("c").shape == (std::vector<int64_t>{1, 1}));
  std::vector<float> got(7);
  file.read("a \"b\"", got.data());
  check::same_bits(got, values, "a");
  CHECK_THROWS(file.read("d", got.data()), "BAD_CHECKPOINT");
  const std::string before = check::read_file(path);
  CHECK_THROWS(write([](float*) { rank_grpo::fail("NOT_FINITE", "in the middle"); }), "NOT_FINITE");
  CHECK(check::read_file(path) == before);
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(path).parent_path())) files += entry.is_regular_file();
  CHECK(files == 1);  // no temporary file stays
  CHECK_THROWS(rank_grpo::write_safetensors(folder / "no/such/folder", {}, rank_grpo::StorageType::f32, "{}"), "IO");
  CHECK_THROWS(rank_grpo::Safetensors(folder / "absent"), "IO");
  CHECK_THROWS(rank_grpo::Safetensors(std::filesystem::temp_directory_path().string()), "IO");
}

// -- mutations: whatever is in a file, opening it ends in a model or in a typed error

namespace {

void open_and_read(const std::string& path) {
  try {
    const auto checkpoint = Checkpoint::open(path);
    checkpoint->metadata_json();
    if (static_cast<double>(rank_grpo::ParameterTable(checkpoint->config()).total) > 1e6) return;
    for (const auto& p : rank_grpo::ParameterTable(checkpoint->config()).parameters) {
      std::vector<float> values(static_cast<size_t>(p.size()));
      checkpoint->read(p, values.data());
    }
  } catch (const rank_grpo::Error& error) {
    check::that(std::string(error.what()).size() > 20, error.what(), __FILE__, __LINE__);
  }
}

// One change at a place and of a kind that Philox chooses: a byte, a field of 8 bytes, a cut, a repetition.
std::string mutated(std::string bytes, uint32_t i, size_t header) {
  const auto r = rank_grpo::philox(0xbad, i, 0, 0, 0);
  const size_t at =
      r.x[0] % std::max<size_t>(1, r.x[3] % 4 ? std::min(header, bytes.size()) : bytes.size());  // mostly where the structure is
  switch (r.x[1] % 6) {
    case 0: bytes[at] = static_cast<char>(r.x[2]); break;
    case 1: bytes[at] = static_cast<char>(bytes[at] ^ (1 << r.x[2] % 8)); break;
    case 2: bytes.resize(at); break;
    case 3: bytes.insert(at, bytes.substr(at, r.x[2] % 40)); break;
    case 4: bytes.erase(at, 1 + r.x[2] % 12); break;
    default: {
      const uint64_t values[] = {0, 1, 0xff, 0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0x4000000000000000};
      const uint64_t value = values[r.x[2] % 8];
      std::memcpy(&bytes[std::min(at, bytes.size() - 8)], &value, 8);
    }
  }
  return bytes;
}

}  // namespace

TEST(mutated_files_never_crash) {
  const check::TemporaryFolder folder("mutations");
  const ModelConfig config = check::tiny_config("qwen3");
  check::write_folder(folder / "hf", config, rank_grpo::StorageType::bf16);
  const std::string json = check::read_file(folder / "hf/config.json"), weights = check::read_file(folder / "hf/model.safetensors"),
                    gguf = check::gguf_of(check::tiny_config("llama"));
  const size_t header = 8 + weights.find("]}}");
  for (uint32_t i = 0; i < 1500; ++i) {
    check::write_file(folder / "hf/config.json", mutated(json, i, json.size()));
    open_and_read(folder / "hf");
  }
  check::write_file(folder / "hf/config.json", json);
  for (uint32_t i = 0; i < 1500; ++i) {
    check::write_file(folder / "hf/model.safetensors", mutated(weights, i, header));
    open_and_read(folder / "hf");
    check::write_file(folder / "m.gguf", mutated(gguf, i, 1600));
    open_and_read(folder / "m.gguf");
  }
}
