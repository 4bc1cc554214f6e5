// SPO: a quadratic penalty in place of the clip. Its best ratio is the edge of the range, and beyond it the gradient points back.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct SpoRule : Rule {
  static constexpr const char *name = "spo", *source = "Simple Policy Optimization (arXiv 2401.16025)",
                              *formula = "-(w A - |A| / (2 epsilon) (w - 1)^2), w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {{"epsilon", 0.2, 1e-9, 1e9, "as published: PPO's range"}};
  double epsilon;

  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const {
    const Dual w = exp(s);
    return std::abs(A) / (2 * epsilon) * square(w - 1) - A * w;
  }
};

}  // namespace rank_grpo
