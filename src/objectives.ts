// Objectives: the presets with their sources, how a user's choice is resolved, and the segments and weights that turn one native
// driver into token-, rank- and sequence-level objectives. docs/objectives.md has the mathematics in the same words.
import { nearest, refuse } from "./errors.ts";
import { addon, type NativeObjective, type NativeRule } from "./native.ts";
import type { RuleParameters } from "./rules.ts";

/** What one importance ratio covers: a token (GRPO), an item of the list (Rank-GRPO), the whole completion (GSPO). */
export type Level = "token" | "rank" | "sequence";

/** How token losses are averaged: docs/objectives.md, Weights. */
export type Weighting = "rank-mean" | "token-mean" | "sequence-mean" | "dr-grpo";

/** An objective in full: a rule, what it is pooled over, how advantages are made and how the list's length is shaped. */
export interface Objective {
  /** The preset (or rule) it started from. */
  name: string;
  /** The scalar rule, a name of `addon.objectiveList()`. */
  rule: string;
  /** The rule's parameters by name; defaults and ranges are the rule's own. */
  params: Record<string, number>;
  /** What an importance ratio is pooled over. */
  ratio: Level;
  /** Geometric mean of the tokens' ratios (GSPO, Rank-GRPO: independent of the length), or their product, the segment's own likelihood ratio. */
  pool: "mean" | "sum";
  /** What an advantage is normalised over: one rank over the group, the list's total over the group, or all ranks of a prompt's lists. */
  advantage: "rank" | "sequence" | "prompt";
  weighting: Weighting;
  /** Gradient through the pooled ratio, or (GSPO-token) to each token's own log-prob alone. */
  spread: "pooled" | "token";
  /** Estimator of the KL divergence from the reference: k1 = -r, k2 = r^2 / 2, k3 = e^r - r - 1, with r = ref - logp. */
  kl: "k1" | "k2" | "k3";
  /** Weight of the KL term, >= 0; 0 needs no reference model. */
  beta: number;
  /** Weight of the mean entropy, >= 0; 0 is off: no published preset has one. */
  entropyCoef: number;
  /** How tokens are assigned to items: line-aligned, or as the published code counts newlines. */
  reading: "aligned" | "reference";
  /** Advantage of the stop token of a list with fewer than N items; added to the list's own where `advantage` is `sequence`. */
  earlyStop: number;
  /** Advantage of what lies beyond rank N; added likewise. */
  overflow: number;
  /**
   * Who carries the overflow advantage: each token beyond rank N, or each item there, shared evenly by its tokens. Under rank-mean weights,
   * which average over an item's tokens, `token` is already once per item.
   */
  overflowPer: "token" | "item";
  /** Added to the stop token's advantage of a list with exactly N items. */
  exactLength: number;
  /** Added to the standard deviation of the group, >= 0. */
  epsilon: number;
  /** Degrees of freedom taken off in that standard deviation. */
  ddof: 0 | 1;
  /** Divide by the standard deviation (false: Dr. GRPO). */
  scale: boolean;
  /** Tokens a completion counts as under `dr-grpo` weighting; a constant, so long completions are not favoured. */
  drLength: number;
  /** Paper or code this setting comes from. */
  source: string;
}

/** An objective with a certain rule, its parameters checked by the compiler; for `resolveObjective`. */
export type ObjectiveOf<R extends keyof RuleParameters> = {
  name: string;
  rule: R;
  params?: RuleParameters[R];
} & Partial<Omit<Objective, "name" | "rule" | "params">>;

export type PresetName = "rank-grpo" | "rank-grpo-reference" | "grpo" | "gspo" | "dapo" | "dr-grpo" | "cispo";

const rules = (): readonly NativeRule[] => addon.objectiveList();

function ruleOf(name: string): NativeRule {
  const known = rules();
  const found = known.find((rule) => rule.name === name);
  if (found) return found;
  const names = known.map((rule) => rule.name);
  refuse("INVALID_ARGUMENT", `a rule (${names.join(", ")})`, "rule", name, suggest(name, names));
}

