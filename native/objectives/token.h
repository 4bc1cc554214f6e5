// What one token contributes to the loss, given its segment's pooled log-ratio: the part of the driver that the host (objective.cc)
// and the GPU (cuda/objective.cu) share. float64 throughout.
#pragma once
#include <cstdint>

#include "rule.h"

namespace rank_grpo {

enum class Kl { k1, k2, k3 };
enum class Pool { mean, sum };        // geometric mean of the tokens' ratios, or their product (the segment's own likelihood ratio)
enum class Spread { pooled, token };  // gradient through the segment's mean, or to the token's own log-prob alone

// What of an objective is the same for every token.
struct TokenSettings {
  Spread spread;
  Kl kl;
  double kl_beta;
};

struct TokenInputs {
  double logp, old, ref, advantage, weight;
  bool has_ref;  // the KL is measured with beta 0 too, where it is no part of the loss
};

struct TokenTerms {
  double loss, policy, kl;  // loss = policy + beta kl
  double direct;            // weight x the loss's slope by the token's own log-prob, less what goes through the segment
  double slope;             // weight x the loss's slope by the segment's s
  double own;               // slope of the token's term in s by its log-prob; 0 where the token itself is held
  int clipped;              // see Rule::clipped
};

// The token's term in its segment's s, with its slope by the token's log-prob.
template <class R>
RANK_GRPO_HD Dual segment_term(const R& rule, const TokenInputs& t) {
  return rule.term(Dual(t.logp - t.old, 1), t.advantage);
}

template <class R>
RANK_GRPO_HD TokenTerms token_terms(const R& rule, const TokenSettings& settings, double s, const TokenInputs& t) {
  const Dual policy = t.advantage == 0 ? Dual() : rule.loss(Dual(s, 1, 0), Dual(t.logp, 0, 1), t.advantage), term = segment_term(rule, t);
  TokenTerms out{policy.value, policy.value, 0, t.weight * policy.dl, 0, term.ds, 0};
  if (settings.spread == Spread::token) {
    out.direct += t.weight * chain(out.own, policy.ds);
  } else {
    out.slope = t.weight * policy.ds;
  }
  if (t.has_ref) {
    const double r = t.ref - t.logp;
    double slope;
    switch (settings.kl) {
      case Kl::k1:
        out.kl = -r;
        slope = 1;
        break;
      case Kl::k2:
        out.kl = r * r / 2;
        slope = -r;
        break;
      default: out.kl = std::exp(r) - r - 1; slope = 1 - std::exp(r);
    }
    if (settings.kl_beta != 0) {
      out.loss += settings.kl_beta * out.kl;
      out.direct += t.weight * settings.kl_beta * slope;
    }
  }
  out.clipped = rule.clipped(out.own == 0 ? term.value : s, t.advantage, Dual(policy.value, chain(out.own, policy.ds), policy.dl));
  return out;
}

}  // namespace rank_grpo
