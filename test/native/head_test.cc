// The head: log-probs, entropies and gradients from hidden rows, with and without allowed tokens, f32 and bf16.
#include <algorithm>

#include "backends.h"
#include "reference.h"

using rank_grpo::AllowedTokens;
using rank_grpo::Backend;
using rank_grpo::Compute;
using reference::Values;
using reference::widen;

namespace {

struct Shape {
  int64_t R, V, C;
};
// one row, more than a tile of 64; vocabularies of 1, no multiple of 8, on and beyond the block of 384
const Shape kShapes[] = {{1, 1, 3}, {2, 2, 1}, {3, 13, 16}, {7, 49, 37}, {65, 384, 20}, {5, 385, 33}, {9, 1003, 100}};

struct Case {
  int64_t R, V, C;
  std::vector<float> h, W;
  std::vector<int32_t> target;
  AllowedTokens sets;
  std::vector<std::vector<int32_t>> lists;
  const AllowedTokens* allowed() const { return lists.empty() ? nullptr : &sets; }

  Case(const Shape& s, bool constrained)
      : R(s.R),
        V(s.V),
        C(s.C),
        h(check::normal(static_cast<size_t>(R * C), 1)),
        W(check::normal(static_cast<size_t>(V * C), 2)),
        target(check::integers(static_cast<size_t>(R), 3, static_cast<int>(V))) {
    if (!constrained) return;
    sets.offsets = {0};
    for (int64_t r = 0; r < R; ++r) {
      // every third row a single token, the others about a third of the vocabulary, the target always
      std::vector<int32_t> ids;
      const auto dice = check::integers(static_cast<size_t>(V), 100 + static_cast<uint32_t>(r), 3);
      for (int32_t v = 0; v < V; ++v)
        if (v == target[static_cast<size_t>(r)] || (r % 3 != 0 && dice[static_cast<size_t>(v)] == 0)) ids.push_back(v);
      sets.ids.insert(sets.ids.end(), ids.begin(), ids.end());
      sets.offsets.push_back(static_cast<int32_t>(sets.ids.size()));
      lists.push_back(ids);
    }
  }
  std::string name() const {
    return "R " + std::to_string(R) + " V " + std::to_string(V) + " C " + std::to_string(C) + (lists.empty() ? " " : " allowed ");
  }
};

Values operand(const std::vector<float>& x, Compute compute) {
  return compute == Compute::bf16 ? reference::round_bf16(widen(x)) : widen(x);
}

// Error of a scaled logit: that of its sum of C products, and one rounding of the scaling.
double logit_error(const Case& c, double temperature) {
  const auto logits = reference::linear(widen(c.h), widen(c.W), c.R, c.V, c.C);
  return (2 * check::kEps * std::sqrt(static_cast<double>(c.C) + 4) * check::largest(logits.magnitude) +
          4 * check::kEps * check::largest(logits.value)) /
         temperature;
}

void forward(Backend& backend, const Case& c, Compute compute, float temperature) {
  check::Floats h(backend, c.h), W(backend, c.W), logprob(backend, static_cast<size_t>(c.R), NAN),
      entropy(backend, static_cast<size_t>(c.R), NAN), lse(backend, static_cast<size_t>(c.R), NAN);
  const auto panels = backend.make_panels(c.V, c.C, compute);
  backend.pack(*panels, W);
  backend.head_forward(logprob, entropy, lse, h, *panels, nullptr, c.target.data(), c.allowed(), c.R, temperature);
  auto wanted =
      reference::head(operand(c.h, compute), operand(c.W, compute), c.target, c.lists, c.R, c.V, c.C, static_cast<double>(temperature));
  if (c.allowed())  // a row without an alternative multiplies nothing: its log-sum-exp is 0
    for (int64_t r = 0; r < c.R; ++r)
      if (c.lists[static_cast<size_t>(r)].size() == 1) wanted.lse[static_cast<size_t>(r)] = 0;
  const double error = 2 * logit_error(c, static_cast<double>(temperature)) + 4 * check::kEps * (1 + check::largest(wanted.lse));
  check::close(logprob.read(), wanted.logprob, error + 2 * check::kEps * check::largest(wanted.logprob), c.name() + "logprob");
  check::close(lse.read(), wanted.lse, error, c.name() + "lse");
  check::close(entropy.read(), wanted.entropy, error * (2 + check::largest(wanted.lse)), c.name() + "entropy");
  for (float x : logprob.read()) CHECK(x <= 1e-6f);
  for (float x : entropy.read()) CHECK(x >= -1e-5f);

  check::Floats without(backend, static_cast<size_t>(c.R), NAN);
  backend.head_forward(without, nullptr, lse, h, *panels, W, c.target.data(), c.allowed(), c.R, temperature);
  check::same_bits(without.read(), logprob.read(), c.name() + "without entropy");
}

struct Gradient {
  std::vector<float> dh, dW;
};
Gradient backward(Backend& backend, const Case& c, Compute compute, float temperature, const std::vector<float>& dlogprob,
                  const std::vector<float>& dentropy, const std::vector<float>& dW0) {
  check::Floats h(backend, c.h), W(backend, c.W), logprob(backend, static_cast<size_t>(c.R), NAN),
      entropy(backend, static_cast<size_t>(c.R), NAN), lse(backend, static_cast<size_t>(c.R), NAN), dh(backend, c.h.size(), NAN),
      dW(backend, dW0);
  const auto panels = backend.make_panels(c.V, c.C, compute);
  backend.pack(*panels, W);
  const bool entropic = !dentropy.empty();
  backend.head_forward(logprob, entropic ? entropy.data() : nullptr, lse, h, *panels, W, c.target.data(), c.allowed(), c.R, temperature);
  backend.head_backward(dh, dW, h, W, *panels, c.target.data(), c.allowed(), lse, entropic ? entropy.data() : nullptr, dlogprob.data(),
                        entropic ? dentropy.data() : nullptr, c.R, temperature);
  check::Floats alone(backend, c.h.size(), NAN);  // dW not wanted
  backend.head_backward(alone, nullptr, h, W, *panels, c.target.data(), c.allowed(), lse, entropic ? entropy.data() : nullptr,
                        dlogprob.data(), entropic ? dentropy.data() : nullptr, c.R, temperature);
  check::same_bits(alone.read(), dh.read(), c.name() + "dh without dW");
  return {dh.read(), dW.read()};
}

std::vector<float> some_zero(std::vector<float> x) {
  for (size_t i = 1; i < x.size(); i += 4) x[i] = 0;  // rows that carry no gradient are left out
  return x;
}

}  // namespace

