// See trie.h.
#include "trie.h"

#include <algorithm>
#include <numeric>

namespace rank_grpo {

std::vector<int32_t> sorted_rows(const TokenLines& lines) {
  std::vector<int32_t> order(static_cast<size_t>(lines.count()));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    const auto [x, y] = std::mismatch(lines.begin(a), lines.end(a), lines.begin(b), lines.end(b));
    if (y == lines.end(b)) return x == lines.end(a) && a < b;
    return x == lines.end(a) || *x < *y;
  });
  return order;
}

std::pair<int32_t, int32_t> first_prefix(const TokenLines& lines, const std::vector<int32_t>& order) {
  for (size_t i = 1; i < order.size(); ++i) {
    const int32_t a = order[i - 1], b = order[i];
    if (lines.length(a) <= lines.length(b) && std::equal(lines.begin(a), lines.end(a), lines.begin(b))) return {a, b};
  }
  return {-1, -1};
}

void Trie::write(FlatWriter& out, const TokenLines& lines, const std::vector<int32_t>& order) {
  const int32_t count = lines.count();
  auto row = [&](int32_t line) { return order[static_cast<size_t>(line)]; };
  TokenLines sorted;
  std::vector<int32_t> ranks(order.size());
  sorted.tokens.reserve(lines.tokens.size());
  for (int32_t line = 0; line < count; ++line) {
    ranks[static_cast<size_t>(row(line))] = line;
    sorted.tokens.insert(sorted.tokens.end(), lines.begin(row(line)), lines.end(row(line)));
    sorted.offsets.push_back(static_cast<uint32_t>(sorted.tokens.size()));
  }

  // Nodes breadth first, so that a node's children are numbered when it is reached.
  struct Range {
    int32_t low, high, depth;
  };
  std::vector<Range> ranges;
  std::vector<int32_t> depths, firsts{0}, child_tokens, child_lows, child_nodes;
  if (count > 1) ranges.push_back({0, count, 0});
  for (size_t n = 0; n < ranges.size(); ++n) {
    auto [low, high, depth] = ranges[n];
    // sorted: what the first and the last share, all share; no line ends here, since none begins with another
    const int32_t *first = sorted.begin(low), *last = sorted.begin(high - 1);
    while (first[depth] == last[depth]) ++depth;
    depths.push_back(depth);
    for (int32_t begin = low; begin < high;) {
      const int32_t token = sorted.begin(begin)[depth];
      int32_t end = begin + 1;
      while (end < high && sorted.begin(end)[depth] == token) ++end;
      child_tokens.push_back(token);
      child_lows.push_back(begin);
      child_nodes.push_back(end - begin == 1 ? -1 : static_cast<int32_t>(ranges.size()));
      if (end - begin > 1) ranges.push_back({begin, end, depth + 1});
      begin = end;
    }
    firsts.push_back(static_cast<int32_t>(child_tokens.size()));
  }

  out.put(sorted.offsets);
  out.put(sorted.tokens);
  out.put(order);
  for (const auto* array : {&ranks, &depths, &firsts, &child_tokens, &child_lows, &child_nodes}) out.put(*array);
}

Trie::Trie(FlatReader& in, FlatArray<int32_t> tail) : offsets_(in.take<uint32_t>()), tail_(tail) {
  for (auto* array : {&tokens_, &items_, &ranks_, &depths_, &firsts_, &child_tokens_, &child_lows_, &child_nodes_})
    *array = in.take<int32_t>();
}

Trie Trie::with_tail(FlatArray<int32_t> tail) const {
  Trie other = *this;
  other.tail_ = tail;
  return other;
}

Trie::Place Trie::child(const Place& p, int32_t c) const {
  const int32_t at = firsts_[p.node] + c;
  return {child_lows_[at], at + 1 < firsts_[p.node + 1] ? child_lows_[at + 1] : p.high, p.depth + 1, child_nodes_[at]};
}

int32_t Trie::find_child(const Place& p, int32_t token) const {
  const int32_t *begin = child_tokens_.data + firsts_[p.node], *end = child_tokens_.data + firsts_[p.node + 1];
  const int32_t* found = std::lower_bound(begin, end, token);
  return found != end && *found == token ? static_cast<int32_t>(found - begin) : -1;
}

}  // namespace rank_grpo
