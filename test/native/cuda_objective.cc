// The objectives' GPU driver against the host's, for every rule, pooling, spread and KL.
#include "../../native/core/error.h"
#include "../../native/cuda/objective.h"

#include "cuda_check.h"

using namespace cuda_check;
using namespace rank_grpo;

namespace {

struct Tokens {
  Floats logprobs, old, ref, entropies, advantages, weights;
  Ints offsets{0}, tokens;
  ObjectiveInputs inputs(bool on_policy, bool kl) const {
    ObjectiveInputs in;
    in.tokens = static_cast<int64_t>(logprobs.size());
    in.segments = static_cast<int64_t>(offsets.size()) - 1;
    in.logprobs = logprobs.data();
    in.old_logprobs = on_policy ? nullptr : old.data();
    in.ref_logprobs = kl ? ref.data() : nullptr;
    in.entropies = entropies.data();
    in.advantages = advantages.data();
    in.weights = weights.data();
    in.segment_offsets = offsets.data();
    in.segment_tokens = tokens.data();
    return in;
  }
};

// Segments of 0, 1, 3, 32, 33 and 70 tokens and more, tokens in any order, every fifth token in none, some advantages 0.
Tokens random_case() {
  Tokens c;
  const int64_t T = 400;
  c.logprobs = random_floats(T);
  for (float& x : c.logprobs) x = -std::abs(x);
  c.old = c.ref = c.logprobs;
  const Floats a = random_floats(T, 0.2f), b = random_floats(T, 0.3f);
  for (size_t i = 0; i < c.old.size(); ++i) {
    c.old[i] += a[i];
    c.ref[i] += b[i];
  }
  c.entropies = random_floats(T);
  c.advantages = random_floats(T);
  for (size_t i = 0; i < c.advantages.size(); i += 7) c.advantages[i] = 0;
  c.weights = random_floats(T, 0.01f);
  Ints order;
  for (int32_t t = 0; t < T; ++t)
    if (t % 5) order.push_back(t);
  std::shuffle(order.begin(), order.end(), generator());
  size_t next = 0;
  for (size_t n = 0; next < order.size(); ++n) {
    const size_t sizes[] = {3, 1, 0, 32, 33, 70, 5};
    const size_t end = std::min(order.size(), next + sizes[n % 7]);
    for (; next < end; ++next) c.tokens.push_back(order[next]);
    c.offsets.push_back(static_cast<int32_t>(c.tokens.size()));
  }
  return c;
}

}  // namespace

TEST(cuda_objectives_equal_the_hosts) {
  const Tokens c = random_case();
  for (const auto& info : objective_list())
    for (const auto pool : {Pool::mean, Pool::sum})
      for (const auto spread : {Spread::pooled, Spread::token})
        for (const auto kl : {Kl::k1, Kl::k2, Kl::k3}) {
          if (pool == Pool::sum && kl != Kl::k3) continue;
          ObjectiveSpec spec;
          spec.rule = info.name;
          for (const auto& p : info.parameters) spec.params.push_back(p.value);
          spec.pool = pool;
          spec.spread = spread;
          spec.kl = kl;
          spec.kl_beta = kl == Kl::k2 ? 0 : 0.05;
          spec.entropy_coef = kl == Kl::k1 ? 0 : 0.01;
          for (const bool on_policy : {false, true}) {
            const auto in = c.inputs(on_policy, kl != Kl::k1);
            const ObjectiveResult wanted = evaluate_objective(spec, in), got = cuda().objective(spec, in);
            const double scale = 1e-12 * (1 + std::abs(wanted.loss));
            for (const auto& [a, b] : {std::pair{got.loss, wanted.loss},
                                       {got.policy_loss, wanted.policy_loss},
                                       {got.ratio_min, wanted.ratio_min},
                                       {got.ratio_max, wanted.ratio_max},
                                       {got.ratio_sum / 100, wanted.ratio_sum / 100},
                                       {got.kl_sum / 100, wanted.kl_sum / 100},
                                       {got.entropy_sum / 100, wanted.entropy_sum / 100}})
              CHECK_NEAR(a, b, scale + 1e-12 * std::abs(b));
            CHECK(got.covered == wanted.covered && got.nonempty_segments == wanted.nonempty_segments &&
                  got.clipped_low == wanted.clipped_low && got.clipped_high == wanted.clipped_high &&
                  got.clipped_dual == wanted.clipped_dual);
            near(got.dlogp, wanted.dlogp, 1e-7, info.name, __LINE__);
            near(got.token_loss, wanted.token_loss, 1e-7, info.name, __LINE__);
            near(got.token_kl, wanted.token_kl, 1e-7, info.name, __LINE__);
            near(got.segment_log_ratio, wanted.segment_log_ratio, 1e-7, info.name, __LINE__);
            near(got.dentropy, wanted.dentropy, 1e-7, info.name, __LINE__);
          }
        }
}

TEST(cuda_log_ratios_equal_the_hosts) {
  const Tokens c = random_case();
  const auto got = cuda().mean_log_ratios(c.logprobs.data(), c.old.data(), c.offsets, c.tokens),
             wanted = mean_log_ratios(c.logprobs.data(), c.old.data(), c.offsets, c.tokens);
  CHECK(got.size() == wanted.size() && got.size() + 1 == c.offsets.size());
  for (size_t g = 0; g < got.size(); ++g) {
    double sum = 0;
    for (int32_t i = c.offsets[g]; i < c.offsets[g + 1]; ++i) {
      const auto t = static_cast<size_t>(c.tokens[static_cast<size_t>(i)]);
      sum += static_cast<double>(c.logprobs[t]) - static_cast<double>(c.old[t]);
    }
    const int32_t n = c.offsets[g + 1] - c.offsets[g];
    CHECK_NEAR(wanted[g], n ? sum / n : 0, 1e-15);
    CHECK_NEAR(got[g], wanted[g], 1e-15);
  }
  CHECK(cuda().mean_log_ratios(nullptr, nullptr, {0}, {}).empty());
  CHECK(cuda().mean_log_ratios(nullptr, nullptr, {0, 0}, {}) == std::vector<double>{0});
}

TEST(cuda_objective_of_no_tokens) {
  ObjectiveSpec spec;
  spec.rule = "likelihood";
  spec.params = {1};
  spec.entropy_coef = 0.5;
  const float none = 0;
  const int32_t offset = 0;
  ObjectiveInputs in;
  in.logprobs = in.entropies = in.advantages = in.weights = &none;
  in.segment_offsets = &offset;
  const ObjectiveResult got = cuda().objective(spec, in);
  CHECK(got.loss == 0 && got.covered == 0 && got.nonempty_segments == 0 && got.dlogp.empty());
}

TEST(cuda_objective_refuses_bad_input) {
  Tokens c = random_case();
  ObjectiveSpec spec;
  spec.rule = "no such rule";
  CHECK_THROWS(cuda().objective(spec, c.inputs(false, false)), "INVALID_ARGUMENT");
  spec.rule = "likelihood";
  CHECK_THROWS(cuda().objective(spec, c.inputs(false, false)), "INVALID_ARGUMENT");
  spec.params = {1};
  c.tokens[1] = c.tokens[0];
  CHECK_THROWS(cuda().objective(spec, c.inputs(false, false)), "INVALID_ARGUMENT");
  c.tokens[1] = 400;
  CHECK_THROWS(cuda().objective(spec, c.inputs(false, false)), "INVALID_ARGUMENT");
}
