// Group-relative advantages (method.md 3.1): what is compared with what, and the one comparison that every estimator is made of.

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
}

/** Whether a group gives any signal: false where every advantage is exactly 0. */
export const isLive = (advantages: readonly ArrayLike<number>[]): boolean =>
  advantages.some((row) => Array.prototype.some.call(row, (value: number) => value !== 0));

/**
 * (r - mean) / (deviation + epsilon) in place, in float64: NaN (left out) becomes 0, the rest its advantage among the rest. Where all are
 * equal, or fewer than two are left, they are exactly 0, so that such groups can be skipped. The mean is taken as an offset from the first
 * value, so that nearly equal values lose nothing to rounding.
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
