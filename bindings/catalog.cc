// The JavaScript class over TokenCatalog: build, open and save it, and say which tokens of given lists had no alternative.
#include "catalog.h"

#include <algorithm>

#include "addon.h"

namespace rank_grpo {
namespace {

using Handle = std::shared_ptr<const TokenCatalog>;

// Throws a RangeError where offsets do not ascend from 0 to `end`, or are not `count` + 1 (where count is given).
void check_offsets(const Fields& f, const char* name, const std::vector<int32_t>& offsets, size_t end, int64_t count = -1) {
  const bool sound = !offsets.empty() && offsets.front() == 0 && static_cast<size_t>(offsets.back()) == end &&
                     std::is_sorted(offsets.begin(), offsets.end()) && (count < 0 || static_cast<int64_t>(offsets.size()) == count + 1);
  if (!sound)
    throw Napi::RangeError::New(f.get(name).Env(), "Expected " + (count < 0 ? std::string() : std::to_string(count + 1) + " ") +
                                                       "ascending offsets from 0 to " + std::to_string(end) + " for " + name +
                                                       ", got others.");
}

TokenLines read_lines(const Fields& f, const char* offsets_key, const char* tokens_key, size_t items) {
  const auto offsets = f.array<int32_t>(offsets_key);
  TokenLines lines{{}, f.array<int32_t>(tokens_key)};
  check_offsets(f, offsets_key, offsets, lines.tokens.size(), static_cast<int64_t>(items));
  lines.offsets.assign(offsets.begin(), offsets.end());
  return lines;
}

// Items that the lists of each of `prompts` may not hold: ascending, without repeats.
std::vector<std::vector<int32_t>> read_excluded(const Fields& f, size_t prompts) {
  std::vector<std::vector<int32_t>> out(prompts);
  if (!f.has("excludedItems")) return out;
  const auto values = f.array<int32_t>("excludedItems"), offsets = f.array<int32_t>("excludedOffsets");
  check_offsets(f, "excludedOffsets", offsets, values.size(), static_cast<int64_t>(prompts));
  for (size_t p = 0; p < prompts; ++p) {
    auto& set = out[p];
    set.assign(values.begin() + offsets[p], values.begin() + offsets[p + 1]);
    std::sort(set.begin(), set.end());
    set.erase(std::unique(set.begin(), set.end()), set.end());
  }
  return out;
}

}  // namespace

class CatalogWrap : public Napi::ObjectWrap<CatalogWrap> {
 public:
  static constexpr napi_type_tag kTag = {0x72616e6b2d677270, 0x6f2d636174616c6f};
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeCatalog",
        {StaticMethod("build", &CatalogWrap::build), StaticMethod("open", &CatalogWrap::open), InstanceMethod("save", &CatalogWrap::save),
         InstanceMethod("choices", &CatalogWrap::choices), InstanceMethod("describe", &CatalogWrap::describe)});
  }
  explicit CatalogWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<CatalogWrap>(info) {
    catalog_ = take_handed<Handle>(info, kTag, "NativeCatalog.build or NativeCatalog.open");
  }
  const Handle& catalog() const { return catalog_; }

 private:
  static Napi::Value wrap(Napi::Env env, Handle& catalog) { return construct(env, &Environment::catalog, catalog); }

  static Napi::Value build(const Napi::CallbackInfo& info) {
    const Fields f(info[0], "catalog");
    auto names = f.texts("names");
    auto line = read_lines(f, "lineOffsets", "lineTokens", names.size()), last = read_lines(f, "lastOffsets", "lastTokens", names.size());
    return run_async<Handle>(
        info.Env(),
        [names = std::move(names), line = std::move(line), last = std::move(last)] { return TokenCatalog::build(names, line, last); },
        wrap);
  }

  static Napi::Value open(const Napi::CallbackInfo& info) {
    return run_async<Handle>(
        info.Env(), [path = to_path(info[0], "path"), key = to_text(info[1], "key")] { return TokenCatalog::open(path, key); }, wrap);
  }

  Napi::Value save(const Napi::CallbackInfo& info) {
    return run_async<int>(
        info.Env(),
        [catalog = catalog_, path = to_path(info[0], "path"), key = to_text(info[1], "key")] {
          catalog->save(path, key);
          return 0;
        },
        [](Napi::Env env, int&) { return env.Undefined(); });
  }

  // Of the lists of each group: for every token, how many could have stood in its place, counted up to `countTo`.
  Napi::Value choices(const Napi::CallbackInfo& info) {
    const Fields f(info[0], "lists");
    const auto ids = f.array<int32_t>("ids"), offsets = f.array<int32_t>("offsets"), groups = f.array<int32_t>("groupOffsets");
    check_offsets(f, "offsets", offsets, ids.size());
    check_offsets(f, "groupOffsets", groups, offsets.size() - 1);
    const auto constraint = read_constraint(f, groups.size() - 1);
    const auto count_to = static_cast<int32_t>(f.integer("countTo", 2, 2, 1 << 30));
    std::vector<int32_t> out(ids.size()), scratch;
    try {
      validate_constraint(constraint, groups.size() - 1, INT32_MAX);
      for (size_t g = 0; g + 1 < groups.size(); ++g) {
        const Exclusion closed(*catalog_, constraint.excluded[g]);
        for (auto r = static_cast<size_t>(groups[g]); r < static_cast<size_t>(groups[g + 1]); ++r) {
          const std::string name = "completion " + std::to_string(r);
          ListCursor cursor(*catalog_, constraint.rules, closed, name);
          const auto begin = static_cast<size_t>(offsets[r]), end = static_cast<size_t>(offsets[r + 1]);
          replay_list(cursor, ids.data() + begin, ids.data() + end, name,
                      [&](size_t t) { out[begin + t] = cursor.choices(count_to, scratch); });
        }
      }
    } catch (const Error& error) {
      throw to_js_error(info.Env(), error.code(), error.what());
    }
    return from_vector(info.Env(), out);
  }

  ListConstraint read_constraint(const Fields& f, size_t prompts) const { return {catalog_, read_rules(f), read_excluded(f, prompts)}; }

  static ListRules read_rules(const Fields& f) {
    ListRules rules;
    rules.least = static_cast<int32_t>(f.integer("least", 1, 1, 1 << 20));
    rules.most = static_cast<int32_t>(f.integer("most", rules.least, rules.least, 1 << 20));
    rules.repeats = f.boolean("repeats", false);
    return rules;
  }

  Napi::Value describe(const Napi::CallbackInfo& info) {
    auto out = Napi::Object::New(info.Env());
    out.Set("items", catalog_->items());
    out.Set("tokens", static_cast<double>(catalog_->tokens()));
    out.Set("bytes", static_cast<double>(catalog_->bytes()));
    out.Set("longestLine", catalog_->longest());
    return out;
  }

  Handle catalog_;
  friend ListConstraint read_constraint(const Fields& f, size_t prompts);
};

ListConstraint read_constraint(const Fields& f, size_t prompts) {
  if (!f.has("catalog")) return {};
  const auto value = f.get("catalog");
  if (!has_tag(value, CatalogWrap::kTag)) type_error(value.Env(), "a NativeCatalog", "catalog", value);
  return CatalogWrap::Unwrap(value.As<Napi::Object>())->read_constraint(f, prompts);
}

void define_catalog(Napi::Env env, Napi::Object exports) {
  auto constructor = CatalogWrap::define(env);
  env.GetInstanceData<Environment>()->catalog = Napi::Persistent(constructor);
  exports.Set("NativeCatalog", constructor);
}

}  // namespace rank_grpo
