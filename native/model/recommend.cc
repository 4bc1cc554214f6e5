// The most probable items of a catalog for one prompt, exactly: best-first search over the trie. Log-probs only fall along a path, so an
// item that stands before every open branch is proven. The prompt is computed once; open branches are evaluated in batches.
#include <algorithm>
#include <cmath>
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
      : policy_(policy),
        request_(request),
        trie_(request.last ? request.constraint.catalog->last() : request.constraint.catalog->line()),
        closed_(trie_, request.constraint.excluded[0]),
        length_(static_cast<int32_t>(request.prompt_ids.size())) {
    whole_ = length_ / kPageSize;
    own_ = (length_ % kPageSize + request.constraint.catalog->longest() + kPageSize - 1) / kPageSize;
    pages_ = whole_ + int64_t{request.branches} * own_;
    layer_bytes_ = policy.backend->cache_bytes(pages_, policy.transformer.attention());
    const size_t bytes = layer_bytes_ * static_cast<size_t>(policy.config.layers);
    expect_memory(*policy.backend, policy.store.growth(bytes), "keys and values of " + std::to_string(request.branches) + " branches",
                  "Lower branches.");
    policy.store.reserve(*policy.backend, bytes);
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
  // Children that still have a line, up to `most`.
  std::vector<int32_t> children(const Branch& b, size_t most = SIZE_MAX) const {
    std::vector<int32_t> out;
    ClosedLines::Sweep lines(closed_, b.place.low);
    for (int32_t c = 0; c < trie_.children(b.place) && out.size() < most; ++c) {
      const auto child = trie_.child(b.place, c);
      if (lines.open(child.low, child.high) > 0) out.push_back(c);
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
      const auto ways = children(b, 2);
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
    const int64_t R = static_cast<int64_t>(batch.size());
    if (R == 0) return;
    std::vector<std::vector<int32_t>> ways;
    AllowedTokens allowed;
    allowed.offsets.push_back(0);
    for (const auto& branch : batch) {
      ways.push_back(children(branch));
      for (int32_t c : ways.back()) allowed.ids.push_back(trie_.child_token(branch.place, c));
      allowed.offsets.push_back(static_cast<int32_t>(allowed.ids.size()));
    }
    p.head.reserve(backend, static_cast<size_t>(R * C) * sizeof(float) + static_cast<size_t>(R + 16) * sizeof(int32_t));
    float* h = p.head.floats();
    int32_t* index = reinterpret_cast<int32_t*>(h + R * C);
    backend.upload(index, layout.head_rows.data(), static_cast<size_t>(R) * sizeof(int32_t));
    backend.gather_rows(h, hidden, index, R, C);
    std::vector<float> logprobs(allowed.ids.size());
    backend.head_allowed(logprobs.data(), h, p.transformer.head(), p.transformer.head_rows(), allowed, R, request_.temperature);
    size_t i = 0;  // of the branch's child among all
    for (size_t b = 0; b < batch.size(); ++b) {
      for (int32_t c : ways[b]) {
        if (!std::isfinite(logprobs[i]))
          fail("NOT_FINITE", "Expected finite log-probs, got " + std::to_string(logprobs[i]) +
                                 ". The weights hold values that are not numbers, or that overflow.");
        Branch child{trie_.child(batch[b].place, c), batch[b].path, batch[b].logprob + static_cast<double>(logprobs[i]), false};
        child.path.push_back(allowed.ids[i++]);
        follow(child);
        open_.push(std::move(child));
      }
    }
  }

  Policy::Impl& policy_;
  const RecommendRequest& request_;
  const Trie& trie_;
  const ClosedLines closed_;
  const int32_t length_;
  int32_t whole_, own_;  // pages of the prompt that all slots share, and of each slot
  int64_t pages_, evaluated_ = 0;
  size_t layer_bytes_;
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
  expect(r.constraint.catalog != nullptr, "a catalog", "catalog", "none");
  validate_constraint(r.constraint, 1, impl_->config.vocab);
  const auto& catalog = *r.constraint.catalog;
  const int32_t left = catalog.items() - static_cast<int32_t>(r.constraint.excluded[0].size());
  expect(r.top >= 1 && r.top <= left, "a number from 1 to " + std::to_string(left) + " (items that are not excluded)", "top",
         std::to_string(r.top));
  expect(r.branches >= 1, "at least 1", "branches", std::to_string(r.branches));
  check_temperature(r.temperature);
  const int length = static_cast<int>(r.prompt_ids.size()) + catalog.longest();
  expect(length <= impl_->config.max_positions,
         "at most " + std::to_string(impl_->config.max_positions) + " positions (the model's context)", "prompt and line",
         std::to_string(length));
  return Search(*impl_, r).run();
}

}  // namespace rank_grpo
