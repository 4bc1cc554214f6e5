// A small strict JSON reader and string writer for checkpoint headers: limited in depth and size, UTF-8 checked, duplicate keys refused.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rank_grpo {

class Json {
 public:
  enum class Kind { null, boolean, integer, number, string, array, object };
  // Throws Error("BAD_CHECKPOINT") naming `where` and the byte.
  static Json parse(std::string_view text, const std::string& where);

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_number() const { return kind_ == Kind::integer || kind_ == Kind::number; }
  bool boolean() const { return integer_ != 0; }
  int64_t integer() const { return integer_; }  // Kind::integer only
  double number() const { return kind_ == Kind::integer ? static_cast<double>(integer_) : number_; }
  const std::string& string() const { return string_; }
  const std::vector<Json>& array() const { return array_; }
  const std::vector<std::pair<std::string, Json>>& object() const { return object_; }
  const Json* find(const std::string& key) const;  // null where absent
  std::string describe() const;                    // for error messages: a short form of the value

 private:
  friend class JsonParser;
  Kind kind_ = Kind::null;
  int64_t integer_ = 0;
  double number_ = 0;
  std::string string_;
  std::vector<Json> array_;
  std::vector<std::pair<std::string, Json>> object_;
};

std::string json_quote(std::string_view text);

}  // namespace rank_grpo
