// Attention over pages of keys and values: one routine for decode, prefill, scoring and training, so that they give the
// same bits. Tasks split queries (forward) or groups x key/value heads (backward), never a reduction.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "../core/error.h"
#include "backend.h"

namespace rank_grpo {
namespace {

constexpr int kTaskRows = 64;  // query rows of one task: small enough to balance, large enough to claim

struct PageLayout {
  explicit PageLayout(const AttentionShape& shape) : kv_heads(shape.kv_heads), D(shape.head_dim), Dp(padded(D)) {}
  int64_t page() const { return int64_t{kv_heads} * kPageSize * (D + Dp); }  // floats
  int64_t keys(int64_t page, int head) const { return page * this->page() + int64_t{head} * kPageSize * D; }
  int64_t values(int64_t page, int head) const {
    return page * this->page() + int64_t{kv_heads} * kPageSize * D + int64_t{head} * kPageSize * Dp;
  }
  int kv_heads, D, Dp;
};

struct ForwardTask {
  int span, head, first, count;  // query rows first .. first + count of the span's tokens x heads of the group
};

}  // namespace

size_t CpuBackend::cache_bytes(int64_t pages, const AttentionShape& shape) const {
  return static_cast<size_t>(pages * PageLayout(shape).page()) * sizeof(float);
}

void CpuBackend::attention_forward(float* out, float* lse, const float* qkv, void* cache, int64_t pages, const AttentionPlan& plan,
                                   const AttentionShape& shape) {
  const PageLayout layout(shape);
  const int D = shape.head_dim, H = shape.heads, width = shape.width(), group = H / shape.kv_heads;
  const float scale = 1.f / std::sqrt(static_cast<float>(D));
  float* memory = static_cast<float*>(cache);
  (void)pages;

  const int writes = static_cast<int>(plan.writes.size());
  pool_.run((writes + 31) / 32, [&](int chunk) {
    for (int i = chunk * 32; i < std::min(writes, (chunk + 1) * 32); ++i) {
      const auto& write = plan.writes[static_cast<size_t>(i)];
      const int64_t page = write.slot / kPageSize;
      const int key = write.slot % kPageSize;
      const float* k = qkv + int64_t{write.token} * width + int64_t{H} * D;
      const float* v = k + int64_t{shape.kv_heads} * D;
      for (int h = 0; h < shape.kv_heads; ++h) {
        float* keys = memory + layout.keys(page, h) + key;
        for (int d = 0; d < D; ++d) keys[int64_t{d} * kPageSize] = k[h * D + d];
        float* values = memory + layout.values(page, h) + int64_t{key} * layout.Dp;
        std::copy(v + h * D, v + (h + 1) * D, values);
      }
    }
  });

  std::vector<ForwardTask> tasks;
  for (int s = 0; s < static_cast<int>(plan.spans.size()); ++s) {
    const int rows = plan.spans[static_cast<size_t>(s)].count * group;
    for (int first = 0; first < rows; first += kTaskRows)
      for (int h = 0; h < shape.kv_heads; ++h) tasks.push_back({s, h, first, std::min(kTaskRows, rows - first)});
  }
  pool_.run(static_cast<int>(tasks.size()), [&](int t) {
    const ForwardTask& task = tasks[static_cast<size_t>(t)];
    const auto& span = plan.spans[static_cast<size_t>(task.span)];
    const int used = (span.position + span.count + kPageSize - 1) / kPageSize;
    std::vector<const float*> keys(static_cast<size_t>(used)), values(static_cast<size_t>(used));
    for (int p = 0; p < used; ++p) {
      const int64_t page = plan.tables[static_cast<size_t>(span.table + p)];
      keys[static_cast<size_t>(p)] = memory + layout.keys(page, task.head);
      values[static_cast<size_t>(p)] = memory + layout.values(page, task.head);
    }
    for (int first = task.first; first < task.first + task.count; first += kTileRows) {
      AttentionTile tile;
      tile.rows = std::min(kTileRows, task.first + task.count - first);
      for (int r = 0; r < tile.rows; ++r) {
        const int index = (first + r) / group, head = task.head * group + (first + r) % group;
        const int64_t token = span.token + index;
        tile.query[r] = qkv + token * width + head * D;
        tile.out[r] = out + token * H * D + head * D;
        tile.lse[r] = lse ? lse + token * H + head : nullptr;
        tile.last[r] = span.position + index;
      }
      kernels_.attention->forward(tile, keys.data(), values.data(), D, scale);
    }
  });
}

namespace {

// Keys and values of consecutive tokens of one key/value head, in the blocks of kPageSize that the gradient's tiles read,
// with room for their gradients.
class KeyBlocks {
 public:
  void load(const float* qkv, int token, int count, int head, const AttentionShape& shape) {
    D_ = shape.head_dim;
    Dp_ = padded(D_);
    count_ = count;
    const size_t blocks = static_cast<size_t>((count + kPageSize - 1) / kPageSize);
    kt_.assign(blocks * static_cast<size_t>(kPageSize * D_), 0.f);
    vt_.assign(kt_.size(), 0.f);
    k_.assign(blocks * static_cast<size_t>(kPageSize * Dp_), 0.f);
    dk_.assign(k_.size(), 0.f);
    dv_.assign(k_.size(), 0.f);
    const int64_t width = shape.width();
    for (int i = 0; i < count; ++i) {
      const float* k = qkv + (int64_t{token} + i) * width + int64_t{shape.heads + head} * D_;
      const float* v = k + int64_t{shape.kv_heads} * D_;
      const size_t column = static_cast<size_t>(i / kPageSize) * static_cast<size_t>(kPageSize * D_) + static_cast<size_t>(i % kPageSize);
      for (int d = 0; d < D_; ++d) {
        kt_[column + static_cast<size_t>(d * kPageSize)] = k[d];
        vt_[column + static_cast<size_t>(d * kPageSize)] = v[d];
        k_[static_cast<size_t>(i * Dp_ + d)] = k[d];
      }
    }
  }
  int count() const { return count_; }
  int blocks() const { return (count_ + kPageSize - 1) / kPageSize; }
  void backward(const AttentionKernels& kernels, const AttentionBackwardTile& tile, int block, float scale) {
    const size_t t = static_cast<size_t>(block) * static_cast<size_t>(kPageSize * D_);
    const size_t r = static_cast<size_t>(block) * static_cast<size_t>(kPageSize * Dp_);
    kernels.backward(tile, &kt_[t], &vt_[t], &k_[r], &dk_[r], &dv_[r], D_, scale);
  }
  void store(float* dqkv, int token, int head, const AttentionShape& shape) const {
    for (int i = 0; i < count_; ++i) {
      float* dk = dqkv + (int64_t{token} + i) * shape.width() + int64_t{shape.heads + head} * D_;
      float* dv = dk + int64_t{shape.kv_heads} * D_;
      std::copy_n(&dk_[static_cast<size_t>(i * Dp_)], D_, dk);
      std::copy_n(&dv_[static_cast<size_t>(i * Dp_)], D_, dv);
    }
  }

