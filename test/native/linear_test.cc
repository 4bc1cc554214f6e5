// Matrix products of linear layers, forward and backward, f32 and bf16.
#include <algorithm>

#include "backends.h"
#include "reference.h"

using rank_grpo::Backend;
using rank_grpo::Compute;
using reference::Values;
using reference::widen;

namespace {

struct Shape {
  int64_t T, N, K;
};
// 1, primes, around the tile of 8 x 48, around the depth of one pass (768), and odd K for the pairs of bf16
const Shape kShapes[] = {{1, 1, 1},
                         {1, 48, 16},
                         {2, 47, 31},
                         {3, 49, 17},
                         {7, 97, 13},
                         {8, 48, 64},
                         {9, 96, 65},
                         {13, 5, 101},
                         {17, 1, 257},
                         {31, 101, 3},
                         {64, 53, 129},
                         {129, 144, 7},
                         {5, 50, 767},
                         {11, 61, 1537},
                         // blocks of rows, and passes over the tokens of a gradient by weight
                         {300, 101, 33},
                         {1600, 27, 50}};

// An f32 sum of K products has an error of about sqrt(K) roundings of its partial sums, whatever its order.
Values tolerance(const Values& magnitude, int64_t K) {
  Values t;
  for (double m : magnitude) t.push_back(2 * check::kEps * std::sqrt(static_cast<double>(K) + 4) * m + 1e-38);
  return t;
}

std::vector<float> rounded(const std::vector<float>& x, Compute compute) {
  if (compute == Compute::f32) return x;
  std::vector<float> y;
  for (float v : x) y.push_back(static_cast<float>(reference::bf16(static_cast<double>(v))));
  return y;
}

// bf16: operands rounded, products and sums as in f32. A plain bf16 implementation does the same, so its error is the f32 bound over
// rounded operands, not a wider one.
void products(Backend& backend, Compute compute) {
  for (const auto& [T, N, K] : kShapes) {
    const auto x = check::normal(static_cast<size_t>(T * K), 1), W = check::normal(static_cast<size_t>(N * K), 2),
               dy = check::normal(static_cast<size_t>(T * N), 3), bias = check::normal(static_cast<size_t>(N), 4),
               start_x = check::normal(static_cast<size_t>(T * K), 5), start_w = check::normal(static_cast<size_t>(N * K), 6);
    const Values rx = widen(rounded(x, compute)), rW = widen(rounded(W, compute)), rdy = widen(rounded(dy, compute));
    const std::string what = "T " + std::to_string(T) + " N " + std::to_string(N) + " K " + std::to_string(K) + " ";
    check::Floats dx(backend, x), dW(backend, W), ddy(backend, dy), dbias(backend, bias), y(backend, static_cast<size_t>(T * N), NAN);

    const auto panels = backend.make_panels(N, K, compute);
    backend.pack(*panels, dW);
    backend.linear_forward(y, dx, *panels, nullptr, T);
    auto expected = reference::linear(rx, rW, T, N, K);
    check::close(y.read(), expected.value, tolerance(expected.magnitude, K), what + "y");
    backend.linear_forward(y, dx, *panels, dbias, T);
    for (int64_t i = 0; i < T * N; ++i) {
      expected.value[static_cast<size_t>(i)] += static_cast<double>(bias[static_cast<size_t>(i % N)]);
      expected.magnitude[static_cast<size_t>(i)] += std::abs(static_cast<double>(bias[static_cast<size_t>(i % N)]));
    }
    check::close(y.read(), expected.value, tolerance(expected.magnitude, K), what + "y + bias");

    for (bool accumulate : {false, true}) {
      check::Floats out(backend, accumulate ? start_x : std::vector<float>(x.size(), NAN));
      backend.linear_backward_input(out, ddy, dW, T, N, K, compute, accumulate);
      auto wanted = reference::linear_input(rdy, rW, T, N, K);
      if (accumulate)
        for (size_t i = 0; i < wanted.value.size(); ++i) {
          wanted.value[i] += static_cast<double>(start_x[i]);
          wanted.magnitude[i] += std::abs(static_cast<double>(start_x[i]));
        }
      check::close(out.read(), wanted.value, tolerance(wanted.magnitude, N), what + "dx");
    }

    check::Floats grad(backend, start_w), grad_bias(backend, bias);
    backend.linear_backward_weight(grad, grad_bias, ddy, dx, T, N, K, compute);
    auto wanted = reference::linear_weight(rdy, rx, T, N, K);
    for (size_t i = 0; i < wanted.value.size(); ++i) {
      wanted.value[i] += static_cast<double>(start_w[i]);
      wanted.magnitude[i] += std::abs(static_cast<double>(start_w[i]));
    }
    check::close(grad.read(), wanted.value, tolerance(wanted.magnitude, T), what + "dW");
    Values sums(bias.begin(), bias.end()), sizes(static_cast<size_t>(N), 4);
    for (int64_t i = 0; i < T * N; ++i) {
      sums[static_cast<size_t>(i % N)] += static_cast<double>(dy[static_cast<size_t>(i)]);
      sizes[static_cast<size_t>(i % N)] += std::abs(static_cast<double>(dy[static_cast<size_t>(i)]));
    }
    check::close(grad_bias.read(), sums, tolerance(sizes, T), what + "dbias");
    check::Floats without(backend, start_w);
    backend.linear_backward_weight(without, nullptr, ddy, dx, T, N, K, compute);
    check::same_bits(without.read(), grad.read(), what + "dW without dbias");
    // the operands are as they were
    check::same_bits(dx.read(), x, "x");
    check::same_bits(dW.read(), W, "W");
    check::same_bits(ddy.read(), dy, "dy");
  }
}

}  // namespace

