// Attention over pages of keys and values: one routine for decode, prefill, scoring and training, so that they give the
// same bits. Tasks split queries (forward) or groups x key/value heads (backward), never a reduction.
#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "../core/error.h"
#include "backend.h"
#include "matmul.h"
#include "pointwise.h"

namespace rank_grpo {
namespace {

constexpr int kTaskRows = 64;  // query rows of one task: small enough to balance, large enough to claim

// In 4-byte words; see AttentionKernels.
struct PageLayout {
  explicit PageLayout(const AttentionShape& shape)
      : pairs(shape.compute == Compute::bf16),
        kv_heads(shape.kv_heads),
        key_words(pairs ? (shape.head_dim + 1) / 2 * kPageSize : shape.head_dim * kPageSize),
        value_words(kPageSize / (pairs ? 2 : 1) * padded(shape.head_dim)) {}
  int64_t page() const { return int64_t{kv_heads} * (key_words + value_words); }
  int64_t keys(int64_t page, int head) const { return page * this->page() + int64_t{head} * key_words; }
  int64_t values(int64_t page, int head) const { return page * this->page() + int64_t{kv_heads} * key_words + int64_t{head} * value_words; }
  bool pairs;  // of bf16
  int kv_heads, key_words, value_words;
};

// A token of a span.
struct Query {
  int span, index;
};

// Rows first .. first + count of queries x heads of the group: of one long span, or of short ones that begin with the same pages.
struct ForwardTask {
  int head;
  int64_t first;
  int count, rows, height;  // rows: of a tile; height: of them, taken together
};

// How many spans from `first` on are short and begin with one page: rows of a group that decode.
size_t decoding_together(const AttentionPlan& plan, size_t first) {
  const auto& head = plan.spans[first];
  auto joins = [&](const AttentionPlan::Span& span) {
    return span.count <= kTileRows && span.position >= kPageSize - 1 &&
           plan.tables[static_cast<size_t>(span.table)] == plan.tables[static_cast<size_t>(head.table)];
  };
  size_t end = first;
  while (end < plan.spans.size() && joins(plan.spans[end])) ++end;
  return std::max(end, first + 1) - first;
}

// Whether every span is one token whose key goes to a page that no other span writes: rows that decode.
bool each_its_own_page(const AttentionPlan& plan) {
  if (plan.writes.size() != plan.spans.size()) return false;
  std::vector<int32_t> pages;
  pages.reserve(plan.writes.size());
  for (size_t i = 0; i < plan.spans.size(); ++i) {
    const auto& span = plan.spans[i];
    const auto& write = plan.writes[i];
    if (span.count != 1 || write.token != span.token) return false;
    const int32_t page = plan.tables[static_cast<size_t>(span.table + span.position / kPageSize)];
    if (write.slot != page * kPageSize + span.position % kPageSize) return false;
    pages.push_back(page);
  }
  std::sort(pages.begin(), pages.end());
  return std::adjacent_find(pages.begin(), pages.end()) == pages.end();
}

// First pages that the sequences of spans first .. last have in common and every token sees whole.
int shared_pages(const AttentionPlan& plan, int first, int last) {
  const auto* spans = plan.spans.data();
  for (int shared = 0;; ++shared)
    for (int s = first; s <= last; ++s)
      if ((shared + 1) * kPageSize > spans[s].position + 1 ||
          plan.tables[static_cast<size_t>(spans[s].table + shared)] != plan.tables[static_cast<size_t>(spans[first].table + shared)])
        return shared;
}

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

  const auto& kernels = layout.pairs ? kernels_.attention->pairs : kernels_.attention->floats;
  // Consecutive tokens to consecutive keys of a page: writes first .. first + count.
  auto write = [&](int first, int count, int h) {
    const auto& at = plan.writes[static_cast<size_t>(first)];
    const int64_t page = at.slot / kPageSize;
    const float* k = qkv + int64_t{at.token} * width + int64_t{H + h} * D;
    kernels.write(memory + layout.keys(page, h), memory + layout.values(page, h), at.slot % kPageSize, count, k,
                  k + int64_t{shape.kv_heads} * D, width, D);
  };
  // A key that one query alone sees is written by the thread that attends: the page is in its cache then.
  const bool apart = group <= kTileRows && each_its_own_page(plan);
  const int writes = static_cast<int>(plan.writes.size());
  if (!apart)
    pool_.run((writes + 31) / 32, [&](int chunk) {
      const int end = std::min(writes, (chunk + 1) * 32);
      for (int first = chunk * 32, count; first < end; first += count) {
        const auto* at = &plan.writes[static_cast<size_t>(first)];
        auto follows = [&](int i) { return at[i].token == at->token + i && at[i].slot == at->slot + i && at[i].slot % kPageSize != 0; };
        for (count = 1; first + count < end && follows(count);) ++count;
        for (int h = 0; h < shape.kv_heads; ++h) write(first, count, h);
      }
    });

