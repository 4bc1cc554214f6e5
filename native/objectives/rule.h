// All a new objective needs. A rule is a struct in one header: name, source, formula, the table of its parameters (where it has any), the
// parameters themselves as doubles in the table's order, and `loss`. The driver, the bindings, the command line, the checks and the pages of the
// documentation are made from it; docs/extend.md walks through one.
#pragma once
#include <array>
#include <cstring>
#include <iterator>
#include <limits>
#include <type_traits>

#include "dual.h"

namespace rank_grpo {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct ObjectiveParameter {
  const char* name;  // as in TypeScript and on the command line
  double value, min, max;
  const char* reason;  // why this default
};

struct Rule {
  static constexpr std::array<ObjectiveParameter, 0> parameters{};  // a rule with parameters has its own table

  // Loss of one token: s is its segment's pooled log-ratio (the ratio is exp(s)), logp its own log-prob, A its advantage (never 0 here:
  // that is no loss and no gradient). Every rule has its own:
  //   Dual loss(Dual s, Dual logp, double A) const;

  // What a token adds to its segment's pooled log-ratio, d = logp - old.
  RANK_GRPO_HD static Dual term(Dual d, double) { return d; }

  // Whether the token was held, for the logs: 1 below the range, 2 above it, 4 above a cap of negative advantages. By default, where
  // the loss has no slope left: w below 1 with A < 0, w above 1 with A > 0, w above 1 with A < 0.
  RANK_GRPO_HD static int clipped(double s, double A, Dual loss) {
    if (A == 0 || loss.ds != 0 || loss.dl != 0) return 0;
    return A < 0 ? (s < 0 ? 1 : s > 0 ? 4 : 0) : (s > 0 ? 2 : 0);
  }
};

// A rule with its parameters set; values in the order of its table.
template <class R>
R make_rule(const double* values) {
  constexpr size_t bytes = std::size(R::parameters) * sizeof(double);
  static_assert(std::is_trivially_copyable<R>::value && (bytes ? sizeof(R) == bytes : std::is_empty<R>::value),
                "a rule declares each parameter of its table as a double, in the table's order, and nothing else");
  R rule;
  if (bytes) std::memcpy(static_cast<void*>(&rule), values, bytes);
  return rule;
}

}  // namespace rank_grpo
