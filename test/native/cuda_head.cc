// The head and sampling on the CUDA backend: against the CPU's, and the sampler's log-prob = the trainer's as bits.
#include <set>

#include "../../native/core/error.h"
#include "../../native/core/philox.h"
#include "../../native/cuda/logits.h"
#include "cuda_check.h"

using namespace cuda_check;
using namespace rank_grpo;

namespace {

// Sets of 1 .. 5 (sometimes 150) tokens, the target among them.
AllowedTokens random_sets(const Ints& target, int V) {
  AllowedTokens allowed;
  allowed.offsets.push_back(0);
  for (size_t r = 0; r < target.size(); ++r) {
    std::set<int32_t> ids{target[r]};
    const size_t size = std::min<size_t>(static_cast<size_t>(V), r % 4 == 3 ? 150 : r % 4 + 1);
    while (ids.size() < size) ids.insert(static_cast<int32_t>(generator()() % static_cast<unsigned>(V)));
    allowed.ids.insert(allowed.ids.end(), ids.begin(), ids.end());
    allowed.offsets.push_back(static_cast<int32_t>(allowed.ids.size()));
  }
  return allowed;
}

struct Head {
  Head(Backend& b, const Floats& h, const Floats& W, int64_t V, int64_t C, Compute compute)
      : h(b, h), W(b, W), panels(b.make_panels(V, C, compute)) {
    b.pack(*panels, this->W);
  }
  Device<float> h, W;
  std::unique_ptr<Panels> panels;
};

std::vector<uint32_t> random_blocks(int64_t R, uint32_t key) {
  std::vector<uint32_t> out;
  for (int64_t r = 0; r < R; ++r) {
    const auto block = philox(11, key, static_cast<uint32_t>(r), 0, 0);
    out.insert(out.end(), block.x, block.x + 4);
  }
  return out;
}

}  // namespace

TEST(cuda_head) {
  const int64_t shapes[][3] = {{1, 1, 1}, {5, 300, 24}, {70, 129, 33}, {131, 200, 17}};
  for (const auto compute : {Compute::f32, Compute::bf16})
    for (const auto& [R, V, C] : shapes)
      for (const bool constrained : {false, true})
        for (const bool entropies : {false, true}) {
          if (constrained && R > 80) continue;
          const Floats h = random_floats(R * C), W = random_floats(V * C, 0.5f), dW0 = random_floats(V * C), dentropy = random_floats(R);
          Floats dlogprob = random_floats(R);
          for (size_t r = 0; r < dlogprob.size(); r += 3)
            if (R > 5 && !entropies) dlogprob[r] = 0;  // rows without a gradient
          const Ints target = random_ints(R, static_cast<int>(V));
          const AllowedTokens sets = random_sets(target, static_cast<int>(V)), *allowed = constrained ? &sets : nullptr;
          const std::string what = "head R " + std::to_string(R) + " V " + std::to_string(V) + (compute == Compute::bf16 ? " bf16" : "") +
                                   (constrained ? " allowed" : "") + (entropies ? " entropies" : "");
          // Both round h and W to bf16 alike; with allowed sets the CPU rounds the logits' gradient too, to 8 bits, and this backend does not.
          const double tolerance = compute == Compute::f32 ? 5e-6 : constrained ? 0x1p-7 : 1e-4;
          COMPARE(tolerance, what.c_str(), [&](Backend& b) {
            const Head head(b, h, W, V, C, compute);
            const Floats blank(static_cast<size_t>(R), NAN);
            const Device<float> logprob(b, blank), entropy(b, blank), lse(b, blank), dh(b, Floats(h.size(), NAN)), dW(b, dW0);
            b.head_forward(logprob, entropies ? static_cast<float*>(entropy) : nullptr, lse, head.h, *head.panels, nullptr, target.data(),
                           allowed, R, 0.7f);
            b.head_backward(dh, dW, head.h, head.W, *head.panels, target.data(), allowed, lse,
                            entropies ? static_cast<float*>(entropy) : nullptr, dlogprob.data(), entropies ? dentropy.data() : nullptr, R,
                            0.7f);
            std::vector<Floats> out{logprob.get(), lse.get(), dh.get(), dW.get()};
            if (entropies) out.push_back(entropy.get());
            return out;
          });
        }
}

