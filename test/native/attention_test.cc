// Attention over ragged [prompt][completions] groups, forward and backward, as training and as decoding call it.
#include <algorithm>
#include <cmath>

#include "backends.h"
#include "reference.h"

using rank_grpo::AttentionGroups;
using rank_grpo::AttentionPlan;
using rank_grpo::AttentionShape;
using rank_grpo::Backend;
using rank_grpo::kPageSize;
using reference::Values;
using reference::widen;

namespace {

struct Group {
  int prompt;
  std::vector<int> completions;
};

// The rows of some groups, who sees whom, and the plan that says so. Pages are handed out in a scattered order, so that nothing rests on
// neighbours, and the cache starts as NaN: what was never written must never count.
struct Case {
  AttentionShape shape;
  reference::Sees sees;
  AttentionPlan plan;
  AttentionGroups groups;
  int64_t pages = 0;
  int64_t T() const { return static_cast<int64_t>(sees.size()); }

  Case(const AttentionShape& s, const std::vector<Group>& list) : shape(s) {
    int needed = 0;
    for (const auto& g : list) {
      needed += (g.prompt + kPageSize - 1) / kPageSize;
      for (int c : g.completions) needed += (g.prompt % kPageSize + c + kPageSize - 1) / kPageSize;
    }
    pages = needed + 3;
    int64_t next = 0;
    auto page = [&] { return static_cast<int32_t>((next++ * 5 + 2) % pages); };
    while (pages % 5 == 0) ++pages;
    for (const auto& g : list) {
      const int whole = g.prompt / kPageSize;
      const int32_t start = static_cast<int32_t>(T());
      std::vector<int32_t> prompt_rows, prompt_pages;
      for (int p = 0; p * kPageSize < g.prompt; ++p) prompt_pages.push_back(page());
      for (int t = 0; t < g.prompt; ++t) {
        prompt_rows.push_back(static_cast<int32_t>(T()));
        plan.writes.push_back({prompt_rows.back(), prompt_pages[static_cast<size_t>(t / kPageSize)] * kPageSize + t % kPageSize});
        sees.push_back(prompt_rows);
      }
      plan.spans.push_back({start, g.prompt, 0, static_cast<int32_t>(plan.tables.size())});
      plan.tables.insert(plan.tables.end(), prompt_pages.begin(), prompt_pages.end());
      AttentionGroups::Group group{start, g.prompt, static_cast<int32_t>(groups.completions.size()), 0};
      for (int c : g.completions) {
        const int32_t first = static_cast<int32_t>(T());
        std::vector<int32_t> rows = prompt_rows, table(prompt_pages.begin(), prompt_pages.begin() + whole);
        groups.completions.push_back({first, c});
        if (c == 0) continue;
        while (static_cast<int>(table.size()) * kPageSize < g.prompt + c) table.push_back(page());
        for (int t = whole * kPageSize; t < g.prompt; ++t)
          plan.writes.push_back({start + t, table[static_cast<size_t>(whole)] * kPageSize + t % kPageSize});
        for (int t = 0; t < c; ++t) {
          rows.push_back(static_cast<int32_t>(T()));
          const int position = g.prompt + t;
          plan.writes.push_back({rows.back(), table[static_cast<size_t>(position / kPageSize)] * kPageSize + position % kPageSize});
          sees.push_back(rows);
        }
        plan.spans.push_back({first, c, g.prompt, static_cast<int32_t>(plan.tables.size())});
        plan.tables.insert(plan.tables.end(), table.begin(), table.end());
      }
      group.last = static_cast<int32_t>(groups.completions.size());
      groups.groups.push_back(group);
    }
  }
};

struct Cache {
  Cache(Backend& backend, int64_t pages, const AttentionShape& shape)
      : memory(backend, backend.cache_bytes(pages, shape) / sizeof(float), NAN) {}
  check::Floats memory;
};

const AttentionShape kShapes[] = {{1, 1, 8}, {3, 1, 16}, {9, 3, 64}, {2, 2, 96}, {4, 2, 128}, {5, 1, 2}, {2, 1, 22}};
const std::vector<Group> kGroups = {{5, {3, 1}}, {32, {4}}, {37, {30, 0, 7}}, {1, {1}}, {64, {33, 2}}, {3, {}}};

// Scores have errors of sqrt(D) roundings of |q| |k|, and a weight's relative error is its score's.
double tolerance(const AttentionShape& s) { return 2e-7 * (4 + std::sqrt(static_cast<double>(s.head_dim))); }

// Whether a backend keeps keys and values as bf16 when it may.
bool halves(Backend& backend, AttentionShape shape) {
  const size_t given = backend.cache_bytes(1, shape);
  shape.compute = rank_grpo::Compute::f32;
  return given < backend.cache_bytes(1, shape);
}

// What is multiplied then: scaled queries, keys and values, each rounded.
Values rounded(const std::vector<float>& qkv, const AttentionShape& s) {
  Values out(qkv.size());
  const float scale = 1.f / std::sqrt(static_cast<float>(s.head_dim));
  for (size_t i = 0; i < qkv.size(); ++i) {
    const bool query = static_cast<int>(i % static_cast<size_t>(s.width())) < s.heads * s.head_dim;
    const double x = reference::bf16(static_cast<double>(query ? qkv[i] * scale : qkv[i]));
    out[i] = query ? x * std::sqrt(static_cast<double>(s.head_dim)) : x;
  }
  return out;
}

void forward_and_backward(Backend& backend, const AttentionShape& shape, double size) {
  const Case c(shape, kGroups);
  const int64_t T = c.T(), HD = int64_t{shape.heads} * shape.head_dim;
  const auto qkv = check::normal(static_cast<size_t>(T * shape.width()), 1, size), dout = check::normal(static_cast<size_t>(T * HD), 2);
  const std::string what = "H " + std::to_string(shape.heads) + " D " + std::to_string(shape.head_dim) + " ";
  check::Floats in(backend, qkv), out(backend, static_cast<size_t>(T * HD), NAN), lse(backend, static_cast<size_t>(T * shape.heads), NAN);
  Cache cache(backend, c.pages, shape);
  backend.attention_forward(out, lse, in, cache.memory.data(), c.pages, c.plan, shape);
  const bool pairs = halves(backend, shape);
  const Values operands = pairs ? rounded(qkv, shape) : widen(qkv);
  const auto expected = reference::attention(operands, c.sees, shape);
  const double bound = tolerance(shape) * std::max(1.0, size * size), scale = check::largest(expected.out);
  // weights are rounded too, each by at most 2^-9 of itself; out's error reaches every gradient through dout . out
  const double of_weights = pairs ? std::ldexp(check::largest(operands), -9) : 0;
  check::close(out.read(), expected.out, of_weights + bound * std::max(1.0, scale), what + "out");
  check::close(lse.read(), expected.lse, bound * std::max(1.0, check::largest(expected.lse)), what + "lse");
  cache.memory.read();

  check::Floats without(backend, static_cast<size_t>(T * HD), NAN);
  Cache again(backend, c.pages, shape);
  backend.attention_forward(without, nullptr, in, again.memory.data(), c.pages, c.plan, shape);
  check::same_bits(without.read(), out.read(), what + "without lse");

  check::Floats din(backend, dout), dqkv(backend, static_cast<size_t>(T * shape.width()), NAN);
  backend.attention_backward(dqkv, din, in, out, lse, T, c.groups, shape);
  const Values wanted = reference::attention_backward(widen(dout), operands, c.sees, shape);
  check::close(dqkv.read(), wanted, (of_weights + bound) * std::max(1.0, check::largest(wanted)), what + "dqkv");
  check::same_bits(in.read(), qkv, "qkv");
}

}  // namespace

