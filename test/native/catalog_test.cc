// The catalog and the cursor against plain enumeration: every list that rules and exclusions allow is written out, and at each of its
// tokens the cursor's set is what some list goes on with. And the cache file: what is written comes back, what is changed is refused.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <set>

#include "../../native/catalog/cursor.h"
#include "../../native/core/philox.h"
#include "check.h"

using rank_grpo::Exclusion;
using rank_grpo::ListCursor;
using rank_grpo::ListRules;
using rank_grpo::TokenCatalog;
using rank_grpo::TokenLines;
using Row = std::vector<int32_t>;

namespace {

constexpr int32_t kNewline = 1, kStop = 2, kJoined = 3, kBracket = 4;  // kJoined: bracket and newline in one token

TokenLines ragged(const std::vector<Row>& rows) {
  TokenLines lines;
  for (const auto& row : rows) {
    lines.tokens.insert(lines.tokens.end(), row.begin(), row.end());
    lines.offsets.push_back(static_cast<uint32_t>(lines.tokens.size()));
  }
  return lines;
}

struct Lines {
  std::vector<Row> line, last;
  std::shared_ptr<const TokenCatalog> build() const {
    std::vector<std::string> names;
    for (size_t i = 0; i < line.size(); ++i) names.push_back("item " + std::to_string(i));
    return TokenCatalog::build(names, ragged(line), ragged(last));
  }
};

// Distinct bodies over few tokens, so that they share beginnings and some are the beginning of another.
Lines random_lines(uint64_t seed, int count, bool joined) {
  uint32_t at = 0;
  auto draw = [&](uint32_t n) { return static_cast<int32_t>(rank_grpo::philox(seed, at++, 0, 0, 0).x[0] % n); };
  std::set<Row> bodies;
  while (static_cast<int>(bodies.size()) < count) {
    Row body;
    for (int length = 1 + draw(4); length > 0; --length) body.push_back(5 + draw(3));
    bodies.insert(body);
  }
  std::vector<Row> shuffled(bodies.begin(), bodies.end());
  for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[static_cast<size_t>(draw(static_cast<uint32_t>(i)))]);
  Lines out;
  for (const auto& body : shuffled) {
    Row line = body, last = body;
    if (joined) {
      line.push_back(kJoined);
      last.push_back(kBracket);
    } else {
      line.push_back(kNewline);
    }
    last.push_back(kStop);
    out.line.push_back(line);
    out.last.push_back(last);
  }
  return out;
}

void enumerate(const Lines& lines, const ListRules& rules, const std::set<int32_t>& excluded, std::vector<int32_t>& items,
               const Row& so_far, std::map<Row, std::vector<int32_t>>& out) {
  const int32_t rank = static_cast<int32_t>(items.size()) + 1;
  if (rank > rules.most) return;
  for (int32_t i = 0; i < static_cast<int32_t>(lines.line.size()); ++i) {
    if (excluded.count(i) || (!rules.repeats && std::count(items.begin(), items.end(), i))) continue;
    items.push_back(i);
    Row list = so_far;
    const auto &last = lines.last[static_cast<size_t>(i)], &line = lines.line[static_cast<size_t>(i)];
    list.insert(list.end(), last.begin(), last.end());
    if (rank >= rules.least) out[list] = items;
    list = so_far;
    list.insert(list.end(), line.begin(), line.end());
    enumerate(lines, rules, excluded, items, list, out);
    items.pop_back();
  }
}

void compare(const Lines& lines, ListRules rules, const std::vector<int32_t>& excluded) {
  const auto catalog = lines.build();
  const Exclusion closed(*catalog, excluded);
  std::map<Row, std::vector<int32_t>> lists;
  std::vector<int32_t> items;
  // a list cannot be longer than what is left: then the end is not a choice
  ListRules real = rules;
  if (!rules.repeats) real.most = std::min(rules.most, static_cast<int32_t>(lines.line.size() - excluded.size()));
  enumerate(lines, real, {excluded.begin(), excluded.end()}, items, {}, lists);
  std::map<Row, std::set<int32_t>> next;  // of every beginning
  for (const auto& [list, _] : lists)
    for (size_t t = 0; t < list.size(); ++t) next[Row(list.begin(), list.begin() + static_cast<int64_t>(t))].insert(list[t]);
  for (const auto& [list, wanted] : lists) {
    ListCursor cursor(*catalog, rules, closed, "row");
    Row path, scratch;
    for (int32_t token : list) {
      Row allowed;
      cursor.allowed(allowed);
      const auto& set = next.at(path);
      CHECK(allowed == Row(set.begin(), set.end()));
      CHECK(cursor.forced() == (set.size() == 1 ? *set.begin() : -1));
      for (int32_t count_to : {2, 3, 10}) CHECK(cursor.choices(count_to, scratch) == std::min(count_to, static_cast<int32_t>(set.size())));
      for (int32_t other = 0; other < 10; ++other)
        if (!set.count(other)) CHECK(!cursor.advance(other));
      CHECK(!cursor.finished());
      CHECK(cursor.advance(token));
      path.push_back(token);
    }
    CHECK(cursor.finished() && cursor.items() == wanted && cursor.forced() == -1 && !cursor.advance(list.back()));
  }
}

}  // namespace