BACKEND_TEST(head_forward_f32_and_bf16) {
  for (const Shape& s : kShapes)
    for (bool constrained : {false, true})
      for (Compute compute : {Compute::f32, Compute::bf16})
        for (float temperature : {1.f, 0.7f, 3.f}) forward(backend, Case(s, constrained), compute, temperature);
}

BACKEND_TEST(head_backward_f32) {
  for (const Shape& s : kShapes)
    for (bool constrained : {false, true})
      for (bool entropic : {false, true}) {
        const Case c(s, constrained);
        const float temperature = 0.8f;
        const auto dlogprob = some_zero(check::normal(static_cast<size_t>(c.R), 4)),
                   dentropy = entropic ? some_zero(check::normal(static_cast<size_t>(c.R), 5)) : std::vector<float>();
        const auto dW0 = check::normal(c.W.size(), 6, 0.1);
        const auto got = backward(backend, c, Compute::f32, temperature, dlogprob, dentropy, dW0);
        auto wanted = reference::head_backward(widen(c.h), widen(c.W), c.target, c.lists, widen(dlogprob), widen(dentropy), c.R, c.V, c.C,
                                               static_cast<double>(temperature));
        for (size_t i = 0; i < dW0.size(); ++i) wanted.dW[i] += static_cast<double>(dW0[i]);
        // a probability's relative error is its logit's, entropy's derivative has a factor of the log-prob more; |d|_1 <= 2 |dlogprob|
        const double range =
            entropic
                ? 4 + check::largest(
                          reference::head(widen(c.h), widen(c.W), c.target, c.lists, c.R, c.V, c.C, static_cast<double>(temperature)).lse)
                : 1;
        const double per_row = (2 * logit_error(c, 0.8) + 16 * check::kEps) * range * 4 / 0.8;
        check::close(got.dh, wanted.dh, per_row * check::largest(widen(c.W)) * check::largest(widen(dlogprob)), c.name() + "dh");
        check::close(got.dW, wanted.dW, per_row * check::largest(widen(c.h)) * check::largest(widen(dlogprob)) + 2 * check::kEps,
                     c.name() + "dW");
      }
}