TEST(cuda_head_rows_do_not_see_each_other) {
  auto& b = cuda();
  const int64_t R = 133, V = 260, C = 40;
  const Floats h = random_floats(R * C), W = random_floats(V * C);
  const Ints target = random_ints(R, static_cast<int>(V));
  for (const auto compute : {Compute::f32, Compute::bf16}) {
    const Head head(b, h, W, V, C, compute);
    auto rows = [&](int64_t first, int64_t count, bool entropies) {
      const Device<float> logprob(b, Floats(static_cast<size_t>(count))), entropy(b, Floats(static_cast<size_t>(count))),
          lse(b, Floats(static_cast<size_t>(count)));
      b.head_forward(logprob, entropies ? static_cast<float*>(entropy) : nullptr, lse, head.h + first * C, *head.panels, nullptr,
                     target.data() + first, nullptr, count, 1.f);
      return logprob.get();
    };
    const Floats whole = rows(0, R, true);
    for (int64_t r : {0, 64, 100, 132}) CHECK(same_bits(rows(r, 1, false), part(whole, r, 1)));
    CHECK(same_bits(rows(30, 90, false), part(whole, 30, 90)));
  }
}

TEST(cuda_sample) {
  const int64_t R = 70, V = 400, C = 16;
  const Floats h = random_floats(R * C), W = random_floats(V * C, 0.6f);
  const Ints any = random_ints(R, static_cast<int>(V));
  const AllowedTokens sets = random_sets(any, static_cast<int>(V));
  Sampling plain, cold{0.4f}, greedy, top_k{1.3f, 5}, one{1, 1}, nucleus{1, 0, 0.8f}, tiny{1, 0, 1e-6f}, floor{1, 0, 1, 0.05f},
      all{0.9f, 40, 0.95f, 0.01f};
  greedy.greedy = true;
  uint32_t key = 0;
  for (const auto compute : {Compute::f32, Compute::bf16})
    for (const Sampling& s : {plain, cold, greedy, top_k, one, nucleus, tiny, floor, all})
      for (const AllowedTokens* allowed : {static_cast<const AllowedTokens*>(nullptr), &sets}) {
        const auto random = random_blocks(R, key++);
        std::vector<Ints> tokens;
        std::vector<Floats> logprobs;
        for (Backend* b : {&cpu(), &cuda()}) {
          const Head head(*b, h, W, V, C, compute);
          Ints token(static_cast<size_t>(R), -1);
          Floats logprob(static_cast<size_t>(R), NAN);
          b->head_sample(token.data(), logprob.data(), head.h, *head.panels, nullptr, allowed, random.data(), R, s);
          tokens.push_back(token);
          logprobs.push_back(logprob);
          if (b == &cpu()) continue;
          const Device<float> trained(*b, Floats(static_cast<size_t>(R))), lse(*b, Floats(static_cast<size_t>(R)));
          b->head_forward(trained, nullptr, lse, head.h, *head.panels, nullptr, token.data(), allowed, R, s.temperature);
          CHECK(same_bits(trained.get(), logprob));
          const int64_t row = 67;  // alone
          const AllowedTokens* single = nullptr;
          AllowedTokens own;
          if (allowed) {
            own.offsets = {0, allowed->offsets[row + 1] - allowed->offsets[row]};
            own.ids = part(allowed->ids, allowed->offsets[row], own.offsets[1]);
            single = &own;
          }
          int32_t again = -1;
          float again_logprob = NAN;
          b->head_sample(&again, &again_logprob, head.h + row * C, *head.panels, nullptr, single, random.data() + row * 4, 1, s);
          CHECK(again == token[static_cast<size_t>(row)] && std::memcmp(&again_logprob, &logprob[static_cast<size_t>(row)], 4) == 0);
        }
        // The same numbers give the same tokens; only where a draw falls between two tokens by rounding may they differ.
        int different = 0;
        for (size_t r = 0; r < tokens[0].size(); ++r) different += tokens[0][r] != tokens[1][r];
        CHECK(different == 0);
        near(logprobs[1], logprobs[0], compute == Compute::f32 ? 5e-6 : 1e-4, "sampled log-probs", __LINE__);
      }
}

