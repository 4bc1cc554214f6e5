// The clipped ratio of PPO and of Rank-GRPO's Eq. 6, with an optional cap for negative advantages (dual clip).
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct ClipRule : Rule {
  static constexpr const char *name = "clip", *source = "Rank-GRPO (arXiv 2510.20150) Eq. 6; PPO (1707.06347); dual clip (1912.09729)",
                              *formula = "-min(min(w, delta) A, clamp(w, 1 - clipLow, 1 + clipHigh) A), w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {
      {"clipLow", 0.06, 0, 1, "the paper's range for rank ratios; token ratios use 0.2"},
      {"clipHigh", 0.08, 0, 1e9, "a little wider than clipLow keeps exploration (DAPO's clip-higher)"},
      {"delta", kInfinity, 1, kInfinity, "off: the paper has no dual clip, whose own authors take 3"}};
  double clipLow, clipHigh, delta;

  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const {
    const Dual w = exp(s);
    return -min(A * min(w, delta), A * clamp(w, 1 - clipLow, 1 + clipHigh));
  }
};

}  // namespace rank_grpo
