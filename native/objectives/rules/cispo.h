// CISPO: the clipped ratio weighs the log-likelihood's gradient and carries none itself, so no token is ever dropped.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct CispoRule : Rule {
  static constexpr const char *name = "cispo",
                              *source = "MiniMax-M1 (arXiv 2506.13585) Eq. 4; with clipHigh 0 truncated importance sampling",
                              *formula = "-stop(clamp(w, 1 - clipLow, 1 + clipHigh)) A logp, w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {{"clipLow", 1, 0, 1, "1: no lower bound, as published"},
                                                      {"clipHigh", 4, 0, 1e9, "cap of 5 on the ratio"}};
  double clipLow, clipHigh;

  RANK_GRPO_HD Dual loss(Dual s, Dual logp, double A) const {
    return -(A * (stop_gradient(clamp(exp(s), 1 - clipLow, 1 + clipHigh)) * logp));
  }
  RANK_GRPO_HD int clipped(double s, double A, Dual) const {
    return A == 0 ? 0 : (std::exp(s) < 1 - clipLow ? 1 : 0) | (std::exp(s) > 1 + clipHigh ? 2 : 0);
  }
};

}  // namespace rank_grpo
