// Drawing tokens: frequencies, truncation, and the log-prob that training will compute again.
#include <algorithm>

#include "backends.h"
#include "reference.h"

using rank_grpo::AllowedTokens;
using rank_grpo::Backend;
using rank_grpo::Compute;
using rank_grpo::Sampling;
using reference::Values;
using reference::widen;

namespace {

constexpr int kHost = 16;  // guards round the results, which lie on the host

struct Draws {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

std::vector<uint32_t> blocks(int64_t R, uint32_t seed) {
  std::vector<uint32_t> random;
  for (int64_t r = 0; r < R; ++r) {
    const auto block = rank_grpo::philox(99, static_cast<uint32_t>(r), seed, 2, 3);
    random.insert(random.end(), block.x, block.x + 4);
  }
  return random;
}

Draws draw(Backend& backend, const float* h, const rank_grpo::Panels& panels, const AllowedTokens* allowed, int64_t R, const Sampling& s,
           uint32_t seed) {
  std::vector<int32_t> tokens(static_cast<size_t>(R + 2 * kHost), -7);
  std::vector<float> logprobs(tokens.size(), 77.f);
  const auto random = blocks(R, seed);
  backend.head_sample(&tokens[kHost], &logprobs[kHost], h, panels, nullptr, allowed, random.data(), R, s);
  for (size_t i = 0; i < kHost; ++i) {
    const size_t beyond = static_cast<size_t>(R) + kHost + i;
    CHECK(tokens[i] == -7 && tokens[beyond] == -7 && logprobs[i] == 77.f && logprobs[beyond] == 77.f);
  }
  return {{tokens.begin() + kHost, tokens.end() - kHost}, {logprobs.begin() + kHost, logprobs.end() - kHost}};
}

// Value that chi-square with k degrees of freedom exceeds with probability 1e-6 (Wilson and Hilferty).
double chi_square_bound(int k) {
  const double z = 4.753424, a = 2.0 / (9 * k);
  return k * std::pow(1 - a + z * std::sqrt(a), 3);
}

void expect_frequencies(const std::vector<int32_t>& tokens, const Values& p, const std::string& what) {
  std::vector<double> counts(p.size(), 0);
  for (int32_t t : tokens) {
    CHECK(t >= 0 && static_cast<size_t>(t) < p.size());
    check::that(p[static_cast<size_t>(t)] > 0, what + ": drew token " + std::to_string(t) + ", which was cut off", __FILE__, __LINE__);
    ++counts[static_cast<size_t>(t)];
  }
  const double n = static_cast<double>(tokens.size());
  double chi = 0, rest = 0, rest_wanted = 0;
  int cells = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] * n < 5) {
      rest += counts[i];
      rest_wanted += p[i] * n;
    } else {
      chi += (counts[i] - p[i] * n) * (counts[i] - p[i] * n) / (p[i] * n);
      ++cells;
    }
  }
  if (rest_wanted > 0) {
    chi += (rest - rest_wanted) * (rest - rest_wanted) / rest_wanted;
    ++cells;
  }
  check::that(cells == 1 || chi < chi_square_bound(cells - 1),
              what + ": chi-square " + std::to_string(chi) + " over " + std::to_string(cells) + " cells", __FILE__, __LINE__);
}

Sampling sampling(float temperature, int top_k = 0, float top_p = 1, float min_p = 0, bool greedy = false) {
  Sampling s;
  s.temperature = temperature;
  s.top_k = top_k;
  s.top_p = top_p;
  s.min_p = min_p;
  s.greedy = greedy;
  return s;
}

const Sampling kSamplings[] = {sampling(1),          sampling(0.5f),          sampling(1, 5),
                               sampling(1, 0, 0.6f), sampling(1, 0, 1, 0.2f), sampling(0.8f, 9, 0.9f, 0.05f),
                               sampling(1, 1),       sampling(1, 0, 1e-6f),   sampling(0.7f, 0, 1, 0, true)};

