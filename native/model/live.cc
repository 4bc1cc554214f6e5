// See live.h.
#include "live.h"

#include <algorithm>
#include <limits>

namespace rank_grpo {
namespace {

template <class T>
std::vector<T> pick(const std::vector<T>& values, const std::vector<int32_t>& places) {
  std::vector<T> out;
  if (values.empty()) return out;
  out.reserve(places.size());
  for (int32_t i : places) out.push_back(values[static_cast<size_t>(i)]);
  return out;
}

}  // namespace

bool leave_out_dead(const Batch& batch, const StepInputs& inputs, const ObjectiveSpec& objective, LiveStep& live) {
  if (objective.entropy_coef != 0 || !inputs.ref_logprobs.empty()) return false;
  const size_t tokens = batch.completion_ids.size(), segments = inputs.segment_offsets.empty() ? 0 : inputs.segment_offsets.size() - 1;
  std::vector<char> needed(tokens, 0);
  for (size_t s = 0; s < segments; ++s) {
    const auto begin = inputs.segment_tokens.begin() + inputs.segment_offsets[s],
               end = inputs.segment_tokens.begin() + inputs.segment_offsets[s + 1];
    const bool any = std::any_of(begin, end, [&](int32_t t) {
      return inputs.advantages[static_cast<size_t>(t)] != 0 && inputs.weights[static_cast<size_t>(t)] != 0;
    });
    if (any)
      for (auto t = begin; t != end; ++t) needed[static_cast<size_t>(*t)] = 1;
  }

  live = {};
  auto& part = live.batch;
  part.prompt_offsets = part.completion_offsets = part.group_offsets = {0};
  part.constraint.catalog = batch.constraint.catalog;
  part.constraint.rules = batch.constraint.rules;
  std::vector<int32_t> place(tokens, -1);  // here, of each token of the whole step
  for (size_t p = 0; p + 1 < batch.prompt_offsets.size(); ++p) {
    bool first = true;
    for (int32_t r = batch.group_offsets[p]; r < batch.group_offsets[p + 1]; ++r) {
      const int32_t begin = batch.completion_offsets[static_cast<size_t>(r)];
      int32_t end = batch.completion_offsets[static_cast<size_t>(r) + 1];
      while (end > begin && !needed[static_cast<size_t>(end) - 1]) --end;
      if (end == begin) continue;
      if (first) {
        part.prompt_ids.insert(part.prompt_ids.end(), batch.prompt_ids.begin() + batch.prompt_offsets[p],
                               batch.prompt_ids.begin() + batch.prompt_offsets[p + 1]);
        part.prompt_offsets.push_back(static_cast<int32_t>(part.prompt_ids.size()));
        part.group_offsets.push_back(part.group_offsets.back());
        if (batch.constraint.catalog) part.constraint.excluded.push_back(batch.constraint.excluded[p]);
        first = false;
      }
      ++part.group_offsets.back();
      for (int32_t t = begin; t < end; ++t) {
        place[static_cast<size_t>(t)] = static_cast<int32_t>(live.tokens.size());
        live.tokens.push_back(t);
        part.completion_ids.push_back(batch.completion_ids[static_cast<size_t>(t)]);
      }
      part.completion_offsets.push_back(static_cast<int32_t>(part.completion_ids.size()));
    }
  }
  if (live.tokens.size() == tokens) return false;

  live.inputs.advantages = pick(inputs.advantages, live.tokens);
  live.inputs.weights = pick(inputs.weights, live.tokens);
  live.inputs.old_logprobs = pick(inputs.old_logprobs, live.tokens);
  live.inputs.segment_offsets = {0};
  for (size_t s = 0; s < segments; ++s) {
    const auto begin = inputs.segment_tokens.begin() + inputs.segment_offsets[s],
               end = inputs.segment_tokens.begin() + inputs.segment_offsets[s + 1];
    if (begin == end || std::any_of(begin, end, [&](int32_t t) { return place[static_cast<size_t>(t)] < 0; })) continue;
    for (auto t = begin; t != end; ++t) live.inputs.segment_tokens.push_back(place[static_cast<size_t>(*t)]);
    live.inputs.segment_offsets.push_back(static_cast<int32_t>(live.inputs.segment_tokens.size()));
    live.segments.push_back(static_cast<int32_t>(s));
  }
  return true;
}

StepResult spread_out(const StepResult& part, const LiveStep& live, const Batch& batch, const StepInputs& inputs) {
  StepResult whole = part;
  auto& o = whole.objective;
  const size_t tokens = batch.completion_ids.size();
  whole.logprobs.assign(tokens, std::numeric_limits<float>::quiet_NaN());
  o.dlogp.assign(tokens, 0.f);
  o.token_loss.assign(tokens, 0.f);
  o.token_kl.assign(tokens, 0.f);
  o.segment_log_ratio.assign(inputs.segment_offsets.empty() ? 0 : inputs.segment_offsets.size() - 1, 0.f);
  for (size_t i = 0; i < live.tokens.size(); ++i) {
    const size_t t = static_cast<size_t>(live.tokens[i]);
    whole.logprobs[t] = part.logprobs[i];
    o.dlogp[t] = part.objective.dlogp[i];
    o.token_loss[t] = part.objective.token_loss[i];
  }
  for (size_t s = 0; s < live.segments.size(); ++s)
    o.segment_log_ratio[static_cast<size_t>(live.segments[s])] = part.objective.segment_log_ratio[s];
  std::vector<char> covered(tokens, 0);
  for (int32_t t : inputs.segment_tokens) covered[static_cast<size_t>(t)] = 1;
  o.covered = std::count(covered.begin(), covered.end(), 1);
  return whole;
}

}  // namespace rank_grpo
