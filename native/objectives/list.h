// Every rule, once: the driver, the bindings, the probe and the tests walk this list. A rule of this package is a header and a name
// here; rules from elsewhere come in through RANK_GRPO_EXTRA_RULES, a header that `rank-grpo build --objectives` writes.
#pragma once
#include "rules/cispo.h"
#include "rules/cispo_mask.h"
#include "rules/clip.h"
#include "rules/gmpo.h"
#include "rules/gppo.h"
#include "rules/likelihood.h"
#include "rules/nsr.h"
#include "rules/p3o.h"
#include "rules/rollback.h"
#include "rules/sapo.h"
#include "rules/shaping.h"
#include "rules/spo.h"
#include "rules/topr.h"
#ifdef RANK_GRPO_EXTRA_RULES
#include RANK_GRPO_EXTRA_RULES
#endif

namespace rank_grpo {

template <class... Rules>
struct RuleList {
  template <class F>
  static void each(F&& f) {
    (f(static_cast<Rules*>(nullptr)), ...);
  }
};

template <class... Rules>
RuleList<ClipRule, CispoRule, LikelihoodRule, GmpoRule, SapoRule, P3oRule, ToprRule, GppoRule, SpoRule, RollbackRule, NsrRule,
         CispoMaskRule, ShapingRule, Rules...>
    with_builtin(RuleList<Rules...>);

#ifdef RANK_GRPO_EXTRA_RULES
using AllRules = decltype(with_builtin(RuleList<RANK_GRPO_EXTRA_RULE_NAMES>()));
#else
using AllRules = decltype(with_builtin(RuleList<>()));
#endif

}  // namespace rank_grpo
