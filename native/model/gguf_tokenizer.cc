// A GGUF file's tokenizer in Hugging Face's layout (tokenizer.json, tokenizer_config.json), so that one reader serves folders and GGUF
// files, and a saved model folder is complete. Byte-level BPE ("gpt2") with the splits of the families read here, and SentencePiece BPE
// with byte fallback ("llama"). A split that is not known is refused: a wrong one would give wrong ids without a word.
#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>

#include "checkpoint.h"
#include "gguf.h"
#include "json.h"

namespace rank_grpo {
namespace {

enum TokenType { kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5 };  // of tokenizer.ggml.token_type; 1 normal, 6 byte

constexpr const char* kQwen2Split =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kLlama3Split =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kByteLevel = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
constexpr const char* kSpace = "\xe2\x96\x81";  // U+2581, SentencePiece's space
constexpr size_t kLongestPiece = 1024;          // cutting a piece costs its length squared

std::string split_then_bytes(const char* pattern) {
  return std::string(R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": )") + json_quote(pattern) +
         R"(}, "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]})";
}

class Writer {
 public:
  explicit Writer(const Gguf& file)
      : file_(file), tokens_(file.find("tokenizer.ggml.tokens")), types_(file.find("tokenizer.ggml.token_type")) {}

  // Members "tokenizer" and "tokenizer_config", or "tokenizer": null, with the reason where there is one that cannot be used.
  std::string members() {
    const GgufValue* model = file_.find("tokenizer.ggml.model");
    if (!model || !tokens_ || tokens_->array.empty()) return "\"tokenizer\": null";
    std::string tokenizer;
    if (model->string == "gpt2")
      tokenizer = byte_level();
    else if (model->string == "llama")
      tokenizer = sentence_piece();
    else
      refusal_ = "\"gpt2\" or \"llama\" for tokenizer.ggml.model, got " + json_quote(model->string);
    if (!refusal_.empty()) return "\"tokenizer\": null, \"tokenizer_error\": " + json_quote(file_.path() + ": Expected " + refusal_ + ".");
    return "\"tokenizer\": " + tokenizer + ", \"tokenizer_config\": " + config();
  }

 private:
  size_t count() const { return tokens_->array.size(); }
  const std::string& token(size_t id) const { return tokens_->array[id].string; }
  int64_t type(size_t id) const { return types_ && id < types_->array.size() ? types_->array[id].integer : 1; }
  bool flag(const char* key, bool fallback) const {
    const GgufValue* v = file_.find(key);
    return v ? v->integer != 0 : fallback;
  }
  // The token of an id key such as tokenizer.ggml.bos_token_id; null where there is none.
  const std::string* named(const char* key) const {
    const GgufValue* id = file_.find(key);
    return id && id->integer >= 0 && static_cast<size_t>(id->integer) < count() ? &token(static_cast<size_t>(id->integer)) : nullptr;
  }