const suggest = (word: string, known: readonly string[]): string => {
  const near = nearest(word, known);
  return near ? `Did you mean ${near}?` : "";
};

/** The rule's parameters: its defaults with `given` over them, names and ranges checked. */
function ruleParams(rule: NativeRule, given: Readonly<Record<string, number>>): Record<string, number> {
  const params = Object.fromEntries(rule.parameters.map((p) => [p.name, p.value]));
  for (const [name, value] of Object.entries(given)) {
    const entry = rule.parameters.find((p) => p.name === name);
    if (!entry) {
      const names = rule.parameters.map((p) => p.name);
      refuse(
        "INVALID_ARGUMENT",
        `a parameter of rule ${rule.name} (${names.join(", ")})`,
        "params",
        name,
        suggest(name, names),
      );
    }
    if (typeof value !== "number" || !(value >= entry.min && value <= entry.max)) {
      refuse("INVALID_ARGUMENT", `a number from ${entry.min} to ${entry.max}`, `${rule.name}.${name}`, value);
    }
    params[name] = value;
  }
  return params;
}

/** Rank-GRPO as the paper writes it; every other preset is told by its differences. */
const paper = {
  rule: "clip",
  params: { clipLow: 0.06, clipHigh: 0.08 },
  ratio: "rank",
  pool: "mean",
  advantage: "rank",
  weighting: "rank-mean",
  spread: "pooled",
  kl: "k3",
  beta: 0.001,
  entropyCoef: 0,
  reading: "aligned",
  earlyStop: -0.1,
  overflow: -0.1,
  overflowPer: "token",
  exactLength: 0,
  epsilon: 1e-4,
  ddof: 1,
  scale: true,
  drLength: 1024,
  source: "Rank-GRPO (arXiv 2510.20150) Eq. 6, section 2.3 and appendix C",
} satisfies Omit<Objective, "name">;

/** What the list-blind objectives share: one advantage a completion and no shaping of the list's length. */
const listBlind = { advantage: "sequence", earlyStop: 0, overflow: 0 } satisfies Partial<Objective>;

const settings: Record<PresetName, Omit<Objective, "name">> = {
  "rank-grpo": paper,
  "rank-grpo-reference": {
    ...paper,
    weighting: "token-mean",
    reading: "reference",
    exactLength: 0.1,
    source: "Rank-GRPO's published trainer (TRL 0.21, loss_type bnpo), rule for rule",
  },
  grpo: {
    ...paper,
    ...listBlind,
    params: { clipLow: 0.2, clipHigh: 0.26 },
    ratio: "token",
    weighting: "sequence-mean",
    source: "DeepSeekMath (arXiv 2402.03300) Eq. 3; clip range of Rank-GRPO's GRPO baseline, appendix C",
  },
  gspo: {
    ...paper,
    ...listBlind,
    params: { clipLow: 3e-4, clipHigh: 4e-4 },
    ratio: "sequence",
    weighting: "sequence-mean",
    source: "GSPO (arXiv 2507.18071) Eq. 5 and section 5.1",
  },
  dapo: {
    ...paper,
    ...listBlind,
    params: { clipLow: 0.2, clipHigh: 0.28 },
    ratio: "token",
    weighting: "token-mean",
    beta: 0,
    source: "DAPO (arXiv 2503.14476) Eq. 8 and section 4.1: clip-higher, token mean, no KL",
  },
  "dr-grpo": {
    ...paper,
    ...listBlind,
    params: { clipLow: 0.2, clipHigh: 0.2 },
    ratio: "token",
    weighting: "dr-grpo",
    beta: 0,
    scale: false,
    source: "Dr. GRPO (arXiv 2503.20783) section 3: no standard deviation, no division by the length, no KL",
  },
  cispo: {
    ...paper,
    ...listBlind,
    rule: "cispo",
    params: { clipLow: 1, clipHigh: 4 },
    ratio: "token",
    weighting: "token-mean",
    spread: "token",
    beta: 0,
    source: "MiniMax-M1 (arXiv 2506.13585) Eq. 4; cap of 5 from ScaleRL (arXiv 2510.13786)",
  },
};

