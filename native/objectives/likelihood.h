// Advantage-weighted log-likelihood: supervised fine-tuning with A = 1, REINFORCE with any A.
#pragma once
#include "dual.h"
#include "objective.h"

namespace rank_grpo {

struct LikelihoodRule {
  static constexpr const char* name = "likelihood";
  static constexpr const char* source = "Rank-GRPO Eq. 2 (SFT); REINFORCE (Williams 1992)";
  static constexpr const char* formula = "-A logp";
  static constexpr ObjectiveParameter parameters[] = {{"scale", 1, 0, 1e9, "the plain negative log-likelihood"}};
  double scale;
  explicit LikelihoodRule(const double* p) : scale(p[0]) {}

  RANK_GRPO_HD Dual loss(Dual, Dual logp, double A) const { return -(scale * A * logp); }
  RANK_GRPO_HD int clipped(double, double) const { return 0; }
};

}  // namespace rank_grpo
