// Evaluation of ranked lists: Recall@k, NDCG@k, in-catalogue share, repeats and length, with standard errors (method.md 5.5).
//
// The field cuts and normalises in two ways each; both are here, and every result says which it used.
import { refuse } from "../errors.ts";
import type { Catalog } from "./catalog.ts";
import { compact, type Item, type Slot } from "./list.ts";
import { repeats } from "./rewards.ts";
import { isNearYear } from "./title.ts";

/** The k of Recall@k and NDCG@k. */
export const cutoffs = [5, 10, 15, 20] as const;
export type Cutoff = (typeof cutoffs)[number];

/** One list and what it is held against. */
export interface RankedRow {
  /** The whole list, longer than 20 too. */
  readonly slots: readonly Slot[];
  readonly truths: readonly Item[];
  readonly seen: ReadonlySet<string>;
  /** Rows of one dialogue are not independent: they share this key (`dialogueOf`). Default: a dialogue of its own. */
  readonly dialogue?: string;
}

export interface MetricOptions {
  /**
   * "filter-then-cut" (default): unreadable lines, seen titles and items outside the catalogue are removed, then the first k of
   * what is left count (the published `evaluate_direct_match`). "cut-then-filter": the first k lines are taken, then filtered.
   */
  readonly truncation?: "filter-then-cut" | "cut-then-filter";
  /**
   * Length of the ideal list in NDCG@k. "standard" (default): min(truths, k). "filtered" (published code): at most the number of
   * items left after filtering, too, which favours short lists.
   */
  readonly ideal?: "standard" | "filtered";
}

export type Metric =
  | `recall@${Cutoff}`
  | `ndcg@${Cutoff}`
  /** Share of the first 20 items with the lower-cased title in the catalogue and a year within 2; 0 for a list without items. */
  | "in_catalog"
  /** The same count divided by 20: missing items count as outside. */
  | "in_catalog_of_20"
  /** Items of the list that repeat an earlier one (same normalised title, year within 2). */
  | "duplicates"
  /** Lines that name an item. */
  | "list_length"
  /** Lines that do not. */
  | "unreadable_lines";

/** Means over the rows, plain JSON. A standard error is null where there are fewer than two rows or dialogues. */
export type ListMetrics = {
  readonly truncation: NonNullable<MetricOptions["truncation"]>;
  readonly ideal: NonNullable<MetricOptions["ideal"]>;
  readonly rows: number;
  /** Rows with at least one ground truth: those that Recall and NDCG are means over. */
  readonly rows_with_truths: number;
  readonly dialogues: number;
} & { readonly [M in Metric]: number } & {
  readonly [M in Metric as `${M}_stderr` | `${M}_stderr_dialogue`]: number | null;
};

/** Recall and NDCG are absent for a row without ground truths. */
export type RowMetrics = Partial<Record<Metric, number>>;

/**
 * The dialogue that a sample was cut from: its `dialogue` column, where it has one, else its id without the turn. Ids are source,
 * dialogue and turn, as in `redial-16162-2`, which gives `redial-16162`; an id that does not end in two numbers is a dialogue of its own.
 */
export const dialogueOf = (id: string, named?: unknown): string =>
  typeof named === "string" || typeof named === "number" ? String(named) : (/^(.*-[0-9]+)-[0-9]+$/.exec(id)?.[1] ?? id);

/** The items that count: readable, not seen (exact title), in the catalogue (exact). */
export const filterList = (slots: readonly Slot[], seen: ReadonlySet<string>, catalog: Catalog): Item[] =>
  compact(slots).filter((item) => !seen.has(item.title) && catalog.has(item));

