// LUFFY's policy shaping: for demonstrations and other off-policy tokens, whose own probability p is the ratio. Unlikely tokens keep a
// gradient, which a clip or a plain likelihood would leave to the likely ones.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct ShapingRule : Rule {
  static constexpr const char *name = "shaping", *source = "LUFFY (arXiv 2504.14945), policy shaping",
                              *formula = "-p / (p + gamma) A, p = exp(logp)";
  static constexpr ObjectiveParameter parameters[] = {{"gamma", 0.1, 1e-9, 1e9, "as published"}};
  double gamma;

  RANK_GRPO_HD Dual loss(Dual, Dual logp, double A) const { return -(A * (exp(logp) / (exp(logp) + gamma))); }
};

}  // namespace rank_grpo
