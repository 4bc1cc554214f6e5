// The clipped ratio of PPO and of Rank-GRPO's Eq. 6, with an optional cap for negative advantages (dual clip).
#pragma once
#include <limits>

#include "dual.h"
#include "objective.h"

namespace rank_grpo {

struct ClipRule {
  static constexpr const char* name = "clip";
  static constexpr const char* source = "Rank-GRPO (arXiv 2510.20150) Eq. 6; PPO (1707.06347); dual clip (1912.09729)";
  static constexpr const char* formula = "-min(min(w, delta) A, clamp(w, 1 - clipLow, 1 + clipHigh) A), w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {
      {"clipLow", 0.06, 0, 1, "the paper's range for rank ratios; token ratios use 0.2"},
      {"clipHigh", 0.08, 0, 1e9, "a little wider than clipLow keeps exploration (DAPO's clip-higher)"},
      {"delta", std::numeric_limits<double>::infinity(), 1, std::numeric_limits<double>::infinity(), "off: the paper has no dual clip"}};
  double low, high, delta;
  explicit ClipRule(const double* p) : low(1 - p[0]), high(1 + p[1]), delta(p[2]) {}

  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const {
    const Dual w = exp(s);
    return -min(A * min(w, Dual(delta)), A * clamp(w, low, high));
  }
  // 1: below the range and held there, 2: above, 4: capped by delta
  RANK_GRPO_HD int clipped(double s, double A) const {
    const double w = std::exp(s);
    return (w < low && A < 0 ? 1 : 0) | (w > high && A > 0 ? 2 : 0) | (w > delta && A < 0 ? 4 : 0);
  }
};

}  // namespace rank_grpo