BACKEND_TEST(attention_against_reference) {
  for (AttentionShape shape : kShapes)
    for (const auto compute : {rank_grpo::Compute::f32, rank_grpo::Compute::bf16}) {
      shape.compute = compute;
      forward_and_backward(backend, shape, 1);
    }
}
// Peaked weights: scores up to a few dozen, so that most keys weigh nothing and one or two everything.
BACKEND_TEST(attention_with_large_scores) { forward_and_backward(backend, {4, 2, 16}, 4); }

namespace {

// What a row gives depends on nothing but itself: a prompt alone, its completions decoded token by token, and the whole batch at once.
void decode_is_prefill_is_training(Backend& backend, const AttentionShape& shape, const std::vector<Group>& list) {
  const Case c(shape, list);
  const int64_t T = c.T(), HD = int64_t{shape.heads} * shape.head_dim;
  const auto qkv = check::normal(static_cast<size_t>(T * shape.width()), 3);
  check::Floats in(backend, qkv), out(backend, static_cast<size_t>(T * HD), NAN), lse(backend, static_cast<size_t>(T * shape.heads), NAN);
  Cache cache(backend, c.pages, shape);
  backend.attention_forward(out, lse, in, cache.memory.data(), c.pages, c.plan, shape);
  const auto together = out.read();

  // one token of every span at a time, in one cache
  check::Floats decoded(backend, static_cast<size_t>(T * HD), NAN);
  Cache slowly(backend, c.pages, shape);
  int longest = 0;
  for (const auto& span : c.plan.spans) longest = std::max(longest, span.count);
  for (int phase = 0; phase < 2; ++phase)  // prompts first: completions read them
    for (int i = 0; i < longest; ++i) {
      AttentionPlan step;
      for (const auto& span : c.plan.spans) {
        if ((span.position == 0) != (phase == 0) || i >= span.count) continue;
        step.spans.push_back({span.token + i, 1, span.position + i, static_cast<int32_t>(step.tables.size())});
        const int used = (span.position + i) / kPageSize + 1;
        step.tables.insert(step.tables.end(), c.plan.tables.begin() + span.table, c.plan.tables.begin() + span.table + used);
        for (const auto& write : c.plan.writes)
          if (write.token == span.token + i) step.writes.push_back(write);
      }
      if (!step.spans.empty()) backend.attention_forward(decoded, nullptr, in, slowly.memory.data(), c.pages, step, shape);
    }
  check::same_bits(decoded.read(), together, "decoded");
}

}  // namespace

