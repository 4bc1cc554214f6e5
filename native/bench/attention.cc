// Attention of one layer as decoding, scoring and training call it.
#include <algorithm>
#include <cmath>
#include <memory>

#include "../core/philox.h"
#include "../model/layout.h"
#include "../model/memory.h"
#include "bench.h"

namespace rank_grpo {
namespace {

struct Case {
  const char* what;
  AttentionShape shape;
  int prompts, group, prompt, completion;
};

Batch batch_of(const Case& c) {
  Batch b;
  b.prompt_ids.assign(static_cast<size_t>(c.prompts * c.prompt), 0);
  b.completion_ids.assign(static_cast<size_t>(c.prompts * c.group * (c.completion + 1)), 0);
  for (int p = 0; p <= c.prompts; ++p) {
    b.prompt_offsets.push_back(p * c.prompt);
    b.group_offsets.push_back(p * c.group);
  }
  for (int r = 0; r <= c.prompts * c.group; ++r) b.completion_offsets.push_back(r * (c.completion + 1));
  return b;
}

// Attention of one query over `rows`, in float64; the context's d-th value, or with `target` the query's weights come back in `weights`.
std::vector<double> attend(const float* qkv, const AttentionShape& s, int64_t query, int head, const std::vector<int64_t>& rows,
                           std::vector<double>& weights) {
  const int D = s.head_dim, kv = head / (s.heads / s.kv_heads);
  const float* q = qkv + query * s.width() + head * D;
  double top = -1e300, sum = 0;
  weights.clear();
  for (int64_t row : rows) {
    const float* k = qkv + row * s.width() + (s.heads + kv) * D;
    double score = 0;
    for (int d = 0; d < D; ++d) score += static_cast<double>(q[d]) * static_cast<double>(k[d]);
    weights.push_back(score / std::sqrt(static_cast<double>(D)));
    top = std::max(top, weights.back());
  }
  for (double& w : weights) sum += w = std::exp(w - top);
  std::vector<double> out(static_cast<size_t>(D), 0.0);
  for (size_t i = 0; i < rows.size(); ++i) {
    weights[i] /= sum;
    const float* v = qkv + rows[i] * s.width() + (s.heads + s.kv_heads + kv) * D;
    for (int d = 0; d < D; ++d) out[static_cast<size_t>(d)] += weights[i] * static_cast<double>(v[d]);
  }
  return out;
}

void bench_case(CpuBackend& backend, const Case& c, double seconds, std::vector<Measurement>& out) {
  const Batch batch = batch_of(c);
  const Layout layout = make_layout(batch, {0, c.prompts * c.group});
  const AttentionShape& s = c.shape;
  const int64_t T = layout.T(), width = s.width(), HD = int64_t{s.heads} * s.head_dim;
  auto floats = [&](int64_t n) { return DeviceBuffer(backend, static_cast<size_t>(n) * sizeof(float)); };
  const DeviceBuffer qkv = floats(T * width), context = floats(T * HD), lse = floats(T * s.heads), dout = floats(T * HD),
                     dqkv = floats(T * width);
  const DeviceBuffer cache(backend, backend.cache_bytes(layout.pages, s));
  for (int64_t i = 0; i < T * width; ++i) qkv.floats()[i] = 2 * uniform(philox(3, static_cast<uint32_t>(i), 0, 0, 0).x[0]) - 1;

  // rows that a query of completion `r` at index `i` sees
  auto seen = [&](int r, int i) {
    const auto& group = layout.groups.groups[static_cast<size_t>(r / c.group)];
    const auto& completion = layout.groups.completions[static_cast<size_t>(r)];
    std::vector<int64_t> rows;
    for (int t = 0; t < c.prompt; ++t) rows.push_back(group.prompt + t);
    for (int t = 0; t <= i; ++t) rows.push_back(completion.token + t);
    return rows;
  };
  double pairs = 0;  // of query and key, each head
  for (const auto& span : layout.plan.spans)
    for (int i = 0; i < span.count; ++i) pairs += span.position + i + 1;
  const double flops = 4. * pairs * static_cast<double>(HD);
  const std::string shape = std::string(c.what) + ": " + std::to_string(c.prompts) + "x[" + std::to_string(c.prompt) + "][" +
                            std::to_string(c.group) + "x" + std::to_string(c.completion) + "], " + std::to_string(s.heads) + "/" +
                            std::to_string(s.kv_heads) + " heads of " + std::to_string(s.head_dim);

  auto forward = [&] {
    backend.attention_forward(context.floats(), lse.floats(), qkv.floats(), cache.data(), layout.pages, layout.plan, s);
  };
  forward();
  double worst = 0, largest = 1e-30;
  std::vector<double> weights;
  for (uint32_t k = 0; k < 16; ++k) {
    const auto random = philox(4, k, 0, 0, 0);
    const int r = static_cast<int>(random.x[0] % static_cast<uint32_t>(c.prompts * c.group)),
              i = static_cast<int>(random.x[1] % static_cast<uint32_t>(c.completion)),
              head = static_cast<int>(random.x[2] % static_cast<uint32_t>(s.heads));
    const int64_t query = layout.groups.completions[static_cast<size_t>(r)].token + i;
    const auto wanted = attend(qkv.floats(), s, query, head, seen(r, i), weights);
    for (int d = 0; d < s.head_dim; ++d) {
      worst = worse(worst,
                    std::abs(static_cast<double>(context.floats()[query * HD + head * s.head_dim + d]) - wanted[static_cast<size_t>(d)]));
      largest = std::max(largest, std::abs(wanted[static_cast<size_t>(d)]));
    }
  }
  out.push_back(measure(backend, {"forward", shape, "f32", {}, flops, 0, worst / largest}, 1e-5, seconds, forward));

  // One decoding step: the last token of each completion alone.
  AttentionPlan step;
  for (const auto& span : layout.plan.spans) {
    if (span.position == 0) continue;
    AttentionPlan::Span last = span;
    last.token += span.count - 1;
    last.position += span.count - 1;
    last.count = 1;
    step.spans.push_back(last);
  }
  step.tables = layout.plan.tables;
  const int64_t rows = static_cast<int64_t>(step.spans.size());
  double kv_bytes =
      static_cast<double>(c.prompts) * (c.prompt + static_cast<double>(c.group) * c.completion) * 2 * s.kv_heads * s.head_dim * 4;
  if (kv_bytes < 64e6) kv_bytes = 0;  // a cache holds them from one repetition to the next;
  const DeviceBuffer again = floats(T * HD);
  auto decode = [&] { backend.attention_forward(again.floats(), nullptr, qkv.floats(), cache.data(), layout.pages, step, s); };
  decode();
  worst = 0;
  for (const auto& span : step.spans)
    for (int64_t d = 0; d < HD; ++d)
      worst = worse(worst, std::abs(static_cast<double>(again.floats()[span.token * HD + d]) -
                                    static_cast<double>(context.floats()[span.token * HD + d])));
  out.push_back(measure(backend,
                        {"decoding step of all lists",
                         shape,
                         "f32",
                         {},
                         4. * static_cast<double>(rows) * (c.prompt + c.completion) * static_cast<double>(HD),
                         kv_bytes,
                         worst},
                        0, seconds, decode));

  // The gradient of one query's context alone, 1 in every value, reaches a known set of rows.
  const int r = c.prompts * c.group - 1, i = c.completion - 1, head = s.heads - 1, D = s.head_dim, kv = head / (s.heads / s.kv_heads);
  const int64_t query = layout.groups.completions[static_cast<size_t>(r)].token + i;
  auto backward = [&] {
    backend.attention_backward(dqkv.floats(), dout.floats(), qkv.floats(), context.floats(), lse.floats(), T, layout.groups, s);
  };
  for (int d = 0; d < D; ++d) dout.floats()[query * HD + head * D + d] = 1;
  backward();
  const auto rows_seen = seen(r, i);
  double whole = 0;  // of the context's values
  for (double x : attend(qkv.floats(), s, query, head, rows_seen, weights)) whole += x;
  const int64_t own = query * width + head * D, key = (s.heads + kv) * D, value = key + s.kv_heads * D;
  std::vector<double> dq(static_cast<size_t>(D), 0.0);
  worst = 0;
  auto differ = [&](int64_t at, double wanted) { worst = worse(worst, std::abs(static_cast<double>(dqkv.floats()[at]) - wanted)); };
  for (size_t k = 0; k < rows_seen.size(); ++k) {
    const int64_t row = rows_seen[k] * width;
    double sum = 0;
    for (int d = 0; d < D; ++d) sum += static_cast<double>(qkv.floats()[row + value + d]);
    const double slope = weights[k] * (sum - whole) / std::sqrt(static_cast<double>(D));  // by query times key
    for (int d = 0; d < D; ++d) {
      differ(row + value + d, weights[k]);
      differ(row + key + d, slope * static_cast<double>(qkv.floats()[own + d]));
      dq[static_cast<size_t>(d)] += slope * static_cast<double>(qkv.floats()[row + key + d]);
    }
  }
  for (int d = 0; d < D; ++d) differ(own + d, dq[static_cast<size_t>(d)]);
  for (int64_t k = 0; k < T * HD; ++k) dout.floats()[k] = uniform(philox(5, static_cast<uint32_t>(k), 0, 0, 0).x[0]) - 0.5f;
  out.push_back(measure(backend, {"backward", shape, "f32", {}, 2.5 * flops, 0, worst}, 1e-6, seconds, backward));
}

}  // namespace

std::vector<Measurement> bench_attention(CpuBackend& backend, double seconds) {
  std::vector<Measurement> out;
  for (const Case& c : {Case{"SmolLM2", {9, 3, 64}, 1, 8, 160, 208},
                        {"SmolLM2, 64 rows", {9, 3, 64}, 8, 8, 160, 96},
                        {"small", {4, 4, 24}, 4, 8, 40, 50},
                        {"long prompt", {16, 8, 128}, 1, 2, 1024, 64}})
    bench_case(backend, c, seconds, out);
  return out;
}

}  // namespace rank_grpo
