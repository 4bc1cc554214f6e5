// TypeScript's view of rules, made from their tables: the names of parameters, with default, range and reason as documentation.
import type { NativeRule } from "../native.ts";

const property = (name: string): string => (/^[A-Za-z_]\w*$/.test(name) ? name : JSON.stringify(name));

/** The members of `interface RuleParameters`, each line indented by `indent`. */
function members(rules: readonly NativeRule[], indent: string): string[] {
  return rules.flatMap((rule) => [
    `${indent}/** ${rule.formula} (${rule.source}) */`,
    `${indent}${property(rule.name)}: {`,
    ...rule.parameters.flatMap((p) => [
      `${indent}  /** Default ${p.value}, from ${p.min} to ${p.max}: ${p.reason}. */`,
      `${indent}  ${property(p.name)}?: number;`,
    ]),
    `${indent}};`,
  ]);
}

/** src/rules.ts: the package's own rules. */
export const packageTypes = (rules: readonly NativeRule[]): string =>
  [
    "// The parameters of every rule of this package. Made from the rules' own tables (`npx tsx scripts/rules.mts`); a test holds it to them.",
    "// `rank-grpo build` adds those of a project's rules (.rank-grpo/objectives.d.ts).",
    "",
    "/** Parameters by rule. */",
    "export interface RuleParameters {",
    ...members(rules, "  "),
    "}",
    "",
  ].join("\n");

/** objectives.d.ts beside a project's addon: its own rules. */
export const projectTypes = (rules: readonly NativeRule[]): string =>
  [
    "// Written by `rank-grpo build`: the parameters of this project's rules.",
    'import "rank-grpo";',
    "",
    'declare module "rank-grpo" {',
    "  interface RuleParameters {",
    ...members(rules, "    "),
    "  }",
    "}",
    "",
  ].join("\n");