  std::vector<Query> queries;
  std::vector<ForwardTask> tasks;
  for (size_t s = 0, together; s < plan.spans.size(); s += together) {
    together = decoding_together(plan, s);
    const int64_t begin = static_cast<int64_t>(queries.size()) * group;
    for (size_t i = s; i < s + together; ++i)
      for (int t = 0; t < plan.spans[i].count; ++t) queries.push_back({static_cast<int>(i), t});
    const int64_t end = static_cast<int64_t>(queries.size()) * group;
    // several sequences in a tile: whole tokens, so that a sequence's own pages are read for all its heads at once
    const int height = together > 1 && group <= kTileRows ? kTileRows / group * group : kTileRows;
    // a tile of them reads the pages that they share once: as many rows as leave tasks enough for all threads
    const bool scarce = plan.spans.size() * static_cast<size_t>(shape.kv_heads) < together * static_cast<size_t>(4 * pool_.threads());
    const int rows = together == 1 ? height : scarce ? 2 * height : kSharedRows / height * height;
    const int most = together == 1 ? kTaskRows : rows;
    for (int64_t first = begin; first < end; first += most)
      for (int h = 0; h < shape.kv_heads; ++h)
        tasks.push_back({h, first, static_cast<int>(std::min<int64_t>(most, end - first)), rows, height});
  }
  pool_.run(static_cast<int>(tasks.size()), [&](int t) {
    const ForwardTask& task = tasks[static_cast<size_t>(t)];
    for (int64_t first = task.first; first < task.first + task.count; first += task.rows) {
      AttentionTile tile;
      tile.height = task.height;
      tile.keys = memory + layout.keys(0, task.head);
      tile.values = memory + layout.values(0, task.head);
      tile.page = layout.page();
      tile.rows = static_cast<int>(std::min<int64_t>(task.rows, task.first + task.count - first));
      for (int r = 0; r < tile.rows; ++r) {
        const Query& query = queries[static_cast<size_t>((first + r) / group)];
        const int head = task.head * group + static_cast<int>((first + r) % group);
        const auto& span = plan.spans[static_cast<size_t>(query.span)];
        const int64_t token = span.token + query.index;
        tile.query[r] = qkv + token * width + head * D;
        tile.out[r] = out + token * H * D + head * D;
        tile.lse[r] = lse ? lse + token * H + head : nullptr;
        tile.last[r] = span.position + query.index;
        tile.table[r] = plan.tables.data() + span.table;
        if (apart && (first + r) % group == 0) write(query.span, 1, task.head);
      }
      const int from = queries[static_cast<size_t>(first / group)].span,
                to = queries[static_cast<size_t>((first + tile.rows - 1) / group)].span;
      tile.shared = from == to ? 0 : shared_pages(plan, from, to);
      kernels.forward(tile, D, scale);
    }
  });
}

namespace {

// Keys and values of consecutive tokens of one key/value head, in the blocks of kPageSize that the gradient's tiles read,
// with room for their gradients.
class KeyBlocks {
 public:
  void load(const MatmulKernels& kernels, const float* qkv, int token, int count, int head, const AttentionShape& shape, bool round) {
    const int D = shape.head_dim;
    Dp_ = padded(D);
    count_ = count;
    const int64_t blocks = (count + kPageSize - 1) / kPageSize, width = shape.width();
    transposed_.resize(static_cast<size_t>(blocks * 2 * kPageSize * D));
    rows_.assign(static_cast<size_t>(blocks * 3 * kPageSize * Dp_), 0.f);
    for (int64_t b = 0; b < blocks; ++b) {
      const int keys = static_cast<int>(std::min<int64_t>(kPageSize, count - b * kPageSize));
      const float* k = qkv + (token + b * kPageSize) * width + int64_t{shape.heads + head} * D;
      float *kt = &transposed_[static_cast<size_t>(b * 2 * kPageSize * D)], *row = this->row(b, 0);
      kernels.pack_transposed(kt, kPageSize, k, width, keys, D);
      kernels.pack_transposed(kt + kPageSize * D, kPageSize, k + int64_t{shape.kv_heads} * D, width, keys, D);
      for (int i = 0; i < keys; ++i) std::copy_n(k + i * width, D, row + i * Dp_);
      if (!round) continue;
      kernels.to_rounded(kt, kt, int64_t{2} * kPageSize * D);
      kernels.to_rounded(row, row, int64_t{kPageSize} * Dp_);
    }
  }
  // Appends the blocks, whose first key has this position.
  void append(std::vector<KeyBlock>& list, int position) {
    const int64_t blocks = (count_ + kPageSize - 1) / kPageSize,
                  half = static_cast<int64_t>(transposed_.size()) / std::max<int64_t>(1, blocks) / 2;
    for (int64_t b = 0; b < blocks; ++b) {
      const float* kt = &transposed_[static_cast<size_t>(2 * b * half)];
      const int first = static_cast<int>(b) * kPageSize;
      list.push_back({kt, kt + half, row(b, 0), row(b, 1), row(b, 2), position + first, std::min(kPageSize, count_ - first)});
    }
  }
  // Gradients of key i: its key's and its value's [Dp]
  const float* dk(int i) { return row(i / kPageSize, 1) + i % kPageSize * Dp_; }
  const float* dv(int i) { return row(i / kPageSize, 2) + i % kPageSize * Dp_; }

