// Ratios over ragged segments and the policy loss on the GPU: the rules, the dual numbers and the terms of a token are the CPU's own
// source (native/objectives).
#pragma once
#include "../core/backend.h"
#include "../objectives/objective.h"

namespace rank_grpo {

// As ObjectiveInputs, but every pointer lies on the device.
struct DeviceObjective {
  float *dlogp, *dentropy;       // [T]; dentropy null without an entropy bonus
  float* segment_log_ratio;      // [S]
  float *token_loss, *token_kl;  // [T]
};

// Writes the arrays of `out` and gives the sums; its own vectors stay empty. `covered`: tokens in segments (offsets' last).
// `backend` is one that make_cuda_backend made. Each token lies in one segment at most: the caller has checked.
ObjectiveResult cuda_objective(Backend& backend, const ObjectiveSpec& spec, const ObjectiveInputs& device_inputs, int64_t covered,
                               const DeviceObjective& out);

}  // namespace rank_grpo
