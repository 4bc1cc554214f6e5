// Every rule, once: the driver, the bindings and the tests walk this list. A new rule is a header and a name here.
#pragma once
#include "cispo.h"
#include "clip.h"
#include "likelihood.h"

namespace rank_grpo {

template <class... Rules>
struct RuleList {
  template <class F>
  static void each(F&& f) {
    (f(static_cast<Rules*>(nullptr)), ...);
  }
};

using AllRules = RuleList<ClipRule, CispoRule, LikelihoodRule>;

}  // namespace rank_grpo
