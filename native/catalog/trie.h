// Lines of tokens as a trie: sorted lines in one array, and a node only where lines part. A node is a range of sorted lines, so that
// what is left of a branch after exclusions is a count over a range, not a mark on every node.
//
// Letters: I lines (items), T tokens of all lines, N nodes, E children of all nodes. The arrays are views: catalog.h owns them.
#pragma once
#include <cstdint>
#include <vector>

#include "flat.h"

namespace rank_grpo {

// Ragged rows of token ids: row i is tokens[offsets[i]] .. tokens[offsets[i + 1] - 1].
struct TokenLines {
  std::vector<uint32_t> offsets{0};
  std::vector<int32_t> tokens;
  int32_t count() const { return static_cast<int32_t>(offsets.size()) - 1; }
  const int32_t* begin(int32_t i) const { return tokens.data() + offsets[static_cast<size_t>(i)]; }
  const int32_t* end(int32_t i) const { return tokens.data() + offsets[static_cast<size_t>(i) + 1]; }
  int32_t length(int32_t i) const { return static_cast<int32_t>(end(i) - begin(i)); }
};

// Rows in the order of their tokens, equal ones by number.
std::vector<int32_t> sorted_rows(const TokenLines& lines);
// The first two neighbours in that order of which one begins with all of the other; -1 where no row begins with another.
std::pair<int32_t, int32_t> first_prefix(const TokenLines& lines, const std::vector<int32_t>& order);

class Trie {
 public:
  // Writes the arrays for lines of which none begins with another, in the order of sorted_rows.
  static void write(FlatWriter& out, const TokenLines& lines, const std::vector<int32_t>& order);
  // The arrays, and the tokens that end every line beside its own (they stand in no array).
  Trie() = default;
  Trie(FlatReader& in, FlatArray<int32_t> tail);
  // The same lines with another end.
  Trie with_tail(FlatArray<int32_t> tail) const;

  int32_t lines() const { return static_cast<int32_t>(items_.count); }
  int32_t item(int32_t line) const { return items_[line]; }  // number that `write` was given
  int32_t line_of(int32_t item) const { return ranks_[item]; }
  int32_t length(int32_t line) const { return body(line) + static_cast<int32_t>(tail_.count); }
  int32_t token(int32_t line, int32_t depth) const {
    const int32_t own = body(line);
    return depth < own ? tokens_[offsets_[line] + static_cast<uint32_t>(depth)] : tail_[depth - own];
  }
  bool same_lines(const Trie& other) const { return tokens_.data == other.tokens_.data; }

  // A position inside one line: lines [low, high) share the `depth` tokens taken so far. `node` is the next place where
  // they part, -1 where one line is left.
  struct Place {
    int32_t low, high, depth, node;
  };
  Place root() const { return {0, lines(), 0, lines() > 1 ? 0 : -1}; }
  bool at_branch(const Place& p) const { return p.node >= 0 && depths_[p.node] == p.depth; }
  bool complete(const Place& p) const { return p.node < 0 && p.depth == length(p.low); }
  int32_t forced_token(const Place& p) const { return token(p.low, p.depth); }  // not at a branch, not complete
  Place forward(const Place& p) const { return {p.low, p.high, p.depth + 1, p.node}; }
  // Children of the node that `p` stands at: tokens ascending, ranges one after the other.
  int32_t children(const Place& p) const { return firsts_[p.node + 1] - firsts_[p.node]; }
  int32_t child_token(const Place& p, int32_t c) const { return child_tokens_[firsts_[p.node] + c]; }
  Place child(const Place& p, int32_t c) const;
  int32_t find_child(const Place& p, int32_t token) const;  // -1: none

 private:
  int32_t body(int32_t line) const { return static_cast<int32_t>(offsets_[line + 1] - offsets_[line]); }

  FlatArray<uint32_t> offsets_;      // [I + 1]
  FlatArray<int32_t> tokens_;        // [T]
  FlatArray<int32_t> items_;         // [I] sorted line -> item
  FlatArray<int32_t> ranks_;         // [I] item -> sorted line
  FlatArray<int32_t> depths_;        // [N] tokens shared by the node's lines
  FlatArray<int32_t> firsts_;        // [N + 1] into the children
  FlatArray<int32_t> child_tokens_;  // [E]
  FlatArray<int32_t> child_lows_;    // [E] first line; the last one is before the next child's
  FlatArray<int32_t> child_nodes_;   // [E] -1: one line
  FlatArray<int32_t> tail_;
};

}  // namespace rank_grpo