BACKEND_TEST(attention_decode_is_prefill_is_training) {
  for (const auto compute : {rank_grpo::Compute::f32, rank_grpo::Compute::bf16})
    decode_is_prefill_is_training(backend, {6, 2, 24, compute}, kGroups);
}
// Many rows behind each prompt, which read its pages together: 3, 5, 1 and (more than a tile takes together) 12 heads for each of them.
BACKEND_TEST(attention_decodes_large_groups) {
  const std::vector<Group> large = {{70, std::vector<int>(9, 2)}, {64, std::vector<int>(7, 1)}, {33, {40, 1, 2, 1, 1}}, {40, {1, 1, 1, 1}}};
  for (const AttentionShape& shape :
       {AttentionShape{6, 2, 24}, AttentionShape{5, 1, 8}, AttentionShape{2, 2, 16}, AttentionShape{12, 1, 8}})
    for (const auto compute : {rank_grpo::Compute::f32, rank_grpo::Compute::bf16}) {
      AttentionShape s = shape;
      s.compute = compute;
      decode_is_prefill_is_training(backend, s, large);
    }
}

BACKEND_TEST(attention_of_nothing) {
  const AttentionShape shape{2, 1, 8};
  check::Floats none(backend, 0, 0.f);
  Cache cache(backend, 1, shape);
  backend.attention_forward(none, none, none, cache.memory.data(), 1, {}, shape);
  backend.attention_backward(none, none, none, none, none, 0, {}, shape);
  none.read();
}

TEST(attention_same_bits_everywhere) {
  check::same_everywhere([](Backend& backend) {
    const AttentionShape shape{6, 2, 40};
    const Case c(shape, kGroups);
    const int64_t T = c.T(), HD = int64_t{shape.heads} * shape.head_dim;
    check::Floats in(backend, check::normal(static_cast<size_t>(T * shape.width()), 1)), out(backend, static_cast<size_t>(T * HD), 0.f),
        lse(backend, static_cast<size_t>(T * shape.heads), 0.f), dout(backend, check::normal(static_cast<size_t>(T * HD), 2)),
        dqkv(backend, static_cast<size_t>(T * shape.width()), 0.f);
    Cache cache(backend, c.pages, shape);
    backend.attention_forward(out, lse, in, cache.memory.data(), c.pages, c.plan, shape);
    backend.attention_backward(dqkv, dout, in, out, lse, T, c.groups, shape);
    auto all = out.read();
    for (auto* part : {&lse, &dqkv}) {
      const auto values = part->read();
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  });
}
