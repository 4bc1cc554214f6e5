// GPPO and CE-GPPO: the clipped value of PPO, but clipped tokens keep a gradient, bounded by the clip range and scaled by a coefficient.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct GppoRule : Rule {
  static constexpr const char *name = "gppo", *source = "GPPO (arXiv 2508.07629); its coefficients from CE-GPPO (2509.20712)",
                              *formula = "-w A; where clip would hold it at c: -b (c / stop(w)) w A, b = keepLow or keepHigh";
  static constexpr ObjectiveParameter parameters[] = {
      {"clipLow", 0.2, 0, 1, "the range of token ratios"},
      {"clipHigh", 0.2, 0, 1e9, "the range of token ratios"},
      {"keepLow", 1, 0, 1e9, "GPPO; below 1 converges more slowly, with 0 it is clip's gradient"},
      {"keepHigh", 1, 0, 1e9, "GPPO; below 1 explores less, with 0 it is clip's gradient"}};
  double clipLow, clipHigh, keepLow, keepHigh;

  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const {
    if (A < 0 && s.value < std::log1p(-clipLow)) return -(A * (keepLow * (1 - clipLow) * exp(s - stop_gradient(s))));
    if (A > 0 && s.value > std::log1p(clipHigh)) return -(A * (keepHigh * (1 + clipHigh) * exp(s - stop_gradient(s))));
    return -(A * exp(s));
  }
};

}  // namespace rank_grpo
