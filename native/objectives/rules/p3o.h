// P3O's scopic objective: soft clipping by one sigmoid. The ratio may leave the clip range; its pull fades with the distance.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct P3oRule : Rule {
  static constexpr const char *name = "p3o", *source = "P3O (arXiv 2205.10047), the scopic objective without its KL term (beta has it)",
                              *formula = "-4 / tau sigmoid(tau (w - 1)) A, w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {{"tau", 4, 1e-6, 1e6, "half the slope by the ratio is left at w = 1.44 and 0.56"}};
  double tau;

  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const { return -(A * (4 / tau * sigmoid(tau * (exp(s) - 1)))); }
};

}  // namespace rank_grpo
