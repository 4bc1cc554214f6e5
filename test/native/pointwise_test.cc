// Embedding, norms, rotary, SwiGLU, residuals, AdamW and the gradient's norm.
#include <algorithm>

#include "backends.h"
#include "reference.h"

using rank_grpo::Backend;
using reference::Values;
using reference::widen;

namespace {

struct Shape {
  int64_t T, C;
};
const Shape kShapes[] = {{1, 1}, {3, 7}, {5, 16}, {2, 17}, {7, 31}, {33, 48}, {4, 130}, {129, 64}, {1, 1000}};

std::vector<double> relative(const Values& x, double factor, double floor) {
  std::vector<double> t;
  for (double v : x) t.push_back(factor * std::abs(v) + floor);
  return t;
}

// Rows of C values `stride` apart, NaN between them.
std::vector<float> spread(const std::vector<float>& x, int64_t T, int64_t C, int64_t stride) {
  std::vector<float> out(static_cast<size_t>(T * stride), NAN);
  for (int64_t t = 0; t < T; ++t)
    for (int64_t c = 0; c < C; ++c) out[static_cast<size_t>(t * stride + c)] = x[static_cast<size_t>(t * C + c)];
  return out;
}
std::vector<float> gathered(const std::vector<float>& x, int64_t T, int64_t C, int64_t stride) {
  std::vector<float> out;
  for (int64_t t = 0; t < T; ++t)
    for (int64_t c = 0; c < stride; ++c) {
      const float v = x[static_cast<size_t>(t * stride + c)];
      if (c < C) {
        out.push_back(v);
      } else {
        CHECK(std::isnan(v));  // between the rows nothing is written
      }
    }
  return out;
}

}  // namespace

BACKEND_TEST(embedding_and_rows) {
  for (const auto& [T, C] : kShapes) {
    const int V = 11;
    const size_t n = static_cast<size_t>(T * C);
    const auto table = check::normal(static_cast<size_t>(V * C), 1), dx = check::normal(n, 2);
    const auto ids = check::integers(static_cast<size_t>(T), 3, V);
    check::Floats dtable(backend, table), x(backend, n, NAN), din(backend, dx);
    check::Ints rows(backend, ids);
    std::vector<float> wanted;
    for (int32_t id : ids) wanted.insert(wanted.end(), table.begin() + id * C, table.begin() + (id + 1) * C);
    backend.embedding_forward(x, dtable, rows, T, C);
    check::same_bits(x.read(), wanted, "embedding");
    check::Floats gathered_rows(backend, n, NAN);
    backend.gather_rows(gathered_rows, dtable, rows, T, C);
    check::same_bits(gathered_rows.read(), wanted, "gather");

    // repeated ids add up, in ascending rows
    auto sums = table;
    for (size_t i = 0; i < n; ++i) sums[static_cast<size_t>(ids[i / static_cast<size_t>(C)] * C) + i % static_cast<size_t>(C)] += dx[i];
    check::Floats grad(backend, table), scattered(backend, table);
    backend.embedding_backward(grad, din, rows, T, C);
    check::same_bits(grad.read(), sums, "embedding backward");
    backend.scatter_add_rows(scattered, din, rows, T, C);
    check::same_bits(scattered.read(), sums, "scatter");
  }
  check::Floats none(backend, 0, 0.f), table(backend, 8, 1.f);
  check::Ints no_rows(backend, 0, 0);
  backend.embedding_forward(none, table, no_rows, 0, 4);
  backend.embedding_backward(table, none, no_rows, 0, 4);
  check::same_bits(table.read(), std::vector<float>(8, 1.f), "no rows");
}

