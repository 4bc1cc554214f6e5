// GMPO: every token's log-ratio is held on the side its advantage pushes to, before the geometric mean is taken.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct GmpoRule : Rule {
  static constexpr const char *name = "gmpo", *source = "GMPO (arXiv 2507.20673)",
                              *formula = "-A exp(s), s the mean of min(d, clipHigh) where A > 0, of max(d, -clipLow) where A < 0";
  static constexpr ObjectiveParameter parameters[] = {{"clipLow", 0.4, 0, 1e9, "in log-ratios: ratios from exp(-0.4), as published"},
                                                      {"clipHigh", 0.4, 0, 1e9, "in log-ratios: ratios to exp(0.4), as published"}};
  double clipLow, clipHigh;

  RANK_GRPO_HD Dual term(Dual d, double A) const { return A > 0 ? min(d, clipHigh) : A < 0 ? max(d, -clipLow) : d; }
  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const { return -(A * exp(s)); }
};

}  // namespace rank_grpo
