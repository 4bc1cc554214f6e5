// See json.h.
#include "json.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <set>

#include "../core/error.h"

namespace rank_grpo {

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    Json value = parse(0);
    space();
    if (at_ != text_.size()) bad("the end of the text");
    return value;
  }

 private:
  static constexpr int kDepth = 64;
  // One takes up to 50 times its bytes in memory; the header of a thousand tensors has ten thousand.
  static constexpr int kMostValues = 1 << 22;

  [[noreturn]] void bad(const std::string& wanted) const {
    const std::string got = at_ < text_.size() ? json_quote(text_.substr(at_, 1)) : "the end of the text";
    fail("BAD_CHECKPOINT", where_ + ": Expected " + wanted + " in the JSON at byte " + std::to_string(at_) + ", got " + got + ".");
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  bool take(char c) {
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  bool word(std::string_view w) {
    if (text_.substr(at_, w.size()) != w) return false;
    at_ += w.size();
    return true;
  }

  Json parse(int depth) {
    if (depth > kDepth) bad("at most 64 levels of nesting");
    if (++values_ > kMostValues) bad("at most " + std::to_string(kMostValues) + " values");
    space();
    Json v;
    if (take('{')) {
      v.kind_ = Json::Kind::object;
      std::set<std::string> seen;
      space();
      if (take('}')) return v;
      do {
        space();
        if (peek() != '"') bad("a key");
        std::string key = string();
        if (!seen.insert(key).second) bad("every key once (" + json_quote(key) + " comes twice)");
        space();
        if (!take(':')) bad("':'");
        v.object_.emplace_back(std::move(key), parse(depth + 1));
        space();
      } while (take(','));
      if (!take('}')) bad("',' or '}'");
      return v;
    }
    if (take('[')) {
      v.kind_ = Json::Kind::array;
      space();
      if (take(']')) return v;
      do {
        v.array_.push_back(parse(depth + 1));
        space();
      } while (take(','));
      if (!take(']')) bad("',' or ']'");
      return v;
    }
    if (peek() == '"') {
      v.kind_ = Json::Kind::string;
      v.string_ = string();
      return v;
    }
    if (word("true") || word("false")) {
      v.kind_ = Json::Kind::boolean;
      v.integer_ = text_[at_ - 2] == 'u';
      return v;
    }
    if (word("null")) return v;
    return number();
  }

  Json number() {
    const size_t start = at_;
    take('-');
    if (peek() < '0' || peek() > '9') bad("a value");
    bool whole = true;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if ((c >= '0' && c <= '9') || c == '+' || c == '-') {
        ++at_;
      } else if (c == '.' || c == 'e' || c == 'E') {
        whole = false;
        ++at_;
      } else {
        break;
      }
    }
    const std::string digits(text_.substr(start, at_ - start));
    Json v;
    char* end = nullptr;
    errno = 0;
    if (whole) {
      v.kind_ = Json::Kind::integer;
      v.integer_ = std::strtoll(digits.c_str(), &end, 10);
      if (errno == ERANGE) whole = false;
    }
    if (!whole) {
      v.kind_ = Json::Kind::number;
      v.number_ = std::strtod(digits.c_str(), &end);
    }
    if (*end != '\0') bad("a number");
    return v;
  }

  unsigned hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) bad("four hexadecimal digits");
      code = code * 16 + static_cast<unsigned>(digit);
      ++at_;
    }
    return code;
  }

  static void utf8(std::string& out, unsigned code) {
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | code >> 6);
      out += static_cast<char>(0x80 | (code & 63));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | code >> 12);
      out += static_cast<char>(0x80 | (code >> 6 & 63));
      out += static_cast<char>(0x80 | (code & 63));
    } else {
      out += static_cast<char>(0xF0 | code >> 18);
      out += static_cast<char>(0x80 | (code >> 12 & 63));
      out += static_cast<char>(0x80 | (code >> 6 & 63));
      out += static_cast<char>(0x80 | (code & 63));
    }
  }

  std::string string() {
    ++at_;  // the opening quote
    std::string out;
    for (;;) {
      if (at_ >= text_.size()) bad("'\"'");
      const unsigned char c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') {
        ++at_;
        return out;
      }
      if (c < 0x20) bad("no control character in a string");
      if (c == '\\') {
        ++at_;
        const char e = peek();
        ++at_;
        static constexpr std::string_view from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
        const size_t i = from.find(e);
        if (i != std::string_view::npos) {
          out += to[i];
        } else if (e == 'u') {
          unsigned code = hex4();
          if (code >= 0xD800 && code < 0xE000) {  // half of a pair: no character alone
            const unsigned low = code < 0xDC00 && word("\\u") ? hex4() : 0;
            if (low < 0xDC00 || low > 0xDFFF) bad("a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          }
          utf8(out, code);
        } else {
          --at_;
          bad("an escape");
        }
        continue;
      }
      const int length = c < 0x80 ? 1 : c >= 0xC2 && c < 0xE0 ? 2 : c >= 0xE0 && c < 0xF0 ? 3 : c >= 0xF0 && c < 0xF5 ? 4 : 0;
      if (length == 0 || at_ + static_cast<size_t>(length) > text_.size()) bad("UTF-8");
      for (int i = 1; i < length; ++i)
        if ((static_cast<unsigned char>(text_[at_ + static_cast<size_t>(i)]) & 0xC0) != 0x80) bad("UTF-8");
      const unsigned char next = length > 1 ? static_cast<unsigned char>(text_[at_ + 1]) : 0;
      if ((c == 0xE0 && next < 0xA0) || (c == 0xED && next > 0x9F) || (c == 0xF0 && next < 0x90) || (c == 0xF4 && next > 0x8F))
        bad("UTF-8");
      out += text_.substr(at_, static_cast<size_t>(length));
      at_ += static_cast<size_t>(length);
    }
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
  int values_ = 0;
};

Json Json::parse(std::string_view text, const std::string& where) { return JsonParser(text, where).document(); }

const Json* Json::find(const std::string& key) const {
  for (const auto& [name, value] : object_)
    if (name == key) return &value;
  return nullptr;
}

std::string Json::describe() const {
  switch (kind_) {
    case Kind::null: return "null";
    case Kind::boolean: return integer_ ? "true" : "false";
    case Kind::integer: return std::to_string(integer_);
    case Kind::number: return std::to_string(number_);
    case Kind::string: return json_quote(std::string_view(string_).substr(0, 80));
    case Kind::array: return "an array of " + std::to_string(array_.size());
    case Kind::object: return "an object";
  }
  return "";
}

std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (u < 0x20) {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "\\u%04x", u);
      out += buffer;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace rank_grpo