BACKEND_TEST(linear_f32) { products(backend, Compute::f32); }
BACKEND_TEST(linear_bf16) { products(backend, Compute::bf16); }

BACKEND_TEST(linear_of_no_rows) {
  const int64_t N = 50, K = 33;
  const auto W = check::normal(N * K, 1);
  check::Floats dW(backend, W), none(backend, 0, 0.f), grad(backend, W), bias(backend, check::normal(N, 2));
  const auto panels = backend.make_panels(N, K, Compute::f32);
  backend.pack(*panels, dW);
  backend.linear_forward(none, none, *panels, bias, 0);
  backend.linear_backward_input(none, none, dW, 0, N, K, Compute::f32, false);
  backend.linear_backward_weight(grad, nullptr, none, none, 0, N, K, Compute::f32);
  check::same_bits(grad.read(), W, "dW of no rows");
  none.read();
}

// The exactness contract: a row's bits depend on neither its neighbours nor the number of rows.
BACKEND_TEST(linear_rows_alone_and_together) {
  for (Compute compute : {Compute::f32, Compute::bf16}) {
    const int64_t T = 37, N = 101, K = 900;
    const auto x = check::normal(T * K, 1);
    check::Floats W(backend, check::normal(N * K, 2)), all(backend, x), y(backend, T * N, 0.f);
    const auto panels = backend.make_panels(N, K, compute);
    backend.pack(*panels, W);
    backend.linear_forward(y, all, *panels, nullptr, T);
    const auto together = y.read();
    for (int64_t t : {0, 7, 8, 36}) {
      check::Floats one(backend, std::vector<float>(x.begin() + t * K, x.begin() + (t + 1) * K)), out(backend, N, 0.f);
      backend.linear_forward(out, one, *panels, nullptr, 1);
      check::same_bits(out.read(), std::vector<float>(together.begin() + t * N, together.begin() + (t + 1) * N),
                       "row " + std::to_string(t));
    }
  }
}

TEST(linear_same_bits_everywhere) {
  check::same_everywhere([](Backend& backend) {
    const int64_t T = 133, N = 205, K = 801;
    check::Floats x(backend, check::normal(T * K, 1)), W(backend, check::normal(N * K, 2)), dy(backend, check::normal(T * N, 3)),
        y(backend, T * N, 0.f), dx(backend, T * K, 0.f), dW(backend, N * K, 0.f), db(backend, N, 0.f);
    const auto panels = backend.make_panels(N, K, Compute::f32);
    backend.pack(*panels, W);
    backend.linear_forward(y, x, *panels, nullptr, T);
    backend.linear_backward_input(dx, dy, W, T, N, K, Compute::f32, false);
    backend.linear_backward_weight(dW, db, dy, x, T, N, K, Compute::f32);
    std::vector<float> all;
    for (auto* part : {&y, &dx, &dW, &db}) {
      const auto values = part->read();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  });
}
