// Where a list stands in the catalog: which tokens may come next, given what the list holds already and what its row excludes.
// The sampler steps through it while it draws; the trainer replays it over given tokens: both see the same sets.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "trie.h"

namespace rank_grpo {

// The catalog in the two forms a line has: followed by another line, and as the list's last one.
struct CatalogTries {
  std::shared_ptr<const Trie> line;  // ends with the newline's token
  std::shared_ptr<const Trie> last;  // ends with the stop token
  int32_t items() const { return line->lines(); }
};

struct ListRules {
  int32_t least = 1, most = 1;  // items of a list, least <= most
  bool repeats = false;         // may an item come twice
};

class ListCursor {
 public:
  // excluded: items that this list may not hold, ascending, without repeats. INVALID_ARGUMENT (naming `row`) where fewer
  // than `least` items are left.
  ListCursor(const CatalogTries& catalog, const ListRules& rules, const std::vector<int32_t>& excluded, const std::string& row);

  // Tokens that may come next, ascending; empty when the list is finished.
  const std::vector<int32_t>& allowed() const { return allowed_; }
  bool finished() const { return allowed_.empty(); }
  // Takes a token of allowed(); false (and no change) where it is none.
  bool advance(int32_t token);
  const std::vector<int32_t>& items() const { return list_; }  // completed so far

 private:
  struct Walk {  // through one of the tries
    const Trie* trie = nullptr;
    bool active = false;
    Trie::Place place{};
    std::vector<int32_t> excluded;  // sorted lines
  };
  void start_line();
  void collect();
  bool step(Walk& walk, int32_t token) const;
  int32_t open(const Walk& walk, int32_t low, int32_t high) const;  // lines of the range that are not excluded
  void exclude(int32_t item);

  const CatalogTries* catalog_;
  ListRules rules_;
  Walk line_, last_;
  std::vector<int32_t> allowed_, list_;
};

// The sets of a given completion, for scoring and training.
struct Replay {
  std::vector<int32_t> offsets{0}, ids;  // CSR over tokens
};
// Appends the sets of tokens [begin, end). INVALID_ARGUMENT (naming `row`) where a token is not allowed. A list that ends early (cut
// at the length limit) is fine.
void replay_list(Replay& replay, const CatalogTries& catalog, const ListRules& rules, const std::vector<int32_t>& excluded,
                 const int32_t* begin, const int32_t* end, const std::string& row);

}  // namespace rank_grpo
