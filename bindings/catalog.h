// The catalog as a JavaScript object, for what takes one.
#pragma once
#include <napi.h>

#include "../native/catalog/cursor.h"
#include "arguments.h"

namespace rank_grpo {

// { catalog, least, most, repeats, excludedItems, excludedOffsets }, the exclusions a CSR over `prompts`. Without a catalog: no constraint.
// A TypeError or RangeError for other kinds of values; whether they fit together is validate_constraint's to say.
ListConstraint read_constraint(const Fields& fields, size_t prompts);

}  // namespace rank_grpo
