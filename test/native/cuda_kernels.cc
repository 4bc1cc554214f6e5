// The CUDA backend's operations against the CPU's, over odd shapes, and the promises of exactness as bits. Runs on the host shim
// and, where there is one, on a GPU.
#include <array>

#include "../../native/core/philox.h"
#include "cuda_check.h"

using namespace cuda_check;
using namespace rank_grpo;

namespace {

std::string name(const char* what, std::initializer_list<int64_t> numbers) {
  std::string out = what;
  for (int64_t n : numbers) out += " " + std::to_string(n);
  return out;
}

constexpr Compute kComputes[] = {Compute::f32, Compute::bf16};
double product_tolerance(Compute compute) { return compute == Compute::f32 ? 4e-6 : 2e-5; }  // both round operands alike; sums differ

}  // namespace

TEST(cuda_memory) {
  auto& b = cuda();
  DeviceBuffer fresh(b, 1000), other(b, 1000);
  Floats zeros(250), values = random_floats(250), out(250);
  b.download(out.data(), fresh.data(), 1000);
  CHECK(same_bits(out, zeros));
  b.upload(fresh.data(), values.data(), 1000);
  b.copy(other.data(), fresh.data(), 1000);
  b.zero(fresh.data(), 400);
  b.download(out.data(), other.data(), 1000);
  CHECK(same_bits(out, values));
  b.download(out.data(), fresh.data(), 1000);
  CHECK(same_bits(part(out, 0, 100), part(zeros, 0, 100)) && same_bits(part(out, 100, 150), part(values, 100, 150)));
  b.download(out.data(), DeviceBuffer(b, 0).data(), 0);
}

TEST(cuda_linear) {
  const int64_t shapes[][3] = {{1, 1, 1}, {5, 7, 3}, {3, 130, 300}, {65, 129, 40}, {130, 40, 37}, {2, 33, 520}};
  for (const auto compute : kComputes)
    for (const auto& [T, N, K] : shapes) {
      const Floats x = random_floats(T * K), W = random_floats(N * K), bias = random_floats(N), dy = random_floats(T * N),
                   seed = random_floats(N * K), dx0 = random_floats(T * K);
      COMPARE(product_tolerance(compute), name(compute == Compute::f32 ? "linear f32" : "linear bf16", {T, N, K}).c_str(), [&](Backend& b) {
        const Device<float> dx_(b, x), dW_(b, W), dbias(b, bias), ddy(b, dy), y(b, Floats(static_cast<size_t>(T * N))),
            plain(b, Floats(static_cast<size_t>(T * N)));
        const Device<float> gx(b, dx0), gx2(b, dx0), gW(b, seed), gb(b, bias);
        auto panels = b.make_panels(N, K, compute);
        b.pack(*panels, dW_);
        b.linear_forward(y, dx_, *panels, dbias, T);
        b.linear_forward(plain, dx_, *panels, nullptr, T);
        b.linear_backward_input(gx, ddy, dW_, T, N, K, compute, false);
        b.linear_backward_input(gx2, ddy, dW_, T, N, K, compute, true);
        b.linear_backward_weight(gW, gb, ddy, dx_, T, N, K, compute);
        return std::vector<Floats>{y.get(), plain.get(), gx.get(), gx2.get(), gW.get(), gb.get()};
      });
    }
}

TEST(cuda_linear_rows_do_not_see_each_other) {
  auto& b = cuda();
  for (const auto compute : kComputes) {
    const int64_t T = 140, N = 131, K = 301;
    const Floats x = random_floats(T * K), W = random_floats(N * K);
    const Device<float> dW(b, W);
    auto panels = b.make_panels(N, K, compute);
    b.pack(*panels, dW);
    auto rows = [&](int64_t first, int64_t count) {
      const Device<float> dx(b, part(x, first * K, count * K)), y(b, Floats(static_cast<size_t>(count * N)));
      b.linear_forward(y, dx, *panels, nullptr, count);
      return y.get();
    };
    const Floats whole = rows(0, T);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {139, 1}, {77, 3}, {5, 17}, {60, 70}})
      CHECK(same_bits(rows(first, count), part(whole, first * N, count * N)));
  }
}

