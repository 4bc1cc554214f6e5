// Remap (Rank-GRPO, Eq. 10): the teacher's lists, grounded in the catalogue. A list's items spread their rank weight over the catalogue by
// similarity, identical items take it whole, and the dialogue's own similarity is added.
import type { Sample } from "../data/sample.ts";
import { refuse } from "../errors.ts";
import { addon, type NativeSparse, type NativeStage1 } from "../native.ts";
import type { Catalog } from "../ranking/catalog.ts";
import type { Item } from "../ranking/list.ts";
import { seenTitles, truthsIn } from "../ranking/rewards.ts";
import { isNearYear, normalizeTitle } from "../ranking/title.ts";
import type { Adjustment, ScoreRows } from "./adjust.ts";
import type { Features } from "./embed.ts";

/** The distinct items that a teacher named (U), and the lists by index. */
export interface NamedItems {
  items: Item[];
  /** [D] indices into items, best first */
  lists: Int32Array[];
  /** [U] index of the identical catalogue item, or -1 */
  membership: Int32Array;
}

/** "Identical" is the project's rule of one movie: the same normalised title and a year within 2, the nearest first. */
export function nameItems(lists: readonly (readonly Item[])[], catalog: Catalog): NamedItems {
  const byTitle = new Map<string, number[]>();
  catalog.items.forEach(({ title }, i) => {
    const key = normalizeTitle(title);
    const known = byTitle.get(key);
    if (known) known.push(i);
    else byTitle.set(key, [i]);
  });
  const find = (item: Item): number => {
    const exact = catalog.indexOf(item);
    if (exact >= 0) return exact;
    const near = (byTitle.get(normalizeTitle(item.title)) ?? []).filter((i) =>
      isNearYear(catalog.items[i]!.year, item.year),
    );
    near.sort(
      (a, b) => Math.abs(catalog.items[a]!.year - item.year) - Math.abs(catalog.items[b]!.year - item.year) || a - b,
    );
    return near[0] ?? -1;
  };
  const ids = new Map<string, number>();
  const items: Item[] = [];
  const rows = lists.map((list) =>
    Int32Array.from(list, (item) => {
      const key = `${item.year}\t${item.title}`;
      let id = ids.get(key);
      if (id === undefined) {
        id = items.push(item) - 1;
        ids.set(key, id);
      }
      return id;
    }),
  );
  return { items, lists: rows, membership: Int32Array.from(items, find) };
}

/** Compressed rows of given columns, without values. */
export function sparseRows(rows: readonly Iterable<number>[]): Omit<NativeSparse, "values"> {
  const offsets = new Int32Array(rows.length + 1);
  const columns: number[] = [];
  rows.forEach((row, i) => {
    for (const column of row) columns.push(column);
    offsets[i + 1] = columns.length;
  });
  return { offsets, columns: Int32Array.from(columns) };
}

export interface RemapOptions {
  /** Weight of the similarity between dialogue and item. Default 1, the paper's. */
  lambda?: number;
  /** The weight of rank k is 1 / k^positionPower. At least 0. Default 0.5, the paper's. */
  positionPower?: number;
  /** Leave out titles that the dialogue names: they earn nothing. Default true; the paper's example keeps them. */
  dropSeen?: boolean;
}

/** Rows of the data and the catalogue's view of each: what every table of scores is made from. */
export class RemapRows {
  readonly catalog: Catalog;
  readonly named: NamedItems;
  readonly truths: number[][];
  readonly seen: number[][];
  readonly options: Required<RemapOptions>;

