// The driver of every objective on the host: pool, rule, spread, reduce; float64 inside. The per-token shortcut (each token's
// slope to itself alone) is not the gradient of a pooled ratio: slopes are summed over the segment first.
#include "objective.h"

#include <algorithm>
#include <cmath>

#include "../core/error.h"
#include "list.h"

namespace rank_grpo {
namespace {

struct KlTerm {
  double value, slope;  // slope by logp
};

KlTerm kl_term(Kl kind, double ref, double logp) {
  const double r = ref - logp;
  switch (kind) {
    case Kl::k1: return {-r, 1};
    case Kl::k2: return {r * r / 2, -r};
    default: return {std::exp(r) - r - 1, 1 - std::exp(r)};
  }
}

template <class Rule>
ObjectiveResult evaluate(const Rule& rule, const ObjectiveSpec& spec, const ObjectiveInputs& in) {
  ObjectiveResult out;
  const size_t T = static_cast<size_t>(in.tokens);
  out.dlogp.assign(T, 0.f);
  out.token_loss.assign(T, 0.f);
  out.token_kl.assign(T, 0.f);
  out.segment_log_ratio.assign(static_cast<size_t>(in.segments), 0.f);
  const bool kl = in.ref_logprobs;  // measured with beta 0 too, where it is no part of the loss
  std::vector<char> covered(T, 0);
  std::vector<double> gradient(T, 0.0);
  for (int64_t g = 0; g < in.segments; ++g) {
    const int32_t *begin = in.segment_tokens + in.segment_offsets[g], *end = in.segment_tokens + in.segment_offsets[g + 1];
    if (begin == end) continue;
    const double n = spec.pool == Pool::mean ? static_cast<double>(end - begin) : 1;
    auto term = [&](size_t i) {
      const double d = in.old_logprobs ? static_cast<double>(in.logprobs[i]) - static_cast<double>(in.old_logprobs[i]) : 0;
      return rule.term(Dual(d, 1), static_cast<double>(in.advantages[i]));
    };
    double s = 0;
    for (const int32_t* t = begin; t != end; ++t) s += term(static_cast<size_t>(*t)).value;
    s /= n;
    const double ratio = std::exp(s);
    out.segment_log_ratio[static_cast<size_t>(g)] = static_cast<float>(s);
    out.ratio_min = out.nonempty_segments ? std::min(out.ratio_min, ratio) : ratio;
    out.ratio_max = out.nonempty_segments ? std::max(out.ratio_max, ratio) : ratio;
    out.ratio_sum += ratio;
    ++out.nonempty_segments;
    double slope = 0;  // of the segment's loss by s
    for (const int32_t* t = begin; t != end; ++t) {
      const size_t i = static_cast<size_t>(*t);
      const double A = static_cast<double>(in.advantages[i]), w = static_cast<double>(in.weights[i]),
                   logp = static_cast<double>(in.logprobs[i]);
      expect(!covered[i], "each token in one segment at most", "segmentTokens", std::to_string(*t) + " twice");
      covered[i] = 1;
      const Dual policy = A == 0 ? Dual() : rule.loss(Dual(s, 1, 0), Dual(logp, 0, 1), A);
      const double own = term(i).ds;  // 0 where the token itself is held
      double loss = policy.value;
      gradient[i] += w * policy.dl;
      if (spec.spread == Spread::token) {
        gradient[i] += w * chain(own, policy.ds);
      } else {
        slope += w * policy.ds;
      }
      out.policy_loss += w * policy.value;
      if (kl) {
        const KlTerm term = kl_term(spec.kl, static_cast<double>(in.ref_logprobs[i]), logp);
        if (spec.kl_beta != 0) {
          loss += spec.kl_beta * term.value;
          gradient[i] += w * spec.kl_beta * term.slope;
        }
        out.token_kl[i] = static_cast<float>(term.value);
        out.kl_sum += term.value;
      }
      out.token_loss[i] = static_cast<float>(loss);
      out.loss += w * loss;
      const int clipped = rule.clipped(own == 0 ? term(i).value : s, A, Dual(policy.value, chain(own, policy.ds), policy.dl));
      out.clipped_low += clipped & 1;
      out.clipped_high += clipped >> 1 & 1;
      out.clipped_dual += clipped >> 2 & 1;
    }
    for (const int32_t* t = begin; t != end; ++t) gradient[static_cast<size_t>(*t)] += chain(term(static_cast<size_t>(*t)).ds, slope / n);
  }
  out.covered = std::count(covered.begin(), covered.end(), 1);
  for (size_t i = 0; i < T; ++i) out.dlogp[i] = static_cast<float>(gradient[i]);
  if (spec.entropy_coef != 0) {
    expect(in.entropies != nullptr, "entropies", "an objective with an entropy bonus", "none");
    out.dentropy.assign(T, 0.f);
    const double count = static_cast<double>(std::max<int64_t>(1, in.covered_tokens ? in.covered_tokens : out.covered));
    for (size_t i = 0; i < T; ++i) {
      if (!covered[i]) continue;
      out.entropy_sum += static_cast<double>(in.entropies[i]);
      out.dentropy[i] = static_cast<float>(-spec.entropy_coef / count);
    }
    out.loss -= spec.entropy_coef * out.entropy_sum / count;
  }
  return out;
}

}  // namespace

double pool_segment(const float* logprobs, const float* old_logprobs, const int32_t* begin, const int32_t* end) {
  if (begin == end || !old_logprobs) return 0;
  double sum = 0;
  for (const int32_t* t = begin; t != end; ++t) sum += static_cast<double>(logprobs[*t]) - static_cast<double>(old_logprobs[*t]);
  return sum / static_cast<double>(end - begin);
}

ObjectiveResult evaluate_objective(const ObjectiveSpec& spec, const ObjectiveInputs& inputs) {
  ObjectiveResult result;
  bool found = false;
  AllRules::each([&](auto* pointer) {
    using Rule = std::remove_pointer_t<decltype(pointer)>;
    if (found || spec.rule != Rule::name) return;
    found = true;
    constexpr size_t count = std::size(Rule::parameters);
    double values[count];
    expect(spec.params.size() == count, std::to_string(count) + " parameters", "objective " + spec.rule,
           std::to_string(spec.params.size()));
    for (size_t i = 0; i < count; ++i) {
      const auto& p = Rule::parameters[i];
      values[i] = spec.params[i];
      expect(values[i] >= p.min && values[i] <= p.max, "a number from " + std::to_string(p.min) + " to " + std::to_string(p.max), p.name,
             std::to_string(values[i]));
    }
    result = evaluate(make_rule<Rule>(values), spec, inputs);
  });
  expect(found, "a rule of objective_list()", "objective", spec.rule);
  return result;
}

}  // namespace rank_grpo