TEST(cursor_is_what_enumeration_allows) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const int count = 1 + static_cast<int>(seed % 6);
    const auto lines = random_lines(seed, count, seed % 2);
    for (const ListRules rules : {ListRules{1, 1, false}, ListRules{2, 2, false}, ListRules{1, 3, false}, ListRules{2, 3, true}}) {
      for (const std::vector<int32_t>& excluded : {std::vector<int32_t>{}, {0}, {1, 2}}) {
        if (!excluded.empty() && excluded.back() >= count) continue;
        if (count - static_cast<int>(excluded.size()) < (rules.repeats ? 1 : rules.least)) continue;
        compare(lines, rules, excluded);
      }
    }
  }
}

TEST(cursor_of_lines_that_end_in_their_own_ways) {
  // two tokens of one text and newline merged, others not: the two forms are no two ends of the same lines, and sort differently
  const Lines lines{{{5, 9}, {5, 6, kNewline}, {7, 8}, {7, 6, 9}}, {{5, 8, kStop}, {5, 6, kStop}, {7, 5, kStop}, {7, 6, 5, kStop}}};
  for (const ListRules rules : {ListRules{1, 1, false}, ListRules{1, 3, false}, ListRules{4, 4, false}, ListRules{2, 2, true}})
    compare(lines, rules, {});
  compare(lines, {1, 2, false}, {0, 3});
  CHECK(!lines.build()->line().same_lines(lines.build()->last()));
  CHECK(random_lines(1, 1, true).build()->items() == 1);
}

TEST(catalog_refuses_what_cannot_be_told_apart) {
  const Lines equal{{{5, 1}, {6, 1}, {5, 1}}, {{5, 2}, {6, 2}, {5, 2}}};
  try {
    equal.build();
    CHECK(false);
  } catch (const rank_grpo::Error& error) {
    const std::string text = error.what();
    CHECK(text.find("\"item 0\"") != std::string::npos && text.find("\"item 2\"") != std::string::npos);
  }
  CHECK_THROWS((Lines{{{5}, {5, 6}}, {{5, 2}, {6, 2}}}.build()), "INVALID_ARGUMENT");
  CHECK_THROWS((Lines{{{5}, {}}, {{5, 2}, {6, 2}}}.build()), "INVALID_ARGUMENT");
  CHECK_THROWS((Lines{{}, {}}.build()), "INVALID_ARGUMENT");
  CHECK_THROWS((Lines{{{5}, {6}}, {{5, 2}}}.build()), "INVALID_ARGUMENT");
  CHECK_THROWS((Lines{{{-1}}, {{5, 2}}}.build()), "INVALID_ARGUMENT");
}

TEST(cursor_refuses_too_many_exclusions) {
  const auto catalog = random_lines(3, 4, false).build();
  CHECK_THROWS(ListCursor(*catalog, {2, 4, false}, Exclusion(*catalog, {0, 1, 3}), "row 7"), "INVALID_ARGUMENT");
  CHECK_THROWS(ListCursor(*catalog, {1, 1, true}, Exclusion(*catalog, {0, 1, 2, 3}), "row 7"), "INVALID_ARGUMENT");
  ListCursor(*catalog, {2, 4, true}, Exclusion(*catalog, {0, 1, 3}), "row 7");
}

TEST(catalog_cache_comes_back_or_is_refused) {
  const std::string path = std::string(P_tmpdir) + "/rank_grpo_catalog_test.bin";
  for (bool joined : {false, true}) {
    const auto lines = random_lines(9, 30, joined);
    const auto built = lines.build();
    built->save(path, "key of this catalog");
    const auto opened = TokenCatalog::open(path, "key of this catalog");
    CHECK(opened->items() == 30 && opened->bytes() == built->bytes() && opened->longest() == built->longest() &&
          opened->largest_token() == built->largest_token() && opened->tokens() == built->tokens());
    for (const auto* form : {&lines.line, &lines.last}) {
      const auto& trie = form == &lines.line ? opened->line() : opened->last();
      for (int32_t i = 0; i < 30; ++i) {
        const auto& row = (*form)[static_cast<size_t>(i)];
        const int32_t line = trie.line_of(i);
        CHECK(trie.item(line) == i && trie.length(line) == static_cast<int32_t>(row.size()));
        for (size_t t = 0; t < row.size(); ++t) CHECK(trie.token(line, static_cast<int32_t>(t)) == row[t]);
      }
    }
  }
  CHECK_THROWS(TokenCatalog::open(path, "key of another"), "BAD_CHECKPOINT");
  CHECK_THROWS(TokenCatalog::open(path + ".missing", "key"), "IO");
  std::ifstream in(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  auto refused = [&](const std::string& changed) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << changed;
    CHECK_THROWS(TokenCatalog::open(path, "key of this catalog"), "BAD_CHECKPOINT");
  };
  for (size_t length = 1; length < bytes.size(); length += 37) refused(bytes.substr(0, length));
  for (size_t at = 0; at < bytes.size(); at += 11) {
    std::string changed = bytes;
    changed[at] = static_cast<char>(changed[at] ^ 0x10);
    refused(changed);
  }
  refused(bytes + std::string(8, '\0'));
  std::remove(path.c_str());
}
