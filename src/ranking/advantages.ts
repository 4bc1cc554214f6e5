// Group-relative advantages: what each list of a prompt's group earned, against the other lists of the group (method.md 3.1).
import { RankGrpoError } from "../errors.ts";

export interface AdvantageOptions {
  /**
   * What is compared. "rank" (Rank-GRPO): each rank with the same rank of the other lists. "sequence" (GRPO): one scalar a list,
   * given to every rank. "prompt": each rank with all ranks of all lists of the group.
   */
  readonly level: "rank" | "sequence" | "prompt";
  /** Degrees of freedom taken off in the deviation: 1 (sample deviation, as TRL) or 0. */
  readonly ddof: 0 | 1;
  /** Added to the deviation before dividing; 1e-4 in TRL. At least 0. */
  readonly epsilon: number;
  /** Whether to divide by the deviation; false only centres (Dr. GRPO). */
  readonly scale: boolean;
  /** A missing reward (NaN): counts as 0 (published code), is left out of mean and deviation and gets 0, or is an error. */
  readonly nan: "zero" | "exclude" | "error";
  /** For level "sequence": the sum of a list's rank rewards, or the first one (the DCG of the list under log_decay). */
  readonly pool: "sum" | "first";
}

/** Mean and deviation per rank, sample deviation, epsilon 1e-4: the published settings. */
export const defaultAdvantages: AdvantageOptions = {
  level: "rank",
  ddof: 1,
  epsilon: 1e-4,
  scale: true,
  nan: "error",
  pool: "sum",
};

/**
 * Advantages (r - mean) / (deviation + epsilon) of one group, in float64. Where all compared values are equal, or fewer than two are
 * left, they are exactly 0, so that such groups can be skipped.
 *
 * @param rewards [G][N]
 * @returns [G][N]
 * @throws RankGrpoError `BAD_REWARD` if rows differ in length, or for NaN where `nan` is "error".
 */
export function groupAdvantages(rewards: readonly ArrayLike<number>[], options: AdvantageOptions): Float64Array[] {
  const ranks = rewards[0]?.length ?? 0;
  const values = rewards.map((row, g) => readRow(row, g, ranks, options.nan));
  if (options.level === "sequence") {
    const scalars = Float64Array.from(values, (row) => (options.pool === "first" ? (row[0] ?? 0) : row.reduce(add, 0)));
    standardize(scalars, options);
    return values.map((_, g) => new Float64Array(ranks).fill(scalars[g]!));
  }
  if (options.level === "prompt") {
    const all = new Float64Array(values.length * ranks);
    for (const [g, row] of values.entries()) all.set(row, g * ranks);
    standardize(all, options);
    return values.map((_, g) => all.slice(g * ranks, (g + 1) * ranks));
  }
  const column = new Float64Array(values.length);
  for (let k = 0; k < ranks; k++) {
    for (const [g, row] of values.entries()) column[g] = row[k]!;
    standardize(column, options);
    for (const [g, row] of values.entries()) row[k] = column[g]!;
  }
  return values;
}

/** Whether a group gives any signal: false where every advantage is exactly 0. */
export const isLive = (advantages: readonly ArrayLike<number>[]): boolean =>
  advantages.some((row) => Array.prototype.some.call(row, (value: number) => value !== 0));

const add = (a: number, b: number): number => a + b;

function readRow(row: ArrayLike<number>, g: number, ranks: number, nan: AdvantageOptions["nan"]): Float64Array {
  if (row.length !== ranks) {
    throw new RankGrpoError(
      "BAD_REWARD",
      `Expected ${ranks} rewards in list ${g + 1} of the group, got ${row.length}.`,
    );
  }
  const values = Float64Array.from(row);
  const missing = values.findIndex(Number.isNaN);
  if (missing >= 0 && nan === "error") {
    throw new RankGrpoError(
      "BAD_REWARD",
      `Expected a number for rank ${missing + 1} of list ${g + 1} of the group, got NaN.`,
    );
  }
  return nan === "zero" ? values.map((value) => (Number.isNaN(value) ? 0 : value)) : values;
}

/**
 * In place: NaN (left out) becomes 0, the rest its advantage among the rest. The mean is taken as an offset from the first value, so
 * that nearly equal values lose nothing to rounding.
 */
export function standardize(values: Float64Array, options: Pick<AdvantageOptions, "ddof" | "epsilon" | "scale">): void {
  const present = values.filter((value) => !Number.isNaN(value));
  const first = present[0] ?? 0;
  if (present.length < 2 || present.every((value) => value === first)) {
    values.fill(0);
    return;
  }
  const mean = first + present.reduce((sum, value) => sum + (value - first), 0) / present.length;
  const squares = present.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const divisor = options.scale ? Math.sqrt(squares / (present.length - options.ddof)) + options.epsilon : 1;
  // A divisor of 0: no epsilon, and values so close that their deviation underflows.
  for (const [i, value] of values.entries())
    values[i] = Number.isNaN(value) || divisor === 0 ? 0 : (value - mean) / divisor;
}