BACKEND_TEST(norms) {
  for (const auto& [T, C] : kShapes)
    for (int64_t gap : {0, 5}) {
      const int64_t stride = C + gap;
      const size_t n = static_cast<size_t>(T * C);
      const auto x = check::normal(n, 1, 3), w = check::normal(static_cast<size_t>(C), 2), dy = check::normal(n, 3),
                 dx0 = check::normal(n, 4), dw0 = check::normal(static_cast<size_t>(C), 5);
      const float eps = 1e-5f;
      const std::string what = "T " + std::to_string(T) + " C " + std::to_string(C) + " ";
      check::Floats in(backend, spread(x, T, C, stride)), weight(backend, w), out(backend, static_cast<size_t>(T * stride), NAN);
      backend.norm_forward(out, in, weight, T, C, stride, stride, eps);
      const Values y = reference::norm(widen(x), widen(w), T, C, static_cast<double>(eps));
      check::close(gathered(out.read(), T, C, stride), y, relative(y, 8 * check::kEps, 1e-30), what + "norm");
      check::Floats packed(backend, n, NAN);  // strides of their own on both sides
      backend.norm_forward(packed, in, weight, T, C, C, stride, eps);
      check::same_bits(packed.read(), gathered(out.read(), T, C, stride), what + "packed");

      const auto wanted = reference::norm_backward(widen(dy), widen(x), widen(w), T, C, static_cast<double>(eps));
      // dx is a difference: its error is that of the larger term, |dy w| r
      const double bound = 16 * check::kEps * check::largest(widen(dy)) * check::largest(widen(w)) *
                           std::max(1.0, check::largest(wanted.dx) / std::max(1e-9, check::largest(widen(dy)) * check::largest(widen(w))));
      for (bool accumulate : {false, true}) {
        check::Floats din(backend, spread(dy, T, C, stride)), dx(backend, spread(dx0, T, C, stride)), dw(backend, dw0);
        backend.norm_backward(dx, dw, din, in, weight, T, C, stride, eps, accumulate);
        Values dx_wanted = wanted.dx, dw_wanted = wanted.dw;
        for (size_t i = 0; i < n && accumulate; ++i) dx_wanted[i] += static_cast<double>(dx0[i]);
        double size = 0;
        for (size_t i = 0; i < dw_wanted.size(); ++i) dw_wanted[i] += static_cast<double>(dw0[i]);
        size = std::sqrt(static_cast<double>(T)) * check::largest(widen(dy)) * 4;
        check::close(gathered(dx.read(), T, C, stride), dx_wanted, bound + (accumulate ? 4 * check::kEps : 0), what + "dx");
        check::close(dw.read(), dw_wanted, 4 * check::kEps * size, what + "dw");
        // dx may be dy's own memory
        check::Floats both(backend, spread(dy, T, C, stride)), dw2(backend, dw0);
        if (!accumulate) {
          backend.norm_backward(both, dw2, both, in, weight, T, C, stride, eps, false);
          check::same_bits(gathered(both.read(), T, C, stride), gathered(dx.read(), T, C, stride), what + "dx over dy");
          check::same_bits(dw2.read(), dw.read(), what + "dw over dy");
        }
      }
    }
  check::Floats none(backend, 0, 0.f), w(backend, 4, 1.f), dw(backend, 4, 2.f);
  backend.norm_forward(none, none, w, 0, 4, 4, 4, 1e-5f);
  backend.norm_backward(none, dw, none, none, w, 0, 4, 4, 1e-5f, false);
  check::same_bits(dw.read(), std::vector<float>(4, 2.f), "no rows");
}