// bf16: no further from the exact gradient than a plain implementation that rounds the same three operands.
BACKEND_TEST(head_backward_bf16) {
  for (const Shape& s : {Shape{7, 49, 37}, Shape{65, 384, 20}, Shape{9, 1003, 100}}) {
    const Case c(s, false);
    const auto dlogprob = check::normal(static_cast<size_t>(c.R), 4), dentropy = check::normal(static_cast<size_t>(c.R), 5);
    const auto got = backward(backend, c, Compute::bf16, 1.f, dlogprob, dentropy, std::vector<float>(c.W.size(), 0.f));
    const Values h = widen(c.h), W = widen(c.W), hb = reference::round_bf16(h), Wb = reference::round_bf16(W);
    const auto exact = reference::head_backward(h, W, c.target, {}, widen(dlogprob), widen(dentropy), c.R, c.V, c.C, 1),
               plain = reference::head_backward(hb, Wb, c.target, {}, widen(dlogprob), widen(dentropy), c.R, c.V, c.C, 1, true);
    auto narrow = [](const Values& x) { return std::vector<float>(x.begin(), x.end()); };
    CHECK(check::rms_error(got.dh, exact.dh) <= 1.05 * check::rms_error(narrow(plain.dh), exact.dh));
    CHECK(check::rms_error(got.dW, exact.dW) <= 1.05 * check::rms_error(narrow(plain.dW), exact.dW));
    CHECK(check::rms_error(got.dh, plain.dh) <= 0.5 * check::rms_error(got.dh, exact.dh));
  }
}

BACKEND_TEST(head_of_no_rows_and_no_gradient) {
  const Case c({4, 50, 9}, false);
  check::Floats h(backend, c.h), W(backend, c.W), none(backend, 0, 0.f), dh(backend, c.h.size(), NAN), dW(backend, c.W),
      lse(backend, 4, 1.f);
  const auto panels = backend.make_panels(c.V, c.C, Compute::f32);
  backend.pack(*panels, W);
  backend.head_forward(none, none, none, none, *panels, nullptr, nullptr, nullptr, 0, 1.f);
  backend.head_backward(none, dW, none, W, *panels, nullptr, nullptr, none, nullptr, nullptr, nullptr, 0, 1.f);
  check::same_bits(dW.read(), c.W, "no rows");
  const std::vector<float> zeros(4, 0.f);
  backend.head_backward(dh, dW, h, W, *panels, c.target.data(), nullptr, lse, nullptr, zeros.data(), nullptr, 4, 1.f);
  check::same_bits(dW.read(), c.W, "zero gradient");
  check::same_bits(dh.read(), std::vector<float>(c.h.size(), 0.f), "dh of zero gradient");
}

// A NaN anywhere in a row's logits comes out as NaN: it must not be drawn over. Whatever its bits are: 0x7fffffff is a GPU's.
BACKEND_TEST(head_of_nan) {
  for (Compute compute : {Compute::f32, Compute::bf16})
    for (uint32_t bits : {0x7fc00000u, 0x7fffffffu})
      for (int64_t V : {5, 400, 1000})
        for (bool in_W : {true, false}) {
          Case c({3, V, 20}, false);
          for (size_t r = 0; r < 3; ++r) std::memcpy(in_W ? &c.W[static_cast<size_t>((V - 2) * 20 + 3)] : &c.h[r * 20 + 3], &bits, 4);
          c.target = {0, 1, 2};
          check::Floats h(backend, c.h), W(backend, c.W), logprob(backend, 3, 0.f), entropy(backend, 3, 0.f), lse(backend, 3, 0.f);
          const auto panels = backend.make_panels(V, 20, compute);
          backend.pack(*panels, W);
          backend.head_forward(logprob, entropy, lse, h, *panels, nullptr, c.target.data(), nullptr, 3, 1.f);
          for (float x : logprob.read()) CHECK(std::isnan(x));
          for (float x : entropy.read()) CHECK(std::isnan(x));
        }
}

