// A batch as the transformer reads it: tokens of [prompt][completion 1 .. G] groups lying flat, positions, attention plan,
// and for every predicted token the row whose hidden state predicts it.
#pragma once
#include <cstdint>
#include <vector>

#include "../core/backend.h"
#include "policy.h"

namespace rank_grpo {

struct Layout {
  std::vector<int32_t> ids, positions;  // [T]
  AttentionPlan plan;
  AttentionGroups groups;
  int64_t pages = 0;                        // of one layer's cache
  std::vector<int32_t> head_rows, targets;  // [R]: row of the hidden state, token it predicts
  int64_t first_token = 0;                  // predicted tokens are first_token .. first_token + R of the batch's completions
  AllowedTokens allowed;                    // of these tokens; empty offsets: all
  int64_t T() const { return static_cast<int64_t>(ids.size()); }
  int64_t R() const { return static_cast<int64_t>(head_rows.size()); }
};

// Rows of one pass: completions first_row .. last_row of the batch (they may belong to several groups).
struct MicroBatch {
  int64_t first_row, last_row;
};

// Consecutive rows whose prompts and completions fit into the budget; a single row that does not fit goes alone.
std::vector<MicroBatch> split_batch(const Batch& batch, int64_t budget);
Layout make_layout(const Batch& batch, MicroBatch rows);
// INVALID_ARGUMENT where offsets do not ascend from 0 to `end`, or a row is empty that may not be.
void check_offsets(const std::vector<int32_t>& offsets, size_t end, const char* name, bool allow_empty);
// INVALID_ARGUMENT where offsets do not fit together, a prompt or completion is empty, or an id is out of range.
void validate_batch(const Batch& batch, const ModelConfig& config);

}  // namespace rank_grpo
