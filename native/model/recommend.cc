// The most probable items of a catalog for one prompt, exactly: best-first search over the trie. Log-probs only fall along a path, so an
// item that stands before every open branch is proven. The prompt is computed once; open branches are evaluated in batches.
#include <algorithm>
#include <queue>

#include "policy_impl.h"

namespace rank_grpo {
namespace {

// A prefix of lines: its tokens are known, its end is a whole line or a place where lines part.
struct Branch {
  Trie::Place place;
  std::vector<int32_t> path;
  double logprob;
  bool whole;
  bool operator<(const Branch& other) const {
    // ties: the line that comes first, so that the order is one
    return logprob != other.logprob ? logprob < other.logprob : place.low > other.place.low;
  }
};

class Search {
 public:
  Search(Policy::Impl& policy, const RecommendRequest& request)
      : policy_(policy), request_(request), trie_(*request.catalog->line), length_(static_cast<int32_t>(request.prompt_ids.size())) {
    for (int32_t item : request.excluded) excluded_.push_back(trie_.line_of(item));
    std::sort(excluded_.begin(), excluded_.end());
    whole_ = length_ / kPageSize;
    own_ = (length_ % kPageSize + trie_.longest() + kPageSize - 1) / kPageSize;
    pages_ = whole_ + int64_t{request.branches} * own_;
    layer_bytes_ = policy.backend->cache_bytes(pages_, policy.transformer.attention());
    policy.store.reserve(*policy.backend, layer_bytes_ * static_cast<size_t>(policy.config.layers));
  }

  Recommendations run() {
    Recommendations result;
    Branch root{trie_.root(), {}, 0, false};
    follow(root);
    std::vector<Branch> batch;
    if (root.whole) {
      open_.push(std::move(root));
    } else {
      batch.push_back(std::move(root));
      prefill(batch);
    }
    while (static_cast<int>(result.items.size()) < request_.top && !open_.empty()) {
      check_abort(request_.abort);
      batch.clear();
      while (!open_.empty() && static_cast<int>(batch.size()) < request_.branches) {
        if (open_.top().whole) {
          if (!batch.empty()) break;  // an open branch that stands before it must be seen first
          result.items.push_back(trie_.item(open_.top().place.low));
          result.logprobs.push_back(static_cast<float>(open_.top().logprob));
          open_.pop();
          if (static_cast<int>(result.items.size()) == request_.top) break;
          continue;
        }
        batch.push_back(open_.top());
        open_.pop();
      }
      if (static_cast<int>(result.items.size()) < request_.top && !batch.empty()) evaluate(batch);
    }
    result.evaluated = evaluated_;
    return result;
  }

 private:
  int32_t open_lines(int32_t low, int32_t high) const {
    const auto first = std::lower_bound(excluded_.begin(), excluded_.end(), low);
    return high - low - static_cast<int32_t>(std::lower_bound(first, excluded_.end(), high) - first);
  }

  // Children that still have a line.
  std::vector<int32_t> children(const Branch& b) const {
    std::vector<int32_t> out;
    for (int32_t c = 0; c < trie_.children(b.place); ++c) {
      const auto child = trie_.child(b.place, c);
      if (open_lines(child.low, child.high) > 0) out.push_back(c);
    }
    return out;
  }

  // Goes on while there is one way to go.
  void follow(Branch& b) const {
    while (!trie_.complete(b.place)) {
      if (!trie_.at_branch(b.place)) {
        b.path.push_back(trie_.forced_token(b.place));
        b.place = trie_.forward(b.place);
        continue;
      }
      const auto ways = children(b);
      if (ways.size() != 1) return;
      b.path.push_back(trie_.child_token(b.place, ways[0]));
      b.place = trie_.child(b.place, ways[0]);
    }
    b.whole = true;
  }

  int32_t page(int slot, int32_t position) const {
    const int32_t p = position / kPageSize;
    return p < whole_ ? p : whole_ + slot * own_ + (p - whole_);
  }

  void span(Layout& layout, int slot, int32_t first, const std::vector<int32_t>& ids) const {
    const int32_t token = static_cast<int32_t>(layout.T()), count = static_cast<int32_t>(ids.size());
    for (int32_t i = 0; i < count; ++i) {
      layout.ids.push_back(ids[static_cast<size_t>(i)]);
      layout.positions.push_back(first + i);
      layout.plan.writes.push_back({token + i, page(slot, first + i) * kPageSize + (first + i) % kPageSize});
    }
    layout.plan.spans.push_back({token, count, first, static_cast<int32_t>(layout.plan.tables.size())});
    for (int32_t p = 0; p * kPageSize < first + count; ++p) layout.plan.tables.push_back(page(slot, p * kPageSize));
    layout.head_rows.push_back(token + count - 1);
  }

