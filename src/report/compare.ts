// Is B better than A? A paired bootstrap over dialogues, and over seeds where a side has several: differences of means with 95 %
// intervals and p-values.
import { refuse } from "../errors.ts";
import type { MeasuredRow } from "../evaluate.ts";
import { philox, Stream } from "../random.ts";
import type { StoredEvaluation } from "./evaluations.ts";

export interface CompareOptions {
  /** Metric names; default Recall@k and NDCG@k for k = 5, 10, 15, 20. */
  metrics?: readonly string[];
  /** Resamples, at least 100; default 10000: the ends of a 95 % interval are then good to about 0.02 of a standard error. */
  resamples?: number;
  /** Same seed, same figures; default 0. */
  seed?: number;
}

export interface Difference {
  metric: string;
  /** Mean over rows, and over the side's seeds. */
  a: number;
  b: number;
  /** b - a. */
  difference: number;
  /** 95 %: what 2.5 and 97.5 of 100 resamples stay below. */
  low: number;
  high: number;
  /** Two-sided: twice the share of resamples on the other side of 0, at least 2 / (resamples + 1). */
  p: number;
  /** Rows (means over the seeds) where b is larger, smaller, equal. */
  better: number;
  worse: number;
  equal: number;
}

export interface Comparison {
  /** Rows that count, of how many dialogues. */
  rows: number;
  dialogues: number;
  /** Evaluations on each side. */
  seeds: { a: number; b: number };
  resamples: number;
  differences: Difference[];
}

const defaultMetrics = ["recall", "ndcg"].flatMap((name) => [5, 10, 15, 20].map((k) => `${name}@${k}`));

/** Values of one metric: [seed][row], rows in the order of the first evaluation. */
type Side = readonly Float64Array[];

/**
 * Compares two sides, each one evaluation or one for each seed, on the same rows measured in the same way. Each resample draws as many
 * dialogues as there are, with replacement, and takes them with all their rows from every evaluation (paired). Where a side has several
 * evaluations it also draws among these, so that the interval speaks of new training runs; the deviations of drawn from actual weights are
 * stretched by sqrt(n / (n - 1)) (Rao and Wu 1988), without which so few seeds would look too sure. With one evaluation a side the
 * interval speaks of these two models on new dialogues.
 * @throws BAD_DATA where rows, ids or the way of measuring differ
 */
export function compareEvaluations(
  a: readonly StoredEvaluation[],
  b: readonly StoredEvaluation[],
  options: CompareOptions = {},
): Comparison {
  const { metrics = defaultMetrics, resamples = 10_000, seed = 0 } = options;
  if (!(Number.isInteger(resamples) && resamples >= 100))
    refuse("INVALID_ARGUMENT", "a whole number from 100", "resamples", resamples);
  const first = a[0] ?? refuse("INVALID_ARGUMENT", "at least one evaluation", "a", "none");
  if (b.length === 0) refuse("INVALID_ARGUMENT", "at least one evaluation", "b", "none");
  for (const other of [...a, ...b]) requireSame(first, other);

  const counted = [...first.rows.keys()].filter((i) =>
    metrics.every((metric) => rowValue(first.rows[i]!, metric) !== undefined),
  );
  if (counted.length === 0) {
    const known = Object.keys(first.rows[0]!).filter((name) => name !== "id" && name !== "dialogue");
    refuse("BAD_DATA", `some of ${known.join(", ")}`, "the metrics", metrics);
  }
  const names = [...new Set(counted.map((i) => first.rows[i]!.dialogue))];
  const indexOf = new Map(names.map((name, index) => [name, index]));
  const dialogues = counted.map((i) => indexOf.get(first.rows[i]!.dialogue)!);
  const sizes = new Float64Array(names.length);
  for (const dialogue of dialogues) sizes[dialogue]!++;

  const valuesOf = (side: readonly StoredEvaluation[], metric: string): Side =>
    side.map((evaluation) => {
      const rows = matched(first.rows, evaluation);
      return Float64Array.from(counted, (i) => {
        const row = rows[i]!;
        return rowValue(row, metric) ?? refuse("BAD_DATA", `${metric} in row ${row.id}`, evaluation.file, "none");
      });
    });
  const sides = metrics.map((metric) => ({ metric, a: valuesOf(a, metric), b: valuesOf(b, metric) }));
  // [metric][seed][dialogue]: sums over the dialogue's rows
  const summed = (side: Side): Side =>
    side.map((values) => {
      const sums = new Float64Array(names.length);
      for (const [i, value] of values.entries()) sums[dialogues[i]!]! += value;
      return sums;
    });
  const sums = sides.map((side) => ({ a: summed(side.a), b: summed(side.b) }));

  const drawn = sides.map(() => new Float64Array(resamples));
  const counts = new Uint32Array(names.length);
  for (let r = 0; r < resamples; r++) {
    drawCounts(counts, seed, r, 0);
    const weightsA = drawWeights(a.length, seed, r, 1);
    const weightsB = drawWeights(b.length, seed, r, 2);
    let rows = 0;
    for (let d = 0; d < counts.length; d++) rows += counts[d]! * sizes[d]!;
    for (const [m, side] of sums.entries())
      drawn[m]![r] = (weighted(side.b, weightsB, counts) - weighted(side.a, weightsA, counts)) / rows;
  }
  return {
    rows: counted.length,
    dialogues: names.length,
    seeds: { a: a.length, b: b.length },
    resamples,
    differences: sides.map((side, m) => describe(side, drawn[m]!)),
  };
}

