// Every rule's gradient, taken by dual numbers, against central differences; and the driver's pooled gradient against those of the whole loss.
#include "../../native/objectives/objective.h"

#include <functional>

#include "../../native/core/error.h"
#include "../../native/objectives/list.h"
#include "backends.h"
#include "reference.h"

using rank_grpo::Dual;
using reference::Values;

namespace {

// Where a rule has a corner in s (a central difference across it means nothing), and whether it holds the ratio by stop_gradient, so that
// its gradient by s is on purpose not the derivative of its value: then `slope` says what it must be.
struct Shape {
  std::vector<double> corners;
  std::function<double(double s, double A)> slope;
};
Shape shape_of(const std::string& name, const std::vector<double>& p) {
  auto below = [](double clip) { return std::log(std::max(1e-9, 1 - clip)); };
  auto none = [](double, double) { return 0.0; };
  if (name == "clip") return {{below(p[0]), std::log1p(p[1]), std::log(p[2])}, {}};
  if (name == "rollback") return {{below(p[0]), std::log1p(p[1])}, {}};
  if (name == "cispo" || name == "cispo-mask") return {{below(p[0]), std::log1p(p[1])}, none};
  if (name == "topr") return {{std::log(p[0])}, none};
  if (name == "gppo")  // beyond the range the value stands still and the slope is the edge's
    return {{below(p[0]), std::log1p(p[1])}, [p, below](double s, double A) {
              if (A < 0 && s < below(p[0])) return -A * p[2] * (1 - p[0]);
              if (A > 0 && s > std::log1p(p[1])) return -A * p[3] * (1 + p[1]);
              return -A * std::exp(s);
            }};
  return {};
}

// The parameters a rule is tried with: its defaults, and for the oldest a tighter set with the dual clip.
std::vector<std::vector<double>> settings(const std::string& name, std::vector<double> defaults) {
  std::vector<std::vector<double>> list{defaults};
  if (name == "clip") list.push_back({0.2, 0.3, 2});
  if (name == "cispo") list.push_back({0.3, 0.5});
  return list;
}

template <class Rule>
void gradient_of(const Rule& rule, const std::string& name, const Shape& shape) {
  std::vector<double> points{-3, -0.7, -0.2001, -0.01, 0.001, 0.01, 0.05, 0.3, 1.1, 2.5};
  for (double corner : shape.corners)
    for (double side : {-1e-3, 1e-3})
      if (std::isfinite(corner)) points.push_back(corner + side);
  const double h = 1e-6;
  for (double s : points)
    for (double A : {-2.0, -0.3, 0.5, 3.0})
      for (double logp : {-7.0, -0.4}) {
        const Dual got = rule.loss(Dual(s, 1, 0), Dual(logp, 0, 1), A);
        auto value = [&](double a, double b) { return rule.loss(Dual(a), Dual(b), A).value; };
        const double by_s = shape.slope ? shape.slope(s, A) : (value(s + h, logp) - value(s - h, logp)) / (2 * h),
                     by_l = (value(s, logp + h) - value(s, logp - h)) / (2 * h),
                     scale = 1 + std::abs(got.value) + std::exp(2 * s) * std::abs(A);
        const std::string where = name + " at s " + std::to_string(s) + " A " + std::to_string(A);
        check::that(std::abs(got.ds - by_s) <= 1e-8 * scale,
                    where + ": ds " + std::to_string(got.ds) + ", expected " + std::to_string(by_s), __FILE__, __LINE__);
        check::that(std::abs(got.dl - by_l) <= 1e-8 * scale,
                    where + ": dl " + std::to_string(got.dl) + ", expected " + std::to_string(by_l), __FILE__, __LINE__);
      }
}

}  // namespace

