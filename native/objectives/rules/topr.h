// TOPR: positives are learned as in supervised training, whatever the policy makes of them now; negatives by their tapered ratio.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct ToprRule : Rule {
  static constexpr const char *name = "topr", *source = "TOPR (arXiv 2503.14286); as published with ratio: sequence, pool: sum",
                              *formula = "-stop(A > 0 ? 1 : min(w, cap)) A logp, w = exp(s)";
  static constexpr ObjectiveParameter parameters[] = {
      {"cap", 1, 0, 1e9, "as published: negatives the policy already avoids count less, none more"}};
  double cap;

  RANK_GRPO_HD Dual loss(Dual s, Dual logp, double A) const { return -(A * (stop_gradient(A > 0 ? Dual(1) : min(exp(s), cap)) * logp)); }
  RANK_GRPO_HD int clipped(double s, double A, Dual) const { return A < 0 && std::exp(s) > cap ? 4 : 0; }
};

}  // namespace rank_grpo
