// The driver of every objective on the host: pool, rule, spread, reduce; float64 inside. The per-token shortcut (each token's
// slope to itself alone) is not the gradient of a pooled ratio: slopes are summed over the segment first.
#include "objective.h"

#include <algorithm>
#include <cmath>

#include "../core/backend.h"
#include "../core/error.h"
#include "list.h"

namespace rank_grpo {
namespace {

template <class Rule>
ObjectiveResult evaluate(const Rule& rule, const ObjectiveSpec& spec, const ObjectiveInputs& in) {
  ObjectiveResult out;
  const size_t T = static_cast<size_t>(in.tokens);
  out.dlogp.assign(T, 0.f);
  out.token_loss.assign(T, 0.f);
  out.token_kl.assign(T, 0.f);
  out.segment_log_ratio.assign(static_cast<size_t>(in.segments), 0.f);
  std::vector<char> covered(T, 0);
  std::vector<double> gradient(T, 0.0);
  const TokenSettings settings = spec.settings();
  for (int64_t g = 0; g < in.segments; ++g) {
    const int32_t *begin = in.segment_tokens + in.segment_offsets[g], *end = in.segment_tokens + in.segment_offsets[g + 1];
    if (begin == end) continue;
    const double n = spec.pool == Pool::mean ? static_cast<double>(end - begin) : 1;
    auto inputs = [&](size_t i) {
      const double logp = static_cast<double>(in.logprobs[i]);
      return TokenInputs{logp,
                         in.old_logprobs ? static_cast<double>(in.old_logprobs[i]) : logp,
                         in.ref_logprobs ? static_cast<double>(in.ref_logprobs[i]) : 0,
                         static_cast<double>(in.advantages[i]),
                         static_cast<double>(in.weights[i]),
                         in.ref_logprobs != nullptr};
    };
    double s = 0;
    for (const int32_t* t = begin; t != end; ++t) s += segment_term(rule, inputs(static_cast<size_t>(*t))).value;
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
      expect(!covered[i], "each token in one segment at most", "segmentTokens", std::to_string(*t) + " twice");
      covered[i] = 1;
      const TokenTerms terms = token_terms(rule, settings, s, inputs(i));
      const double w = static_cast<double>(in.weights[i]);
      gradient[i] = terms.direct;
      slope += terms.slope;
      out.policy_loss += w * terms.policy;
      out.kl_sum += terms.kl;
      out.loss += w * terms.loss;
      out.token_kl[i] = static_cast<float>(terms.kl);
      out.token_loss[i] = static_cast<float>(terms.loss);
      out.clipped_low += terms.clipped & 1;
      out.clipped_high += terms.clipped >> 1 & 1;
      out.clipped_dual += terms.clipped >> 2 & 1;
    }
    for (const int32_t* t = begin; t != end; ++t)
      gradient[static_cast<size_t>(*t)] += chain(segment_term(rule, inputs(static_cast<size_t>(*t))).ds, slope / n);
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

std::vector<double> mean_log_ratios(const float* logprobs, const float* old_logprobs, const std::vector<int32_t>& offsets,
                                    const std::vector<int32_t>& tokens) {
  std::vector<double> means;
  for (size_t s = 0; s + 1 < offsets.size(); ++s)
    means.push_back(pool_segment(logprobs, old_logprobs, tokens.data() + offsets[s], tokens.data() + offsets[s + 1]));
  return means;
}

ObjectiveResult Backend::objective(const ObjectiveSpec& spec, const ObjectiveInputs& inputs) { return evaluate_objective(spec, inputs); }
std::vector<double> Backend::mean_log_ratios(const float* logprobs, const float* old_logprobs, const std::vector<int32_t>& offsets,
                                             const std::vector<int32_t>& tokens) {
  return rank_grpo::mean_log_ratios(logprobs, old_logprobs, offsets, tokens);
}

std::vector<double> checked_parameters(const ObjectiveSpec& spec, const ObjectiveParameter* table, size_t count) {
  expect(spec.params.size() == count, std::to_string(count) + " parameters", "objective " + spec.rule, std::to_string(spec.params.size()));
  for (size_t i = 0; i < count; ++i)
    expect(spec.params[i] >= table[i].min && spec.params[i] <= table[i].max,
           "a number from " + std::to_string(table[i].min) + " to " + std::to_string(table[i].max), table[i].name,
           std::to_string(spec.params[i]));
  return spec.params;
}

ObjectiveResult evaluate_objective(const ObjectiveSpec& spec, const ObjectiveInputs& inputs) {
  ObjectiveResult result;
  bool found = false;
  AllRules::each([&](auto* pointer) {
    using Rule = std::remove_pointer_t<decltype(pointer)>;
    if (found || spec.rule != Rule::name) return;
    found = true;
    const auto values = checked_parameters(spec, std::data(Rule::parameters), std::size(Rule::parameters));
    result = evaluate(make_rule<Rule>(values.data()), spec, inputs);
  });
  expect(found, "a rule of objective_list()", "objective", spec.rule);
  return result;
}

}  // namespace rank_grpo
