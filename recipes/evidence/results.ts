// What an experiment leaves behind (recipes/evidence/results, committed) and how RESULTS.md tells it: tables with intervals by paired bootstrap
// over rows and seeds, and curves. `npm run docs` makes the page; no figure is typed by hand.
import { type Comparison, compareEvaluations } from "../../src/report/compare.ts";
import type { StoredEvaluation } from "../../src/report/evaluations.ts";

/** Where, when and of which commit a run is. */
export interface Origin {
  machine: string;
  commit: string;
  date: string;
}

export interface ArmResult {
  name: string;
  seed: number;
  /** Means over the test rows. */
  metrics: Record<string, number>;
  /** [step, the metric on validation rows] */
  curve: [step: number, value: number][];
  /** The metric of every test row, in their order. */
  perRow: number[];
  /** Where a file gathers runs of several days; default the file's. */
  origin?: Origin;
}

export interface Results extends Origin {
  title: string;
  /** What was done, in a paragraph of Markdown. */
  what: string;
  /** What was tried before, and how often; said beside the table. */
  tried: string;
  /** Of tables, curves and tests: ndcg@10, say. */
  metric: string;
  /** The dialogue of every test row, where rows share dialogues; default: each its own. */
  dialogues?: string[];
  /** The best that can be reached, where that is known. */
  optimum?: number;
  /** Lists that need no training, on the same rows; those with the metric of every row can be compared with arms. */
  baselines: { name: string; metrics: Record<string, number>; perRow?: number[] }[];
  /** Arms by name in the order of the table, with what sets them apart. */
  descriptions: Record<string, string>;
  /** The arm that every other is compared with. */
  against: string;
  /** Further pairs of arms or baselines to compare: is the second better? */
  pairs: [a: string, b: string][];
  /** Of a file that gathers runs: what they share, as a hash. Runs of another configuration are not added. */
  configuration?: string;
  arms: ArmResult[];
  /** Runs that were planned and are not complete. */
  missing: string[];
}

const evaluationOf = (
  results: Results,
  { name, metrics, perRow }: Pick<ArmResult, "name" | "metrics" | "perRow">,
): StoredEvaluation => ({
  file: name,
  source: name,
  data: results.title,
  truncation: "filter-then-cut",
  ideal: "standard",
  means: metrics,
  baselines: {},
  lists: [],
  rows: perRow.map((value, i) => ({
    id: String(i),
    dialogue: results.dialogues?.[i] ?? String(i),
    [results.metric]: value,
  })) as unknown as StoredEvaluation["rows"],
});

/** Whether b is better than a; undefined where one of them was not run. Seeds that both have are paired by the rows alone. */
export function compareArms(results: Results, a: string, b: string): Comparison["differences"][number] | undefined {
  const side = (name: string): StoredEvaluation[] =>
    [...results.arms, ...results.baselines].flatMap(({ perRow, ...lists }) =>
      lists.name === name && perRow !== undefined ? [evaluationOf(results, { ...lists, perRow })] : [],
    );
  const [left, right] = [side(a), side(b)];
  if (left.length === 0 || right.length === 0) return undefined;
  return compareEvaluations(left, right, { metrics: [results.metric], resamples: 4000 }).differences[0];
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
const signed = (x: number): string => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(4)}`;
const table = (header: readonly string[], rows: readonly (readonly string[])[]): string =>
  [header, header.map(() => "---"), ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
const p = (value: number): string => (value < 0.001 ? "< .001" : value.toFixed(3).replace(/^0/, ""));

/** One section of RESULTS.md. @param picture the path of its curves, beside the page */
export function section(results: Results, picture: string): string {
  const { metric, optimum, against, arms } = results;
  const recall = metric.replace("ndcg", "recall");
  const share = (value: number): string[] =>
    optimum === undefined ? [] : [`${((100 * value) / optimum).toFixed(1)} %`];
  const names = Object.keys(results.descriptions).filter((name) => arms.some((arm) => arm.name === name));
  const rows = names.map((name) => {
    const own = arms.filter((arm) => arm.name === name);
    const of = (key: string): number => mean(own.map(({ metrics }) => metrics[key] ?? Number.NaN));
    const difference = name === against ? undefined : compareArms(results, against, name);
    return [
      `**${name}**`,
      results.descriptions[name]!,
      String(own.length),
      of(recall).toFixed(4),
      of(metric).toFixed(4),
      ...share(of(metric)),
      of("duplicates").toFixed(2),
      difference ? `${signed(difference.difference)} [${signed(difference.low)}, ${signed(difference.high)}]` : "",
      difference ? p(difference.p) : "",
    ];
  });
  const others = results.baselines.map(({ name, metrics }) => [
    name,
    "",
    "",
    (metrics[recall] ?? Number.NaN).toFixed(4),
    (metrics[metric] ?? Number.NaN).toFixed(4),
    ...share(metrics[metric] ?? Number.NaN),
    "",
    "",
    "",
  ]);
  const pairs = results.pairs.flatMap(([a, b]) => {
    const difference = compareArms(results, a, b);
    if (!difference) return [];
    const { low, high } = difference;
    const verdict = low > 0 ? "confirmed" : high < 0 ? "refuted" : "neither";
    return [
      [`${a} < ${b}`, `${signed(difference.difference)} [${signed(low)}, ${signed(high)}]`, p(difference.p), verdict],
    ];
  });
  const origins = new Set(
    arms.map(({ origin = results }) => `Commit ${origin.commit}, ${origin.machine}, ${origin.date}.`),
  );
  return `## ${results.title}

${results.what}

${arms.some(({ curve }) => curve.length > 1) ? `![${metric} on validation rows over steps; bands from the lowest to the highest seed](${picture})\n` : ""}
${table(
  [
    "arm",
    "what",
    "seeds",
    recall,
    metric,
    ...(optimum === undefined ? [] : ["of the possible"]),
    "repeats a list",
    `against ${against} [95 %]`,
    "p",
  ],
  [...others, ...rows],
)}
${pairs.length > 0 ? `\n${table(["is it so that", `difference in ${metric} [95 %]`, "p", "verdict"], pairs)}\n` : ""}
Means over seeds; intervals by paired bootstrap over dialogues and seeds. ${results.missing.length > 0 ? `Not run: ${results.missing.join("; ")}. ` : ""}${[...origins].join(" ")}

**Tried before.** ${results.tried}
`;
}