TEST(cuda_logits) {
  for (const auto& [T, V] : {std::pair<int64_t, int64_t>{1, 1}, {3, 37}, {4, 1024}, {2, 2501}}) {
    const Floats logits = random_floats(T * V, 3), dlogprob = random_floats(T), dentropy = random_floats(T);
    const Ints targets = random_ints(T, static_cast<int>(V));
    std::vector<uint16_t> halves;
    Floats rounded;
    for (float x : logits) {
      uint32_t u;
      std::memcpy(&u, &x, 4);
      halves.push_back(static_cast<uint16_t>(u >> 16));
      u &= 0xffff0000u;
      std::memcpy(&x, &u, 4);
      rounded.push_back(x);
    }
    auto& b = cuda();
    const Device<int32_t> t(b, targets);
    const Device<uint16_t> bf16(b, halves);
    const Device<float> f32(b, rounded), g(b, dlogprob), gh(b, dentropy), blank(b, dlogprob), lse(b, dlogprob), logprob(b, dlogprob),
        entropy(b, dlogprob), d(b, logits), d16(b, logits);
    const Device<float> logprob16(b, dlogprob), lse16(b, dlogprob), d_plain(b, logits);
    cuda_logits_forward(b, logprob, entropy, lse, f32, t, T, V, 1.3f);
    cuda_logits_forward(b, logprob16, nullptr, lse16, bf16, t, T, V, 1.3f);
    CHECK(same_bits(logprob.get(), logprob16.get()) && same_bits(lse.get(), lse16.get()));
    cuda_logits_backward(b, d, f32, t, lse, entropy, g, gh, T, V, 1.3f);
    cuda_logits_backward(b, d16, bf16, t, lse, entropy, g, gh, T, V, 1.3f);
    cuda_logits_backward(b, d_plain, f32, t, lse, nullptr, g, nullptr, T, V, 1.3f);
    CHECK(same_bits(d.get(), d16.get()));
    const Device<float> in_place(b, rounded);
    cuda_logits_backward(b, in_place, static_cast<const float*>(in_place), t, lse, entropy, g, gh, T, V, 1.3f);
    CHECK(same_bits(d.get(), in_place.get()));
    // float64 reference
    const Floats logprobs = logprob.get(), entropies = entropy.get(), gradient = d.get(), plain = d_plain.get();
    for (int64_t r = 0; r < T; ++r) {
      double top = -1e30, sum = 0, weighted = 0;
      auto x = [&](int64_t c) { return static_cast<double>(rounded[static_cast<size_t>(r * V + c)]) / static_cast<double>(1.3f); };
      for (int64_t c = 0; c < V; ++c) top = std::max(top, x(c));
      for (int64_t c = 0; c < V; ++c) sum += std::exp(x(c) - top);
      for (int64_t c = 0; c < V; ++c) weighted += std::exp(x(c) - top) * x(c) / sum;
      const double l = top + std::log(sum), H = l - weighted, dl = static_cast<double>(dlogprob[static_cast<size_t>(r)]),
                   dH = static_cast<double>(dentropy[static_cast<size_t>(r)]);
      CHECK_NEAR(logprobs[static_cast<size_t>(r)], x(targets[static_cast<size_t>(r)]) - l, 3e-6);
      CHECK_NEAR(entropies[static_cast<size_t>(r)], H, 6e-6);
      for (int64_t c = 0; c < V; ++c) {
        const double p = std::exp(x(c) - l), own = c == targets[static_cast<size_t>(r)] ? dl : 0;
        CHECK_NEAR(gradient[static_cast<size_t>(r * V + c)], (own - dl * p - dH * p * (x(c) - l + H)) / static_cast<double>(1.3f), 3e-6);
        CHECK_NEAR(plain[static_cast<size_t>(r * V + c)], (own - dl * p) / static_cast<double>(1.3f), 2e-6);
      }
    }
  }
}

// More logits than go up at a time: rows before and behind the seam have the bits that they have alone.
TEST(cuda_given_logits_by_slabs) {
  auto& b = cuda();
  const int64_t V = 1 << 20, T = 5;  // four rows a slab
  const Floats row = random_floats(V, 3), dlogprob = random_floats(T);
  const Ints targets = random_ints(T, static_cast<int>(V));
  Floats logits;
  for (int64_t t = 0; t < T; ++t) {
    logits.insert(logits.end(), row.begin(), row.end());
    logits[static_cast<size_t>(t * V + t)] += 5;
  }
  Floats logprob(T, NAN), lse(T, NAN);
  b.given_logits_forward(logprob.data(), nullptr, lse.data(), {logits.data(), nullptr}, targets.data(), T, V, 1.f);
  Floats gradient = logits;
  b.given_logits_backward(gradient.data(), {gradient.data(), nullptr}, targets.data(), lse.data(), nullptr, dlogprob.data(), nullptr, T, V,
                          1.f);
  for (int64_t t : {3, 4}) {
    const Floats own = part(logits, t * V, V);
    float own_logprob = NAN, own_lse = NAN;
    b.given_logits_forward(&own_logprob, nullptr, &own_lse, {own.data(), nullptr}, &targets[static_cast<size_t>(t)], 1, V, 1.f);
    CHECK(own_logprob == logprob[static_cast<size_t>(t)] && own_lse == lse[static_cast<size_t>(t)]);
    Floats own_gradient(static_cast<size_t>(V), NAN);
    b.given_logits_backward(own_gradient.data(), {own.data(), nullptr}, &targets[static_cast<size_t>(t)], &own_lse, nullptr,
                            &dlogprob[static_cast<size_t>(t)], nullptr, 1, V, 1.f);
    CHECK(same_bits(own_gradient, part(gradient, t * V, V)));
  }
  CHECK_THROWS(b.given_logits_forward(&logprob[0], nullptr, &lse[0], {logits.data(), nullptr}, targets.data(), 1, int64_t{1} << 25, 1.f),
               "INVALID_ARGUMENT");
}