BACKEND_TEST(rotary) {
  for (const rank_grpo::AttentionShape& shape : {rank_grpo::AttentionShape{1, 1, 2}, {3, 1, 8}, {4, 2, 22}, {2, 2, 64}, {9, 3, 128}}) {
    const int positions = 40, half = shape.head_dim / 2;
    const int64_t T = 19;
    std::vector<float> table;
    for (int p = 0; p < positions; ++p)
      for (int i = 0; i < half; ++i) {
        const double angle = p * std::pow(10000.0, -static_cast<double>(i) / half);
        table.push_back(static_cast<float>(std::cos(angle)));
        table.push_back(static_cast<float>(std::sin(angle)));
      }
    const auto qkv = check::normal(static_cast<size_t>(T * shape.width()), 1);
    const auto where = check::integers(static_cast<size_t>(T), 2, positions);
    check::Floats dtable(backend, table);
    check::Ints rows(backend, where);
    for (bool inverse : {false, true}) {
      check::Floats x(backend, qkv);
      backend.rotary(x, rows, dtable, T, shape, inverse);
      const Values wanted = reference::rotary(widen(qkv), where, widen(table), shape, inverse);
      check::close(x.read(), wanted, 4 * check::kEps * check::largest(widen(qkv)), "rotary");
      const auto got = x.read();
      for (int64_t t = 0; t < T; ++t)  // values stay
        for (int i = (shape.heads + shape.kv_heads) * shape.head_dim; i < shape.width(); ++i)
          CHECK(got[static_cast<size_t>(t * shape.width() + i)] == qkv[static_cast<size_t>(t * shape.width() + i)]);
    }
  }
}

BACKEND_TEST(swiglu) {
  for (const auto& [T, F] : kShapes) {
    const size_t n = static_cast<size_t>(T * F);
    auto gate_up = check::normal(2 * n, 1, 4);
    const auto dy = check::normal(n, 2);
    // the ends of the sigmoid's range too
    if (n > 6) gate_up[0] = 120, gate_up[1] = -120, gate_up[2] = -87.5f, gate_up[3] = 0, gate_up[4] = 88.9f, gate_up[5] = -3e38f;
    check::Floats in(backend, gate_up), out(backend, n, NAN), din(backend, dy), dgate_up(backend, 2 * n, NAN);
    backend.swiglu_forward(out, in, T, F);
    const Values y = reference::swiglu(widen(gate_up), T, F);
    check::close(out.read(), y, relative(y, 8 * check::kEps, 1e-34), "swiglu");
    backend.swiglu_backward(dgate_up, din, in, T, F);
    const Values d = reference::swiglu_backward(widen(dy), widen(gate_up), T, F);
    // s (1 + g (1 - s)) is near zero where its terms cancel (g near -1.28): the bound is of its terms
    Values bound;
    for (size_t i = 0; i < d.size(); ++i) {
      const int64_t t = static_cast<int64_t>(i) / (2 * F), f = static_cast<int64_t>(i) % F;
      const double g = static_cast<double>(gate_up[static_cast<size_t>(t * 2 * F + f)]),
                   u = static_cast<double>(gate_up[static_cast<size_t>(t * 2 * F + F + f)]),
                   e = std::abs(static_cast<double>(dy[static_cast<size_t>(t * F + f)])), s = reference::sigmoid(g);
      const bool gate = static_cast<int64_t>(i) % (2 * F) < F;
      bound.push_back(12 * check::kEps * e * (gate ? std::abs(u) * s * (1 + std::abs(g) * (1 - s)) : std::abs(g) * s) + 1e-34);
    }
    check::close(dgate_up.read(), d, bound, "swiglu backward");
  }
}

BACKEND_TEST(add) {
  for (size_t n : {0, 1, 15, 16, 17, 1000, 40000}) {
    const auto x = check::normal(n, 1), y = check::normal(n, 2);
    std::vector<float> sum;
    for (size_t i = 0; i < n; ++i) sum.push_back(x[i] + y[i]);
    check::Floats a(backend, x), b(backend, y);
    backend.add(a, b, static_cast<int64_t>(n));
    check::same_bits(a.read(), sum, "x + y");
    check::same_bits(b.read(), y, "y");
  }
}

BACKEND_TEST(memory_is_zeroed_copied_and_aligned) {
  for (size_t bytes : {size_t{4}, size_t{64}, size_t{4100}, (size_t{1} << 20) + 8}) {
    void* p = backend.allocate(bytes);
    CHECK(reinterpret_cast<uintptr_t>(p) % 64 == 0);
    std::vector<char> got(bytes, 1);
    backend.download(got.data(), p, bytes);
    CHECK(std::count(got.begin(), got.end(), 0) == static_cast<int64_t>(bytes));
    backend.release(p, bytes);
  }
  const auto values = check::normal((size_t{1} << 18) + 3, 1);
  check::Floats from(backend, values), to(backend, values.size(), NAN);
  backend.copy(to, from, values.size() * 4);
  check::same_bits(to.read(), values, "copy");
  backend.zero(to, values.size() * 4);
  check::same_bits(to.read(), std::vector<float>(values.size(), 0.f), "zero");
  backend.zero(to, 0);
  CHECK_THROWS(backend.allocate(size_t{1} << 50), "OUT_OF_MEMORY");
}

