// Sampling: prompts are computed once for their group, rows are decoded together, finished rows leave and waiting prompts
// take their place. What a row draws depends on its prompt, sample and position alone, never on its neighbours.
#include <algorithm>
#include <climits>
#include <cmath>
#include <optional>

#include "../core/philox.h"
#include "policy_impl.h"

namespace rank_grpo {
namespace {

struct Group {
  std::vector<int32_t> shared_pages;
  int rows = 0;  // still decoding
};

struct Row {
  int prompt, sample;
  std::vector<int32_t> pages;  // the group's shared ones, then its own
  size_t shared = 0;           // how many of them
  int position;                // of the next input token
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  std::string tail;  // last bytes, for stop strings
  std::optional<ListCursor> cursor;
  size_t fed = 0;  // ids that went through the model
};

class Generator {
 public:
  Generator(Policy::Impl& policy, const GenerateRequest& request) : policy_(policy), request_(request) {
    const int prompts = static_cast<int>(request.prompt_offsets.size()) - 1;
    int shared = 0, own = 0;
    for (int p = 0; p < prompts; ++p) {
      shared = std::max(shared, shared_pages(p));
      own = std::max(own, own_pages(p));
    }
    rows_limit_ =
        static_cast<int>(std::min<int64_t>(std::max(request.max_rows, request.group_size), int64_t{prompts} * request.group_size));
    const int groups = rows_limit_ / request.group_size;
    pages_ = int64_t{groups} * shared + int64_t{rows_limit_} * own;
    layer_bytes_ = policy.backend->cache_bytes(pages_, policy.transformer.attention());
    const size_t bytes = layer_bytes_ * static_cast<size_t>(policy.config.layers);
    // Slots are numbered in 32 bits; who asks for so many pages asks for hundreds of GiB.
    if (pages_ > INT32_MAX / kPageSize)
      fail("OUT_OF_MEMORY", "Expected at most " + std::to_string(INT32_MAX / kPageSize) + " pages of keys and values, got " +
                                std::to_string(pages_) + " (" + std::to_string(bytes >> 20) +
                                " MiB). Lower maxRows, groupSize or maxNewTokens.");
    expect_memory(*policy.backend, policy.store.growth(bytes), "keys and values of " + std::to_string(rows_limit_) + " rows",
                  "Lower maxRows or maxNewTokens.");
    policy.store.reserve(*policy.backend, bytes);
    for (int64_t page = pages_; page-- > 0;) free_.push_back(static_cast<int32_t>(page));
    groups_.resize(static_cast<size_t>(prompts));
    done_.resize(static_cast<size_t>(prompts) * static_cast<size_t>(request.group_size));
  }

  Completions run() {
    const int prompts = static_cast<int>(groups_.size());
    while (next_prompt_ < prompts || !active_.empty()) {
      check_abort(request_.abort);
      admit();
      if (!active_.empty()) decode();
    }
    return collect();
  }

 private:
  struct Done {
    std::vector<int32_t> ids;
    std::vector<float> logprobs;
    Finish finish = Finish::length;
  };

  int prompt_length(int p) const {
    return request_.prompt_offsets[static_cast<size_t>(p) + 1] - request_.prompt_offsets[static_cast<size_t>(p)];
  }

  // Pages that a prompt fills, and those that each of its rows has for itself: the last token is never an input.
  int shared_pages(int p) const { return prompt_length(p) / kPageSize; }
  int own_pages(int p) const { return (prompt_length(p) + request_.max_new_tokens - 1 + kPageSize - 1) / kPageSize - shared_pages(p); }

  void take_pages(std::vector<int32_t>& pages, int count) {
    pages.insert(pages.end(), free_.rbegin(), free_.rbegin() + count);
    free_.resize(free_.size() - static_cast<size_t>(count));
  }

  // Whether a prompt's rows and pages fit beside so many rows. Pages too, since a prompt's stay taken until its last row has ended.
  bool fits(int p, size_t rows) const {
    const size_t G = static_cast<size_t>(request_.group_size);
    return rows + G <= static_cast<size_t>(rows_limit_) &&
           static_cast<size_t>(shared_pages(p)) + G * static_cast<size_t>(own_pages(p)) <= free_.size();
  }