  constructor(
    samples: readonly Sample[],
    lists: readonly (readonly Item[])[],
    catalog: Catalog,
    options: RemapOptions = {},
  ) {
    if (lists.length !== samples.length)
      refuse("INVALID_ARGUMENT", `${samples.length} lists (one for each sample)`, "lists", lists.length);
    this.options = {
      lambda: options.lambda ?? 1,
      positionPower: options.positionPower ?? 0.5,
      dropSeen: options.dropSeen ?? true,
    };
    const { lambda, positionPower } = this.options;
    if (!Number.isFinite(lambda)) refuse("INVALID_ARGUMENT", "a finite number", "lambda", lambda);
    if (!(positionPower >= 0)) refuse("INVALID_ARGUMENT", "a number from 0", "positionPower", positionPower);
    this.catalog = catalog;
    this.named = nameItems(lists, catalog);
    const byTitle = new Map<string, number[]>();
    for (const [i, { title }] of catalog.items.entries()) byTitle.set(title, [...(byTitle.get(title) ?? []), i]);
    this.truths = samples.map((sample) =>
      [...new Set(truthsIn(sample).map((truth) => catalog.indexOf(truth)))].filter((index) => index >= 0),
    );
    this.seen = samples.map((sample) => [...seenTitles(sample)].flatMap((title) => byTitle.get(title) ?? []));
  }

  /** Scores of some rows with the given embeddings; row r of the table is rows[r]. */
  async table(rows: Int32Array, features: Features | undefined): Promise<ScoreTable> {
    const lists = Array.from(rows, (row) => this.named.lists[row]!);
    const positions = sparseRows(lists);
    const values = Float32Array.from(
      lists.flatMap((list) => Array.from(list, (_, k) => (k + 1) ** -this.options.positionPower)),
    );
    const pick = (all: readonly number[][]): Omit<NativeSparse, "values"> =>
      sparseRows(Array.from(rows, (row) => all[row]!));
    const native = await addon.NativeStage1.create({
      dialogues: rows.length,
      teacherItems: this.named.items.length,
      items: this.catalog.size,
      positions: { ...positions, values },
      membership: this.named.membership,
      lambda: this.options.lambda,
      truths: pick(this.truths),
      ...(features && { features }),
      ...(this.options.dropSeen && { excluded: pick(this.seen) }),
    });
    return new ScoreTable(native, rows);
  }
}

/** Scores of the rows `rows` of the data; never held as a matrix. */
export class ScoreTable {
  readonly native: NativeStage1;
  readonly rows: Int32Array;
  constructor(native: NativeStage1, rows: Int32Array) {
    this.native = native;
    this.rows = rows;
  }

  /** Table rows whose data row is wanted, for Adjust. */
  part(wanted: (row: number) => boolean): ScoreRows {
    return { scores: this.native, rows: Int32Array.from([...this.rows.keys()].filter((r) => wanted(this.rows[r]!))) };
  }

  /** The n best catalogue items of the wanted rows, by data row. */
  async rank(
    n: number,
    wanted: (row: number) => boolean = () => true,
    adjustment?: Adjustment,
  ): Promise<Map<number, { items: Int32Array; scores: Float32Array }>> {
    const { rows } = this.part(wanted);
    const ranked = await this.native.rank(rows, { n, ...(adjustment && { w: adjustment.w, b: adjustment.b }) });
    const result = new Map<number, { items: Int32Array; scores: Float32Array }>();
    rows.forEach((r, i) => {
      const items = ranked.items.subarray(i * n, (i + 1) * n);
      const count = items.indexOf(-1);
      const end = i * n + (count < 0 ? n : count);
      result.set(this.rows[r]!, {
        items: ranked.items.subarray(i * n, end),
        scores: ranked.scores.subarray(i * n, end),
      });
    });
    return result;
  }

  /** Adds gamma x ratings (Eq. 11); `ratings` gives a data row's rated catalogue items. */
  async setRatings(
    ratings: (row: number) => readonly (readonly [item: number, rating: number])[],
    gamma: number,
  ): Promise<void> {
    const rated = Array.from(this.rows, (row) => ratings(row));
    await this.native.setRatings(
      {
        ...sparseRows(rated.map((row) => row.map(([item]) => item))),
        values: Float32Array.from(rated.flatMap((row) => row.map(([, rating]) => rating))),
      },
      gamma,
    );
  }
}
