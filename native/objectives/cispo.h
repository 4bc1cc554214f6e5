// CISPO: the clipped ratio weighs the log-likelihood's gradient and carries none itself, so no token is ever dropped.
#pragma once
#include "dual.h"
#include "objective.h"

namespace rank_grpo {

struct CispoRule {
  static constexpr const char* name = "cispo";
  static constexpr const char* source = "MiniMax-M1 (arXiv 2506.13585) Eq. 4";
  static constexpr const char* formula = "-stop(clamp(w, 1 - clipLow, 1 + clipHigh)) A logp, w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {{"clipLow", 1, 0, 1, "1: no lower bound, as published"},
                                                      {"clipHigh", 4, 0, 1e9, "cap of 5 on the ratio"}};
  double low, high;
  explicit CispoRule(const double* p) : low(1 - p[0]), high(1 + p[1]) {}

  RANK_GRPO_HD Dual loss(Dual s, Dual logp, double A) const { return -(A * (stop_gradient(clamp(exp(s), low, high)) * logp)); }
  RANK_GRPO_HD int clipped(double s, double A) const {
    const double w = std::exp(s);
    return A == 0 ? 0 : (w < low ? 1 : 0) | (w > high ? 2 : 0);
  }
};

}  // namespace rank_grpo