 private:
  float* row(int64_t block, int part) { return &rows_[static_cast<size_t>((block * 3 + part) * kPageSize * Dp_)]; }
  int Dp_ = 0, count_ = 0;
  std::vector<float> transposed_;  // [block][k, v][D][kPageSize]
  std::vector<float> rows_;        // [block][k, dk, dv][kPageSize][Dp]
};

// Completions first .. last of a group, and in its first piece the prompt. Pieces of a group that share a prompt keep their
// parts of its keys' gradient apart; they are added in the order of the pieces.
struct Piece {
  int32_t group, first, last;
  bool prompt;
  int64_t part;  // in units of [2][prompt_count][D] floats for each head, -1: the group's only piece
};

constexpr int kPieceTokens = 384;  // a piece is closed when its completions reach it: fixed, so that sums have one order

}  // namespace

void CpuBackend::attention_backward(float* dqkv, const float* dout, const float* qkv, const float* out, const float* lse, int64_t T,
                                    const AttentionGroups& groups, const AttentionShape& shape) {
  const int D = shape.head_dim, H = shape.heads, Hkv = shape.kv_heads, width = shape.width(), per_kv = H / Hkv;
  const float scale = 1.f / std::sqrt(static_cast<float>(D));
  const bool pairs = shape.compute == Compute::bf16;
  const auto backward = pairs ? kernels_.attention->pairs.backward : kernels_.attention->floats.backward;
  float* delta = scratch_attention_.floats(*this, T * H);  // [T, H]: dout . out
  pool_.run(static_cast<int>((T + 63) / 64), [&](int chunk) {
    for (int64_t i = int64_t{chunk} * 64 * H; i < std::min<int64_t>(T, int64_t{chunk + 1} * 64) * H; ++i)
      delta[i] = kernels_.attention->dot(dout + i * D, out + i * D, D);
  });

  std::vector<Piece> pieces;
  int64_t part_floats = 0;
  for (size_t g = 0; g < groups.groups.size(); ++g) {
    const auto& group = groups.groups[g];
    const size_t before = pieces.size();
    int32_t c = group.first;
    do {
      Piece piece{static_cast<int32_t>(g), c, c, c == group.first, -1};
      for (int tokens = 0; c < group.last && tokens < kPieceTokens; ++c) tokens += groups.completions[static_cast<size_t>(c)].count;
      piece.last = c;
      pieces.push_back(piece);
    } while (c < group.last);
    if (pieces.size() - before == 1) continue;
    for (size_t p = before; p < pieces.size(); ++p) {
      pieces[p].part = part_floats;
      part_floats += int64_t{2} * group.prompt_count * D * Hkv;
    }
  }
  std::vector<float> parts(static_cast<size_t>(part_floats));  // [piece][head][key, value][prompt_count][D]

  pool_.run(static_cast<int>(pieces.size()) * Hkv, [&](int task) {
    const Piece& piece = pieces[static_cast<size_t>(task / Hkv)];
    const auto& group = groups.groups[static_cast<size_t>(piece.group)];
    const int kv = task % Hkv;
    KeyBlocks prompt, own;
    std::vector<KeyBlock> blocks;
    // Gradient of the queries of one sequence, whose first has this position, over the keys of `blocks`.
    auto sequence = [&](int token, int count, int position) {
      const int rows = count * per_kv;
      for (int first = 0; first < rows; first += kTileRows) {
        AttentionBackwardTile tile;
        tile.rows = std::min(kTileRows, rows - first);
        for (int r = 0; r < tile.rows; ++r) {
          const int index = (first + r) / per_kv, head = kv * per_kv + (first + r) % per_kv;
          const int64_t row = token + index;
          tile.query[r] = qkv + row * width + head * D;
          tile.dout[r] = dout + row * H * D + head * D;
          tile.dquery[r] = dqkv + row * width + head * D;
          tile.lse[r] = lse[row * H + head];
          tile.delta[r] = delta[row * H + head];
          tile.last[r] = position + index;
        }
        backward(tile, blocks.data(), static_cast<int>(blocks.size()), D, scale);
      }
    };
    auto store = [&](KeyBlocks& keys, int token, int count) {
      for (int i = 0; i < count; ++i) {
        float* dk = dqkv + (int64_t{token} + i) * width + int64_t{H + kv} * D;
        std::copy_n(keys.dk(i), D, dk);
        std::copy_n(keys.dv(i), D, dk + int64_t{Hkv} * D);
      }
    };
    prompt.load(*kernels_.matmul, qkv, group.prompt, group.prompt_count, kv, shape, pairs);
    prompt.append(blocks, 0);
    const size_t shared = blocks.size();
    if (piece.prompt) sequence(group.prompt, group.prompt_count, 0);
    for (int c = piece.first; c < piece.last; ++c) {
      const auto& completion = groups.completions[static_cast<size_t>(c)];
      if (completion.count == 0) continue;
      own.load(*kernels_.matmul, qkv, completion.token, completion.count, kv, shape, pairs);
      blocks.resize(shared);
      own.append(blocks, group.prompt_count);
      sequence(completion.token, completion.count, group.prompt_count);
      store(own, completion.token, completion.count);
    }
    if (piece.part < 0) return store(prompt, group.prompt, group.prompt_count);
    float* part = &parts[static_cast<size_t>(piece.part + int64_t{kv} * 2 * group.prompt_count * D)];
    for (int i = 0; i < group.prompt_count; ++i) {
      std::copy_n(prompt.dk(i), D, part + int64_t{i} * D);
      std::copy_n(prompt.dv(i), D, part + (int64_t{group.prompt_count} + i) * D);
    }
  });

  // The parts of one key of one head, added up: pieces of a group lie one behind the other.
  for (size_t p = 0; p < pieces.size(); ++p) {
    if (pieces[p].part < 0 || !pieces[p].prompt) continue;
    const auto& group = groups.groups[static_cast<size_t>(pieces[p].group)];
    const int count = group.prompt_count;
    size_t end = p + 1;
    while (end < pieces.size() && pieces[end].group == pieces[p].group) ++end;
    pool_.run(2 * Hkv, [&](int half) {  // [head][key, value]
      for (int i = 0; i < count; ++i) {
        const int64_t at = (int64_t{half} * count + i) * D;
        float* to = dqkv + (int64_t{group.prompt} + i) * width + (int64_t{H} + half / 2 + half % 2 * Hkv) * D;
        std::copy_n(&parts[static_cast<size_t>(pieces[p].part + at)], D, to);
        for (size_t q = p + 1; q < end; ++q) kernels_.pointwise->add(to, &parts[static_cast<size_t>(pieces[q].part + at)], D);
      }
    });
  }
}

}  // namespace rank_grpo
