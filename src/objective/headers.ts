// Rule headers of a user's folder, and the one header that brings them into a build (RANK_GRPO_EXTRA_RULES, native/objectives/list.h).
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { RankGrpoError, refuse } from "../errors.ts";
import { presets } from "../objectives.ts";
import { customObjectives } from "./named.ts";

/** The package: its C++ sources lie beside dist (or src). */
export const packageRoot = fileURLToPath(new URL("../..", import.meta.url));

/** A header that defines one rule. */
export interface RuleHeader {
  path: string;
  /** The C++ struct. */
  type: string;
  /** The objective's name. */
  name: string;
}

/** The name of a rule's file: `my-rule` lives in my_rule.h. */
export const headerFile = (name: string): string => `${name.replaceAll("-", "_")}.h`;

const rulesFolder = join(packageRoot, "native/objectives/rules");

/** Whether a configuration's `objective` already means something else by this name, which would go before a header's. */
export const isTaken = (name: string): boolean =>
  existsSync(join(rulesFolder, headerFile(name))) ||
  Object.hasOwn(presets, name) ||
  customObjectives.some((objective) => objective.name === name);

/** Reads what a header defines. @throws BAD_DATA where it is not one rule with a name of its own and fields in its table's order */
export function readHeader(path: string): RuleHeader {
  const text = readFileSync(path, "utf8").replace(/\/\/.*$/gm, "");
  const types = [...text.matchAll(/\bstruct\s+(\w+)\s*(?:final\s*)?:\s*(?:public\s+)?(?:rank_grpo::)?Rule\b/g)];
  const names = [...text.matchAll(/\bname\s*=\s*"([^"]*)"/g)];
  const [type, name] = [types[0]?.[1], names[0]?.[1]];
  if (types.length !== 1 || type === undefined || name === undefined) {
    const found = `${types.length} structs that derive from Rule, ${names.length} names`;
    refuse("BAD_DATA", "one struct that derives from Rule and its name", path, found, "See docs/extend.md.");
  }
  if (!/^[a-z][a-z0-9-]*$/.test(name)) {
    refuse("BAD_DATA", "a name of lower-case letters, digits and hyphens", path, name);
  }
  if (isTaken(name) && resolve(path) !== join(rulesFolder, headerFile(name))) {
    refuse("BAD_DATA", "a name that no rule, preset or objective in TypeScript has", path, name);
  }
  // the compiler knows how many there are, not which is which
  const table = [...text.matchAll(/\{\s*"(\w+)"\s*,/g)].map((match) => match[1]!);
  const fields = [...text.matchAll(/\bdouble\s+([\w\s,]+);/g)].flatMap((match) => match[1]!.split(/[\s,]+/));
  const own = fields.filter((field) => table.includes(field));
  if (own.length === table.length && own.some((field, i) => field !== table[i])) {
    refuse("BAD_DATA", `fields in the table's order, ${table.join(", ")},`, path, own.join(", "));
  }
  return { path: resolve(path), type, name };
}

/** Every rule header of a folder, by name. @throws IO, BAD_DATA */
export function readHeaders(folder: string): RuleHeader[] {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    throw new RankGrpoError("IO", `Expected a folder of rule headers, got ${folder}.`);
  }
  const files = readdirSync(folder).filter((file) => file.endsWith(".h"));
  const headers = files.sort().map((file) => readHeader(join(folder, file)));
  if (headers.length === 0) {
    const fix = "`rank-grpo objective new NAME --dir DIR` writes one.";
    refuse("BAD_DATA", "at least one rule header (*.h)", folder, "none", fix);
  }
  for (const key of ["name", "type"] as const) {
    const seen = new Map<string, string>();
    for (const header of headers) {
      const other = seen.get(header[key]);
      if (other) refuse("BAD_DATA", `one rule ${key} in each file`, header[key], `it in ${other} and ${header.path}`);
      seen.set(header[key], header.path);
    }
  }
  return headers;
}

/** The header a build includes for these rules. */
export function extraRules(headers: readonly RuleHeader[]): string {
  const includes = headers.map((header) => `#include ${JSON.stringify(header.path)}`);
  const types = headers.map((header) => `::rank_grpo::${header.type}`).join(", ");
  return [
    "// Written by `rank-grpo build`: rules from outside the package.",
    "#pragma once",
    ...includes,
    `#define RANK_GRPO_EXTRA_RULE_NAMES ${types}`,
    "",
  ].join("\n");
}
