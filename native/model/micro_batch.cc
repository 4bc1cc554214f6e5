// See micro_batch.h.
#include "micro_batch.h"

#include <algorithm>
#include <cmath>

#include "../core/error.h"
#include "layout.h"

namespace rank_grpo {

std::vector<float> slice(const std::vector<float>& values, int64_t first, int64_t count) {
  if (values.empty()) return {};
  return {values.begin() + first, values.begin() + first + count};
}

void expect_size(const std::vector<float>& values, int64_t tokens, const char* name, bool optional) {
  if (optional && values.empty()) return;
  expect(static_cast<int64_t>(values.size()) == tokens, std::to_string(tokens) + " values (one for each completion token)", name,
         std::to_string(values.size()));
}

void expect_finite(const std::vector<float>& values, const char* name) {
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      fail("NOT_FINITE", "Expected finite values for " + std::string(name) + ", got " + std::to_string(values[i]) + " at token " +
                             std::to_string(i) + ".");
}

int64_t check_segments(const StepInputs& inputs, const Batch& batch) {
  const auto &offsets = inputs.segment_offsets, &tokens = inputs.segment_tokens;
  check_offsets(offsets, tokens.size(), "segmentOffsets", true);
  std::vector<char> covered(batch.completion_ids.size(), 0);
  for (int32_t t : tokens) {
    expect(t >= 0 && t < batch.tokens(), "token indices from 0 to " + std::to_string(batch.tokens() - 1), "segmentTokens",
           std::to_string(t));
    expect(!covered[static_cast<size_t>(t)], "each token in one segment at most", "segmentTokens", std::to_string(t) + " twice");
    covered[static_cast<size_t>(t)] = 1;
  }
  const auto& rows = batch.completion_offsets;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    if (offsets[s] == offsets[s + 1]) continue;
    const auto [low, high] = std::minmax_element(tokens.begin() + offsets[s], tokens.begin() + offsets[s + 1]);
    const auto end = std::upper_bound(rows.begin(), rows.end(), *low);  // of the row that holds the first token
    expect(*high < *end, "a segment within one completion", "segmentTokens", "segment " + std::to_string(s));
  }
  return static_cast<int64_t>(tokens.size());
}

SegmentSlice slice_segments(const StepInputs& inputs, int64_t first, int64_t count) {
  SegmentSlice slice;
  for (size_t s = 0; s + 1 < inputs.segment_offsets.size(); ++s) {
    const int32_t begin = inputs.segment_offsets[s], end = inputs.segment_offsets[s + 1];
    if (begin == end || inputs.segment_tokens[static_cast<size_t>(begin)] < first ||
        inputs.segment_tokens[static_cast<size_t>(begin)] >= first + count)
      continue;
    for (int32_t i = begin; i < end; ++i)
      slice.tokens.push_back(static_cast<int32_t>(inputs.segment_tokens[static_cast<size_t>(i)] - first));
    slice.offsets.push_back(static_cast<int32_t>(slice.tokens.size()));
    slice.numbers.push_back(static_cast<int32_t>(s));
  }
  return slice;
}

void merge(ObjectiveResult& total, const ObjectiveResult& part, int64_t first, const std::vector<int32_t>& numbers) {
  total.loss += part.loss;
  total.policy_loss += part.policy_loss;
  total.kl_sum += part.kl_sum;
  total.entropy_sum += part.entropy_sum;
  total.ratio_sum += part.ratio_sum;
  if (part.nonempty_segments) {
    const bool none = total.nonempty_segments == 0;
    total.ratio_min = none ? part.ratio_min : std::min(total.ratio_min, part.ratio_min);
    total.ratio_max = none ? part.ratio_max : std::max(total.ratio_max, part.ratio_max);
  }
  total.covered += part.covered;
  total.nonempty_segments += part.nonempty_segments;
  total.clipped_low += part.clipped_low;
  total.clipped_high += part.clipped_high;
  total.clipped_dual += part.clipped_dual;
  std::copy(part.dlogp.begin(), part.dlogp.end(), total.dlogp.begin() + first);
  std::copy(part.dentropy.begin(), part.dentropy.end(), total.dentropy.begin() + (total.dentropy.empty() ? 0 : first));
  std::copy(part.token_loss.begin(), part.token_loss.end(), total.token_loss.begin() + first);
  std::copy(part.token_kl.begin(), part.token_kl.end(), total.token_kl.begin() + first);
  for (size_t s = 0; s < numbers.size(); ++s) total.segment_log_ratio[static_cast<size_t>(numbers[s])] = part.segment_log_ratio[s];
}

}  // namespace rank_grpo