/** Every preset, resolved (with the rule's own table) when it is first read. */
export const presets: Readonly<Record<PresetName, Objective>> = Object.freeze(
  Object.defineProperties(
    {} as Record<PresetName, Objective>,
    Object.fromEntries(
      (Object.keys(settings) as PresetName[]).map((name) => {
        let resolved: Objective | undefined;
        const get = (): Objective => {
          const { params, ...preset } = settings[name];
          resolved ??= Object.freeze({
            name,
            ...preset,
            params: Object.freeze(ruleParams(ruleOf(preset.rule), params)),
          });
          return resolved;
        };
        return [name, { get, enumerable: true }];
      }),
    ),
  ),
);

const choices: Partial<Record<keyof Objective, readonly (string | number | boolean)[]>> = {
  ratio: ["token", "rank", "sequence"],
  advantage: ["rank", "sequence", "prompt"],
  weighting: ["rank-mean", "token-mean", "sequence-mean", "dr-grpo"],
  pool: ["mean", "sum"],
  spread: ["pooled", "token"],
  kl: ["k1", "k2", "k3"],
  reading: ["aligned", "reference"],
  overflowPer: ["token", "item"],
  ddof: [0, 1],
  scale: [true, false],
};
const ranges: Partial<Record<keyof Objective, readonly [low: number, high: number]>> = {
  beta: [0, 1e9],
  entropyCoef: [0, 1e9],
  earlyStop: [-1e9, 1e9],
  overflow: [-1e9, 1e9],
  exactLength: [-1e9, 1e9],
  epsilon: [0, 1e9],
  drLength: [1, 1e9],
};

function check(key: keyof Objective, value: unknown): void {
  const allowed = choices[key];
  if (allowed && !allowed.includes(value as string)) {
    const near = typeof value === "string" ? suggest(value, allowed.map(String)) : "";
    refuse("INVALID_ARGUMENT", `one of ${allowed.join(", ")}`, `objective.${key}`, value, near);
  }
  const range = ranges[key];
  if (range && !(typeof value === "number" && value >= range[0] && value <= range[1])) {
    refuse("INVALID_ARGUMENT", `a number from ${range[0]} to ${range[1]}`, `objective.${key}`, value);
  }
  if (key === "source" && typeof value !== "string") refuse("INVALID_ARGUMENT", "a string", "objective.source", value);
}

/**
 * The objective a user asks for: a preset's name, a rule's name (then with Rank-GRPO's levels and the rule's own defaults), or either
 * with fields over it. Where the rule is changed, its parameters start from that rule's defaults.
 *
 * @throws RankGrpoError INVALID_ARGUMENT for an unknown name or key (with the nearest known one) or a value out of range.
 */
export function resolveObjective(input: string | ({ name: string } & Partial<Objective>)): Objective {
  const given: { name: string } & Partial<Objective> = typeof input === "string" ? { name: input } : input;
  if (typeof given !== "object" || given === null || typeof given.name !== "string") {
    refuse("INVALID_ARGUMENT", "a name, or an object with one", "objective", input);
  }
  const preset = Object.hasOwn(presets, given.name) ? presets[given.name as PresetName] : undefined;
  const own = preset ? undefined : rules().find((rule) => rule.name === given.name);
  if (!preset && !own) {
    const names = [...new Set([...Object.keys(presets), ...rules().map((rule) => rule.name)])];
    refuse(
      "INVALID_ARGUMENT",
      `an objective (${names.join(", ")})`,
      "objective",
      given.name,
      suggest(given.name, names),
    );
  }
  const base: Objective = preset ?? { ...presets["rank-grpo"], rule: own!.name, params: {}, source: own!.source };
  const out: Objective = { ...base };
  for (const [key, value] of Object.entries(given)) {
    if (!Object.hasOwn(base, key)) {
      refuse(
        "INVALID_ARGUMENT",
        `a field of an objective (${Object.keys(base).join(", ")})`,
        "objective",
        key,
        suggest(key, Object.keys(base)),
      );
    }
    if (value === undefined) continue;
    check(key as keyof Objective, value);
    Object.assign(out, { [key]: value });
  }
  if (typeof out.rule !== "string") refuse("INVALID_ARGUMENT", "a rule's name", "objective.rule", out.rule);
  const params = given.params ?? {};
  if (typeof params !== "object" || params === null)
    refuse("INVALID_ARGUMENT", "numbers by name", "objective.params", params);
  out.params = ruleParams(ruleOf(out.rule), { ...(out.rule === base.rule ? base.params : {}), ...params });
  return out;
}

