// See cursor.h.
#include "cursor.h"

#include <algorithm>

namespace rank_grpo {

void validate_constraint(const ListConstraint& constraint, size_t prompts, int vocab) {
  const auto& [catalog, rules, excluded] = constraint;
  if (!catalog) return;
  expect(catalog->largest_token() < vocab, "token ids below " + std::to_string(vocab) + " (the model's vocabulary)", "catalog",
         std::to_string(catalog->largest_token()));
  expect(rules.least >= 1 && rules.least <= rules.most, "1 <= least <= most", "list length",
         std::to_string(rules.least) + " to " + std::to_string(rules.most));
  expect(excluded.size() == prompts, "one set of exclusions for each prompt", "excluded", std::to_string(excluded.size()));
  for (const auto& set : excluded) {
    expect(std::adjacent_find(set.begin(), set.end(), std::greater_equal<int32_t>()) == set.end(), "ascending items", "excluded", "others");
    expect(set.empty() || (set.front() >= 0 && set.back() < catalog->items()), "items from 0 to " + std::to_string(catalog->items() - 1),
           "excluded", set.empty() ? "" : std::to_string(set.front()) + " to " + std::to_string(set.back()));
  }
}

ClosedLines::ClosedLines(const Trie& trie, const std::vector<int32_t>& items) {
  if (items.empty()) return;
  auto lines = std::make_shared<std::vector<int32_t>>();
  lines->reserve(items.size());
  for (int32_t item : items) lines->push_back(trie.line_of(item));
  std::sort(lines->begin(), lines->end());
  shared_ = std::move(lines);
}

void ClosedLines::close(int32_t line) { own_.insert(std::lower_bound(own_.begin(), own_.end(), line), line); }

namespace {
// The first of the lines that is not before `line`; most children are not near a closed one.
const int32_t* skip(const int32_t* at, const int32_t* end, int32_t line) {
  return at == end || *at >= line ? at : std::lower_bound(at, end, line);
}
}  // namespace

ClosedLines::Sweep::Sweep(const ClosedLines& lines, int32_t low)
    : shared_(lines.shared_ ? lines.shared_->data() : nullptr),
      shared_end_(shared_ ? shared_ + lines.shared_->size() : nullptr),
      own_(lines.own_.data()),
      own_end_(own_ + lines.own_.size()) {
  shared_ = skip(shared_, shared_end_, low);
  own_ = skip(own_, own_end_, low);
}

int32_t ClosedLines::Sweep::open(int32_t low, int32_t high) {
  const int32_t *shared = skip(shared_, shared_end_, high), *own = skip(own_, own_end_, high);
  const auto closed = (shared - shared_) + (own - own_);
  shared_ = shared;
  own_ = own;
  return high - low - static_cast<int32_t>(closed);
}

Exclusion::Exclusion(const TokenCatalog& catalog, const std::vector<int32_t>& excluded)
    : items(static_cast<int32_t>(excluded.size())), line(catalog.line(), excluded) {
  if (!catalog.line().same_lines(catalog.last())) last = ClosedLines(catalog.last(), excluded);
}

ListCursor::ListCursor(const TokenCatalog& catalog, const ListRules& rules, const Exclusion& excluded, const std::string& row)
    : rules_(rules), same_(catalog.line().same_lines(catalog.last())), closed_line_(excluded.line), closed_last_(excluded.last) {
  line_.trie = &catalog.line();
  last_.trie = &catalog.last();
  const int32_t left = catalog.items() - excluded.items, needed = rules.repeats ? 1 : rules.least;
  if (left < needed)
    fail("INVALID_ARGUMENT", "Expected at least " + std::to_string(needed) + " items after exclusions for " + row + ", got " +
                                 std::to_string(left) + ". Exclude less, or ask for a shorter list.");
  if (!rules.repeats) rules_.most = std::min(rules.most, left);  // a list cannot be longer than what is left
  start_line();
}

void ListCursor::start_line() {
  const int32_t rank = static_cast<int32_t>(list_.size()) + 1;
  line_.active = rank < rules_.most;
  last_.active = rank >= rules_.least;
  line_.place = line_.trie->root();
  last_.place = last_.trie->root();
}

// Appends up to `most` tokens that the walk may take, ascending.
void ListCursor::collect(const Walk& walk, std::vector<int32_t>& out, int32_t most) const {
  const auto& trie = *walk.trie;
  if (!trie.at_branch(walk.place)) return out.push_back(trie.forced_token(walk.place));
  ClosedLines::Sweep lines(closed(walk), walk.place.low);
  const int32_t count = trie.children(walk.place);
  for (int32_t c = 0; c < count && most > 0; ++c) {
    const auto child = trie.child(walk.place, c);
    if (lines.open(child.low, child.high) == 0) continue;
    out.push_back(trie.child_token(walk.place, c));
    --most;
  }
}

void ListCursor::next(std::vector<int32_t>& out, int32_t most) const {
  const auto first = static_cast<std::ptrdiff_t>(out.size());
  if (line_.active) collect(line_, out, most);
  if (!last_.active) return;
  if (line_.active && same_ && line_.trie->at_branch(line_.place)) return;  // the same lines, the same children
  const auto second = static_cast<std::ptrdiff_t>(out.size());
  collect(last_, out, most);
  std::inplace_merge(out.begin() + first, out.begin() + second, out.end());
  out.erase(std::unique(out.begin() + first, out.end()), out.end());
}

int32_t ListCursor::forced() const {
  std::vector<int32_t> tokens;
  next(tokens, 2);
  return tokens.size() == 1 ? tokens[0] : -1;
}

int32_t ListCursor::choices(int32_t count_to, std::vector<int32_t>& scratch) const {
  scratch.clear();
  next(scratch, count_to);
  return std::min(count_to, static_cast<int32_t>(scratch.size()));
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
  if (closed(walk).open(child.low, child.high) == 0) return false;
  walk.place = child;
  return true;
}

bool ListCursor::advance(int32_t token) {
  const bool on = line_.active && step(line_, token), end = last_.active && step(last_, token);
  if (!on && !end) return false;
  line_.active = on;
  last_.active = end;
  if (end && last_.trie->complete(last_.place)) {
    list_.push_back(last_.trie->item(last_.place.low));
    line_.active = last_.active = false;
  } else if (on && line_.trie->complete(line_.place)) {
    const int32_t item = line_.trie->item(line_.place.low);
    list_.push_back(item);
    if (!rules_.repeats) {
      closed_line_.close(line_.trie->line_of(item));
      if (!same_) closed_last_.close(last_.trie->line_of(item));
    }
    start_line();
  }
  return true;
}

}  // namespace rank_grpo