  // Computes the prompts that fit beside the active rows and draws the first token of each of their rows.
  void admit() {
    Layout layout;
    std::vector<Row> fresh;
    const int prompts = static_cast<int>(groups_.size());
    while (next_prompt_ < prompts && fits(next_prompt_, active_.size() + fresh.size()) &&
           (layout.T() == 0 || layout.T() + prompt_length(next_prompt_) <= kPrefillTokens))
      add_prompt(layout, fresh, next_prompt_++);
    if (fresh.empty()) return;
    forward_and_sample(layout, fresh);
    settle(fresh);
    for (auto& row : fresh)
      if (!row.ids.empty()) active_.push_back(std::move(row));
  }

  void add_prompt(Layout& layout, std::vector<Row>& fresh, int p) {
    const int length = prompt_length(p), whole = shared_pages(p), own = own_pages(p);
    auto& group = groups_[static_cast<size_t>(p)];
    group.rows = request_.group_size;
    take_pages(group.shared_pages, whole);
    const size_t first_row = fresh.size();
    const auto& constraint = request_.constraint;
    const Exclusion closed = constraint.catalog ? Exclusion(*constraint.catalog, constraint.excluded[static_cast<size_t>(p)]) : Exclusion();
    for (int s = 0; s < request_.group_size; ++s) {
      Row row{p, s, group.shared_pages, group.shared_pages.size(), length, {}, {}, {}, {}, 0};
      if (constraint.catalog) row.cursor.emplace(*constraint.catalog, constraint.rules, closed, "prompt " + std::to_string(p));
      take_pages(row.pages, own);
      fresh.push_back(std::move(row));
    }
    const int32_t start = static_cast<int32_t>(layout.T());
    const int32_t* ids = &request_.prompt_ids[static_cast<size_t>(request_.prompt_offsets[static_cast<size_t>(p)])];
    for (int t = 0; t < length; ++t) {
      layout.ids.push_back(ids[t]);
      layout.positions.push_back(t);
      const int copies = t < whole * kPageSize ? 1 : request_.group_size;  // the partly filled page is every row's own
      for (int s = 0; s < copies; ++s) {
        const int32_t page = fresh[first_row + static_cast<size_t>(s)].pages[static_cast<size_t>(t / kPageSize)];
        layout.plan.writes.push_back({start + t, page * kPageSize + t % kPageSize});
      }
    }
    const auto& table = fresh[first_row].pages;
    layout.plan.spans.push_back({start, length, 0, static_cast<int32_t>(layout.plan.tables.size())});
    layout.plan.tables.insert(layout.plan.tables.end(), table.begin(), table.begin() + (length + kPageSize - 1) / kPageSize);
    for (int s = 0; s < request_.group_size; ++s) layout.head_rows.push_back(start + length - 1);
  }

  // One pass over what every row has not fed yet: the token it drew, and those that followed from it.
  void decode() {
    Layout layout;
    for (auto& row : active_) {
      const int32_t token = static_cast<int32_t>(layout.T());
      const int32_t count = static_cast<int32_t>(row.ids.size() - row.fed), first = row.position;
      for (; row.fed < row.ids.size(); ++row.fed, ++row.position) {
        const int32_t page = row.pages[static_cast<size_t>(row.position / kPageSize)];
        layout.plan.writes.push_back({static_cast<int32_t>(layout.T()), page * kPageSize + row.position % kPageSize});
        layout.ids.push_back(row.ids[row.fed]);
        layout.positions.push_back(row.position);
      }
      const int64_t used = (row.position - 1) / kPageSize + 1;
      layout.plan.spans.push_back({token, count, first, static_cast<int32_t>(layout.plan.tables.size())});
      layout.plan.tables.insert(layout.plan.tables.end(), row.pages.begin(), row.pages.begin() + used);
      layout.head_rows.push_back(token + count - 1);
    }
    forward_and_sample(layout, active_);
    settle(active_);
    active_.erase(std::remove_if(active_.begin(), active_.end(), [](const Row& row) { return row.ids.empty(); }), active_.end());
  }