BACKEND_TEST(head_rows_alone_and_together) {
  for (Compute compute : {Compute::f32, Compute::bf16})
    for (bool constrained : {false, true}) {
      const Case c({70, 1003, 64}, constrained);
      check::Floats h(backend, c.h), W(backend, c.W), logprob(backend, 70, NAN), entropy(backend, 70, NAN), lse(backend, 70, NAN);
      const auto panels = backend.make_panels(c.V, c.C, compute);
      backend.pack(*panels, W);
      backend.head_forward(logprob, entropy, lse, h, *panels, nullptr, c.target.data(), c.allowed(), 70, 0.9f);
      const auto all = logprob.read(), entropies = entropy.read();
      for (int64_t r : {0, 7, 33, 69}) {
        check::Floats one(backend, std::vector<float>(c.h.begin() + r * c.C, c.h.begin() + (r + 1) * c.C)), a(backend, 1, NAN),
            b(backend, 1, NAN), l(backend, 1, NAN);
        AllowedTokens set;
        if (constrained) {
          set.ids = c.lists[static_cast<size_t>(r)];
          set.offsets = {0, static_cast<int32_t>(set.ids.size())};
        }
        backend.head_forward(a, b, l, one, *panels, nullptr, &c.target[static_cast<size_t>(r)], constrained ? &set : nullptr, 1, 0.9f);
        check::same_bits(a.read(), {all[static_cast<size_t>(r)]}, "row " + std::to_string(r));
        check::same_bits(b.read(), {entropies[static_cast<size_t>(r)]}, "entropy of row " + std::to_string(r));
      }
    }
}

