// See layout.h.
#include "layout.h"

#include <algorithm>
#include <functional>
#include <string>

#include "../core/error.h"

namespace rank_grpo {

void check_offsets(const std::vector<int32_t>& offsets, size_t end, const char* name, bool allow_empty) {
  expect(!offsets.empty() && offsets.front() == 0, "offsets that start at 0", name, "something else");
  for (size_t i = 1; i < offsets.size(); ++i) {
    const bool ok = allow_empty ? offsets[i] >= offsets[i - 1] : offsets[i] > offsets[i - 1];
    expect(ok, allow_empty ? "ascending offsets" : "at least one token in each row", name, "row " + std::to_string(i - 1) + " without one");
  }
  expect(static_cast<size_t>(offsets.back()) == end, "offsets that end at " + std::to_string(end), name, std::to_string(offsets.back()));
}

namespace {

void check_ids(const std::vector<int32_t>& ids, int vocab, const char* name) {
  for (size_t i = 0; i < ids.size(); ++i)
    expect(ids[i] >= 0 && ids[i] < vocab, "token ids from 0 to " + std::to_string(vocab - 1), name,
           std::to_string(ids[i]) + " at index " + std::to_string(i));
}

size_t group_of(const Batch& batch, int64_t row) {
  size_t g = 0;
  while (batch.group_offsets[g + 1] <= row) ++g;
  return g;
}

// The sets of these rows' tokens (null: only looks whether they are allowed).
void replay_rows(AllowedTokens* sets, const Batch& batch, MicroBatch rows) {
  const auto& [catalog, rules, excluded] = batch.constraint;
  for (int64_t r = rows.first_row; r < rows.last_row;) {
    const size_t g = group_of(batch, r);
    const Exclusion closed(*catalog, excluded[g]);
    for (; r < std::min<int64_t>(rows.last_row, batch.group_offsets[g + 1]); ++r) {
      const std::string name = "completion " + std::to_string(r);
      ListCursor cursor(*catalog, rules, closed, name);
      const int32_t *ids = batch.completion_ids.data(), *offsets = &batch.completion_offsets[static_cast<size_t>(r)];
      replay_list(cursor, ids + offsets[0], ids + offsets[1], name, [&](size_t) {
        if (!sets) return;
        cursor.allowed(sets->ids);
        sets->offsets.push_back(static_cast<int32_t>(sets->ids.size()));
      });
    }
  }
}

}  // namespace

void validate_batch(const Batch& batch, const ModelConfig& config) {
  check_offsets(batch.prompt_offsets, batch.prompt_ids.size(), "promptOffsets", false);
  check_offsets(batch.completion_offsets, batch.completion_ids.size(), "completionOffsets", false);
  check_offsets(batch.group_offsets, batch.completion_offsets.size() - 1, "groupOffsets", true);
  expect(batch.group_offsets.size() == batch.prompt_offsets.size(), "one group for each prompt", "groupOffsets",
         std::to_string(batch.group_offsets.size() - 1));
  check_ids(batch.prompt_ids, config.vocab, "promptIds");
  check_ids(batch.completion_ids, config.vocab, "completionIds");
  for (size_t p = 0; p + 1 < batch.prompt_offsets.size(); ++p) {
    const int prompt = batch.prompt_offsets[p + 1] - batch.prompt_offsets[p];
    for (int r = batch.group_offsets[p]; r < batch.group_offsets[p + 1]; ++r) {
      const int length = batch.completion_offsets[static_cast<size_t>(r) + 1] - batch.completion_offsets[static_cast<size_t>(r)];
      const int positions = prompt + length - 1;  // as in generation: the last token is never an input
      expect(positions <= config.max_positions, "at most " + std::to_string(config.max_positions) + " positions (the model's context)",
             "prompt and completion of row " + std::to_string(r), std::to_string(positions));
    }
  }
  validate_constraint(batch.constraint, batch.prompt_offsets.size() - 1, config.vocab);
  if (batch.constraint.catalog) replay_rows(nullptr, batch, {0, static_cast<int64_t>(batch.completion_offsets.size()) - 1});
}

std::vector<MicroBatch> split_batch(const Batch& batch, int64_t budget) {
  std::vector<MicroBatch> result;
  const int64_t rows = static_cast<int64_t>(batch.completion_offsets.size()) - 1;
  int64_t used = 0;
  size_t previous = SIZE_MAX;
  for (int64_t r = 0; r < rows; ++r) {
    const size_t g = group_of(batch, r), i = static_cast<size_t>(r);
    const int64_t prompt = batch.prompt_offsets[g + 1] - batch.prompt_offsets[g];
    const int64_t completion = batch.completion_offsets[i + 1] - batch.completion_offsets[i] - 1;
    const int64_t cost = completion + (g == previous ? 0 : prompt);
    if (result.empty() || used + cost > budget) {
      result.push_back({r, r});
      used = completion + prompt;
    } else {
      used += cost;
    }
    result.back().last_row = r + 1;
    previous = g;
  }
  return result;
}

Layout make_layout(const Batch& batch, MicroBatch rows) {
  Layout layout;
  layout.first_token = batch.completion_offsets[static_cast<size_t>(rows.first_row)];
  auto add_token = [&](int32_t id, int position) {
    layout.ids.push_back(id);
    layout.positions.push_back(position);
    return static_cast<int32_t>(layout.ids.size() - 1);
  };
  auto add_page = [&] { return static_cast<int32_t>(layout.pages++); };
  auto slot = [](int32_t page, int position) { return page * kPageSize + position % kPageSize; };

  for (int64_t r = rows.first_row; r < rows.last_row;) {
    const size_t g = group_of(batch, r);
    const int64_t last = std::min<int64_t>(rows.last_row, batch.group_offsets[g + 1]);
    const int prompt = batch.prompt_offsets[g + 1] - batch.prompt_offsets[g];
    const int whole = prompt / kPageSize, tail = prompt % kPageSize;
    // The prompt's own pages; the last, partly filled one is repeated at the head of every completion.
    std::vector<int32_t> prompt_pages;
    for (int p = 0; p < whole + (tail > 0); ++p) prompt_pages.push_back(add_page());
    const int32_t prompt_start = static_cast<int32_t>(layout.T());
    for (int t = 0; t < prompt; ++t) {
      const int32_t token = add_token(batch.prompt_ids[static_cast<size_t>(batch.prompt_offsets[g] + t)], t);
      layout.plan.writes.push_back({token, slot(prompt_pages[static_cast<size_t>(t / kPageSize)], t)});
    }
    layout.plan.spans.push_back({prompt_start, prompt, 0, static_cast<int32_t>(layout.plan.tables.size())});
    layout.plan.tables.insert(layout.plan.tables.end(), prompt_pages.begin(), prompt_pages.end());

    AttentionGroups::Group group{prompt_start, prompt, static_cast<int32_t>(layout.groups.completions.size()), 0};
    for (; r < last; ++r) {
      const int first = batch.completion_offsets[static_cast<size_t>(r)];
      const int count = batch.completion_offsets[static_cast<size_t>(r) + 1] - first;
      const int inputs = count - 1;  // the last token predicts nothing
      const int32_t start = static_cast<int32_t>(layout.T());
      if (inputs > 0) {
        std::vector<int32_t> pages(prompt_pages.begin(), prompt_pages.begin() + whole);
        while (static_cast<int>(pages.size()) * kPageSize < prompt + inputs) pages.push_back(add_page());
        for (int t = whole * kPageSize; t < prompt; ++t)
          layout.plan.writes.push_back({prompt_start + t, slot(pages[static_cast<size_t>(whole)], t)});
        for (int t = 0; t < inputs; ++t) {
          const int position = prompt + t;
          const int32_t token = add_token(batch.completion_ids[static_cast<size_t>(first + t)], position);
          layout.plan.writes.push_back({token, slot(pages[static_cast<size_t>(position / kPageSize)], position)});
        }
        layout.plan.spans.push_back({start, inputs, prompt, static_cast<int32_t>(layout.plan.tables.size())});
        layout.plan.tables.insert(layout.plan.tables.end(), pages.begin(), pages.end());
      }
      layout.groups.completions.push_back({start, inputs});
      for (int t = 0; t < count; ++t) {
        layout.head_rows.push_back(t == 0 ? prompt_start + prompt - 1 : start + t - 1);
        layout.targets.push_back(batch.completion_ids[static_cast<size_t>(first + t)]);
      }
    }
    group.last = static_cast<int32_t>(layout.groups.completions.size());
    layout.groups.groups.push_back(group);
  }
  if (batch.constraint.catalog) {
    layout.allowed.offsets.push_back(0);
    replay_rows(&layout.allowed, batch, rows);
  }
  return layout;
}

}  // namespace rank_grpo