  void forward_and_sample(const Layout& layout, std::vector<Row>& rows) {
    auto& p = policy_;
    auto& backend = *p.backend;
    const int64_t R = layout.R(), C = p.config.hidden;
    const float* hidden = p.transformer.forward(layout, p.store.floats(), static_cast<int64_t>(layer_bytes_ / sizeof(float)), pages_, {});
    p.head.reserve(backend, static_cast<size_t>(R * C) * sizeof(float) + static_cast<size_t>(R + 16) * sizeof(int32_t));
    float* h = p.head.floats();
    int32_t* index = reinterpret_cast<int32_t*>(h + R * C);
    backend.upload(index, layout.head_rows.data(), static_cast<size_t>(R) * sizeof(int32_t));
    backend.gather_rows(h, hidden, index, R, C);

    std::vector<uint32_t> random(static_cast<size_t>(R) * 4);
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto prompt = static_cast<size_t>(rows[r].prompt);
      const uint32_t key =
          request_.prompt_keys.empty() ? static_cast<uint32_t>(prompt) : static_cast<uint32_t>(request_.prompt_keys[prompt]);
      const auto block =
          philox(request_.seed, request_.step, key, static_cast<uint32_t>(rows[r].sample), static_cast<uint32_t>(rows[r].ids.size()));
      std::copy(block.x, block.x + 4, &random[r * 4]);
    }
    std::vector<int32_t> tokens(static_cast<size_t>(R));
    std::vector<float> logprobs(static_cast<size_t>(R));
    AllowedTokens allowed;
    if (request_.constraint.catalog) {
      allowed.offsets.push_back(0);
      for (const auto& row : rows) {
        row.cursor->allowed(allowed.ids);
        allowed.offsets.push_back(static_cast<int32_t>(allowed.ids.size()));
      }
    }
    backend.head_sample(tokens.data(), logprobs.data(), h, p.transformer.head(), p.transformer.head_rows(),
                        request_.constraint.catalog ? &allowed : nullptr, random.data(), R, request_.sampling);
    for (size_t r = 0; r < rows.size(); ++r) {
      if (!std::isfinite(logprobs[r]))
        fail("NOT_FINITE", "Expected finite logits, got " + std::to_string(logprobs[r]) + " for prompt " + std::to_string(rows[r].prompt) +
                               ". The weights hold values that are not numbers, or that overflow.");
      take(rows[r], tokens[r], logprobs[r]);
    }
  }

  // Adds a drawn token, and with a catalog those that can only follow.
  void take(Row& row, int32_t token, float logprob) {
    row.ids.push_back(token);
    row.logprobs.push_back(logprob);
    ++tokens_;
    if (!row.cursor) return;
    row.cursor->advance(token);
    for (int32_t next; static_cast<int>(row.ids.size()) < request_.max_new_tokens && (next = row.cursor->forced()) >= 0;) {
      row.ids.push_back(next);
      row.logprobs.push_back(0);
      ++tokens_;
      row.cursor->advance(next);
    }
  }

  // Moves finished rows out (their ids become empty) and gives their pages back.
  void settle(std::vector<Row>& rows) {
    for (auto& row : rows) {
      const int32_t token = row.ids.back();
      bool stop = row.cursor && row.cursor->finished();
      if (!row.cursor && !request_.ignore_stop) {
        stop = std::find(request_.stop_ids.begin(), request_.stop_ids.end(), token) != request_.stop_ids.end();
        stop = stop || completes_stop_string(row, token);
      }
      if (!stop && static_cast<int>(row.ids.size()) < request_.max_new_tokens) continue;
      Done& done = done_[static_cast<size_t>(row.prompt) * static_cast<size_t>(request_.group_size) + static_cast<size_t>(row.sample)];
      done.ids = std::move(row.ids);
      done.logprobs = std::move(row.logprobs);
      done.finish = stop ? Finish::stop : Finish::length;
      row.ids.clear();
      free_.insert(free_.end(), row.pages.begin() + static_cast<int64_t>(row.shared), row.pages.end());
      auto& group = groups_[static_cast<size_t>(row.prompt)];
      if (--group.rows == 0) free_.insert(free_.end(), group.shared_pages.begin(), group.shared_pages.end());
      ++finished_;
    }
    if (request_.progress) request_.progress(finished_, static_cast<int64_t>(done_.size()), tokens_);
  }