TEST(head_same_bits_everywhere) {
  check::same_everywhere([](Backend& backend) {
    std::vector<float> all;
    for (bool constrained : {false, true}) {
      const Case c({67, 777, 50}, constrained);
      check::Floats h(backend, c.h), W(backend, c.W), logprob(backend, 67, 0.f), entropy(backend, 67, 0.f), lse(backend, 67, 0.f);
      const auto panels = backend.make_panels(c.V, c.C, Compute::f32);
      backend.pack(*panels, W);
      backend.head_forward(logprob, entropy, lse, h, *panels, nullptr, c.target.data(), c.allowed(), 67, 0.9f);
      const auto g =
          backward(backend, c, Compute::f32, 0.9f, check::normal(67, 4), check::normal(67, 5), std::vector<float>(c.W.size(), 0.f));
      for (const auto& part : {logprob.read(), entropy.read(), lse.read(), g.dh, g.dW}) all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  });
}

// -- the kernels export: matrices that are given, on the host

namespace {

using rank_grpo::Operand;

std::vector<uint16_t> upper_halves(const std::vector<float>& x) {
  std::vector<uint16_t> bits;
  for (float v : x) {
    uint32_t u;
    std::memcpy(&u, &v, 4);
    bits.push_back(static_cast<uint16_t>(u >> 16));
  }
  return bits;
}
std::vector<float> rounded(const std::vector<float>& x) {
  const Values y = reference::round_bf16(widen(x));
  return {y.begin(), y.end()};
}

void given_logits(Backend& backend, bool narrow, float temperature, bool masked) {
  for (const auto& [T, V] : std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {2, 7}, {5, 16}, {3, 1023}, {6, 1025}, {9, 2500}}) {
    const size_t n = static_cast<size_t>(T * V);
    auto x = check::normal(n, 1, 3);
    if (narrow) x = rounded(x);
    const auto target = check::integers(static_cast<size_t>(T), 2, static_cast<int>(V));
    if (masked)  // -infinity: a token that cannot be
      for (size_t i = 0; i < n; i += 3)
        if (static_cast<int32_t>(i % static_cast<size_t>(V)) != target[i / static_cast<size_t>(V)]) x[i] = -INFINITY;
    const auto bits = upper_halves(x);
    const Operand logits = narrow ? Operand{nullptr, bits.data()} : Operand{x.data(), nullptr};
    const auto dlogprob = check::normal(static_cast<size_t>(T), 3), dentropy = check::normal(static_cast<size_t>(T), 4);
    std::vector<float> logprob(static_cast<size_t>(T), NAN), entropy = logprob, lse = logprob, d(n, NAN);
    const double t = static_cast<double>(temperature);
    Values wanted_logprob, wanted_entropy, wanted_lse, wanted_d, wanted_plain;
    for (int64_t r = 0; r < T; ++r) {
      const float* row = &x[static_cast<size_t>(r * V)];
      double top = -INFINITY, sum = 0, h = 0;
      for (int64_t v = 0; v < V; ++v) top = std::max(top, static_cast<double>(row[v]) / t);
      for (int64_t v = 0; v < V; ++v) sum += std::exp(static_cast<double>(row[v]) / t - top);
      const double l = top + std::log(sum);
      for (int64_t v = 0; v < V; ++v)
        if (std::isfinite(row[v])) h -= std::exp(static_cast<double>(row[v]) / t - l) * (static_cast<double>(row[v]) / t - l);
      wanted_lse.push_back(l);
      wanted_entropy.push_back(h);
      wanted_logprob.push_back(static_cast<double>(row[target[static_cast<size_t>(r)]]) / t - l);
      for (int64_t v = 0; v < V; ++v) {
        const double y = static_cast<double>(row[v]) / t - l, p = std::exp(y), g = static_cast<double>(dlogprob[static_cast<size_t>(r)]),
                     gh = static_cast<double>(dentropy[static_cast<size_t>(r)]);
        wanted_plain.push_back(g * ((v == target[static_cast<size_t>(r)] ? 1 : 0) - p) / t);
        wanted_d.push_back(wanted_plain.back() - (p > 0 ? gh * p * (y + h) / t : 0));
      }
    }
    const std::string what = "T " + std::to_string(T) + " V " + std::to_string(V) + (masked ? " masked " : " ");
    const double error = 8 * check::kEps * (2 + check::largest(wanted_lse) + check::largest(wanted_logprob));
    backend.given_logits_forward(logprob.data(), entropy.data(), lse.data(), logits, target.data(), T, V, temperature);
    check::close(logprob, wanted_logprob, error, what + "logprob");
    check::close(lse, wanted_lse, error, what + "lse");
    check::close(entropy, wanted_entropy, error * (2 + check::largest(wanted_lse)), what + "entropy");
    for (bool entropic : {false, true}) {
      const float *h = entropic ? entropy.data() : nullptr, *dh = entropic ? dentropy.data() : nullptr;
      const Values& expected = entropic ? wanted_d : wanted_plain;
      const double bound = error * (4 + check::largest(wanted_lse)) * 4 / t;
      backend.given_logits_backward(d.data(), logits, target.data(), lse.data(), h, dlogprob.data(), dh, T, V, temperature);
      if (!narrow) {
        auto place = x;
        backend.given_logits_backward(place.data(), {place.data(), nullptr}, target.data(), lse.data(), h, dlogprob.data(), dh, T, V,
                                      temperature);
        check::same_bits(place, d, what + "in place");
      }
      check::close(d, expected, bound, what + "dlogits");
    }
  }
}

}  // namespace

BACKEND_TEST(given_logits_f32) {
  given_logits(backend, false, 1.f, false);
  given_logits(backend, false, 0.3f, true);
}
BACKEND_TEST(given_logits_bf16) {
  given_logits(backend, true, 1.f, false);
  given_logits(backend, true, 2.f, true);
}

