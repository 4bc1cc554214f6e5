// The catalog's lines as a trie of tokens: sorted lines in one array, and a node only where lines part. A node is a range of
// sorted lines, so that what is left of a branch after exclusions is a count over a range, not a mark on every node.
//
// Letters: I lines (items), T tokens of all lines, N nodes. All arrays are flat and are written to a cache file as they are.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../model/mapped_file.h"

namespace rank_grpo {

class Trie {
 public:
  // Lines [I] of token ids (CSR), none empty, none the start of another, each with the terminator that ends it. `name` gives
  // the text of line i for errors. INVALID_ARGUMENT where two lines are equal or one begins another: both are named.
  static std::unique_ptr<Trie> build(const std::vector<int32_t>& offsets, const std::vector<int32_t>& tokens,
                                     const std::vector<std::string>& names);
  // A cache file, memory-mapped. BAD_CHECKPOINT where it is torn, of another version, or its key is another.
  static std::unique_ptr<Trie> open(const std::string& path, const std::string& key);
  void save(const std::string& path, const std::string& key) const;  // temporary name, then renamed

  int32_t lines() const { return lines_; }
  int64_t bytes() const;
  int32_t longest() const { return longest_; }               // tokens of the longest line
  int32_t largest_token() const { return largest_token_; }   // what a model's vocabulary must hold
  int32_t item(int32_t line) const { return items_[line]; }  // index that build was given
  int32_t line_of(int32_t item) const { return ranks_[item]; }
  int32_t length(int32_t line) const { return static_cast<int32_t>(offsets_[line + 1] - offsets_[line]); }
  int32_t token(int32_t line, int32_t depth) const { return tokens_[offsets_[line] + depth]; }

  // A position inside one line: lines [low, high) share the `depth` tokens taken so far. `node` is the next place where
  // they part, -1 where one line is left.
  struct Place {
    int32_t low, high, depth, node;
  };
  Place root() const { return {0, lines_, 0, lines_ > 1 ? 0 : -1}; }
  bool at_branch(const Place& p) const { return p.node >= 0 && depths_[p.node] == p.depth; }
  bool complete(const Place& p) const { return p.node < 0 && p.depth == length(p.low); }
  int32_t forced_token(const Place& p) const { return token(p.low, p.depth); }  // not at a branch, not complete
  // Children of the node that `p` stands at: tokens ascending.
  int32_t children(const Place& p) const { return firsts_[p.node + 1] - firsts_[p.node]; }
  int32_t child_token(const Place& p, int32_t c) const { return child_tokens_[firsts_[p.node] + c]; }
  Place child(const Place& p, int32_t c) const;
  Place forward(const Place& p) const { return {p.low, p.high, p.depth + 1, p.node}; }
  int32_t find_child(const Place& p, int32_t token) const;  // -1: none

 private:
  Trie() = default;
  void attach(const int64_t* header, const char* data);

  int32_t lines_ = 0, nodes_ = 0, longest_ = 0, largest_token_ = 0;
  int64_t children_ = 0, token_count_ = 0;
  // views into `owned_` or the mapped file
  const int64_t* offsets_ = nullptr;       // [I + 1]
  const int32_t* tokens_ = nullptr;        // [T]
  const int32_t* items_ = nullptr;         // [I] sorted line -> item
  const int32_t* ranks_ = nullptr;         // [I] item -> sorted line
  const int32_t* depths_ = nullptr;        // [N] tokens shared by the node's lines
  const int32_t* firsts_ = nullptr;        // [N + 1] into the children
  const int32_t* child_tokens_ = nullptr;  // [children]
  const int32_t* child_lows_ = nullptr;    // [children] first line
  const int32_t* child_highs_ = nullptr;   // [children] one past the last
  const int32_t* child_nodes_ = nullptr;   // [children] -1: one line
  std::vector<char> owned_;
  std::unique_ptr<MappedFile> file_;
};

}  // namespace rank_grpo
