// See store.h.
#include "store.h"

#include <cmath>
#include <vector>

#include "../core/error.h"
#include "json.h"
#include "safetensors.h"

namespace rank_grpo {
namespace {

struct Moments {
  std::vector<float> m, v;
  void read(const Safetensors& file, const Parameter& p) {
    m.resize(static_cast<size_t>(p.size()));
    v.resize(m.size());
    file.read("m." + p.name, m.data());
    file.read("v." + p.name, v.data());
  }
};

int64_t steps_of(const Safetensors& file, const std::string& path) {
  const Json metadata = Json::parse(file.metadata_json(), path);
  const Json* steps = metadata.find("steps");
  const std::string text = steps ? steps->string() : "";
  if (text.empty() || text.size() > 15 || text.find_first_not_of("0123456789") != std::string::npos)
    fail("BAD_CHECKPOINT", path + ": Expected a number of steps in the metadata, got " + (steps ? steps->describe() : "none") + ".");
  return std::stoll(text);
}

}  // namespace

std::unique_ptr<Policy> open_policy(std::shared_ptr<Backend> backend, const std::string& path, const PolicyOptions& options,
                                    std::string& metadata) {
  const auto checkpoint = Checkpoint::open(path);
  metadata = checkpoint->metadata_json();
  auto policy = std::make_unique<Policy>(std::move(backend), checkpoint->config(), options);
  std::vector<float> values;
  const auto& parameters = policy->table().parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    values.resize(static_cast<size_t>(parameters[i].size()));
    checkpoint->read(parameters[i], values.data());
    policy->set_parameter(i, values.data());
  }
  policy->parameters_changed();
  return policy;
}

void save_weights(const Policy& policy, const std::string& path, StorageType type) {
  std::vector<TensorOut> tensors;
  const auto& parameters = policy.table().parameters;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const auto& p = parameters[i];
    tensors.push_back({p.name, p.vector ? std::vector<int64_t>{p.rows} : std::vector<int64_t>{p.rows, p.columns},
                       [&policy, i](float* out) { policy.get_parameter(i, out); }});
  }
  write_safetensors(path, tensors, type, "{\"format\": \"pt\"}");
}

void save_optimizer(const Policy& policy, const std::string& path) {
  expect(policy.options().trainable, "a trainable policy", "policy", "one loaded with trainable: false");
  std::vector<TensorOut> tensors;
  const auto& parameters = policy.table().parameters;
  std::vector<float> other;
  for (const char* moment : {"m.", "v."})
    for (size_t i = 0; i < parameters.size(); ++i) {
      const bool first = moment[0] == 'm';
      tensors.push_back({moment + parameters[i].name, {parameters[i].size()}, [&policy, &other, i, first](float* out) {
                           other.resize(static_cast<size_t>(policy.table().parameters[i].size()));
                           policy.get_moments(i, first ? out : other.data(), first ? other.data() : out);
                         }});
    }
  write_safetensors(path, tensors, StorageType::f32, "{\"steps\": \"" + std::to_string(policy.optimizer_steps()) + "\"}");
}

void load_optimizer(Policy& policy, const std::string& path) {
  expect(policy.options().trainable, "a trainable policy", "policy", "one loaded with trainable: false");
  const Safetensors file(path);
  const int64_t steps = steps_of(file, path);
  const auto& parameters = policy.table().parameters;
  Moments moments;
  for (const auto& p : parameters) {
    for (const char* moment : {"m.", "v."})
      if (file.tensor(moment + p.name).shape != std::vector<int64_t>{p.size()})
        fail("BAD_CHECKPOINT", path + ": Expected " + std::to_string(p.size()) + " values for " + moment + p.name + ", got another shape.");
    moments.read(file, p);
    for (size_t i = 0; i < moments.m.size(); ++i)
      if (!std::isfinite(moments.m[i]) || !(moments.v[i] >= 0) || !std::isfinite(moments.v[i]))
        fail("NOT_FINITE", path + ": Expected finite moments (the second at least 0) for " + p.name + ", got " +
                               std::to_string(moments.m[i]) + " and " + std::to_string(moments.v[i]) + " at " + std::to_string(i) + ".");
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    moments.read(file, parameters[i]);
    policy.set_moments(i, moments.m.data(), moments.v.data());
  }
  policy.set_optimizer_steps(steps);
}

}  // namespace rank_grpo