/** The part of an objective that is a loss; the rest of it makes segments, weights and advantages. Defaults: those of `rank-grpo`, beta 0. */
export type LossOptions = Partial<
  Pick<Objective, "rule" | "params" | "pool" | "spread" | "kl" | "beta" | "entropyCoef">
>;

/** The loss that a preset's or rule's name, or parts of one, stand for. @throws INVALID_ARGUMENT as `resolveObjective` */
export const resolveLoss = (loss: LossOptions | string): Objective =>
  resolveObjective(
    typeof loss === "object" && loss !== null ? { name: "rank-grpo", ...loss, beta: loss.beta ?? 0 } : loss,
  );

/** The objective as the addon takes it: parameters in the order of the rule's table. */
export function nativeObjective(objective: Required<LossOptions>): NativeObjective {
  const rule = ruleOf(objective.rule);
  const params = ruleParams(rule, objective.params);
  return {
    rule: rule.name,
    params: rule.parameters.map((p) => params[p.name]!),
    pool: objective.pool,
    spread: objective.spread,
    kl: objective.kl,
    klBeta: objective.beta,
    entropyCoef: objective.entropyCoef,
  };
}

/** One completion as the loss sees it: one value for each of its tokens, the stop token included. */
export interface RowPlan {
  /** Item (line) of each token, from 0; -1: masked out, no loss and no KL. */
  item: Int32Array;
  /** What each token's ratio is pooled with, from 0, where a segmentation says so; by default the objective's `ratio` does. */
  segment?: Int32Array;
  /** Advantage of each token, length shaping included. */
  advantage: Float32Array;
}

/** Segments (CSR over all rows' tokens, lying flat in row order), weights and advantages of a step. */
export interface StepInputs {
  /** [S + 1] */
  segmentOffsets: Int32Array;
  /** Token indices, ascending within a segment. */
  segmentTokens: Int32Array;
  /** [T]; 0 where masked. */
  weights: Float32Array;
  /** [T] */
  advantages: Float32Array;
  /** [B + 1]: row b owns segments rowSegments[b] .. rowSegments[b + 1]. */
  rowSegments: Int32Array;
  /** [S]: the rank (from 0) a segment stands for; -1 for overflow and for whole sequences. */
  segmentItem: Int32Array;
}

/** Rows and covered tokens of a whole step, where the rows given are only its live ones or a part of it. */
export interface StepSize {
  rows: number;
  covered: number;
}

/**
 * Segments and weights of rows under an objective. With B rows, N ranks, n_k tokens in a token's item and n in its row, a covered token
 * weighs
 *
 *   rank-mean      1 / (B N n_k)       Rank-GRPO Eq. 6: every rank alike; missing ranks count in N, overflow weighs like further items
 *   token-mean     1 / covered         every token of the step alike (bnpo of the published code, DAPO)
 *   sequence-mean  1 / (B n)           every row alike (GRPO, GSPO); rows without covered tokens count in B
 *   dr-grpo        1 / (B drLength)    a constant
 *
 * Segments: one a token; one an item (`aligned`: each overflow item its own; `reference`: all overflow items of a row in one, and the stop
 * token wherever the published newline count puts it); or one a row, also where the row is empty. A row's own `segment` goes before all these.
 *
 * @param whole B and covered tokens of the whole step; by default those of `rows`.
 * @throws RankGrpoError INVALID_ARGUMENT where a plan's arrays differ in length, or the number of ranks is impossible.
 */
