// Advantage estimators: what each list of a step earned against the others, over its group or over the whole step. The built-in ones are made
// by name; one of your own is any function of the type `AdvantageEstimator`.
import { refuse } from "../errors.ts";
import { type AdvantageOptions, standardize } from "./advantages.ts";
import { totalReward } from "./rewards.ts";

/** The rewards of a step: P prompts, G lists each, N ranks. NaN marks a list that group repair left out. */
export interface AdvantageStep {
  /** [P][G][N]: the weighted sum of all rewards */
  readonly rewards: readonly (readonly ArrayLike<number>[])[];
  /** [R][P][G][N]: each reward by itself, before its weight */
  readonly parts: readonly (readonly (readonly ArrayLike<number>[])[])[];
  /** [R] */
  readonly weights: readonly number[];
  /** What is compared (`level`), and how deviations are taken: the objective's. */
  readonly options: AdvantageOptions;
}

/** Advantages [P][G][N]; exactly 0 where a list gives no signal. */
export type AdvantageEstimator = (step: AdvantageStep) => readonly (readonly ArrayLike<number>[])[];

/** Names of the built-in estimators, as the configuration spells them. */
export const estimatorNames = [
  "group",
  "leave-one-out",
  "batch",
  "reinforce++",
  "reinforce++-baseline",
  "gdpo",
  "bnpo",
] as const;
export type EstimatorName = (typeof estimatorNames)[number];

/**
 * A built-in estimator by name. r: what is compared at the objective's level (`advantage: rank`: one rank's reward; `sequence`: the list's
 * total; `prompt`: every rank's); mean and sd over the group (`prompt`: and its ranks); MEAN and SD over all groups of a round of sampling, at
 * level `rank` over the same rank of all of them. Every division adds epsilon; `scale: false` leaves it out (Dr. GRPO, arXiv 2503.20783).
 *
 *   group                 (r - mean) / sd                           GRPO (arXiv 2402.03300), Rank-GRPO (arXiv 2510.20150) section 2.3
 *   leave-one-out         r - mean of the others                    RLOO (arXiv 2402.14740) Eq. 5; never scaled
 *   batch                 (r - mean) / SD                           arXiv 2508.08221 section 4: group mean, deviation of the batch
 *   reinforce++           (r - MEAN) / SD                           REINFORCE++ (arXiv 2501.03262)
 *   reinforce++-baseline  a = r - mean; (a - MEAN a) / SD a         the same, with the group's mean as baseline
 *   gdpo                  a = sum of weight (r_i - mean_i) / sd_i   GDPO (arXiv 2601.05242): each reward by itself in its group, then
 *                         over rewards i; (a - MEAN a) / SD a       the sum over the batch
 *   bnpo                  sum of weight (r_i - p) / f(p; 1 + a/3,   BNPO (arXiv 2506.02864): p = mean of a reward in [0, 1] (at level
 *                         1 + b/3)                                  sequence of its mean over the ranks), f the Beta density; a, b
 *                                                                   by moments of p over the batch
 *
 * Compared values that are all equal have advantage 0 exactly under group, leave-one-out, batch and bnpo; the others compare across prompts.
 *
 * @throws RankGrpoError INVALID_ARGUMENT for an unknown name.
 */