// Whole matrices in f32 and bf16 give the bits of the head over panels, and its gradients.
BACKEND_TEST(given_head) {
  for (const Shape& s : kShapes)
    for (bool narrow : {false, true})
      for (Compute compute : {Compute::f32, Compute::bf16})
        for (bool entropic : {false, true}) {
          Case c(s, false);
          if (narrow) {
            c.h = rounded(c.h);
            c.W = rounded(c.W);
          }
          const auto h_bits = upper_halves(c.h), W_bits = upper_halves(c.W);
          const Operand h = narrow ? Operand{nullptr, h_bits.data()} : Operand{c.h.data(), nullptr},
                        W = narrow ? Operand{nullptr, W_bits.data()} : Operand{c.W.data(), nullptr};
          const std::string what = c.name() + (narrow ? "bf16 " : "f32 ") + (compute == Compute::bf16 ? "as bf16 " : "as f32 ");
          const auto R = static_cast<size_t>(c.R);
          std::vector<float> logprob(R, NAN), entropy(R, NAN), lse(R, NAN), dh(c.h.size(), NAN), dW = check::normal(c.W.size(), 6, 0.1),
                                                                                                 alone = dh;
          const auto dW0 = dW, dlogprob = check::normal(R, 4), dentropy = check::normal(R, 5);
          float* const entropies = entropic ? entropy.data() : nullptr;
          backend.given_head_forward(logprob.data(), entropies, lse.data(), h, W, c.target.data(), c.R, c.C, c.V, 0.8f, compute);
          {
            check::Floats own_h(backend, c.h), own_W(backend, c.W), own(backend, R, NAN), own_entropy(backend, R, NAN),
                own_lse(backend, R, NAN);
            const auto panels = backend.make_panels(c.V, c.C, compute);
            backend.pack(*panels, own_W);
            backend.head_forward(own, entropic ? own_entropy.data() : nullptr, own_lse, own_h, *panels, nullptr, c.target.data(), nullptr,
                                 c.R, 0.8f);
            check::same_bits(logprob, own.read(), what + "logprob");
            check::same_bits(lse, own_lse.read(), what + "lse");
            if (entropic) check::same_bits(entropy, own_entropy.read(), what + "entropy");
          }
          backend.given_head_backward(dh.data(), dW.data(), h, W, c.target.data(), lse.data(), entropies, dlogprob.data(),
                                      entropic ? dentropy.data() : nullptr, c.R, c.C, c.V, 0.8f, compute);
          backend.given_head_backward(alone.data(), nullptr, h, W, c.target.data(), lse.data(), entropies, dlogprob.data(),
                                      entropic ? dentropy.data() : nullptr, c.R, c.C, c.V, 0.8f, compute);
          check::same_bits(alone, dh, what + "dh without dW");
          if (compute == Compute::f32) {
            auto wanted = reference::head_backward(widen(c.h), widen(c.W), c.target, {}, widen(dlogprob),
                                                   entropic ? widen(dentropy) : Values(), c.R, c.V, c.C, static_cast<double>(0.8f));
            for (size_t i = 0; i < dW0.size(); ++i) wanted.dW[i] += static_cast<double>(dW0[i]);
            const double range = entropic ? 4 + check::largest(widen(lse)) : 1,
                         per_row = (2 * logit_error(c, 0.8) + 16 * check::kEps) * range * 4 / 0.8;
            check::close(dh, wanted.dh, per_row * check::largest(widen(c.W)) * check::largest(widen(dlogprob)), what + "dh");
            check::close(dW, wanted.dW, per_row * check::largest(widen(c.h)) * check::largest(widen(dlogprob)) + 2 * check::kEps,
                         what + "dW");
          } else if (!narrow) {  // the bits that the same matrices give when they are rounded before
            std::vector<float> again(c.h.size(), NAN);
            auto again_W = dW0;
            const auto hb = upper_halves(rounded(c.h)), Wb = upper_halves(rounded(c.W));
            backend.given_head_backward(again.data(), again_W.data(), {nullptr, hb.data()}, {nullptr, Wb.data()}, c.target.data(),
                                        lse.data(), entropies, dlogprob.data(), entropic ? dentropy.data() : nullptr, c.R, c.C, c.V, 0.8f,
                                        compute);
            check::same_bits(again, dh, what + "dh of rounded");
            check::same_bits(again_W, dW, what + "dW of rounded");
          }
        }
}

BACKEND_TEST(given_nothing) {
  backend.given_logits_forward(nullptr, nullptr, nullptr, {}, nullptr, 0, 5, 1.f);
  backend.given_logits_backward(nullptr, {}, nullptr, nullptr, nullptr, nullptr, nullptr, 0, 5, 1.f);
  backend.given_head_forward(nullptr, nullptr, nullptr, {}, {}, nullptr, 0, 3, 5, 1.f, Compute::f32);
  auto dW = check::normal(15, 1);
  const auto before = dW;
  backend.given_head_backward(nullptr, dW.data(), {}, {}, nullptr, nullptr, nullptr, nullptr, nullptr, 0, 3, 5, 1.f, Compute::f32);
  check::same_bits(dW, before, "dW of no rows");
}
