// What an objective is: a scalar rule on (pooled log-ratio s, advantage A), one header each (rule.h), compiled for every device.
// The driver (objective.cc) does the rest: pool s over a segment, rule, spread the slope. docs/objectives.md has the mathematics.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "token.h"

namespace rank_grpo {

// One objective as a caller asks for it.
struct ObjectiveSpec {
  std::string rule;            // a name of list.h
  std::vector<double> params;  // in the order of the rule's parameter table
  Pool pool = Pool::mean;
  Spread spread = Spread::pooled;
  Kl kl = Kl::k3;
  double kl_beta = 0;       // 0: no KL term
  double entropy_coef = 0;  // loss -= entropy_coef * mean entropy over covered tokens
  TokenSettings settings() const { return {spread, kl, kl_beta}; }
};

// Per-token data of T tokens lying flat, and the segments they are pooled over (CSR; a token in no segment is masked out).
// Pointers are on the host; null old_logprobs: on-policy (the ratio is exactly 1); null ref_logprobs: no KL.
struct ObjectiveInputs {
  int64_t tokens = 0, segments = 0;
  const float *logprobs = nullptr, *old_logprobs = nullptr, *ref_logprobs = nullptr, *entropies = nullptr;
  const float *advantages = nullptr, *weights = nullptr;
  const int32_t *segment_offsets = nullptr, *segment_tokens = nullptr;
  int64_t covered_tokens = 0;  // of the whole step, where this is a micro-batch of it; 0: count them here
};

struct ObjectiveResult {
  double loss = 0;
  double policy_loss = 0, kl_sum = 0, entropy_sum = 0;          // sums over covered tokens of weight * policy, KL, entropy
  double ratio_min = 1, ratio_max = 1, ratio_sum = 0;           // over non-empty segments
  int64_t covered = 0, nonempty_segments = 0;                   // what the sums run over
  int64_t clipped_low = 0, clipped_high = 0, clipped_dual = 0;  // covered tokens
  std::vector<float> dlogp, dentropy;                           // [T]; dentropy empty without an entropy bonus
  std::vector<float> segment_log_ratio;                         // [S], 0 for an empty segment
  std::vector<float> token_loss, token_kl;                      // [T]
};

ObjectiveResult evaluate_objective(const ObjectiveSpec& spec, const ObjectiveInputs& inputs);

// The values of spec.params, checked against the rule's table; INVALID_ARGUMENT names the parameter.
std::vector<double> checked_parameters(const ObjectiveSpec& spec, const ObjectiveParameter* table, size_t count);

// Mean log-ratio of the tokens [begin, end) of one segment in float64; 0 for an empty one, or without old log-probs.
double pool_segment(const float* logprobs, const float* old_logprobs, const int32_t* begin, const int32_t* end);

// pool_segment of every segment of a CSR.
std::vector<double> mean_log_ratios(const float* logprobs, const float* old_logprobs, const std::vector<int32_t>& offsets,
                                    const std::vector<int32_t>& tokens);

// The rules that exist, for the bindings and `rank-grpo objectives`.
struct ObjectiveInfo {
  const char *name, *source, *formula;
  std::vector<ObjectiveParameter> parameters;
};
const std::vector<ObjectiveInfo>& objective_list();

}  // namespace rank_grpo
