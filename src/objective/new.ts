// `rank-grpo objective new`: a rule header that compiles as it is, a comment for every line.
import { existsSync } from "node:fs";
import { join } from "node:path";

import { refuse } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { headerFile, isTaken } from "./headers.ts";

/**
 * Writes the header of a new rule and returns its path.
 * @throws INVALID_ARGUMENT for a name that is none or is taken, IO where the file exists
 */
export async function newObjective(name: string, folder = "."): Promise<string> {
  if (!/^[a-z][a-z0-9]*(?:-[a-z0-9]+)*$/.test(name)) {
    refuse("INVALID_ARGUMENT", "a name of lower-case letters, digits and hyphens", "the objective", name);
  }
  if (isTaken(name)) {
    const fix = "`rank-grpo objectives` lists them.";
    refuse(
      "INVALID_ARGUMENT",
      "a name that no rule, preset or objective in TypeScript has",
      "the objective",
      name,
      fix,
    );
  }
  const path = join(folder, headerFile(name));
  if (existsSync(path)) refuse("IO", "a new file", "the header", path, "Choose another name, or remove it first.");
  await writeFileAtomic(path, template(name));
  return path;
}

const template = (name: string): string => {
  const type = name
    .split("-")
    .map((part) => part[0]!.toUpperCase() + part.slice(1))
    .join("");
  return `// ${name}: what it does and why, in a line.
#pragma once
#include "objectives/rule.h"  // Rule, Dual; on Dual: exp log square sigmoid tanh abs min max clamp stop_gradient + - * /

namespace rank_grpo {

struct ${type}Rule : Rule {
  static constexpr const char *name = "${name}",  // in a configuration: objective: ${name}
      *source = "where it comes from",  // paper and equation
      *formula = "-A min(w, cap), w = exp(s)";  // as \`rank-grpo objectives\` prints it
  static constexpr ObjectiveParameter parameters[] = {  // name, default, smallest, largest, why this default
      {"cap", 2, 1, 1e9, "an update gains nothing from making an item more than twice as likely"}};
  double cap;  // the parameters once more, in the table's order: loss() reads them

  // s: pooled log-ratio of the token's segment; logp: its own log-prob; A: its advantage, never 0. The gradient comes by itself.
  RANK_GRPO_HD Dual loss(Dual s, Dual logp, double A) const {
    (void)logp;                 // not every rule reads it
    const Dual w = exp(s);      // the importance ratio
    return -(A * min(w, cap));  // lower is better
  }
};

}  // namespace rank_grpo
`;
};