export function stepInputs(
  rows: readonly RowPlan[],
  objective: Pick<Objective, "ratio" | "weighting" | "reading" | "drLength">,
  ranks: number,
  whole?: StepSize,
): StepInputs {
  if (!Number.isInteger(ranks) || ranks < 1) refuse("INVALID_ARGUMENT", "a whole number from 1", "ranks", ranks);
  let total = 0;
  let covered = 0;
  rows.forEach((row, b) => {
    const tokens = row.item.length;
    if (row.advantage.length !== tokens)
      refuse("INVALID_ARGUMENT", `${tokens} values`, `advantage of row ${b}`, row.advantage.length);
    if (row.segment && row.segment.length !== tokens)
      refuse("INVALID_ARGUMENT", `${tokens} values`, `segment of row ${b}`, row.segment.length);
    total += tokens;
    for (const item of row.item) if (item >= 0) covered++;
  });
  const B = whole?.rows ?? rows.length;
  const tokensOfStep = whole?.covered ?? covered;
  if (B < rows.length || tokensOfStep < covered) {
    const got = `${B} rows and ${tokensOfStep} covered tokens`;
    refuse("INVALID_ARGUMENT", `at least ${rows.length} rows and ${covered} covered tokens`, "whole", got);
  }

  const weights = new Float32Array(total);
  const advantages = new Float32Array(total);
  const segmentTokens = new Int32Array(covered);
  const segmentOffsets: number[] = [0];
  const segmentItem: number[] = [];
  const rowSegments = new Int32Array(rows.length + 1);
  let first = 0; // token of the row's first
  let filled = 0; // of segmentTokens
  const close = (item: number): void => {
    segmentOffsets.push(filled);
    segmentItem.push(item < ranks ? item : -1);
  };
  rows.forEach((row, b) => {
    // tokens by bin, bins ascending: a bin is an item, or all overflow items in one
    const bins = new Map<number, number[]>();
    for (const [t, item] of row.item.entries()) {
      if (item < 0) continue;
      const bin = objective.reading === "reference" ? Math.min(item, ranks) : item;
      const tokens = bins.get(bin);
      if (tokens) tokens.push(first + t);
      else bins.set(bin, [first + t]);
    }
    const ordered = [...bins].sort((x, y) => x[0] - y[0]);
    const n = ordered.reduce((sum, [, tokens]) => sum + tokens.length, 0);
    for (const [, tokens] of ordered) {
      const weight = {
        "rank-mean": 1 / (B * ranks * tokens.length),
        "token-mean": 1 / tokensOfStep,
        "sequence-mean": 1 / (B * n),
        "dr-grpo": 1 / (B * objective.drLength),
      }[objective.weighting];
      for (const t of tokens) weights[t] = weight;
    }
    advantages.set(row.advantage, first);
    if (row.segment) {
      const pools = new Map<number, number[]>();
      for (const [t, segment] of row.segment.entries())
        if (row.item[t]! >= 0) {
          const pool = pools.get(segment);
          if (pool) pool.push(t);
          else pools.set(segment, [t]);
        }
      for (const tokens of [...pools].sort((x, y) => x[0] - y[0]).map(([, tokens]) => tokens)) {
        for (const t of tokens) segmentTokens[filled++] = first + t;
        const item = row.item[tokens[0]!]!;
        close(tokens.every((t) => row.item[t] === item) ? item : ranks);
      }
    } else if (objective.ratio === "rank") {
      for (const [bin, tokens] of ordered) {
        for (const t of tokens) segmentTokens[filled++] = t;
        close(bin);
      }
    } else {
      for (const [t, item] of row.item.entries()) {
        if (item < 0) continue;
        segmentTokens[filled++] = first + t;
        if (objective.ratio === "token") close(item);
      }
      if (objective.ratio === "sequence") close(ranks);
    }
    first += row.item.length;
    rowSegments[b + 1] = segmentItem.length;
  });
  return {
    segmentOffsets: Int32Array.from(segmentOffsets),
    segmentTokens,
    weights,
    advantages,
    rowSegments,
    segmentItem: Int32Array.from(segmentItem),
  };
}
