// The references themselves: their analytic gradients against central differences of their forward functions, in float64.
#include "reference.h"

#include <algorithm>

#include "backends.h"

using reference::Values;
using reference::widen;

namespace {

// Central differences in float64 are good to about 1e-10 of the function's size at h = 1e-5.
void agrees(const std::function<double(const Values&)>& f, const Values& x, const Values& gradient, const char* what) {
  const double scale = std::max(1.0, check::largest(gradient));
  for (size_t i = 0; i < x.size(); ++i) {
    const double numeric = reference::central(f, x, i);
    check::that(
        std::abs(numeric - gradient[i]) <= 2e-9 * scale,
        std::string(what) + "[" + std::to_string(i) + "] = " + std::to_string(gradient[i]) + ", numerically " + std::to_string(numeric),
        __FILE__, __LINE__);
  }
}

}  // namespace

TEST(reference_linear) {
  const int64_t T = 3, N = 4, K = 5;
  const Values x = widen(check::normal(T * K, 1)), W = widen(check::normal(N * K, 2)), dy = widen(check::normal(T * N, 3));
  agrees([&](const Values& v) { return reference::dot(dy, reference::linear(v, W, T, N, K).value); }, x,
         reference::linear_input(dy, W, T, N, K).value, "dx");
  agrees([&](const Values& v) { return reference::dot(dy, reference::linear(x, v, T, N, K).value); }, W,
         reference::linear_weight(dy, x, T, N, K).value, "dW");
}

TEST(reference_attention) {
  const rank_grpo::AttentionShape shape{4, 2, 6};
  const reference::Sees sees{{0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 2, 4}, {0, 1, 2, 4, 5}};  // a prompt of 3, completions of 1 and 2
  const int64_t T = static_cast<int64_t>(sees.size());
  const Values qkv = widen(check::normal(static_cast<size_t>(T * shape.width()), 4)),
               dout = widen(check::normal(static_cast<size_t>(T * shape.heads * shape.head_dim), 5));
  agrees([&](const Values& v) { return reference::dot(dout, reference::attention(v, sees, shape).out); }, qkv,
         reference::attention_backward(dout, qkv, sees, shape), "dqkv");
}

TEST(reference_norm_and_swiglu) {
  const int64_t T = 3, C = 7;
  const Values x = widen(check::normal(T * C, 6)), w = widen(check::normal(C, 7)), dy = widen(check::normal(T * C, 8));
  const auto g = reference::norm_backward(dy, x, w, T, C, 1e-3);
  agrees([&](const Values& v) { return reference::dot(dy, reference::norm(v, w, T, C, 1e-3)); }, x, g.dx, "norm dx");
  agrees([&](const Values& v) { return reference::dot(dy, reference::norm(x, v, T, C, 1e-3)); }, w, g.dw, "norm dw");
  const Values gate_up = widen(check::normal(T * 2 * C, 9, 2));
  agrees([&](const Values& v) { return reference::dot(dy, reference::swiglu(v, T, C)); }, gate_up,
         reference::swiglu_backward(dy, gate_up, T, C), "swiglu");
}

TEST(reference_rotary_inverts_and_keeps_products) {
  const rank_grpo::AttentionShape shape{2, 1, 8};
  const std::vector<int32_t> positions{0, 3, 1};
  Values table;
  for (int p = 0; p < 4; ++p)
    for (int i = 0; i < 4; ++i) {
      table.push_back(std::cos(p * std::pow(10000.0, -i / 4.0)));
      table.push_back(std::sin(p * std::pow(10000.0, -i / 4.0)));
    }
  const Values x = widen(check::normal(3 * static_cast<size_t>(shape.width()), 10));
  const Values back = reference::rotary(reference::rotary(x, positions, table, shape, false), positions, table, shape, true);
  for (size_t i = 0; i < x.size(); ++i) CHECK_NEAR(back[i], x[i], 1e-14);
  // a rotation is orthogonal: its gradient is its inverse
  const Values dy = widen(check::normal(x.size(), 11));
  agrees([&](const Values& v) { return reference::dot(dy, reference::rotary(v, positions, table, shape, false)); }, x,
         reference::rotary(dy, positions, table, shape, true), "rotary");
}

TEST(reference_head) {
  const int64_t R = 4, V = 7, C = 5;
  const Values h = widen(check::normal(R * C, 12)), W = widen(check::normal(V * C, 13)), dlogprob = widen(check::normal(R, 14)),
               dentropy = widen(check::normal(R, 15));
  const std::vector<int32_t> target{0, 6, 3, 2};
  for (const std::vector<std::vector<int32_t>>& allowed :
       {std::vector<std::vector<int32_t>>{}, {{0, 2, 5}, {6}, {1, 3}, {0, 1, 2, 3, 4, 5, 6}}})
    for (double temperature : {1.0, 0.6}) {
      auto loss = [&](const Values& a, const Values& b) {
        const auto f = reference::head(a, b, target, allowed, R, V, C, temperature);
        return reference::dot(dlogprob, f.logprob) + reference::dot(dentropy, f.entropy);
      };
      const auto g = reference::head_backward(h, W, target, allowed, dlogprob, dentropy, R, V, C, temperature);
      agrees([&](const Values& v) { return loss(v, W); }, h, g.dh, "dh");
      agrees([&](const Values& v) { return loss(h, v); }, W, g.dW, "dW");
    }
}
