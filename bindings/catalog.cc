// The JavaScript class over CatalogTries: build, open and save them, and replay lists through them.
#include "catalog.h"

#include <algorithm>

#include "addon.h"
#include "engine.h"

namespace rank_grpo {
namespace {

using Tries = std::shared_ptr<CatalogTries>;

struct Lines {
  std::vector<int32_t> offsets, tokens;
};

Lines read_lines(const Fields& f, const char* offsets_key, const char* tokens_key, size_t items) {
  Lines lines{f.array<int32_t>(offsets_key), f.array<int32_t>(tokens_key)};
  const auto& o = lines.offsets;
  const bool sound =
      o.size() == items + 1 && o.front() == 0 && static_cast<size_t>(o.back()) == lines.tokens.size() && std::is_sorted(o.begin(), o.end());
  if (!sound)
    throw Napi::RangeError::New(f.get(offsets_key).Env(), std::string("Expected ") + std::to_string(items + 1) +
                                                              " ascending offsets from 0 to the length of " + tokens_key + " for " +
                                                              offsets_key + ", got others.");
  return lines;
}

}  // namespace

class CatalogWrap : public Napi::ObjectWrap<CatalogWrap> {
 public:
  static constexpr napi_type_tag kTag = {0x72616e6b2d677270, 0x6f2d636174616c6f};
  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "NativeCatalog",
        {StaticMethod("build", &CatalogWrap::build), StaticMethod("open", &CatalogWrap::open), InstanceMethod("save", &CatalogWrap::save),
         InstanceMethod("replay", &CatalogWrap::replay), InstanceMethod("describe", &CatalogWrap::describe)});
  }
  explicit CatalogWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<CatalogWrap>(info) {
    tries_ = take_handed<Tries>(info, kTag, "NativeCatalog.build or NativeCatalog.open");
  }
  const Tries& tries() const { return tries_; }

 private:
  static Napi::Value wrap(Napi::Env env, Tries& tries) { return construct(env, &Environment::catalog, tries); }

  static Napi::Value build(const Napi::CallbackInfo& info) {
    const Fields f(info[0], "catalog");
    auto names = f.texts("names");
    auto line = read_lines(f, "lineOffsets", "lineTokens", names.size()), last = read_lines(f, "lastOffsets", "lastTokens", names.size());
    return run_async<Tries>(
        info.Env(),
        [names = std::move(names), line = std::move(line), last = std::move(last)] {
          auto tries = std::make_shared<CatalogTries>();
          tries->line = Trie::build(line.offsets, line.tokens, names);
          tries->last = Trie::build(last.offsets, last.tokens, names);
          return tries;
        },
        wrap);
  }

  static Napi::Value open(const Napi::CallbackInfo& info) {
    return run_async<Tries>(
        info.Env(),
        [path = to_path(info[0], "path"), key = to_text(info[1], "key")] {
          auto tries = std::make_shared<CatalogTries>();
          tries->line = Trie::open(path + ".line", key);
          tries->last = Trie::open(path + ".last", key);
          return tries;
        },
        wrap);
  }

  Napi::Value save(const Napi::CallbackInfo& info) {
    return run_async<int>(
        info.Env(),
        [tries = tries_, path = to_path(info[0], "path"), key = to_text(info[1], "key")] {
          tries->line->save(path + ".line", key);
          tries->last->save(path + ".last", key);
          return 0;
        },
        [](Napi::Env env, int&) { return env.Undefined(); });
  }

  // Allowed sets of given completions: { offsets, ids } over all their tokens.
  Napi::Value replay(const Napi::CallbackInfo& info) {
    const auto env = info.Env();
    const Fields f(info[0], "request");
    const auto ids = f.array<int32_t>("ids"), offsets = f.array<int32_t>("offsets");
    if (offsets.empty() || offsets.front() != 0 || static_cast<size_t>(offsets.back()) != ids.size() ||
        !std::is_sorted(offsets.begin(), offsets.end()))
      throw Napi::RangeError::New(env, "Expected ascending offsets from 0 to the length of ids for offsets, got others.");
    const size_t rows = offsets.size() - 1;
    const auto rules = read_rules(f, tries_->items());
    const auto excluded = read_excluded(env, f, rows, tries_->items());
    try {
      Replay replay;
      for (size_t r = 0; r < rows; ++r)
        replay_list(replay, *tries_, rules, excluded[r], ids.data() + offsets[r], ids.data() + offsets[r + 1],
                    "completion " + std::to_string(r));
      auto out = Napi::Object::New(env);
      out.Set("offsets", from_vector(env, replay.offsets));
      out.Set("ids", from_vector(env, replay.ids));
      return out;
    } catch (const Error& error) {
      throw to_js_error(env, error.code(), error.what());
    }
  }

  Napi::Value describe(const Napi::CallbackInfo& info) {
    auto out = Napi::Object::New(info.Env());
    out.Set("items", tries_->items());
    out.Set("bytes", static_cast<double>(tries_->line->bytes() + tries_->last->bytes()));
    out.Set("longestLine", tries_->line->longest());
    return out;
  }

  Tries tries_;
};

std::shared_ptr<const CatalogTries> to_catalog(const Napi::Value& v, const std::string& name) {
  const auto env = v.Env();
  if (!has_tag(v, CatalogWrap::kTag)) type_error(env, "a NativeCatalog", name, v);
  return CatalogWrap::Unwrap(v.As<Napi::Object>())->tries();
}

ListRules read_rules(const Fields& f, int32_t items) {
  ListRules rules;
  rules.least = static_cast<int32_t>(f.integer("least", 1, 1, items));
  rules.most = static_cast<int32_t>(f.integer("most", rules.least, rules.least, 1 << 20));
  rules.repeats = f.boolean("repeats", false);
  return rules;
}

std::vector<std::vector<int32_t>> read_excluded(Napi::Env env, const Fields& f, size_t rows, int32_t items) {
  std::vector<std::vector<int32_t>> out(rows);
  if (!f.has("excludedItems")) return out;
  const auto values = f.array<int32_t>("excludedItems"), offsets = f.array<int32_t>("excludedOffsets");
  if (offsets.size() != rows + 1 || offsets.front() != 0 || static_cast<size_t>(offsets.back()) != values.size() ||
      !std::is_sorted(offsets.begin(), offsets.end()))
    throw Napi::RangeError::New(env, "Expected " + std::to_string(rows + 1) +
                                         " ascending offsets from 0 to the length of excludedItems for excludedOffsets, got others.");
  for (size_t r = 0; r < rows; ++r) {
    auto& set = out[r];
    set.assign(values.begin() + offsets[r], values.begin() + offsets[r + 1]);
    std::sort(set.begin(), set.end());
    set.erase(std::unique(set.begin(), set.end()), set.end());
    if (!set.empty() && (set.front() < 0 || set.back() >= items))
      throw Napi::RangeError::New(env, "Expected items from 0 to " + std::to_string(items - 1) + " for excludedItems, got another.");
  }
  return out;
}

void define_catalog(Napi::Env env, Napi::Object exports) {
  auto constructor = CatalogWrap::define(env);
  env.GetInstanceData<Environment>()->catalog = Napi::Persistent(constructor);
  exports.Set("NativeCatalog", constructor);
}

}  // namespace rank_grpo