TEST(objective_rules_against_central_differences) {
  int rules = 0;
  rank_grpo::AllRules::each([&](auto* pointer) {
    using Rule = std::remove_pointer_t<decltype(pointer)>;
    std::vector<double> defaults;
    for (const auto& p : Rule::parameters) defaults.push_back(p.value);
    for (const auto& p : settings(Rule::name, defaults))
      gradient_of(rank_grpo::make_rule<Rule>(p.data()), Rule::name, shape_of(Rule::name, p));
    ++rules;
  });
  CHECK(rules == static_cast<int>(rank_grpo::objective_list().size()));
}

namespace {

// Ragged segments, one of them empty; tokens 5 and 9 in none.
struct Step {
  std::vector<float> logprobs, old_logprobs, ref_logprobs, entropies, advantages, weights;
  std::vector<int32_t> offsets{0, 3, 3, 4, 9}, tokens{0, 1, 2, 4, 3, 6, 7, 8, 10};
  size_t T() const { return logprobs.size(); }
  Step() {
    const size_t n = 11;
    logprobs = check::normal(n, 1, 0.5);
    old_logprobs = logprobs;
    ref_logprobs = logprobs;
    const auto noise = check::normal(2 * n, 2, 0.1);
    for (size_t i = 0; i < n; ++i) {
      logprobs[i] -= 3;
      old_logprobs[i] = logprobs[i] + noise[i];
      ref_logprobs[i] = logprobs[i] + 3 * noise[n + i];
    }
    entropies = check::normal(n, 3, 0.1);
    advantages = check::normal(n, 4);
    weights = check::normal(n, 5, 0.2);
    for (float& w : weights) w = std::abs(w) + 0.01f;
    advantages[1] = 0;
  }
  rank_grpo::ObjectiveInputs inputs() const {
    rank_grpo::ObjectiveInputs in;
    in.tokens = static_cast<int64_t>(T());
    in.segments = static_cast<int64_t>(offsets.size()) - 1;
    in.logprobs = logprobs.data();
    in.old_logprobs = old_logprobs.data();
    in.ref_logprobs = ref_logprobs.data();
    in.entropies = entropies.data();
    in.advantages = advantages.data();
    in.weights = weights.data();
    in.segment_offsets = offsets.data();
    in.segment_tokens = tokens.data();
    return in;
  }
};

double kl_of(rank_grpo::Kl kind, double r) {
  return kind == rank_grpo::Kl::k1 ? -r : kind == rank_grpo::Kl::k2 ? r * r / 2 : std::exp(r) - r - 1;
}

// The whole loss, written again: sum over covered tokens of w (rule(pooled log-ratio, A) + beta KL).
template <class Rule>
double loss_of(const Rule& rule, const Step& step, const Values& logp, const rank_grpo::ObjectiveSpec& spec) {
  double loss = 0;
  for (size_t g = 0; g + 1 < step.offsets.size(); ++g) {
    const int32_t begin = step.offsets[g], end = step.offsets[g + 1];
    double s = 0;
    for (int32_t i = begin; i < end; ++i) {
      const size_t t = static_cast<size_t>(step.tokens[static_cast<size_t>(i)]);
      s += rule.term(Dual(logp[t] - static_cast<double>(step.old_logprobs[t])), static_cast<double>(step.advantages[t])).value /
           (spec.pool == rank_grpo::Pool::mean ? end - begin : 1);
    }
    for (int32_t i = begin; i < end; ++i) {
      const size_t t = static_cast<size_t>(step.tokens[static_cast<size_t>(i)]);
      const double A = static_cast<double>(step.advantages[t]);
      loss += static_cast<double>(step.weights[t]) * ((A == 0 ? 0 : rule.loss(Dual(s), Dual(logp[t]), A).value) +
                                                      spec.kl_beta * kl_of(spec.kl, static_cast<double>(step.ref_logprobs[t]) - logp[t]));
    }
  }
  return loss;
}

}  // namespace

