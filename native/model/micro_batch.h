// A batch's arrays of one value a token: checked, cut into micro-batches, and what comes of those put together again.
#pragma once
#include <vector>

#include "policy.h"

namespace rank_grpo {

// INVALID_ARGUMENT names the array unless it has one value for each completion token; an optional one may be empty.
void expect_size(const std::vector<float>& values, int64_t tokens, const char* name, bool optional);
// NOT_FINITE names the array and the token.
void expect_finite(const std::vector<float>& values, const char* name);
// Offsets in order, tokens inside the batch and of one completion, none twice. Returns how many tokens are covered.
int64_t check_segments(const StepInputs& inputs, const Batch& batch);

// values [first .. first + count); empty of empty ones.
std::vector<float> slice(const std::vector<float>& values, int64_t first, int64_t count);

// The segments of one micro-batch, renumbered to its tokens.
struct SegmentSlice {
  std::vector<int32_t> offsets{0}, tokens, numbers;
};

SegmentSlice slice_segments(const StepInputs& inputs, int64_t first, int64_t count);

// Adds a micro-batch's result to that of the whole: its tokens from `first` on, its segments by their numbers there.
void merge(ObjectiveResult& total, const ObjectiveResult& part, int64_t first, const std::vector<int32_t>& numbers);

}  // namespace rank_grpo
