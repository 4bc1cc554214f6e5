// See cursor.h.
#include "cursor.h"

#include <algorithm>

#include "../core/error.h"

namespace rank_grpo {

ListCursor::ListCursor(const CatalogTries& catalog, const ListRules& rules, const std::vector<int32_t>& excluded, const std::string& row)
    : catalog_(&catalog), rules_(rules) {
  line_.trie = catalog.line.get();
  last_.trie = catalog.last.get();
  const int64_t left = int64_t{catalog.items()} - static_cast<int64_t>(excluded.size());
  if (left < (rules.repeats ? 1 : rules.least))
    fail("INVALID_ARGUMENT", "Expected at least " + std::to_string(rules.repeats ? 1 : rules.least) + " items after exclusions for " + row +
                                 ", got " + std::to_string(left) + ". Exclude less, or ask for a shorter list.");
  for (auto* walk : {&line_, &last_}) {
    walk->excluded.reserve(excluded.size() + static_cast<size_t>(rules.most));
    for (int32_t item : excluded) walk->excluded.push_back(walk->trie->line_of(item));
    std::sort(walk->excluded.begin(), walk->excluded.end());
  }
  // a list cannot be longer than what is left
  if (!rules.repeats) rules_.most = static_cast<int32_t>(std::min<int64_t>(rules.most, left));
  start_line();
}

int32_t ListCursor::open(const Walk& walk, int32_t low, int32_t high) const {
  const auto& x = walk.excluded;
  if (x.empty()) return high - low;
  const auto first = std::lower_bound(x.begin(), x.end(), low);
  return high - low - static_cast<int32_t>(std::lower_bound(first, x.end(), high) - first);
}

void ListCursor::exclude(int32_t item) {
  for (auto* walk : {&line_, &last_}) {
    const int32_t line = walk->trie->line_of(item);
    walk->excluded.insert(std::lower_bound(walk->excluded.begin(), walk->excluded.end(), line), line);
  }
}

void ListCursor::start_line() {
  const int32_t rank = static_cast<int32_t>(list_.size()) + 1;
  line_.active = rank < rules_.most;
  last_.active = rank >= rules_.least && rank <= rules_.most;
  line_.place = line_.trie->root();
  last_.place = last_.trie->root();
  collect();
}

void ListCursor::collect() {
  allowed_.clear();
  for (auto* walk : {&line_, &last_}) {
    if (!walk->active) continue;
    const auto& trie = *walk->trie;
    const auto& p = walk->place;
    if (!trie.at_branch(p)) {
      allowed_.push_back(trie.forced_token(p));
      continue;
    }
    // Both ascend: a child is closed where the exclusions inside its range are as many as its lines.
    auto next = std::lower_bound(walk->excluded.begin(), walk->excluded.end(), p.low);
    const int32_t count = trie.children(p);
    for (int32_t c = 0; c < count; ++c) {
      const auto child = trie.child(p, c);
      int32_t gone = 0;
      while (next != walk->excluded.end() && *next < child.high) {
        ++gone;
        ++next;
      }
      if (gone < child.high - child.low) allowed_.push_back(trie.child_token(p, c));
    }
  }
  if (line_.active && last_.active) {
    std::sort(allowed_.begin(), allowed_.end());
    allowed_.erase(std::unique(allowed_.begin(), allowed_.end()), allowed_.end());
  }
}

bool ListCursor::step(Walk& walk, int32_t token) const {
  const auto& trie = *walk.trie;
  if (!trie.at_branch(walk.place)) {
    if (trie.forced_token(walk.place) != token) return false;
    walk.place = trie.forward(walk.place);
    return true;
  }
  const int32_t c = trie.find_child(walk.place, token);
  if (c < 0) return false;
  const auto child = trie.child(walk.place, c);
  if (open(walk, child.low, child.high) == 0) return false;
  walk.place = child;
  return true;
}

bool ListCursor::advance(int32_t token) {
  if (!std::binary_search(allowed_.begin(), allowed_.end(), token)) return false;
  for (auto* walk : {&line_, &last_}) walk->active = walk->active && step(*walk, token);
  for (auto* walk : {&line_, &last_}) {
    if (!walk->active || !walk->trie->complete(walk->place)) continue;
    list_.push_back(walk->trie->item(walk->place.low));
    if (walk == &last_) {
      allowed_.clear();
      return true;
    }
    if (!rules_.repeats) exclude(list_.back());
    start_line();
    return true;
  }
  collect();
  return true;
}

void replay_list(Replay& replay, const CatalogTries& catalog, const ListRules& rules, const std::vector<int32_t>& excluded,
                 const int32_t* begin, const int32_t* end, const std::string& row) {
  ListCursor cursor(catalog, rules, excluded, row);
  for (const int32_t* token = begin; token != end; ++token) {
    const auto& allowed = cursor.allowed();
    replay.ids.insert(replay.ids.end(), allowed.begin(), allowed.end());
    replay.offsets.push_back(static_cast<int32_t>(replay.ids.size()));
    if (!cursor.advance(*token))
      fail("INVALID_ARGUMENT", "Expected a token that the catalog allows at position " + std::to_string(token - begin) + " of " + row +
                                   ", got " + std::to_string(*token) + ".");
  }
}

}  // namespace rank_grpo