TEST(cuda_pointwise) {
  const int64_t shapes[][2] = {{1, 1}, {3, 40}, {7, 96}, {130, 33}, {5, 515}};
  for (const auto& [T, C] : shapes) {
    const Floats x = random_floats(T * C), w = random_floats(C), dy = random_floats(T * C), start = random_floats(T * C),
                 dw0 = random_floats(C), gate = random_floats(T * C * 2, 4);
    const Ints ids = random_ints(T, 7);
    const Floats table = random_floats(7 * C);
    COMPARE(3e-6, name("pointwise", {T, C}).c_str(), [&](Backend& b) {
      const Device<float> dx(b, x), dw(b, w), ddy(b, dy), y(b, start), gx(b, start), gx2(b, start), gw(b, dw0), gw2(b, dw0), sum(b, start),
          dtable(b, table), emb(b, start), gtable(b, table);
      const Device<float> gu(b, gate), act(b, start), dgu(b, gate);
      const Device<int32_t> dids(b, ids);
      b.norm_forward(y, dx, dw, T, C, C, C, 1e-5f);
      b.norm_backward(gx, gw, ddy, dx, dw, T, C, C, 1e-5f, false);
      b.norm_backward(gx2, gw2, ddy, dx, dw, T, C, C, 1e-5f, true);
      b.add(sum, dx, T * C);
      b.embedding_forward(emb, dtable, dids, T, C);
      b.embedding_backward(gtable, ddy, dids, T, C);
      b.swiglu_forward(act, gu, T, C);
      b.swiglu_backward(dgu, ddy, gu, T, C);
      return std::vector<Floats>{y.get(),   gx.get(),  gx2.get(),    gw.get(),  gw2.get(),
                                 sum.get(), emb.get(), gtable.get(), act.get(), dgu.get()};
    });
  }
}

TEST(cuda_scatter_has_the_cpus_bits) {
  const int64_t R = 530, C = 70;
  const Floats x = random_floats(9 * C), y = random_floats(R * C);
  const Ints rows = random_ints(R, 9);
  auto run = [&](Backend& b) {
    const Device<float> dx(b, x), dy(b, y);
    const Device<int32_t> dr(b, rows);
    b.scatter_add_rows(dx, dy, dr, R, C);
    return dx.get();
  };
  CHECK(same_bits(run(cuda()), run(cpu())));
}

TEST(cuda_strided_norm_and_rotary) {
  const AttentionShape shape{3, 1, 10};
  const int64_t T = 9, W = shape.width(), D = shape.head_dim;
  const Floats qkv = random_floats(T * W), w = random_floats(D), table = random_floats(20 * D), dw0 = random_floats(D),
               dy = random_floats(T * W);
  const Ints positions = random_ints(T, 20);
  COMPARE(2e-6, "strided norm, rotary", [&](Backend& b) {
    const Device<float> x(b, qkv), y(b, qkv), dw(b, w), dtable(b, table), gw(b, dw0), g(b, dy), r(b, qkv), r2(b, qkv);
    const Device<int32_t> p(b, positions);
    b.norm_forward(y + D, x + D, dw, T, D, W, W, 1e-6f);
    b.norm_backward(g + D, gw, g + D, x + D, dw, T, D, W, 1e-6f, false);  // in place, as the model does
    b.rotary(r, p, dtable, T, shape, false);
    b.rotary(r2, p, dtable, T, shape, true);
    return std::vector<Floats>{y.get(), g.get(), gw.get(), r.get(), r2.get()};
  });
}