const rowValue = (row: object, metric: string): number | undefined => {
  const value = (row as Record<string, unknown>)[metric];
  return typeof value === "number" ? value : undefined;
};

function requireSame(first: StoredEvaluation, other: StoredEvaluation): void {
  if (other.rows.length === 0)
    refuse("BAD_DATA", "metrics by row", other.file, "none", "Make it anew with rank-grpo evaluate --output.");
  for (const key of ["truncation", "ideal"] as const)
    if (other[key] !== first[key])
      refuse("BAD_DATA", `${key} ${first[key]} (as in ${first.file})`, other.file, other[key]);
  if (other.rows.length !== first.rows.length)
    refuse("BAD_DATA", `${first.rows.length} rows (as in ${first.file})`, other.file, other.rows.length);
}

/** The rows of `evaluation` in the order of `rows`; of rows with one id the first is the first, and so on. */
function matched(rows: StoredEvaluation["rows"], evaluation: StoredEvaluation): StoredEvaluation["rows"] {
  const byId = new Map<string, MeasuredRow[]>();
  for (const row of evaluation.rows.toReversed()) byId.set(row.id, [...(byId.get(row.id) ?? []), row]);
  return rows.map((row) => byId.get(row.id)?.pop() ?? refuse("BAD_DATA", `a row ${row.id}`, evaluation.file, "none"));
}

/** How often each of counts.length items is drawn in counts.length draws with replacement: stream (resample, draw / 4, part). */
function drawCounts(counts: Uint32Array, seed: number, resample: number, part: number): void {
  counts.fill(0);
  const n = counts.length;
  for (let i = 0; i < n; i += 4) {
    const words = philox(seed, Stream.bootstrap, resample, i / 4, part);
    for (let j = 0; j < Math.min(4, n - i); j++) counts[Math.floor((words[j]! / 2 ** 32) * n)]!++;
  }
}

/** Weights of a side's evaluations in one resample; they sum to 1. */
function drawWeights(n: number, seed: number, resample: number, part: number): number[] {
  if (n === 1) return [1];
  const counts = new Uint32Array(n);
  drawCounts(counts, seed, resample, part);
  const stretch = Math.sqrt(n / (n - 1));
  return Array.from(counts, (count) => 1 / n + (stretch * (count - 1)) / n);
}

function weighted(side: Side, weights: readonly number[], counts: Uint32Array): number {
  let total = 0;
  for (const [s, sums] of side.entries()) {
    let sum = 0;
    for (let d = 0; d < counts.length; d++) sum += counts[d]! * sums[d]!;
    total += weights[s]! * sum;
  }
  return total;
}

function describe(side: { metric: string; a: Side; b: Side }, drawn: Float64Array): Difference {
  const rows = side.a[0]!.length;
  const meanRow = (values: Side, i: number): number => values.reduce((sum, v) => sum + v[i]!, 0) / values.length;
  let [a, b, better, worse] = [0, 0, 0, 0];
  for (let i = 0; i < rows; i++) {
    const [x, y] = [meanRow(side.a, i), meanRow(side.b, i)];
    a += x / rows;
    b += y / rows;
    if (y - x > 1e-12) better++;
    else if (x - y > 1e-12) worse++;
  }
  const sorted = drawn.slice().sort();
  const n = sorted.length;
  let [below, above] = [0, 0];
  for (const value of sorted) {
    if (value <= 0) below++;
    if (value >= 0) above++;
  }
  return {
    metric: side.metric,
    a,
    b,
    difference: b - a,
    low: quantile(sorted, 0.025),
    high: quantile(sorted, 0.975),
    p: Math.min(1, (2 * (Math.min(below, above) + 1)) / (n + 1)),
    better,
    worse,
    equal: rows - better - worse,
  };
}

/** Linear between order statistics. */
function quantile(sorted: Float64Array, q: number): number {
  const at = q * (sorted.length - 1);
  const low = Math.floor(at);
  const high = Math.ceil(at);
  return sorted[low]! + (at - low) * (sorted[high]! - sorted[low]!);
}
