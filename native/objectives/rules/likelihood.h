// Advantage-weighted log-likelihood: supervised fine-tuning with A = 1, REINFORCE with any A.
#pragma once
#include "objectives/rule.h"

namespace rank_grpo {

struct LikelihoodRule : Rule {
  static constexpr const char *name = "likelihood", *source = "Rank-GRPO (arXiv 2510.20150) Eq. 2 (SFT); REINFORCE (Williams 1992)",
                              *formula = "-scale A logp";
  static constexpr ObjectiveParameter parameters[] = {{"scale", 1, 0, 1e9, "the plain negative log-likelihood"}};
  double scale;

  RANK_GRPO_HD Dual loss(Dual, Dual logp, double A) const { return -(scale * A * logp); }
};

}  // namespace rank_grpo