export function createEstimator(name: string): AdvantageEstimator {
  switch (name as EstimatorName) {
    case "group":
      return over((batch, o) => {
        for (const set of batch) standardize(set, o);
      });
    case "leave-one-out":
      return over((batch) => {
        for (const set of batch) {
          const n = present(set).length;
          standardize(set, { ddof: 0, epsilon: 0, scale: false });
          for (let i = 0; i < set.length && n > 1; i++) set[i]! *= n / (n - 1);
        }
      });
    case "batch":
      return over((batch, o) => {
        const sd = deviation(
          batch.flatMap((set) => present(set)),
          o.ddof,
        );
        for (const set of batch) standardize(set, { ...o, scale: false });
        if (o.scale) divide(batch, sd + o.epsilon);
      });
    case "reinforce++":
      return over(whiten);
    case "reinforce++-baseline":
      return over((batch, o) => {
        const left = batch.map((set) => Array.from(set, Number.isNaN));
        for (const set of batch) standardize(set, { ...o, scale: false });
        leaveOut(batch, left);
        whiten(batch, o);
      });
    case "gdpo":
      return (step) => {
        const each = over((batch, o) => {
          for (const set of batch) standardize(set, o);
        });
        const sum = weightedSum(step, (rewards) => each({ ...step, rewards }));
        return over(whiten)({ ...step, rewards: leftOut(perList(sum, step.options), step.rewards) });
      };
    case "bnpo":
      return (step) => {
        const each = over(betaNormalize);
        return weightedSum(step, (rewards) => each({ ...step, rewards: perList(rewards, step.options) }));
      };
    default:
      return refuse("INVALID_ARGUMENT", `one of ${estimatorNames.join(", ")}`, "the advantage estimator's name", name);
  }
}

/** Values compared with each other, of all groups: in place, NaN becomes 0. */
type Normalize = (batch: readonly Float64Array[], options: AdvantageOptions) => void;

const present = (set: Float64Array): number[] => [...set].filter((value) => !Number.isNaN(value));

function deviation(values: readonly number[], ddof: number): number {
  const first = values[0] ?? 0;
  const mean = first + values.reduce((sum, value) => sum + (value - first), 0) / Math.max(1, values.length);
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return values.length > ddof ? Math.sqrt(squares / (values.length - ddof)) : 0;
}

function divide(batch: readonly Float64Array[], by: number): void {
  for (const set of batch) for (let i = 0; i < set.length; i++) set[i] = by === 0 ? 0 : set[i]! / by;
}

/** All sets as one. */
function whiten(batch: readonly Float64Array[], options: AdvantageOptions): void {
  const all = Float64Array.from(batch.flatMap((set) => [...set]));
  standardize(all, options);
  let at = 0;
  for (const set of batch) {
    set.set(all.subarray(at, at + set.length));
    at += set.length;
  }
}

function leaveOut(batch: readonly Float64Array[], left: readonly (readonly boolean[])[]): void {
  for (const [s, set] of batch.entries()) for (let i = 0; i < set.length; i++) if (left[s]![i]) set[i] = Number.NaN;
}

/** (r - p) / f(p; alpha, beta), the Beta distribution that gives the gradient its least variance (BNPO, theorem 1 and section 3.3). */
function betaNormalize(batch: readonly Float64Array[], options: AdvantageOptions): void {
  const means: number[] = [];
  for (const set of batch) {
    const values = present(set);
    const bad = values.find((value) => !(value >= 0 && value <= 1));
    if (bad !== undefined)
      refuse(
        "BAD_REWARD",
        "a number from 0 to 1",
        "a reward under advantage estimator bnpo",
        bad,
        "Its model is Beta.",
      );
    means.push(values.length > 0 ? values.reduce((a, b) => a + b, 0) / values.length : Number.NaN);
  }
  const [a, b] = betaMoments(means.filter((mean) => !Number.isNaN(mean)));
  for (const [s, set] of batch.entries()) {
    standardize(set, { ...options, scale: false });
    if (options.scale && set.some((value) => value !== 0)) divide([set], betaDensity(means[s]!, 1 + a / 3, 1 + b / 3));
  }
}

/**
 * Beta(a, b) with the mean and (population) variance of these p. Where all are equal there is no such distribution: a = b = 0, whose
 * normaliser is 1.
 */
export function betaMoments(p: readonly number[]): [a: number, b: number] {
  const mean = p.reduce((sum, x) => sum + x, 0) / Math.max(1, p.length);
  const variance = deviation(p, 0) ** 2;
  const size = variance > 0 ? Math.max(0, (mean * (1 - mean)) / variance - 1) : 0;
  return [size * mean, size * (1 - mean)];
}

/** Density of Beta(alpha, beta) at p in (0, 1). */
export function betaDensity(p: number, alpha: number, beta: number): number {
  const log = (alpha - 1) * Math.log(p) + (beta - 1) * Math.log1p(-p);
  return Math.exp(log + logGamma(alpha + beta) - logGamma(alpha) - logGamma(beta));
}