BACKEND_TEST(adamw_and_squared_norm) {
  for (size_t n : {size_t{1}, size_t{16}, size_t{1021}, size_t{70001}}) {
    auto w = check::normal(n, 1);
    Values rw = widen(w), rm(n), rv(n);
    check::Floats dw(backend, w), m(backend, n, 0.f), v(backend, n, 0.f);
    for (int64_t step = 1; step <= 4; ++step) {
      auto g = check::normal(n, 10 + static_cast<uint32_t>(step), step == 3 ? 1e-4 : 1);
      g[0] = 0;  // a gradient of zero moves nothing but by decay
      check::Floats dg(backend, g);
      const rank_grpo::AdamW o{1e-2f, 0.9f, 0.95f, 1e-8f, 0.1f, step, 0.37f};
      backend.adamw(dw, m, v, dg, static_cast<int64_t>(n), o);
      reference::adamw(rw, rm, rv, widen(g), o);
      double sum = 0;
      for (float x : g) sum += static_cast<double>(x) * static_cast<double>(x);
      CHECK_NEAR(backend.squared_norm(dg, static_cast<int64_t>(n)) / std::max(1e-30, sum), sum > 0 ? 1 : 0, 1e-6);
      check::same_bits(dg.read(), g, "gradient");
    }
    check::close(m.read(), rm, 1e-6, "m");
    check::close(v.read(), rv, 1e-6, "v");
    // a step is at most about the learning rate; its relative error that of m and of the root of v
    check::close(dw.read(), rw, 4 * (1e-2 * 8 * check::kEps + 2 * check::kEps * check::largest(rw)), "w");
  }
  check::Floats none(backend, 0, 0.f);
  CHECK(backend.squared_norm(none, 0) == 0);
  check::Floats poisoned(backend, std::vector<float>{1, NAN, 2});
  CHECK(std::isnan(backend.squared_norm(poisoned, 3)));
}

TEST(pointwise_same_bits_everywhere) {
  check::same_everywhere([](Backend& backend) {
    const int64_t T = 301, C = 77;
    const size_t n = T * C;
    check::Floats x(backend, check::normal(n, 1)), w(backend, check::normal(C, 2)), y(backend, n, 0.f), dx(backend, n, 0.f),
        dw(backend, C, 0.f), gate_up(backend, check::normal(2 * n, 3)), act(backend, n, 0.f), dgate(backend, 2 * n, 0.f),
        table(backend, check::normal(9 * C, 4)), grad(backend, 9 * C, 0.f), m(backend, n, 0.f), v(backend, n, 0.f),
        p(backend, check::normal(n, 5));
    check::Ints ids(backend, check::integers(T, 6, 9));
    backend.norm_forward(y, x, w, T, C, C, C, 1e-6f);
    backend.norm_backward(dx, dw, y, x, w, T, C, C, 1e-6f, false);
    backend.swiglu_forward(act, gate_up, T, C);
    backend.swiglu_backward(dgate, act, gate_up, T, C);
    backend.embedding_backward(grad, x, ids, T, C);
    backend.adamw(p, m, v, x, static_cast<int64_t>(n), {1e-3f, 0.9f, 0.999f, 1e-8f, 0.01f, 1, 1.f});
    std::vector<float> all{static_cast<float>(backend.squared_norm(x, static_cast<int64_t>(n)))};
    for (auto* part : {&y, &dx, &dw, &act, &dgate, &grad, &p}) {
      const auto values = part->read();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  });
}
