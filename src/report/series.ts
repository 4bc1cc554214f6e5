// From the runs of a group to what is drawn: means over seeds with the range between them, over steps, by rank, and both.
import type { RunGroup, StoredRun } from "./runs.ts";

export interface Point {
  readonly x: number;
  readonly y: number;
  /** Smallest and largest of the seeds (equal to y for one). */
  readonly low: number;
  readonly high: number;
}

/** Points of a curve at most: longer runs are drawn as means of equally many steps. */
export const longest = 200;

const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;

/** Values of a run's metric in bins of `width` steps: means. Step 0 is a bin of its own. */
function binned(run: StoredRun, metric: string, width: number): Map<number, number> {
  const bins = new Map<number, number[]>();
  for (const { step, values } of run.rows) {
    const value = values[metric];
    if (typeof value !== "number") continue;
    const bin = Math.ceil(step / width);
    const members = bins.get(bin);
    if (members) members.push(value);
    else bins.set(bin, [value]);
  }
  return new Map([...bins].map(([bin, members]) => [bin, mean(members)]));
}

const lastStep = (group: RunGroup): number => Math.max(0, ...group.runs.map((run) => run.rows.at(-1)?.step ?? 0));

/** How many steps one point of a curve stands for. */
export const binWidth = (group: RunGroup, bins: number): number => Math.max(1, Math.ceil(lastStep(group) / bins));

/** Whether any run of the group has the metric. */
export const hasMetric = (group: RunGroup, metric: string): boolean =>
  group.runs.some((run) => run.rows.some(({ values }) => values[metric] !== undefined));

/** A metric over steps; where seeds reach differently far, as far as all of them. */
export function curve(group: RunGroup, metric: string): Point[] {
  return rangeCurve(group, metric, metric, metric);
}

/** The mean of one metric, with the smallest of a second and the largest of a third (such as the least and the largest ratio). */
export function rangeCurve(group: RunGroup, middle: string, least: string, largest: string): Point[] {
  const width = binWidth(group, longest);
  const of = (metric: string): Map<number, number>[] =>
    group.runs.map((run) => binned(run, metric, width)).filter((bins) => bins.size > 0);
  const [middles, leasts, largests] = [of(middle), of(least), of(largest)];
  const bins = [...(middles[0]?.keys() ?? [])].filter((bin) => middles.every((run) => run.has(bin)));
  return bins
    .sort((a, b) => a - b)
    .map((bin) => {
      const at = (runs: Map<number, number>[]): number[] => runs.flatMap((run) => run.get(bin) ?? []);
      return { x: bin * width, y: mean(at(middles)), low: Math.min(...at(leasts)), high: Math.max(...at(largests)) };
    });
}

/** Means over the rows of a part of the run, by rank; over the seeds with their range. x is the rank. */
export function profile(group: RunGroup, metric: string, part: "first" | "last"): Point[] {
  const runs = group.runs.flatMap((run) => {
    const rows = run.rows.map(({ values }) => values[metric]).filter((value) => Array.isArray(value));
    const count = Math.max(1, Math.round(rows.length / 10));
    const taken = part === "first" ? rows.slice(0, count) : rows.slice(-count);
    return taken.length > 0 ? [meanVector(taken)] : [];
  });
  const ranks = Math.min(...runs.map((vector) => vector.length));
  return runs.length === 0
    ? []
    : Array.from({ length: ranks }, (_, k) => {
        const values = runs.map((vector) => vector[k]!);
        return { x: k + 1, y: mean(values), low: Math.min(...values), high: Math.max(...values) };
      });
}

const meanVector = (vectors: readonly (readonly number[])[]): number[] =>
  Array.from({ length: Math.min(...vectors.map((v) => v.length)) }, (_, k) => mean(vectors.map((v) => v[k]!)));

export interface HeatColumn {
  /** Last step of the column. */
  readonly step: number;
  /** By rank. */
  readonly values: readonly number[];
}

/** A metric by rank over time, means over seeds and over the steps of a column. */
export function heat(group: RunGroup, metric: string, columns = 48): HeatColumn[] {
  const width = binWidth(group, columns);
  const bins = new Map<number, (readonly number[])[]>();
  for (const run of group.runs)
    for (const { step, values } of run.rows) {
      const value = values[metric];
      if (!Array.isArray(value)) continue;
      const bin = Math.ceil(step / width);
      const members = bins.get(bin);
      if (members) members.push(value);
      else bins.set(bin, [value]);
    }
  return [...bins]
    .sort(([a], [b]) => a - b)
    .map(([bin, members]) => ({ step: bin * width, values: meanVector(members) }));
}

/** Each run's mean of a metric over its last tenth of rows that have it. */
export function lastValues(group: RunGroup, metric: string): number[] {
  return group.runs.flatMap((run) => {
    const values = run.rows.map((row) => row.values[metric]).filter((value) => typeof value === "number");
    return values.length === 0 ? [] : [mean(values.slice(-Math.max(1, Math.round(values.length / 10))))];
  });
}

/** Each run's mean of a metric over all its rows. */
export function meanValues(group: RunGroup, metric: string): number[] {
  return group.runs.flatMap((run) => {
    const values = run.rows.map((row) => row.values[metric]).filter((value) => typeof value === "number");
    return values.length === 0 ? [] : [mean(values)];
  });
}

/** Every metric name of the groups, in the order of first appearance. */
export function metricNames(groups: readonly RunGroup[]): string[] {
  const names = new Set<string>();
  for (const group of groups)
    for (const run of group.runs)
      for (const { values } of run.rows) for (const name of Object.keys(values)) names.add(name);
  return [...names];
}
