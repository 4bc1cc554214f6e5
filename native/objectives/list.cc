// The rules as data for the bindings.
#include "list.h"

#include "objective.h"

namespace rank_grpo {

const std::vector<ObjectiveInfo>& objective_list() {
  static const std::vector<ObjectiveInfo> list = [] {
    std::vector<ObjectiveInfo> infos;
    AllRules::each([&](auto* rule) {
      using Rule = std::remove_pointer_t<decltype(rule)>;
      infos.push_back({Rule::name, Rule::source, Rule::formula, {std::begin(Rule::parameters), std::end(Rule::parameters)}});
    });
    return infos;
  }();
  return list;
}

}  // namespace rank_grpo
