// Objectives in TypeScript by name: what `objective:` in a configuration may say beside presets and rules.
import { nearest, RankGrpoError, refuse } from "../errors.ts";
import { addon } from "../native.ts";
import { type Objective, presets, resolveObjective } from "../objectives.ts";
import { clipCov, klCov } from "./covariance.ts";
import { type CustomObjective, defineObjective } from "./custom.ts";
import { entropyTarget } from "./entropy.ts";
import { dpo, sDpo } from "./preference.ts";

/** An objective, or what makes one of its parameters. */
export type NamedObjective = CustomObjective | ((params: Readonly<Record<string, unknown>>) => CustomObjective);

/** One of the package's own, as lists and configurations show it. */
interface BuiltIn {
  readonly name: string;
  readonly formula: string;
  readonly source: string;
  /** name, default and range, reason */
  readonly params: readonly string[];
}

/** The package's objectives that are no rules. */
export const customObjectives: readonly BuiltIn[] = [
  {
    name: "dpo",
    formula:
      "-log sigmoid(h_c - h_r), h = beta log(pi / ref) of a list, over pairs of a group's lists that earned more and less",
    source: "DPO (arXiv 2305.18290) Eq. 7",
    params: ["beta = 0.1, above 0: scale of the implicit reward; DPO's"],
  },
  {
    name: "s-dpo",
    formula: "log(1 + sum over r of exp(h_r - h_c)), the best lists of a group against all that earned less",
    source: "S-DPO (arXiv 2406.09215)",
    params: ["beta = 0.1, above 0: scale of the implicit reward; DPO's"],
  },
  {
    name: "entropy-target",
    formula: "loss + coefficient (mean entropy - target)^2",
    source: "soft actor-critic (arXiv 1812.05905) section 5, the entropy constraint as a squared penalty",
    params: [
      "target, from 0, no default: mean entropy of a token to hold, nats",
      "coefficient = 0.1, from 0: weight of the squared distance",
      "objective = rank-grpo without KL: the loss",
    ],
  },
  {
    name: "clip-cov",
    formula: "loss without a random share of the tokens with low < (A - mean A)(logp - mean logp) < high",
    source: "Clip-Cov (arXiv 2505.22617) section 4",
    params: [
      "share = 0.0002, above 0, at most 1: of the covered tokens, one at least; the paper's",
      "low = 1: the published code's",
      "high = 5, above low: the published code's",
      "objective = rank-grpo without KL: the loss of the other tokens",
    ],
  },
  {
    name: "kl-cov",
    formula: "-w A + coefficient |logp - old| for the share of tokens of the largest (A - mean A)(logp - mean logp)",
    source: "KL-Cov (arXiv 2505.22617) section 4",
    params: [
      "share = 0.0002, above 0, at most 1: of the covered tokens, one at least; the paper's",
      "coefficient = 1, from 0: weight of the distance; the paper's",
      "objective = -w A, unclipped as published: the loss of all tokens",
    ],
  },
];

const make: Readonly<Record<string, (params: never) => CustomObjective>> = {
  dpo,
  "s-dpo": sDpo,
  "entropy-target": entropyTarget,
  "clip-cov": clipCov,
  "kl-cov": klCov,
};
const customNames = customObjectives.map(({ name }) => name);
/** Fields of the native loss, which plays no part where the loss is in TypeScript. */
const lossFields = ["rule", "pool", "spread", "kl", "beta", "entropyCoef"];

/** What a configuration's `objective` may hold. */
export type ObjectiveChoice = string | ({ name: string; base?: string } & Partial<Record<keyof Objective, unknown>>);

/**
 * The objective of a configuration: a preset or rule (`resolveObjective`), or an objective in TypeScript, whose segments, weights and
 * advantages are those of `base` (a preset or rule, default rank-grpo) with the fields beside it over them; loss and `params` are its own.
 *
 * @throws RankGrpoError INVALID_ARGUMENT or BAD_CONFIG for a name, field or parameter that is not known, with the nearest.
 */
export function resolveNamed(
  choice: ObjectiveChoice,
  own: Readonly<Record<string, NamedObjective>> = {},
): { objective: Objective; custom: CustomObjective | undefined } {
  const { name, base, ...fields } = typeof choice === "string" ? { name: choice } : choice;
  const rules = addon.objectiveList().map((rule) => rule.name);
  const native = [...Object.keys(presets), ...rules];
  const isOwn = Object.hasOwn(own, name);
  if (isOwn && [...native, ...customNames].includes(name))
    refuse("BAD_CONFIG", "a name that is not built in", "the objective", name);
  if (!isOwn && !Object.hasOwn(make, name)) {
    if (!native.includes(name)) {
      const known = [...new Set([...native, ...customNames, ...Object.keys(own)])];
      const near = nearest(name, known);
      refuse("BAD_CONFIG", `one of ${known.join(", ")}`, "objective", name, near ? `Did you mean ${near}?` : "");
    }
    if (base !== undefined) refuse("BAD_CONFIG", "no base beside a preset or rule", "objective.base", base);
    return {
      objective: resolveObjective({ name, ...fields } as { name: string } & Partial<Objective>),
      custom: undefined,
    };
  }
  const { params = {}, ...rest } = fields as { params?: Readonly<Record<string, unknown>> };
  const idle = Object.keys(rest).find((field) => lossFields.includes(field));
  if (idle !== undefined)
    refuse(
      "BAD_CONFIG",
      "no field of the native loss beside an objective in TypeScript",
      `objective ${name}`,
      idle,
      "What it takes stands under objective.params.",
    );
  const objective = resolveObjective({ name: base ?? "rank-grpo", ...rest });
  if (isOwn) {
    const made = own[name]!;
    if (typeof made === "function") return { objective, custom: defineObjective(made(params)) };
    if (Object.keys(params).length > 0)
      refuse(
        "BAD_CONFIG",
        "no params for an objective that takes none",
        `objective ${name}`,
        Object.keys(params).join(", "),
      );
    return { objective, custom: defineObjective(made) };
  }
  const keys = customObjectives.find((entry) => entry.name === name)!.params.map((param) => /^\w+/.exec(param)![0]);
  for (const key of Object.keys(params))
    if (!keys.includes(key)) {
      const near = nearest(key, keys);
      refuse(
        "BAD_CONFIG",
        `one of ${keys.join(", ")}`,
        `objective.params of ${name}`,
        key,
        near ? `Did you mean ${near}?` : "",
      );
    }
  if (name === "entropy-target" && params["target"] === undefined)
    throw new RankGrpoError("BAD_CONFIG", "Expected objective.params.target for entropy-target, got none.");
  return { objective, custom: make[name]!({ ...params } as never) };
}