std::string name(const Sampling& s) {
  return "T " + std::to_string(s.temperature) + " top-k " + std::to_string(s.top_k) + " top-p " + std::to_string(s.top_p) + " min-p " +
         std::to_string(s.min_p) + (s.greedy ? " greedy" : "");
}

}  // namespace

BACKEND_TEST(sample_frequencies_and_log_probs) {
  // The GPU draws the tokens that the CPU draws (cuda_sample); 3,000 rows of its kernels on the host take five minutes.
  const int64_t R = backend.has_own_memory() ? 100 : 3000, C = 6;
  for (int64_t V : {1, 13, 409})  // 409: two blocks of the log-sum-exp
    for (bool constrained : {false, true}) {
      const auto one = check::normal(C, 1), W = check::normal(static_cast<size_t>(V * C), 2, 0.8);
      std::vector<float> rows;
      for (int64_t r = 0; r < R; ++r) rows.insert(rows.end(), one.begin(), one.end());
      AllowedTokens sets;
      std::vector<std::vector<int32_t>> lists;
      if (constrained) {
        std::vector<int32_t> ids;
        for (int32_t v = 0; v < V; v += v % 2 ? 1 : 2) ids.push_back(v);
        sets.offsets = {0};
        for (int64_t r = 0; r < R; ++r) {
          sets.ids.insert(sets.ids.end(), ids.begin(), ids.end());
          sets.offsets.push_back(static_cast<int32_t>(sets.ids.size()));
        }
        lists = {ids};
      }
      check::Floats h(backend, rows), weight(backend, W), logprob(backend, static_cast<size_t>(R), NAN),
          lse(backend, static_cast<size_t>(R), NAN);
      const auto panels = backend.make_panels(V, C, Compute::f32);
      backend.pack(*panels, weight);
      uint32_t seed = 0;
      for (const Sampling& s : kSamplings) {
        const auto got = draw(backend, h, *panels, constrained ? &sets : nullptr, R, s, seed++);
        const auto f = reference::head(widen(one), widen(W), {}, lists, 1, V, C, static_cast<double>(s.temperature));
        const Values kept = reference::truncated(f.probabilities[0], s);
        Values p(static_cast<size_t>(V));
        for (size_t i = 0; i < kept.size(); ++i) p[static_cast<size_t>(f.tokens[0][i])] = kept[i];
        expect_frequencies(got.tokens, p, "V " + std::to_string(V) + (constrained ? " allowed " : " ") + name(s));
        // what it says it drew with is what training computes, whatever was cut off
        backend.head_forward(logprob, nullptr, lse, h, *panels, nullptr, got.tokens.data(), constrained ? &sets : nullptr, R,
                             s.temperature);
        check::same_bits(got.logprobs, logprob.read(), "log-prob, " + name(s));
      }
    }
}

BACKEND_TEST(sample_rows_alone_and_together) {
  for (Compute compute : {Compute::f32, Compute::bf16}) {
    const int64_t R = 130, V = 501, C = 40;
    const auto rows = check::normal(R * C, 1);
    check::Floats h(backend, rows), W(backend, check::normal(static_cast<size_t>(V * C), 2));
    const auto panels = backend.make_panels(V, C, compute);
    backend.pack(*panels, W);
    const auto random = blocks(R, 5);
    for (const Sampling& s : {sampling(0.9f), sampling(0.9f, 20, 0.8f)}) {
      const auto all = draw(backend, h, *panels, nullptr, R, s, 5);
      for (int64_t r : {0, 63, 64, 129}) {
        check::Floats one(backend, std::vector<float>(rows.begin() + r * C, rows.begin() + (r + 1) * C));
        int32_t token = -1;
        float logprob = 0;
        backend.head_sample(&token, &logprob, one, *panels, nullptr, nullptr, &random[static_cast<size_t>(r * 4)], 1, s);
        CHECK(token == all.tokens[static_cast<size_t>(r)]);
        check::same_bits(std::vector<float>{logprob}, {all.logprobs[static_cast<size_t>(r)]}, "log-prob alone");
      }
    }
    check::Floats none(backend, 0, 0.f);
    backend.head_sample(nullptr, nullptr, none, *panels, nullptr, nullptr, nullptr, 0, sampling(1));
  }
}

