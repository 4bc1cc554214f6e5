// Weighted REINFORCE: positives are learned with a small weight, so that the policy stays diverse; negatives with all of it.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct NsrRule : Rule {
  static constexpr const char *name = "nsr", *source = "Negative sample reinforcement, W-REINFORCE (arXiv 2506.01347)",
                              *formula = "-(A > 0 ? positive : 1) w A, w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {
      {"positive", 0.1, 0, 1e9, "as published; 0 learns from negatives alone, 1 from both alike"}};
  double positive;

  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const { return -((A > 0 ? positive : 1) * A * exp(s)); }
};

}  // namespace rank_grpo