TEST(objective_driver_against_central_differences) {
  const Step step;
  rank_grpo::AllRules::each([&](auto* pointer) {
    using Rule = std::remove_pointer_t<decltype(pointer)>;
    rank_grpo::ObjectiveSpec spec;
    spec.rule = Rule::name;
    for (const auto& p : Rule::parameters) spec.params.push_back(p.value);
    const Rule rule = rank_grpo::make_rule<Rule>(spec.params.data());
    for (const auto pool : {rank_grpo::Pool::mean, rank_grpo::Pool::sum})
      for (const auto kl : {rank_grpo::Kl::k1, rank_grpo::Kl::k2, rank_grpo::Kl::k3})
        for (double beta : {0.0, 0.3}) {
          spec.pool = pool;
          spec.kl = kl;
          spec.kl_beta = beta;
          const auto got = rank_grpo::evaluate_objective(spec, step.inputs());
          const Values logp = reference::widen(step.logprobs);
          CHECK_NEAR(got.loss, loss_of(rule, step, logp, spec), 1e-12);
          CHECK(got.covered == 9 && got.nonempty_segments == 3);
          CHECK(got.dlogp[5] == 0 && got.dlogp[9] == 0);
          if (shape_of(Rule::name, spec.params).slope) continue;
          for (size_t t = 0; t < step.T(); ++t)
            CHECK_NEAR(got.dlogp[t], reference::central([&](const Values& v) { return loss_of(rule, step, v, spec); }, logp, t), 5e-7);
        }
  });
}

// The identities: one token per segment pools nothing; ratio 1 gives every rule of the clipped kind the plain policy gradient.
TEST(objective_identities) {
  Step step;
  rank_grpo::ObjectiveSpec spec;
  spec.rule = "clip";
  for (const auto& p : rank_grpo::ClipRule::parameters) spec.params.push_back(p.value);
  auto inputs = step.inputs();
  inputs.old_logprobs = nullptr;  // on-policy
  inputs.ref_logprobs = nullptr;
  const auto pooled = rank_grpo::evaluate_objective(spec, inputs);
  CHECK(pooled.ratio_min == 1 && pooled.ratio_max == 1 && pooled.clipped_low == 0 && pooled.clipped_high == 0);
  for (size_t g = 0; g + 1 < step.offsets.size(); ++g) {
    double slope = 0;
    const int32_t begin = step.offsets[g], end = step.offsets[g + 1];
    for (int32_t i = begin; i < end; ++i) {
      const size_t t = static_cast<size_t>(step.tokens[static_cast<size_t>(i)]);
      slope -= static_cast<double>(step.weights[t]) * static_cast<double>(step.advantages[t]) / (end - begin);
    }
    for (int32_t i = begin; i < end; ++i) CHECK_NEAR(pooled.dlogp[static_cast<size_t>(step.tokens[static_cast<size_t>(i)])], slope, 1e-7);
  }
  // equal rewards: advantages of 0, a gradient of exactly 0
  std::vector<float> zeros(step.T(), 0.f);
  inputs.advantages = zeros.data();
  for (float d : rank_grpo::evaluate_objective(spec, inputs).dlogp) CHECK(d == 0);
}

TEST(objective_refuses) {
  const Step step;
  rank_grpo::ObjectiveSpec spec;
  spec.rule = "nothing of the kind";
  CHECK_THROWS(rank_grpo::evaluate_objective(spec, step.inputs()), "INVALID_ARGUMENT");
  spec.rule = "clip";
  CHECK_THROWS(rank_grpo::evaluate_objective(spec, step.inputs()), "INVALID_ARGUMENT");  // no parameters
  spec.params = {-1, 0.1, 3};
  CHECK_THROWS(rank_grpo::evaluate_objective(spec, step.inputs()), "INVALID_ARGUMENT");  // out of range
  spec.params = {0.1, NAN, 3};
  CHECK_THROWS(rank_grpo::evaluate_objective(spec, step.inputs()), "INVALID_ARGUMENT");
  spec.params = {0.1, 0.1, 3};
  spec.entropy_coef = 0.1;
  auto inputs = step.inputs();
  inputs.entropies = nullptr;
  CHECK_THROWS(rank_grpo::evaluate_objective(spec, inputs), "INVALID_ARGUMENT");
}
