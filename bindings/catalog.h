// The catalog's tries as a JavaScript object, for what takes one.
#pragma once
#include <napi.h>

#include <memory>

#include "../native/catalog/cursor.h"
#include "arguments.h"

namespace rank_grpo {

// Of a NativeCatalog; a TypeError where `v` is none.
std::shared_ptr<const CatalogTries> to_catalog(const Napi::Value& v, const std::string& name);
// { least, most, repeats }
ListRules read_rules(const Fields& fields, int32_t items);
// CSR of items for each row: ascending, without repeats, in range; `rows` sets.
std::vector<std::vector<int32_t>> read_excluded(Napi::Env env, const Fields& fields, size_t rows, int32_t items);

}  // namespace rank_grpo
