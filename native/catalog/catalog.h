// The catalog as one tokenizer writes it: a trie of its lines as another line follows them, and one as they end a list. Built in
// memory, or opened from a cache file that is mapped, not read.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "../model/mapped_file.h"
#include "trie.h"

namespace rank_grpo {

class TokenCatalog {
 public:
  // line: with the newline after it; last: with the stop token. `names` are the texts of the lines, for errors: INVALID_ARGUMENT where
  // there is none, where one has no tokens, and where two have the same tokens or one's begin with the other's (both are named).
  static std::shared_ptr<const TokenCatalog> build(const std::vector<std::string>& names, const TokenLines& line, const TokenLines& last);
  // BAD_CHECKPOINT where the file is torn, changed, or made for another key.
  static std::shared_ptr<const TokenCatalog> open(const std::string& path, const std::string& key);
  void save(const std::string& path, const std::string& key) const;  // temporary name, then renamed
  TokenCatalog(const TokenCatalog&) = delete;
  TokenCatalog& operator=(const TokenCatalog&) = delete;

  const Trie& line() const { return line_; }
  const Trie& last() const { return last_; }
  int32_t items() const { return line_.lines(); }
  int64_t bytes() const { return static_cast<int64_t>(size_); }
  int64_t tokens() const { return facts_[kTokens]; }                                     // of all lines, newlines included
  int32_t longest() const { return static_cast<int32_t>(facts_[kLongest]); }             // tokens of the longest line, in either form
  int32_t largest_token() const { return static_cast<int32_t>(facts_[kLargestToken]); }  // a model needs more ids than that

 private:
  enum Fact { kItems, kTokens, kLongest, kLargestToken, kFacts };
  TokenCatalog() = default;
  void attach(const char* data, size_t size);

  const char* data_ = nullptr;  // in `owned_` or the mapped file
  size_t size_ = 0;
  FlatArray<int64_t> facts_;
  Trie line_, last_;
  std::vector<char> owned_;
  std::unique_ptr<MappedFile> file_;
};

}  // namespace rank_grpo
