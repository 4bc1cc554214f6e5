// SAPO: a sigmoid gate in place of the clip, steeper for negative advantages: far ratios fade instead of stopping.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct SapoRule : Rule {
  static constexpr const char *name = "sapo", *source = "SAPO (arXiv 2511.20347)",
                              *formula = "-4 / tau sigmoid(tau (w - 1)) A, w = exp(s), tau by the sign of A";
  static constexpr ObjectiveParameter parameters[] = {
      {"tauPositive", 1, 1e-6, 1e6, "as published"},
      {"tauNegative", 1.05, 1e-6, 1e6, "as published: negative advantages raise many other tokens, so they fade faster"}};
  double tauPositive, tauNegative;

  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const {
    const double tau = A > 0 ? tauPositive : tauNegative;
    return -(A * (4 / tau * sigmoid(tau * (exp(s) - 1))));
  }
};

}  // namespace rank_grpo