/** log Gamma(x), x > 0: Stirling's series after shifting x to 16 and more; within 1e-14 relative to its terms. */
function logGamma(x: number): number {
  let shift = 0;
  let at = x;
  for (; at < 16; at++) shift += Math.log(at);
  const inverse = 1 / at;
  const square = inverse * inverse;
  const series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))));
  return (at - 0.5) * Math.log(at) - at + 0.5 * Math.log(2 * Math.PI) + series - shift;
}

/** Runs a normaliser at the step's level: values are gathered, normalised in place, and given back to their ranks. */
function over(normalize: Normalize): AdvantageEstimator {
  return ({ rewards, options }) => {
    const N = rewards[0]?.[0]?.length ?? 0;
    if (options.level === "rank") {
      const out = rewards.map((group) => group.map(() => new Float64Array(N)));
      for (let k = 0; k < N; k++) {
        const batch = rewards.map((group) => Float64Array.from(group, (row) => row[k]!));
        normalize(batch, options);
        for (const [p, set] of batch.entries()) for (const [g, value] of set.entries()) out[p]![g]![k] = value;
      }
      return out;
    }
    const whole = options.level === "sequence";
    const batch = rewards.map((group) =>
      Float64Array.from(group.flatMap((row) => (whole ? [totalReward(row)] : Array.from(row)))),
    );
    normalize(batch, options);
    return rewards.map((group, p) =>
      group.map((_, g) => (whole ? new Float64Array(N).fill(batch[p]![g]!) : batch[p]!.slice(g * N, (g + 1) * N))),
    );
  };
}

/** sum over rewards of weight times what `each` makes of it. */
function weightedSum(
  { parts, weights, rewards }: AdvantageStep,
  each: (rewards: readonly (readonly ArrayLike<number>[])[]) => readonly (readonly ArrayLike<number>[])[],
): Float64Array[][] {
  const sum = rewards.map((group) => group.map((row) => new Float64Array(row.length)));
  for (const [i, part] of parts.entries())
    for (const [p, group] of each(leftOut(part, rewards)).entries())
      for (const [g, row] of group.entries())
        for (let k = 0; k < row.length; k++) sum[p]![g]![k]! += weights[i]! * row[k]!;
  return sum;
}

/** `values` with NaN where `rewards` have it. */
const leftOut = (
  values: readonly (readonly ArrayLike<number>[])[],
  rewards: readonly (readonly ArrayLike<number>[])[],
): Float64Array[][] =>
  values.map((group, p) =>
    group.map((row, g) =>
      Float64Array.from(row, (value, k) => (Number.isNaN(rewards[p]![g]![k]!) ? Number.NaN : value)),
    ),
  );

/** At level sequence, whose lists are compared by their totals: rows that have their mean as total. Else as they are. */
const perList = (
  rewards: readonly (readonly ArrayLike<number>[])[],
  { level }: AdvantageOptions,
): readonly (readonly ArrayLike<number>[])[] =>
  level === "sequence"
    ? rewards.map((group) => group.map((row) => Float64Array.from(row, (value) => value / row.length)))
    : rewards;

/** Runs an estimator and checks what it gives. @throws RankGrpoError INVALID_ARGUMENT naming estimator, prompt, list and rank */
export function estimate(name: string, estimator: AdvantageEstimator, step: AdvantageStep): Float64Array[][] {
  const advantages = estimator(step);
  return step.rewards.map((group, p) =>
    group.map((row, g) => {
      const given = advantages?.[p]?.[g];
      const place = `advantage estimator ${name}, prompt ${p + 1}, list ${g + 1}`;
      if (given?.length !== row.length) refuse("INVALID_ARGUMENT", `${row.length} numbers`, place, given?.length);
      const out = Float64Array.from(given);
      const bad = out.findIndex((value) => !Number.isFinite(value));
      if (bad >= 0) refuse("NOT_FINITE", "a finite advantage", `${place}, rank ${bad + 1}`, out[bad]);
      return out;
    }),
  );
}
