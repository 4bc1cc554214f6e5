// Every operation of native/core/backend.h in float64, as plainly as it can be written: what the kernels are held against. Derivatives
// are analytic; reference_test.cc holds them against central differences of the forward functions here.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

#include "../../native/core/backend.h"

namespace reference {

using Values = std::vector<double>;

inline Values widen(const std::vector<float>& x) { return Values(x.begin(), x.end()); }

// Nearest bf16, ties to even.
inline double bf16(double x) {
  const float f = static_cast<float>(x);
  uint32_t u;
  std::memcpy(&u, &f, 4);
  u = (u + 0x7fffu + (u >> 16 & 1)) & 0xffff0000u;
  float y;
  std::memcpy(&y, &u, 4);
  return static_cast<double>(y);
}
inline Values round_bf16(const Values& x) {
  Values y;
  for (double v : x) y.push_back(bf16(v));
  return y;
}

// -- matrix products. `magnitude` is the same sum over absolute values: what rounding errors are proportional to.

struct Product {
  Values value, magnitude;
};
inline Product product(int64_t M, int64_t N, int64_t K, const std::function<double(int64_t, int64_t)>& a,
                       const std::function<double(int64_t, int64_t)>& b) {
  Product out{Values(static_cast<size_t>(M * N)), Values(static_cast<size_t>(M * N))};
  for (int64_t m = 0; m < M; ++m)
    for (int64_t n = 0; n < N; ++n)
      for (int64_t k = 0; k < K; ++k) {
        const double term = a(m, k) * b(k, n);
        out.value[static_cast<size_t>(m * N + n)] += term;
        out.magnitude[static_cast<size_t>(m * N + n)] += std::abs(term);
      }
  return out;
}
inline double at(const Values& x, int64_t i) { return x[static_cast<size_t>(i)]; }
// y [T, N] = x [T, K] W [N, K]^T
inline Product linear(const Values& x, const Values& W, int64_t T, int64_t N, int64_t K) {
  return product(
      T, N, K, [&](int64_t t, int64_t k) { return at(x, t * K + k); }, [&](int64_t k, int64_t n) { return at(W, n * K + k); });
}
// dx [T, K] = dy [T, N] W
inline Product linear_input(const Values& dy, const Values& W, int64_t T, int64_t N, int64_t K) {
  return product(
      T, K, N, [&](int64_t t, int64_t n) { return at(dy, t * N + n); }, [&](int64_t n, int64_t k) { return at(W, n * K + k); });
}
// dW [N, K] = dy^T x
inline Product linear_weight(const Values& dy, const Values& x, int64_t T, int64_t N, int64_t K) {
  return product(
      N, K, T, [&](int64_t n, int64_t t) { return at(dy, t * N + n); }, [&](int64_t t, int64_t k) { return at(x, t * K + k); });
}

// -- attention over rows of qkv [T, (H + 2 Hkv) D]; sees[t] lists the rows that row t attends to

using Sees = std::vector<std::vector<int32_t>>;
struct Attention {
  Values out, lse;  // [T, H D], [T, H]
};
struct AttentionRow {  // of one query head
  Values weights;
  double lse;
};
inline AttentionRow attention_row(const Values& qkv, const std::vector<int32_t>& rows, int64_t t, int h,
                                  const rank_grpo::AttentionShape& s) {
  const int D = s.head_dim, W = s.width(), kv = h / (s.heads / s.kv_heads);
  Values scores;
  for (int32_t row : rows) {
    double dot = 0;
    for (int d = 0; d < D; ++d) dot += at(qkv, t * W + h * D + d) * at(qkv, int64_t{row} * W + (s.heads + kv) * D + d);
    scores.push_back(dot / std::sqrt(static_cast<double>(D)));
  }
  double top = -INFINITY, sum = 0;
  for (double x : scores) top = std::max(top, x);
  for (double x : scores) sum += std::exp(x - top);
  const double lse = top + std::log(sum);
  for (double& x : scores) x = std::exp(x - lse);
  return {scores, lse};
}
inline Attention attention(const Values& qkv, const Sees& sees, const rank_grpo::AttentionShape& s) {
  const int D = s.head_dim, H = s.heads, W = s.width();
  const int64_t T = static_cast<int64_t>(sees.size());
  Attention result{Values(static_cast<size_t>(T * H * D)), Values(static_cast<size_t>(T * H))};
  for (int64_t t = 0; t < T; ++t)
    for (int h = 0; h < H; ++h) {
      const auto& rows = sees[static_cast<size_t>(t)];
      const auto row = attention_row(qkv, rows, t, h, s);
      const int kv = h / (H / s.kv_heads);
      result.lse[static_cast<size_t>(t * H + h)] = row.lse;
      for (size_t j = 0; j < rows.size(); ++j)
        for (int d = 0; d < D; ++d)
          result.out[static_cast<size_t>((t * H + h) * D + d)] +=
              row.weights[j] * at(qkv, int64_t{rows[j]} * W + (H + s.kv_heads + kv) * D + d);
    }
  return result;
}
inline Values attention_backward(const Values& dout, const Values& qkv, const Sees& sees, const rank_grpo::AttentionShape& s) {
  const int D = s.head_dim, H = s.heads, W = s.width();
  const int64_t T = static_cast<int64_t>(sees.size());
  const double scale = 1 / std::sqrt(static_cast<double>(D));
  Values dqkv(qkv.size());
  for (int64_t t = 0; t < T; ++t)
    for (int h = 0; h < H; ++h) {
      const auto& rows = sees[static_cast<size_t>(t)];
      const auto row = attention_row(qkv, rows, t, h, s);
      const int kv = h / (H / s.kv_heads);
      const int64_t k0 = (H + kv) * D, v0 = (H + s.kv_heads + kv) * D, q0 = t * W + h * D;
      const double* dy = &dout[static_cast<size_t>((t * H + h) * D)];
      Values dweight(rows.size());
      double mean = 0;
      for (size_t j = 0; j < rows.size(); ++j) {
        for (int d = 0; d < D; ++d) {
          dweight[j] += dy[d] * at(qkv, int64_t{rows[j]} * W + v0 + d);
          dqkv[static_cast<size_t>(int64_t{rows[j]} * W + v0 + d)] += row.weights[j] * dy[d];
        }
        mean += row.weights[j] * dweight[j];
      }
      for (size_t j = 0; j < rows.size(); ++j) {
        const double ds = row.weights[j] * (dweight[j] - mean) * scale;
        for (int d = 0; d < D; ++d) {
          dqkv[static_cast<size_t>(q0 + d)] += ds * at(qkv, int64_t{rows[j]} * W + k0 + d);
          dqkv[static_cast<size_t>(int64_t{rows[j]} * W + k0 + d)] += ds * at(qkv, q0 + d);
        }
      }
    }
  return dqkv;
}

// -- pointwise; rows of C values

inline double inverse_rms(const double* x, int64_t C, double eps) {
  double sum = 0;
  for (int64_t c = 0; c < C; ++c) sum += x[c] * x[c];
  return 1 / std::sqrt(sum / static_cast<double>(C) + eps);
}
inline Values norm(const Values& x, const Values& w, int64_t T, int64_t C, double eps) {
  Values y(x.size());
  for (int64_t t = 0; t < T; ++t) {
    const double r = inverse_rms(&x[static_cast<size_t>(t * C)], C, eps);
    for (int64_t c = 0; c < C; ++c) y[static_cast<size_t>(t * C + c)] = at(x, t * C + c) * r * at(w, c);
  }
  return y;
}
struct NormGradient {
  Values dx, dw;
};
inline NormGradient norm_backward(const Values& dy, const Values& x, const Values& w, int64_t T, int64_t C, double eps) {
  NormGradient g{Values(x.size()), Values(w.size())};
  for (int64_t t = 0; t < T; ++t) {
    const double r = inverse_rms(&x[static_cast<size_t>(t * C)], C, eps);
    double dot = 0;
    for (int64_t c = 0; c < C; ++c) dot += at(dy, t * C + c) * at(w, c) * at(x, t * C + c);
    for (int64_t c = 0; c < C; ++c) {
      g.dx[static_cast<size_t>(t * C + c)] = r * (at(dy, t * C + c) * at(w, c) - at(x, t * C + c) * r * r * dot / static_cast<double>(C));
      g.dw[static_cast<size_t>(c)] += at(dy, t * C + c) * at(x, t * C + c) * r;
    }
  }
  return g;
}
// Rotates pairs (i, i + D / 2) of the q and k heads by the angles' cos and sin in table [positions, D / 2, 2].
inline Values rotary(Values qkv, const std::vector<int32_t>& positions, const Values& table, const rank_grpo::AttentionShape& s,
                     bool inverse) {
  const int D = s.head_dim, half = D / 2;
  for (size_t t = 0; t < positions.size(); ++t)
    for (int h = 0; h < s.heads + s.kv_heads; ++h)
      for (int i = 0; i < half; ++i) {
        const double c = at(table, (int64_t{positions[t]} * half + i) * 2),
                     sn = at(table, (int64_t{positions[t]} * half + i) * 2 + 1) * (inverse ? -1 : 1);
        double &a = qkv[t * static_cast<size_t>(s.width()) + static_cast<size_t>(h * D + i)],
               &b = qkv[t * static_cast<size_t>(s.width()) + static_cast<size_t>(h * D + i + half)];
        const double x = a * c - b * sn, y = b * c + a * sn;
        a = x;
        b = y;
      }
  return qkv;
}
inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline Values swiglu(const Values& gate_up, int64_t T, int64_t F) {
  Values y(static_cast<size_t>(T * F));
  for (int64_t t = 0; t < T; ++t)
    for (int64_t f = 0; f < F; ++f) {
      const double g = at(gate_up, t * 2 * F + f), u = at(gate_up, t * 2 * F + F + f);
      y[static_cast<size_t>(t * F + f)] = g * sigmoid(g) * u;
    }
  return y;
}
inline Values swiglu_backward(const Values& dy, const Values& gate_up, int64_t T, int64_t F) {
  Values d(gate_up.size());
  for (int64_t t = 0; t < T; ++t)
    for (int64_t f = 0; f < F; ++f) {
      const double g = at(gate_up, t * 2 * F + f), u = at(gate_up, t * 2 * F + F + f), s = sigmoid(g), e = at(dy, t * F + f);
      d[static_cast<size_t>(t * 2 * F + f)] = e * u * s * (1 + g * (1 - s));
      d[static_cast<size_t>(t * 2 * F + F + f)] = e * g * s;
    }
  return d;
}

// -- the head: rows of h [R, C] against W [V, C]; `allowed` empty: every token

struct Head {
  Values logprob, entropy, lse;
  std::vector<Values> probabilities;         // [R][allowed or V]
  std::vector<std::vector<int32_t>> tokens;  // the ids they belong to
};
inline Head head(const Values& h, const Values& W, const std::vector<int32_t>& target, const std::vector<std::vector<int32_t>>& allowed,
                 int64_t R, int64_t V, int64_t C, double temperature) {
  Head out;
  for (int64_t r = 0; r < R; ++r) {
    std::vector<int32_t> ids;
    if (allowed.empty()) {
      for (int32_t v = 0; v < V; ++v) ids.push_back(v);
    } else {
      ids = allowed[static_cast<size_t>(r)];
    }
    Values x;
    double top = -INFINITY, sum = 0, entropy = 0, own = -INFINITY;
    for (int32_t id : ids) {
      double dot = 0;
      for (int64_t c = 0; c < C; ++c) dot += at(h, r * C + c) * at(W, int64_t{id} * C + c);
      x.push_back(dot / temperature);
      top = std::max(top, x.back());
      if (!target.empty() && id == target[static_cast<size_t>(r)]) own = x.back();
    }
    for (double v : x) sum += std::exp(v - top);
    const double lse = top + std::log(sum);
    Values p;
    for (double v : x) {
      p.push_back(std::exp(v - lse));
      entropy -= p.back() * (v - lse);
    }
    out.logprob.push_back(own - lse);
    out.entropy.push_back(entropy);
    out.lse.push_back(lse);
    out.probabilities.push_back(p);
    out.tokens.push_back(ids);
  }
  return out;
}
struct HeadGradient {
  Values dh, dW;
};
// Gradient of sum_r dlogprob[r] logprob[r] + dentropy[r] entropy[r]. Where `rounded`, the gradient by the logits is rounded to bf16 before
// the two products, as a plain bf16 implementation rounds it.
inline HeadGradient head_backward(const Values& h, const Values& W, const std::vector<int32_t>& target,
                                  const std::vector<std::vector<int32_t>>& allowed, const Values& dlogprob, const Values& dentropy,
                                  int64_t R, int64_t V, int64_t C, double temperature, bool rounded = false) {
  const Head f = head(h, W, target, allowed, R, V, C, temperature);
  HeadGradient g{Values(h.size()), Values(W.size())};
  for (int64_t r = 0; r < R; ++r) {
    const auto& ids = f.tokens[static_cast<size_t>(r)];
    for (size_t i = 0; i < ids.size(); ++i) {
      const double p = f.probabilities[static_cast<size_t>(r)][i];
      double d = at(dlogprob, r) * ((ids[i] == target[static_cast<size_t>(r)] ? 1 : 0) - p);
      if (!dentropy.empty() && p > 0) d -= at(dentropy, r) * p * (std::log(p) + at(f.entropy, r));
      d /= temperature;
      if (rounded) d = bf16(d);
      for (int64_t c = 0; c < C; ++c) {
        g.dh[static_cast<size_t>(r * C + c)] += d * at(W, int64_t{ids[i]} * C + c);
        g.dW[static_cast<size_t>(int64_t{ids[i]} * C + c)] += d * at(h, r * C + c);
      }
    }
  }
  return g;
}

// What sampling may draw from: the probabilities of one row after top-k, top-p and min-p, renormalised; 0 where cut off.
inline Values truncated(const Values& p, const rank_grpo::Sampling& s) {
  std::vector<size_t> order;
  for (size_t i = 0; i < p.size(); ++i) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  if (s.greedy) order.resize(1);
  if (s.top_k > 0 && static_cast<size_t>(s.top_k) < order.size()) order.resize(static_cast<size_t>(s.top_k));
  if (s.top_p < 1) {
    double total = 0, cumulative = 0;
    for (size_t i : order) total += p[i];
    size_t n = 0;
    while (n < order.size() && cumulative < static_cast<double>(s.top_p) * total) cumulative += p[order[n++]];
    order.resize(std::max<size_t>(1, n));
  }
  Values out(p.size());
  double total = 0;
  for (size_t i : order)
    if (p[i] >= static_cast<double>(s.min_p) * p[order[0]]) total += p[i];
  for (size_t i : order)
    if (p[i] >= static_cast<double>(s.min_p) * p[order[0]]) out[i] = p[i] / total;
  return out;
}

// -- AdamW as torch.optim.AdamW steps: decay first, both moments corrected, epsilon outside the root

inline void adamw(Values& w, Values& m, Values& v, const Values& g, const rank_grpo::AdamW& o) {
  const double lr = static_cast<double>(o.learning_rate), b1 = static_cast<double>(o.beta1), b2 = static_cast<double>(o.beta2),
               eps = static_cast<double>(o.epsilon), decay = static_cast<double>(o.weight_decay), step = static_cast<double>(o.step);
  for (size_t i = 0; i < w.size(); ++i) {
    const double grad = g[i] * static_cast<double>(o.grad_scale);
    w[i] *= 1 - lr * decay;
    m[i] = b1 * m[i] + (1 - b1) * grad;
    v[i] = b2 * v[i] + (1 - b2) * grad * grad;
    w[i] -= lr * (m[i] / (1 - std::pow(b1, step))) / (std::sqrt(v[i] / (1 - std::pow(b2, step))) + eps);
  }
}

// -- central differences: how f's weighted outputs change with x[i]

inline double central(const std::function<double(const Values&)>& f, Values x, size_t i, double h = 1e-5) {
  const double kept = x[i];
  x[i] = kept + h;
  const double up = f(x);
  x[i] = kept - h;
  return (up - f(x)) / (2 * h);
}
inline double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace reference
