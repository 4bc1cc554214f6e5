// PPO with rollback: beyond the clip range the slope turns against the advantage instead of being 0.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct RollbackRule : Rule {
  static constexpr const char *name = "rollback", *source = "Truly PPO (arXiv 1903.07940), PPO-RB",
                              *formula = "-min(w A, f A), f = c + alpha (c - w) beyond the range's edge c, else w; w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {{"clipLow", 0.2, 0, 1, "PPO's range"},
                                                      {"clipHigh", 0.2, 0, 1e9, "PPO's range"},
                                                      {"alpha", 0.3, 0, 1e9, "a third of the slope, turned; 0 is clip"}};
  double clipLow, clipHigh, alpha;

  RANK_GRPO_HD Dual loss(Dual s, Dual, double A) const {
    const Dual w = exp(s), c = clamp(w, 1 - clipLow, 1 + clipHigh);
    return -min(A * w, A * (c.value == w.value ? w : c + alpha * (c - w)));
  }
};

}  // namespace rank_grpo
