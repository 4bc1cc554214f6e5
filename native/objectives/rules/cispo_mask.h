// CISPO with PPO's mask: tokens the trust region would drop are dropped, all others weighted by their ratio.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct CispoMaskRule : Rule {
  static constexpr const char *name = "cispo-mask", *source = "MiniMax-M1 (arXiv 2506.13585), the unified form with the token mask",
                              *formula =
                                  "-M stop(w) A logp, M = 0 where A > 0 and w > 1 + clipHigh or A < 0 and w < 1 - clipLow; w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {{"clipLow", 0.2, 0, 1, "the range of token ratios"},
                                                      {"clipHigh", 0.28, 0, 1e9, "DAPO's clip-higher"}};
  double clipLow, clipHigh;

  RANK_GRPO_HD Dual loss(Dual s, Dual logp, double A) const {
    const double w = std::exp(s.value);
    if (A > 0 ? w > 1 + clipHigh : w < 1 - clipLow) return Dual();
    return -(A * (stop_gradient(exp(s)) * logp));
  }
};

}  // namespace rank_grpo
