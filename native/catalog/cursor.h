// Where a list stands in the catalog: which tokens may come next, given what the list holds already and what its row excludes.
// The sampler steps through it while it draws; the trainer replays it over given tokens: both see the same sets.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../core/backend.h"
#include "catalog.h"

namespace rank_grpo {

struct ListRules {
  int32_t least = 1, most = 1;  // items of a list, least <= most
  bool repeats = false;         // may an item come twice
};

// What keeps a batch of lists inside the catalog; null catalog: nothing does.
struct ListConstraint {
  std::shared_ptr<const TokenCatalog> catalog;
  ListRules rules;
  std::vector<std::vector<int32_t>> excluded;  // items that the lists of prompt p may not hold: ascending, without repeats
};
// INVALID_ARGUMENT where sets are not one for each prompt or not sorted, or the catalog's tokens are not the model's.
void validate_constraint(const ListConstraint& constraint, size_t prompts, int vocab);

// Sorted lines of a trie that are closed: those a prompt excludes, which its lists share, and those of the list itself.
class ClosedLines {
 public:
  ClosedLines() = default;
  ClosedLines(const Trie& trie, const std::vector<int32_t>& items);
  void close(int32_t line);
  int32_t open(int32_t low, int32_t high) const { return Sweep(*this, low).open(low, high); }  // lines of the range that are not closed

  // Counts over ranges that follow one another: children of a node.
  class Sweep {
   public:
    Sweep(const ClosedLines& lines, int32_t low);
    int32_t open(int32_t low, int32_t high);

   private:
    const int32_t *shared_, *shared_end_, *own_, *own_end_;
  };

 private:
  std::shared_ptr<const std::vector<int32_t>> shared_;
  std::vector<int32_t> own_;
};

// The closed lines of both forms, made once for a prompt.
struct Exclusion {
  Exclusion() = default;
  Exclusion(const TokenCatalog& catalog, const std::vector<int32_t>& items);
  int32_t items = 0;
  ClosedLines line, last;  // `last` is not used where both forms have the same lines
};

class ListCursor {
 public:
  // The catalog outlives it. INVALID_ARGUMENT (naming `row`) where exclusions leave fewer than `least` items.
  ListCursor(const TokenCatalog& catalog, const ListRules& rules, const Exclusion& excluded, const std::string& row);

  // Appends the tokens that may come next, ascending; none where the list is finished.
  void allowed(std::vector<int32_t>& out) const { next(out, INT32_MAX); }
  // The token that must come next; -1 where there is a choice, or the list is finished.
  int32_t forced() const;
  // How many tokens may come next, counted up to `count_to`; `scratch` is overwritten.
  int32_t choices(int32_t count_to, std::vector<int32_t>& scratch) const;
  bool finished() const { return !line_.active && !last_.active; }
  // Takes a token; false (and no change) where it is not allowed.
  bool advance(int32_t token);
  const std::vector<int32_t>& items() const { return list_; }  // completed so far

 private:
  struct Walk {  // through one of the tries
    const Trie* trie = nullptr;
    bool active = false;
    Trie::Place place{};
  };
  const ClosedLines& closed(const Walk& walk) const { return &walk == &last_ && !same_ ? closed_last_ : closed_line_; }
  bool step(Walk& walk, int32_t token) const;
  void collect(const Walk& walk, std::vector<int32_t>& out, int32_t most) const;
  void next(std::vector<int32_t>& out, int32_t most) const;
  void start_line();

  ListRules rules_;
  bool same_;  // both tries have the same lines, so their places agree until the tails
  Walk line_, last_;
  ClosedLines closed_line_, closed_last_;
  std::vector<int32_t> list_;
};

// Takes tokens [begin, end); `see(t)` is called before each, at its place. INVALID_ARGUMENT (naming `row`) where one is not allowed.
// A list that ends early (cut at the length limit) is fine.
template <class F>
void replay_list(ListCursor& cursor, const int32_t* begin, const int32_t* end, const std::string& row, F&& see) {
  for (const int32_t* token = begin; token != end; ++token) {
    see(static_cast<size_t>(token - begin));
    if (!cursor.advance(*token))
      fail("INVALID_ARGUMENT", "Expected a token that the catalog allows at position " + std::to_string(token - begin) + " of " + row +
                                   ", got " + std::to_string(*token) + ".");
  }
}

}  // namespace rank_grpo
