// Own functions by name: what a configuration may name beside the built-in segmentations, advantage estimators, group repairs, rewards, token
// weights and objectives. They come from modules that the configuration lists, or from the caller of `train`.
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

import { nearest, RankGrpoError, refuse } from "../errors.ts";
import type { NamedObjective } from "../objective/named.ts";
import type { TokenWeights } from "../ranking/emphasis.ts";
import type { AdvantageEstimator } from "../ranking/estimators.ts";
import type { GroupRepair } from "../ranking/repair.ts";
import type { Reward } from "../ranking/rewards.ts";
import type { Segmentation } from "../ranking/segmentation.ts";

/** Own functions by the names that a configuration uses; a module exports any of these. A built-in of the same name is refused. */
export interface Extensions {
  readonly segmentations?: Readonly<Record<string, Segmentation>>;
  readonly estimators?: Readonly<Record<string, AdvantageEstimator>>;
  readonly repairs?: Readonly<Record<string, GroupRepair>>;
  readonly rewards?: Readonly<Record<string, Reward>>;
  readonly tokenWeights?: Readonly<Record<string, TokenWeights>>;
  /** An objective, or what makes one of the configuration's `objective.params`. */
  readonly objectives?: Readonly<Record<string, NamedObjective>>;
}

const kinds = ["segmentations", "estimators", "repairs", "rewards", "tokenWeights", "objectives"] as const;

/** What an own export of each kind must be, in words where it is not. */
function unlike(kind: (typeof kinds)[number], value: unknown): string | undefined {
  if (kind === "tokenWeights")
    return typeof (value as Partial<TokenWeights> | null | undefined)?.weigh === "function"
      ? undefined
      : "an object with a function weigh";
  if (typeof value === "function") return undefined;
  if (kind !== "objectives") return "a function";
  return typeof value === "object" && value !== null ? undefined : "an objective or a function that makes one";
}

/**
 * Imports the modules of a configuration (paths relative to where the command runs) and joins what they export with `given`.
 * @throws RankGrpoError BAD_CONFIG for a module that cannot be imported or exports nothing of `Extensions`, for a name given
 * twice, and for what is no function.
 */
export async function loadExtensions(modules: readonly string[], given: Extensions = {}): Promise<Extensions> {
  const out: Record<string, Record<string, unknown>> = Object.fromEntries(kinds.map((kind) => [kind, {}]));
  const join = (from: Extensions, place: string): void => {
    for (const kind of kinds)
      for (const [name, value] of Object.entries(from[kind] ?? {})) {
        if (Object.hasOwn(out[kind]!, name)) refuse("BAD_CONFIG", "each name once", `${kind} of ${place}`, name);
        const wanted = unlike(kind, value);
        if (wanted !== undefined) refuse("BAD_CONFIG", wanted, `${name}, one of the ${kind} of ${place}`, value);
        out[kind]![name] = value;
      }
  };
  for (const path of modules) {
    const loaded = (await import(pathToFileURL(resolve(path)).href).catch((error: unknown) => {
      const why = error instanceof Error ? error.message : String(error);
      const hint = /\.[cm]?ts$/.test(path)
        ? " TypeScript is read as it is from Node 22.18 on; before, compile it."
        : "";
      throw new RankGrpoError(
        "BAD_CONFIG",
        `Expected a module that can be imported for modules, got ${path}: ${why}.${hint}`,
      );
    })) as Extensions;
    if (!kinds.some((kind) => loaded[kind] !== undefined))
      refuse("BAD_CONFIG", `an export of ${kinds.join(", ")}`, path, Object.keys(loaded).join(", ") || "none");
    join(loaded, path);
  }
  join(given, "extensions");
  return out as Extensions;
}

/**
 * What a name stands for: an own function, or a built-in one.
 * @param what such as "the segmentation", for errors
 * @throws RankGrpoError BAD_CONFIG for an unknown name, with the nearest known one, and for one that is both.
 */
export function choose<T>(
  what: string,
  name: string,
  builtIn: readonly string[],
  own: Readonly<Record<string, T>> | undefined,
  create: (name: string) => T,
): T {
  const isOwn = own !== undefined && Object.hasOwn(own, name);
  if (builtIn.includes(name)) {
    if (isOwn) refuse("BAD_CONFIG", "a name that is not built in", what, name);
    return create(name);
  }
  if (isOwn) return own[name]!;
  const known = [...builtIn, ...Object.keys(own ?? {})];
  const near = nearest(name, known);
  return refuse("BAD_CONFIG", `one of ${known.join(", ")}`, what, name, near ? `Did you mean ${near}?` : "");
}