/** All metrics of one list. */
export function measureRow(row: RankedRow, catalog: Catalog, options: MetricOptions = {}): RowMetrics {
  const { truncation = "filter-then-cut", ideal = "standard" } = options;
  const { slots, truths, seen } = row;
  const items = compact(slots);
  const inside = items.slice(0, 20).filter((item) => catalog.hasLoosely(item)).length;
  const metrics: RowMetrics = {
    in_catalog: items.length === 0 ? 0 : inside / Math.min(items.length, 20),
    in_catalog_of_20: inside / 20,
    duplicates: repeats(slots).reduce((sum, repeat) => sum + repeat, 0),
    list_length: items.length,
    unreadable_lines: slots.length - items.length,
  };
  if (truths.length === 0) return metrics;

  const filtered = filterList(slots, seen, catalog);
  const isHit = new Uint8Array(filtered.length);
  for (const truth of truths) {
    const first = filtered.findIndex((item) => item.title === truth.title && isNearYear(item.year, truth.year));
    if (first >= 0) isHit[first] = 1;
  }
  for (const k of cutoffs) {
    // Filtering keeps the order, so the filtered first k lines are the start of the filtered list.
    const kept =
      truncation === "filter-then-cut" ? filtered.length : filterList(slots.slice(0, k), seen, catalog).length;
    const looked = Math.min(k, kept);
    let found = 0;
    let gain = 0;
    for (let i = 0; i < looked; i++) {
      if (isHit[i] === 0) continue;
      found++;
      gain += 1 / Math.log2(i + 2);
    }
    const ones = Math.min(truths.length, k, ideal === "filtered" ? kept : k);
    metrics[`recall@${k}`] = found / truths.length;
    metrics[`ndcg@${k}`] = ones === 0 ? 0 : gain / idealGain(ones);
  }
  return metrics;
}

/** The DCG of a list that begins with so many hits. */
function idealGain(hits: number): number {
  let gain = 0;
  for (let i = 0; i < hits; i++) gain += 1 / Math.log2(i + 2);
  return gain;
}

/**
 * Means of all metrics with standard errors: by row (deviation with ddof 1 over the square root of the rows), and clustered by
 * dialogue (deviations summed within each dialogue first, with the factor D / (D - 1) for D dialogues), which is the one to quote
 * where dialogues give several rows.
 *
 * @throws RankGrpoError `BAD_DATA` if no row has a ground truth.
 */
export function measureLists(rows: readonly RankedRow[], catalog: Catalog, options: MetricOptions = {}): ListMetrics {
  const measured = rows.map((row) => measureRow(row, catalog, options));
  return meanMetrics(
    measured,
    rows.map((row) => row.dialogue),
    options,
  );
}

/** The second half of `measureLists`, for rows already measured, each with its dialogue (undefined: one of its own). */
export function meanMetrics(
  measured: readonly RowMetrics[],
  dialogues: readonly (string | undefined)[],
  options: MetricOptions = {},
): ListMetrics {
  const keys = dialogues.map((dialogue, index) => dialogue ?? `row ${index}`);
  const withTruths = measured.filter((row) => row["recall@5"] !== undefined).length;
  if (withTruths === 0)
    refuse("BAD_DATA", "at least one row with a ground truth", "the evaluation", `${measured.length} rows without`);

  const result: Record<string, unknown> = {
    truncation: options.truncation ?? "filter-then-cut",
    ideal: options.ideal ?? "standard",
    rows: measured.length,
    rows_with_truths: withTruths,
    dialogues: new Set(keys).size,
  };
  for (const metric of Object.keys(measured.find((row) => row["recall@5"] !== undefined)!) as Metric[]) {
    const present = [...measured.keys()].filter((index) => measured[index]![metric] !== undefined);
    const values = present.map((index) => measured[index]![metric]!);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    result[metric] = mean;
    result[`${metric}_stderr`] = standardError(values, mean);
    result[`${metric}_stderr_dialogue`] = standardError(
      values,
      mean,
      present.map((index) => keys[index]!),
    );
  }
  return result as ListMetrics;
}

/** Standard error of a mean, clustered where each value has a cluster's key; null for fewer than two values or clusters. */
export function standardError(values: readonly number[], mean: number, clusters?: readonly string[]): number | null {
  let deviations: Iterable<number> = values.map((value) => value - mean);
  let count = values.length;
  if (clusters !== undefined) {
    const sums = new Map<string, number>();
    for (const [i, value] of values.entries()) sums.set(clusters[i]!, (sums.get(clusters[i]!) ?? 0) + value - mean);
    deviations = sums.values();
    count = sums.size;
  }
  if (count < 2) return null;
  let squares = 0;
  for (const deviation of deviations) squares += deviation ** 2;
  return Math.sqrt((count / (count - 1)) * squares) / values.length;
}