// The f32 kernels round in one fixed order, so a GPU gives the bits that the shim gave when this was written: FNV-1a over a small model's
// states through one layer each and back. A change of it is a change of results: it belongs in a commit that says so.
TEST(cuda_kernels_give_the_shims_bits) {
  auto& b = cuda();
  uint64_t hash = 1469598103934665603ull;
  auto add = [&](const Device<float>& values) {
    const Floats host = values.get();
    const auto* bytes = reinterpret_cast<const unsigned char*>(host.data());
    for (size_t i = 0; i < host.size() * sizeof(float); ++i) hash = (hash ^ bytes[i]) * 1099511628211ull;
  };
  uint32_t key = 0;
  auto drawn = [&](int64_t n) {  // multiples of 2^-23 in [-1, 1), by integers alone: the same with every compiler and library
    Floats out(static_cast<size_t>(n));
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = static_cast<float>(static_cast<int32_t>(philox(1, static_cast<uint32_t>(i), key, 0, 0).x[0] >> 8) - (1 << 23)) * 0x1p-23f;
    ++key;
    return Device<float>(b, out);
  };
  const int64_t T = 140, C = 96, N = 200;
  const AttentionShape shape{6, 2, 20};  // as wide as y
  const auto x = drawn(T * C), W = drawn(N * C), w = drawn(C), y = drawn(T * N), z = drawn(T * C), dy = drawn(T * N), dW = drawn(N * C),
             half = drawn(T * N / 2), out = drawn(T * shape.heads * shape.head_dim), table = drawn(T * shape.head_dim), dw = drawn(C);
  Ints positions(static_cast<size_t>(T));
  AttentionPlan plan;
  for (int32_t t = 0; t < T; ++t) {
    positions[static_cast<size_t>(t)] = t;
    plan.writes.push_back({t, t});
  }
  plan.spans = {{0, static_cast<int32_t>(T), 0, 0}};
  plan.tables = {0, 1, 2, 3, 4};
  const auto panels = b.make_panels(N, C, Compute::f32);
  b.pack(*panels, W);
  b.norm_forward(z, x, w, T, C, C, C, 1e-6f);
  b.linear_forward(y, z, *panels, nullptr, T);
  add(y);
  b.swiglu_forward(half, y, T, N / 2);
  add(half);
  b.swiglu_backward(dy, half, y, T, N / 2);
  add(dy);
  b.linear_backward_weight(dW, nullptr, dy, z, T, N, C, Compute::f32);
  b.linear_backward_input(z, dy, W, T, N, C, Compute::f32, false);
  b.norm_backward(z, dw, z, x, w, T, C, C, 1e-6f, false);  // in place, as the model does
  add(dW);
  add(z);
  add(dw);
  b.rotary(y, Device<int32_t>(b, positions), table, T, shape, false);
  DeviceBuffer cache(b, b.cache_bytes(5, shape));
  b.attention_forward(out, nullptr, y, cache.data(), 5, plan, shape);
  add(out);
  char bits[17];
  std::snprintf(bits, sizeof bits, "%016llx", static_cast<unsigned long long>(hash));
  that(std::string(bits) == "46b613d6977aac25", std::string("bits ") + bits, __FILE__, __LINE__);
}

TEST(cuda_optimizer) {
  for (const int64_t n : {int64_t{1}, int64_t{77}, int64_t{70001}}) {
    const Floats w = random_floats(n), m = random_floats(n, 0.1f), g = random_floats(n);
    Floats v = random_floats(n, 0.1f);
    for (float& x : v) x = x * x;
    COMPARE(1e-6, name("adamw", {n}).c_str(), [&](Backend& b) {
      const Device<float> dw(b, w), dm(b, m), dv(b, v), dg(b, g);
      b.adamw(dw, dm, dv, dg, n, {1e-2f, 0.9f, 0.99f, 1e-8f, 0.1f, 3, 0.5f});
      return std::vector<Floats>{dw.get(), dm.get(), dv.get()};
    });
    double exact = 0;
    for (float x : g) exact += static_cast<double>(x) * static_cast<double>(x);
    const Device<float> dg(cuda(), g);
    CHECK_NEAR(cuda().squared_norm(dg, n), exact, exact * 1e-12);
  }
}

#ifndef RANK_GRPO_CUDA_SHIM  // on a device; the host has a stand-in for cuBLAS (cuda_shim_cublas.cc)
TEST(cuda_fast_products) {
  if (cuda_fast().find("cuBLAS") != 0) throw Skip(cuda_fast());
  const auto fast = make_cuda_backend(Determinism::fast);
  for (const auto compute : kComputes)
    for (const auto& [T, N, K] : {std::array<int64_t, 3>{131, 203, 165}, {517, 67, 123}, {1024, 512, 768}}) {
      const Floats x = random_floats(T * K), W = random_floats(N * K), bias = random_floats(N), dy = random_floats(T * N),
                   seed = random_floats(N * K), dx0 = random_floats(T * K);
      auto run = [&](Backend& b) {
        const Device<float> dx(b, x), dW(b, W), dbias(b, bias), ddy(b, dy), y(b, Floats(static_cast<size_t>(T * N))), gx(b, dx0),
            gW(b, seed);
        const auto panels = b.make_panels(N, K, compute);
        b.pack(*panels, dW);
        b.linear_forward(y, dx, *panels, dbias, T);
        b.linear_backward_input(gx, ddy, dW, T, N, K, compute, true);
        b.linear_backward_weight(gW, nullptr, ddy, dx, T, N, K, compute);
        return std::vector<Floats>{y.get(), gx.get(), gW.get()};
      };
      const auto wanted = run(cpu()), got = run(*fast);
      for (size_t i = 0; i < wanted.size(); ++i) near(got[i], wanted[i], product_tolerance(compute), "fast product", __LINE__);
    }
}
#endif