 private:
  int D_ = 0, Dp_ = 0, count_ = 0;
  std::vector<float> kt_, vt_, k_, dk_, dv_;
};

}  // namespace

void CpuBackend::attention_backward(float* dqkv, const float* dout, const float* qkv, const float* out, const float* lse, int64_t T,
                                    const AttentionGroups& groups, const AttentionShape& shape) {
  const int D = shape.head_dim, Dp = padded(D), H = shape.heads, width = shape.width(), per_kv = H / shape.kv_heads;
  const float scale = 1.f / std::sqrt(static_cast<float>(D));
  std::vector<float> delta(static_cast<size_t>(T * H));  // [T, H]: dout . out
  pool_.run(static_cast<int>((T + 63) / 64), [&](int chunk) {
    for (int64_t i = int64_t{chunk} * 64 * H; i < std::min<int64_t>(T, int64_t{chunk + 1} * 64) * H; ++i)
      delta[static_cast<size_t>(i)] = kernels_.attention->dot(dout + i * D, out + i * D, D);
  });

  const int tasks = static_cast<int>(groups.groups.size()) * shape.kv_heads;
  pool_.run(tasks, [&](int task) {
    const auto& group = groups.groups[static_cast<size_t>(task / shape.kv_heads)];
    const int kv = task % shape.kv_heads;
    KeyBlocks prompt, own;
    std::vector<float> dq(static_cast<size_t>(kTileRows * Dp));
    // Gradient of one sequence's queries: over the prompt's keys (all visible to a completion) and its own (causal).
    auto sequence = [&](int token, int count, KeyBlocks* prefix, KeyBlocks& keys) {
      const int rows = count * per_kv;
      for (int first = 0; first < rows; first += kTileRows) {
        AttentionBackwardTile tile;
        tile.rows = std::min(kTileRows, rows - first);
        std::fill(dq.begin(), dq.end(), 0.f);
        int index[kTileRows];
        for (int r = 0; r < tile.rows; ++r) {
          index[r] = (first + r) / per_kv;
          const int head = kv * per_kv + (first + r) % per_kv;
          const int64_t row = token + index[r];
          tile.query[r] = qkv + row * width + head * D;
          tile.dout[r] = dout + row * H * D + head * D;
          tile.dquery[r] = &dq[static_cast<size_t>(r * Dp)];
          tile.lse[r] = lse[row * H + head];
          tile.delta[r] = delta[static_cast<size_t>(row * H + head)];
        }
        if (prefix) {
          for (int b = 0; b < prefix->blocks(); ++b) {
            for (int r = 0; r < tile.rows; ++r) tile.valid[r] = std::min(kPageSize, prefix->count() - b * kPageSize);
            prefix->backward(*kernels_.attention, tile, b, scale);
          }
        }
        for (int b = 0; b * kPageSize <= index[tile.rows - 1]; ++b) {
          for (int r = 0; r < tile.rows; ++r) tile.valid[r] = std::clamp(index[r] + 1 - b * kPageSize, 0, kPageSize);
          keys.backward(*kernels_.attention, tile, b, scale);
        }
        for (int r = 0; r < tile.rows; ++r) {
          const int head = kv * per_kv + (first + r) % per_kv;
          std::copy_n(tile.dquery[r], D, dqkv + (int64_t{token} + index[r]) * width + head * D);
        }
      }
    };
    prompt.load(qkv, group.prompt, group.prompt_count, kv, shape);
    sequence(group.prompt, group.prompt_count, nullptr, prompt);
    for (int c = group.first; c < group.last; ++c) {
      const auto& completion = groups.completions[static_cast<size_t>(c)];
      if (completion.count == 0) continue;
      own.load(qkv, completion.token, completion.count, kv, shape);
      sequence(completion.token, completion.count, &prompt, own);
      own.store(dqkv, completion.token, kv, shape);
    }
    prompt.store(dqkv, group.prompt, kv, shape);
  });
}

}  // namespace rank_grpo