  std::string byte_level() {
    const GgufValue *merges = file_.find("tokenizer.ggml.merges"), *pre = file_.find("tokenizer.ggml.pre"),
                    *arch = file_.find("general.architecture");
    if (!merges) {
      refusal_ = "tokenizer.ggml.merges, got none";
      return {};
    }
    std::string kind = pre ? pre->string : "default";
    if (kind == "default") {  // files from before the key: by family
      const bool llama3 =
          std::any_of(tokens_->array.begin(), tokens_->array.end(), [](const GgufValue& t) { return t.string == "<|begin_of_text|>"; });
      kind = arch->string != "llama" ? "qwen2" : llama3 ? "llama-bpe" : "gpt-2";
    }
    std::string pre_tokenizer = kByteLevel, normalizer = "null";
    bool llama3 = false;
    if (kind == "smollm") {
      pre_tokenizer =
          std::string(R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true}, )") + kByteLevel + "]}";
    } else if (kind == "qwen2") {
      pre_tokenizer = split_then_bytes(kQwen2Split);
      normalizer = R"({"type": "NFC"})";
    } else if (kind == "llama-bpe" || kind == "llama3" || kind == "llama-v3") {
      pre_tokenizer = split_then_bytes(kLlama3Split);
      llama3 = true;
    } else if (kind != "gpt-2") {
      refusal_ = "smollm, qwen2, llama-bpe or gpt-2 for tokenizer.ggml.pre, got " + json_quote(kind);
      return {};
    }
    std::string merge_list;
    for (const auto& m : merges->array) merge_list += (merge_list.empty() ? "" : ", ") + json_quote(m.string);
    return document(
        normalizer, pre_tokenizer, llama3, R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true})",
        R"("unk_token": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": )" + std::string(llama3 ? "true" : "false"),
        merge_list);
  }

  // SentencePiece joins the neighbours whose union has the best score; as merges: every way to make a piece of two others, best piece first.
  std::string sentence_piece() {
    const GgufValue* scores = file_.find("tokenizer.ggml.scores");
    if (!scores || scores->array.size() != count()) {
      refusal_ = "a score for every token in tokenizer.ggml.scores, got " + std::to_string(scores ? scores->array.size() : 0) + " of " +
                 std::to_string(count());
      return {};
    }
    std::unordered_map<std::string, size_t> pieces;
    for (size_t id = 0; id < count(); ++id) {
      if (type(id) == 1) pieces[token(id)] = id;
      if (token(id).size() <= kLongestPiece) continue;
      refusal_ = "pieces of at most " + std::to_string(kLongestPiece) + " bytes, got one of " + std::to_string(token(id).size());
      return {};
    }
    struct Merge {
      double score;
      size_t left, right;
    };
    std::vector<Merge> merges;
    for (const auto& [piece, id] : pieces)
      for (size_t cut = 1; cut < piece.size(); ++cut) {
        const auto left = pieces.find(piece.substr(0, cut)), right = pieces.find(piece.substr(cut));
        if (left != pieces.end() && right != pieces.end()) merges.push_back({scores->array[id].number, left->second, right->second});
      }
    std::sort(merges.begin(), merges.end(),
              [](const Merge& a, const Merge& b) { return std::tie(b.score, a.left, a.right) < std::tie(a.score, b.left, b.right); });
    std::string merge_list;
    for (const Merge& m : merges)
      merge_list += (merge_list.empty() ? "[" : ", [") + json_quote(token(m.left)) + ", " + json_quote(token(m.right)) + "]";
    const std::string space = json_quote(kSpace);
    const bool prefix = flag("tokenizer.ggml.add_space_prefix", true);
    const std::string replace = R"({"type": "Replace", "pattern": {"String": " "}, "content": )" + space + "}";
    const std::string normalizer =
        R"({"type": "Sequence", "normalizers": [)" + (prefix ? R"({"type": "Prepend", "prepend": )" + space + "}, " : "") + replace + "]}";
    const std::string decoder = R"({"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": )" + space +
                                R"(}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"})" +
                                (prefix ? R"(, {"type": "Strip", "content": " ", "start": 1, "stop": 0})" : "") + "]}";
    const std::string* unknown = named("tokenizer.ggml.unknown_token_id");
    return document(normalizer, "null", true, decoder,
                    "\"unk_token\": " + (unknown ? json_quote(*unknown) : "null") +
                        R"(, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false)",
                    merge_list);
  }

  std::string document(const std::string& normalizer, const std::string& pre_tokenizer, bool adds_bos, const std::string& decoder,
                       const std::string& settings, const std::string& merges) const {
    std::string vocab, added;
    for (size_t id = 0; id < count(); ++id) {
      const int64_t kind = type(id);
      if (kind == kUnused) continue;  // fills the vocabulary up to the matrix; no text gives it
      vocab += (vocab.empty() ? "" : ", ") + json_quote(token(id)) + ": " + std::to_string(id);
      if (kind == kUnknown || kind == kControl || kind == kUserDefined)
        added +=
            (added.empty() ? "" : ", ") + ("{\"id\": " + std::to_string(id) + ", \"content\": " + json_quote(token(id)) +
                                           R"(, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": )" +
                                           (kind == kUserDefined ? "false}" : "true}"));
    }
    return R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [)" + added + R"(], "normalizer": )" + normalizer +
           R"(, "pre_tokenizer": )" + pre_tokenizer + R"(, "post_processor": )" + post_processor(adds_bos) + R"(, "decoder": )" + decoder +
           R"(, "model": {"type": "BPE", "dropout": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, )" + settings +
           R"(, "vocab": {)" + vocab + R"(}, "merges": [)" + merges + "]}}";
  }

  // What the Hugging Face library puts around a text that is not a chat.
  std::string post_processor(bool adds_bos) const {
    const std::string* bos = flag("tokenizer.ggml.add_bos_token", adds_bos) ? named("tokenizer.ggml.bos_token_id") : nullptr;
    const std::string* eos = flag("tokenizer.ggml.add_eos_token", false) ? named("tokenizer.ggml.eos_token_id") : nullptr;
    if (!bos && !eos) return "null";
    std::string single = R"({"Sequence": {"id": "A", "type_id": 0}})", pair = R"({"Sequence": {"id": "B", "type_id": 1}})", specials;
    auto around = [&](const std::string* token, const char* key, bool before) {
      if (!token) return;
      const std::string name = json_quote(*token);
      auto put = [&](std::string& list, const char* type) {
        const std::string item = "{\"SpecialToken\": {\"id\": " + name + ", \"type_id\": " + type + "}}";
        list = before ? item + ", " + list : list + ", " + item;
      };
      put(single, "0");
      put(pair, "1");
      if (specials.find(name + ": ") == std::string::npos)
        specials += (specials.empty() ? "" : ", ") + name + ": {\"id\": " + name + ", \"ids\": [" +
                    std::to_string(file_.find(key)->integer) + "], \"tokens\": [" + name + "]}";
    };
    around(bos, "tokenizer.ggml.bos_token_id", true);
    around(eos, "tokenizer.ggml.eos_token_id", false);
    return R"({"type": "TemplateProcessing", "single": [)" + single + R"(], "pair": [)" + single + ", " + pair +
           R"(], "special_tokens": {)" + specials + "}}";
  }

  std::string config() const {
    std::string out = R"({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false)";
    if (const GgufValue* chat = file_.find("tokenizer.chat_template")) out += ", \"chat_template\": " + json_quote(chat->string);
    static const std::pair<const char*, const char*> names[] = {{"tokenizer.ggml.bos_token_id", "bos_token"},
                                                                {"tokenizer.ggml.eos_token_id", "eos_token"},
                                                                {"tokenizer.ggml.unknown_token_id", "unk_token"},
                                                                {"tokenizer.ggml.padding_token_id", "pad_token"}};
    for (const auto& [key, name] : names)
      if (const std::string* content = named(key)) out += std::string(", \"") + name + "\": " + json_quote(*content);
    return out + "}";
  }

  const Gguf& file_;
  const GgufValue *tokens_, *types_;
  std::string refusal_;
};

}  // namespace

std::string Gguf::metadata_json() const {
  return "{\"config\": " + config_json(config(), StorageType::f32) + ", " + Writer(*this).members() + "}";
}

}  // namespace rank_grpo