  // The prompt with what all lines begin with, its last, partly filled page written once for each slot.
  void prefill(const std::vector<Branch>& root) {
    Layout layout;
    span(layout, 0, 0, request_.prompt_ids);
    for (int32_t t = whole_ * kPageSize; t < length_; ++t)
      for (int slot = 1; slot < request_.branches; ++slot) layout.plan.writes.push_back({t, page(slot, t) * kPageSize + t % kPageSize});
    if (root[0].path.empty()) {
      expand(root, layout);
      return;
    }
    expand({}, layout);
    evaluate(root);
  }

  void evaluate(const std::vector<Branch>& batch) {
    Layout layout;
    for (size_t i = 0; i < batch.size(); ++i) span(layout, static_cast<int>(i), length_, batch[i].path);
    expand(batch, layout);
  }

  // Runs the layout and opens the children of its branches (head_rows are theirs).
  void expand(const std::vector<Branch>& batch, const Layout& layout) {
    auto& p = policy_;
    auto& backend = *p.backend;
    const int64_t C = p.config.hidden;
    const float* hidden = p.transformer.forward(layout, p.store.floats(), static_cast<int64_t>(layer_bytes_ / sizeof(float)), pages_, {});
    evaluated_ += layout.T();
    // one row of the head for each child
    std::vector<int32_t> rows, targets, ways;
    std::vector<size_t> parents;
    AllowedTokens allowed;
    allowed.offsets.push_back(0);
    for (size_t i = 0; i < batch.size(); ++i) {
      const auto open = children(batch[i]);
      std::vector<int32_t> tokens;
      for (int32_t c : open) tokens.push_back(trie_.child_token(batch[i].place, c));
      for (size_t c = 0; c < open.size(); ++c) {
        rows.push_back(layout.head_rows[i]);
        targets.push_back(tokens[c]);
        ways.push_back(open[c]);
        parents.push_back(i);
        allowed.ids.insert(allowed.ids.end(), tokens.begin(), tokens.end());
        allowed.offsets.push_back(static_cast<int32_t>(allowed.ids.size()));
      }
    }
    const int64_t R = static_cast<int64_t>(rows.size());
    if (R == 0) return;
    p.head.reserve(backend, static_cast<size_t>(R * C + 2 * R) * sizeof(float) + static_cast<size_t>(R + 64) * sizeof(int32_t));
    float *h = p.head.floats(), *logprob = h + R * C, *lse = logprob + R;
    int32_t* index = reinterpret_cast<int32_t*>(lse + R);
    backend.upload(index, rows.data(), static_cast<size_t>(R) * sizeof(int32_t));
    backend.gather_rows(h, hidden, index, R, C);
    backend.head_forward(logprob, nullptr, lse, h, p.transformer.head(), p.weights.floats() + p.table.head, targets.data(), &allowed, R,
                         request_.temperature);
    std::vector<float> values(static_cast<size_t>(R));
    backend.download(values.data(), logprob, values.size() * sizeof(float));
    for (size_t r = 0; r < rows.size(); ++r) {
      const Branch& parent = batch[parents[r]];
      Branch child{trie_.child(parent.place, ways[r]), parent.path, parent.logprob + static_cast<double>(values[r]), false};
      child.path.push_back(targets[r]);
      follow(child);
      open_.push(std::move(child));
    }
  }

  Policy::Impl& policy_;
  const RecommendRequest& request_;
  const Trie& trie_;
  const int32_t length_;
  int32_t whole_, own_;  // pages of the prompt that all slots share, and of each slot
  int64_t pages_, evaluated_ = 0;
  size_t layer_bytes_;
  std::vector<int32_t> excluded_;  // sorted lines
  std::priority_queue<Branch> open_;
};

}  // namespace

Recommendations Policy::recommend(const RecommendRequest& r) {
  Batch prompt;
  prompt.prompt_ids = r.prompt_ids;
  prompt.prompt_offsets = {0, static_cast<int32_t>(r.prompt_ids.size())};
  prompt.completion_offsets = {0};
  prompt.group_offsets = {0, 0};
  validate_batch(prompt, impl_->config);
  expect(r.catalog != nullptr, "a catalog", "catalog", "none");
  const int32_t left = r.catalog->items() - static_cast<int32_t>(r.excluded.size());
  expect(r.top >= 1 && r.top <= left, "a number from 1 to " + std::to_string(left) + " (items that are not excluded)", "top",
         std::to_string(r.top));
  expect(r.branches >= 1, "at least 1", "branches", std::to_string(r.branches));
  expect(r.temperature > 0, "a number above 0", "temperature", std::to_string(r.temperature));
  const int length = static_cast<int>(r.prompt_ids.size()) + r.catalog->line->longest();
  expect(length <= impl_->config.max_positions,
         "at most " + std::to_string(impl_->config.max_positions) + " positions (the model's context)", "prompt and line",
         std::to_string(length));
  return Search(*impl_, r).run();
}

}  // namespace rank_grpo
