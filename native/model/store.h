// A policy's files: opening a checkpoint as a policy, its weights and its optimizer state in and out.
#pragma once
#include <memory>
#include <string>

#include "checkpoint.h"
#include "policy.h"

namespace rank_grpo {

// `metadata`: what Checkpoint::metadata_json says of it.
std::unique_ptr<Policy> open_policy(std::shared_ptr<Backend> backend, const std::string& path, const PolicyOptions& options,
                                    std::string& metadata);

void save_weights(const Policy& policy, const std::string& path, StorageType type);

// Both moments of every parameter and the number of steps. Loading checks the whole file before it changes anything.
void save_optimizer(const Policy& policy, const std::string& path);
void load_optimizer(Policy& policy, const std::string& path);

}  // namespace rank_grpo
