// Attention on the CUDA backend: against the CPU's over shapes of heads and ragged groups, and decode = training as bits.
#include "cuda_check.h"

#include "../../native/model/layout.h"

using namespace cuda_check;
using namespace rank_grpo;

namespace {

Batch make_batch(const std::vector<std::pair<int, std::vector<int>>>& groups) {
  Batch batch;
  batch.prompt_offsets = batch.completion_offsets = batch.group_offsets = {0};
  for (const auto& [prompt, completions] : groups) {
    batch.prompt_ids.resize(batch.prompt_ids.size() + static_cast<size_t>(prompt));
    batch.prompt_offsets.push_back(static_cast<int32_t>(batch.prompt_ids.size()));
    for (int c : completions) {
      batch.completion_ids.resize(batch.completion_ids.size() + static_cast<size_t>(c));
      batch.completion_offsets.push_back(static_cast<int32_t>(batch.completion_ids.size()));
    }
    batch.group_offsets.push_back(static_cast<int32_t>(batch.completion_offsets.size()) - 1);
  }
  return batch;
}

struct Outcome {
  Floats out, lse, gradient;
};
Outcome attend(Backend& b, const Layout& layout, const AttentionShape& shape, const Floats& qkv, const Floats& dout) {
  const int64_t T = layout.T(), H = shape.heads, D = shape.head_dim;
  const Device<float> x(b, qkv), dy(b, dout), out(b, Floats(static_cast<size_t>(T * H * D))), lse(b, Floats(static_cast<size_t>(T * H)));
  const Device<float> dx(b, Floats(qkv.size(), NAN));
  DeviceBuffer cache(b, b.cache_bytes(layout.pages, shape));
  b.attention_forward(out, lse, x, cache.data(), layout.pages, layout.plan, shape);
  b.attention_backward(dx, dy, x, out, lse, T, layout.groups, shape);
  return {out.get(), lse.get(), dx.get()};
}

}  // namespace

TEST(cuda_attention) {
  const AttentionShape shapes[] = {{4, 2, 64}, {3, 1, 96}, {2, 2, 128}, {6, 2, 8}, {5, 1, 10}, {2, 1, 160}};
  const Batch batches[] = {make_batch({{1, {1}}}), make_batch({{5, {3, 1, 9}}, {40, {2, 35}}}), make_batch({{32, {33}}, {70, {1, 6}}})};
  for (const auto& shape : shapes)
    for (const auto& batch : batches) {
      const Layout layout = make_layout(batch, {0, static_cast<int64_t>(batch.completion_offsets.size()) - 1});
      const Floats qkv = random_floats(layout.T() * shape.width()), dout = random_floats(layout.T() * shape.heads * shape.head_dim);
      COMPARE(3e-6, ("attention D " + std::to_string(shape.head_dim) + " T " + std::to_string(layout.T())).c_str(), [&](Backend& b) {
        const Outcome o = attend(b, layout, shape, qkv, dout);
        return std::vector<Floats>{o.out, o.lse, o.gradient};
      });
    }
}

// One sequence in one span, then token by token over other pages: the same bits.
TEST(cuda_attention_decode_equals_prefill) {
  auto& b = cuda();
  const AttentionShape shape{6, 2, 16};
  const int T = 75, W = shape.width(), HD = shape.heads * shape.head_dim;
  const Floats qkv = random_floats(int64_t{T} * W);
  const int pages = (T + kPageSize - 1) / kPageSize;
  AttentionPlan whole;
  for (int t = 0; t < T; ++t) whole.writes.push_back({t, t});
  whole.spans = {{0, T, 0, 0}};
  for (int p = 0; p < pages; ++p) whole.tables.push_back(p);
  const Device<float> x(b, qkv), out(b, Floats(static_cast<size_t>(T * HD)));
  DeviceBuffer cache(b, b.cache_bytes(pages, shape));
  b.attention_forward(out, nullptr, x, cache.data(), pages, whole, shape);
  const Floats wanted = out.get();

  DeviceBuffer decode(b, b.cache_bytes(2 * pages, shape));
  const Floats poison(decode.bytes() / sizeof(float), NAN);  // what was never written is never read
  b.upload(decode.data(), poison.data(), decode.bytes());
  for (int t = 0; t < T; ++t) {
    AttentionPlan step;
    auto page = [&](int p) { return 2 * (pages - 1 - p) + 1; };
    step.writes = {{0, page(t / kPageSize) * kPageSize + t % kPageSize}};
    step.spans = {{0, 1, t, 0}};
    for (int p = 0; p <= t / kPageSize; ++p) step.tables.push_back(page(p));
    const Device<float> row(b, part(qkv, int64_t{t} * W, W)), one(b, Floats(static_cast<size_t>(HD)));
    b.attention_forward(one, nullptr, row, decode.data(), 2 * pages, step, shape);
    CHECK(same_bits(one.get(), part(wanted, int64_t{t} * HD, HD)));
  }
}

// A completion's output does not depend on its group: alone or behind a shared prompt with others.
TEST(cuda_attention_groups_do_not_mix) {
  auto& b = cuda();
  const AttentionShape shape{4, 2, 32};
  const int HD = shape.heads * shape.head_dim, W = shape.width();
  const Batch shared = make_batch({{37, {20, 5, 9}}});
  const Layout layout = make_layout(shared, {0, 3});
  const Floats qkv = random_floats(layout.T() * W), dout(static_cast<size_t>(layout.T() * HD), 1.f);
  const Outcome together = attend(b, layout, shape, qkv, dout);
  const auto& own = layout.groups.completions[1];
  const Layout alone = make_layout(shared, {1, 2});
  Floats rows = part(qkv, 0, 37 * W);
  const Floats tail = part(qkv, int64_t{own.token} * W, int64_t{own.count} * W);
  rows.insert(rows.end(), tail.begin(), tail.end());
  const Outcome single = attend(b, alone, shape, rows, Floats(static_cast<size_t>(alone.T() * HD), 1.f));
  CHECK(
      same_bits(part(single.out, 37 * HD, int64_t{own.count} * HD), part(together.out, int64_t{own.token} * HD, int64_t{own.count} * HD)));
  CHECK(same_bits(attend(b, layout, shape, qkv, dout).gradient, together.gradient));
}