// Ties and certain tokens: greedy takes the first of equals, a distribution of one possible token gives it for every u.
BACKEND_TEST(sample_ties_and_certainty) {
  const int64_t R = 200, V = 900;
  std::vector<float> W(V, 0.f);
  W[300] = W[700] = 3;
  check::Floats h(backend, R, 1.f), weight(backend, W);
  const auto panels = backend.make_panels(V, 1, Compute::f32);
  backend.pack(*panels, weight);
  for (int32_t t : draw(backend, h, *panels, nullptr, R, sampling(1, 0, 1, 0, true), 1).tokens) CHECK(t == 300);
  for (int32_t t : draw(backend, h, *panels, nullptr, R, sampling(1, 2), 1).tokens) CHECK(t == 300 || t == 700);
  for (int32_t t : draw(backend, h, *panels, nullptr, R, sampling(1, 1), 1).tokens) CHECK(t == 300);
  W[700] = 200;
  check::Floats peaked(backend, W);
  backend.pack(*panels, peaked);
  const auto certain = draw(backend, h, *panels, nullptr, R, sampling(1), 1);
  for (int64_t r = 0; r < R; ++r) CHECK(certain.tokens[static_cast<size_t>(r)] == 700 && certain.logprobs[static_cast<size_t>(r)] == 0);
}

// Hidden states that are not numbers: a token inside the vocabulary and a NaN log-prob, which the caller refuses; never a crash.
BACKEND_TEST(sample_of_nan) {
  const int64_t R = 5, V = 700, C = 8;
  for (int64_t bad : {int64_t{0}, V * C / 2, V * C - 1}) {
    auto W = check::normal(static_cast<size_t>(V * C), 2);
    W[static_cast<size_t>(bad)] = NAN;
    check::Floats h(backend, check::normal(R * C, 1)), weight(backend, W);
    const auto panels = backend.make_panels(V, C, Compute::f32);
    backend.pack(*panels, weight);
    for (const Sampling& s : kSamplings) {
      const auto got = draw(backend, h, *panels, nullptr, R, s, 1);
      for (int32_t t : got.tokens) CHECK(t >= 0 && t < V);
      for (float x : got.logprobs) CHECK(std::isnan(x));
    }
  }
}

// All of them, as after a step that went wrong; the vocabulary's pieces of 128 come out even, and the last is not whole.
BACKEND_TEST(sample_of_nothing_but_nan) {
  const int64_t V = 513 * 128 + 100;
  check::Floats h(backend, 1, static_cast<float>(NAN)), weight(backend, std::vector<float>(static_cast<size_t>(V), 1.f));
  const auto panels = backend.make_panels(V, 1, Compute::f32);
  backend.pack(*panels, weight);
  for (const Sampling& s : {sampling(1), sampling(1, 0, 0.6f), sampling(0.7f, 0, 1, 0, true)}) {
    const auto got = draw(backend, h, *panels, nullptr, 1, s, 1);
    CHECK(got.tokens[0] >= 0 && got.tokens[0] < V && std::isnan(got.logprobs[0]));
  }
}

TEST(sample_same_everywhere) {
  check::same_everywhere([](Backend& backend) {
    const int64_t R = 150, V = 1000, C = 33;
    check::Floats h(backend, check::normal(R * C, 1)), W(backend, check::normal(static_cast<size_t>(V * C), 2));
    const auto panels = backend.make_panels(V, C, Compute::f32);
    backend.pack(*panels, W);
    std::vector<float> all;
    for (const Sampling& s : kSamplings) {
      const auto got = draw(backend, h, *panels, nullptr, R, s, 9);
      all.insert(all.end(), got.tokens.begin(), got.tokens.end());
      all.insert(all.end(), got.logprobs.begin(), got.logprobs.end());
    }
    return all;
  });
}