  bool completes_stop_string(Row& row, int32_t token) const {
    if (request_.stop_strings.empty()) return false;
    const size_t before = row.tail.size();
    row.tail += policy_.vocabulary[static_cast<size_t>(token)];
    size_t longest = 0;
    for (const auto& stop : request_.stop_strings) {
      longest = std::max(longest, stop.size());
      const size_t from = before >= stop.size() ? before - stop.size() + 1 : 0;
      if (row.tail.find(stop, from) != std::string::npos) return true;
    }
    if (row.tail.size() > longest) row.tail.erase(0, row.tail.size() - longest);
    return false;
  }

  Completions collect() const {
    Completions result;
    result.offsets.push_back(0);
    for (const auto& done : done_) {
      result.ids.insert(result.ids.end(), done.ids.begin(), done.ids.end());
      result.logprobs.insert(result.logprobs.end(), done.logprobs.begin(), done.logprobs.end());
      result.offsets.push_back(static_cast<int32_t>(result.ids.size()));
      result.finish.push_back(static_cast<uint8_t>(done.finish));
    }
    return result;
  }

  Policy::Impl& policy_;
  const GenerateRequest& request_;
  int rows_limit_ = 0;
  int64_t pages_ = 0, tokens_ = 0, finished_ = 0;
  size_t layer_bytes_ = 0;
  int next_prompt_ = 0;
  std::vector<int32_t> free_;
  std::vector<Group> groups_;
  std::vector<Row> active_;
  std::vector<Done> done_;  // by prompt and sample
};

void validate_request(const GenerateRequest& r, const ModelConfig& config, bool has_vocabulary) {
  Batch prompts;  // the same checks as a batch without completions
  prompts.prompt_ids = r.prompt_ids;
  prompts.prompt_offsets = r.prompt_offsets;
  prompts.completion_offsets = {0};
  prompts.group_offsets.assign(r.prompt_offsets.size(), 0);
  validate_batch(prompts, config);
  expect(r.prompt_keys.empty() || r.prompt_keys.size() + 1 == r.prompt_offsets.size(), "one key for each prompt", "promptKeys",
         std::to_string(r.prompt_keys.size()));
  expect(r.group_size >= 1, "at least 1", "groupSize", std::to_string(r.group_size));
  expect(r.max_rows >= 1, "at least 1", "maxRows", std::to_string(r.max_rows));
  expect(r.max_new_tokens >= 1, "at least 1", "maxNewTokens", std::to_string(r.max_new_tokens));
  const auto& s = r.sampling;
  check_temperature(s.temperature);
  expect(s.top_k >= 0, "0 or more", "topK", std::to_string(s.top_k));
  expect(s.top_p > 0 && s.top_p <= 1, "a number in (0, 1]", "topP", std::to_string(s.top_p));
  expect(s.min_p >= 0 && s.min_p <= 1, "a number in [0, 1]", "minP", std::to_string(s.min_p));
  expect(r.stop_strings.empty() || has_vocabulary, "a vocabulary (set_vocabulary)", "stopStrings", "none");
  for (const auto& stop : r.stop_strings) expect(!stop.empty(), "texts of at least one byte", "stopStrings", "an empty one");
  validate_constraint(r.constraint, r.prompt_offsets.size() - 1, config.vocab);
  for (size_t p = 0; p + 1 < r.prompt_offsets.size(); ++p) {
    const int length = r.prompt_offsets[p + 1] - r.prompt_offsets[p] + r.max_new_tokens - 1;
    expect(length <= config.max_positions, "at most " + std::to_string(config.max_positions) + " positions (the model's context)",
           "prompt " + std::to_string(p) + " and maxNewTokens", std::to_string(length));
  }
}

}  // namespace

Completions Policy::generate(const GenerateRequest& request) {
  validate_request(request, impl_->config, !impl_->vocabulary.empty());
  if (request.prompt_offsets.size() == 1) return {{}, {0}, {}, {}};
  return Generator(*impl_, request).run();
}

}  // namespace rank_grpo
