// The part of a step that can carry a gradient. Without reference log-probs (whose KL is measured, whatever its weight) and an entropy
// bonus a segment whose advantages are all zero has none, so a completion matters up to the end of its last live segment, and a completion
// without one not at all.
#pragma once
#include <cstdint>
#include <vector>

#include "policy.h"

namespace rank_grpo {

struct LiveStep {
  Batch batch;
  StepInputs inputs;
  std::vector<int32_t> tokens;    // of the whole step, for each completion token here
  std::vector<int32_t> segments;  // of the whole step, for each segment here
};

// True where some token can be left out: then `live` is the step without it.
bool leave_out_dead(const Batch& batch, const StepInputs& inputs, const ObjectiveSpec& objective, LiveStep& live);

// Puts what was computed for `live` in its place; a token left out has log-prob NaN and slope 0.
StepResult spread_out(const StepResult& part, const LiveStep& live, const Batch& batch, const StepInputs& inputs);

}  // namespace rank_grpo
