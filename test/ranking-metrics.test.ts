// Recall, NDCG and their standard errors: the goldens in all four variants, and the invariances of the means.
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { Catalog } from "../src/ranking/catalog.ts";
import type { Item, Slot } from "../src/ranking/list.ts";
import {
  cutoffs,
  dialogueOf,
  filterList,
  type Metric,
  type MetricOptions,
  measureLists,
  measureRow,
  type RankedRow,
  standardError,
} from "../src/ranking/metrics.ts";
import { parseYear } from "../src/ranking/title.ts";
import { hasShared, readShared } from "./shared.ts";

type Pair = [string, unknown];
type AtK<T> = Record<string, { recall: T; ndcg_standard: T; ndcg_filtered: T }>;
interface Row {
  name: string;
  slots: (Pair | null)[];
  truths: Pair[];
  seen: string[];
  catalog?: Pair[];
  filtered: Pair[];
  filter_then_cut: AtK<number | null>;
  cut_then_filter: AtK<number | null>;
  in_catalog: number;
  in_catalog_of_20: number;
}
interface Mean {
  mean: number;
  stderr: number;
  rows: number;
}
interface Golden {
  catalog: Pair[];
  mean: { filter_then_cut: AtK<Mean>; cut_then_filter: AtK<Mean>; in_catalog: number; in_catalog_of_20: number };
  rows: Row[];
}

const items = (pairs: Pair[]): Item[] =>
  pairs.flatMap(([title, year]) => (parseYear(year) === undefined ? [] : [{ title, year: parseYear(year)! }]));
const rowOf = (row: Row): RankedRow => ({
  slots: row.slots.map((slot): Slot => (slot === null ? null : items([slot])[0]!)),
  truths: items(row.truths),
  seen: new Set(row.seen),
});
const variants = (["filter-then-cut", "cut-then-filter"] as const).flatMap((truncation) =>
  (["standard", "filtered"] as const).map((ideal): Required<MetricOptions> => ({ truncation, ideal })),
);
const near = (got: number | null | undefined, want: number, what: string) =>
  expect(Math.abs(got! - want), what).toBeLessThanOrEqual(1e-12);

describe.skipIf(!hasShared)("the golden metrics", () => {
  const golden = hasShared ? readShared<Golden>("goldens/ranking/metrics.json") : undefined;
  const catalogOf = (row: Row) => Catalog.from(items([...golden!.catalog, ...(row.catalog ?? [])]));
  const keyOf = (truncation: string) => truncation.replaceAll("-", "_") as "filter_then_cut" | "cut_then_filter";

  it.each(golden?.rows ?? [])("$name", (row) => {
    const catalog = catalogOf(row);
    expect(filterList(rowOf(row).slots, new Set(row.seen), catalog)).toEqual(items(row.filtered));
    for (const { truncation, ideal } of variants) {
      const got = measureRow(rowOf(row), catalog, { truncation, ideal });
      const want = row[keyOf(truncation)];
      for (const k of cutoffs) {
        for (const [metric, value] of [
          [`recall@${k}`, want[k]!.recall],
          [`ndcg@${k}`, want[k]![`ndcg_${ideal}`]],
        ] as [Metric, number | null][]) {
          if (value === null) expect(got[metric]).toBeUndefined();
          else near(got[metric], value, `${metric}, ${truncation}, ${ideal}`);
        }
      }
      near(got.in_catalog, row.in_catalog, "in_catalog");
      near(got.in_catalog_of_20, row.in_catalog_of_20, "in_catalog_of_20");
    }
  });

  it("have these means and standard errors", () => {
    const rows = golden!.rows.map(rowOf);
    for (const options of variants) {
      const perRow = golden!.rows.map((row) => measureRow(rowOf(row), catalogOf(row), options));
      for (const k of cutoffs) {
        const want = golden!.mean[keyOf(options.truncation)][k]!;
        for (const [metric, { mean, stderr, rows: count }] of [
          [`recall@${k}`, want.recall],
          [`ndcg@${k}`, want[`ndcg_${options.ideal}`]],
        ] as [Metric, Mean][]) {
          const values = perRow.flatMap((row) => row[metric] ?? []);
          expect(values.length).toBe(count);
          near(values.reduce((a, b) => a + b, 0) / count, mean, metric);
          near(standardError(values, mean), stderr, `${metric} stderr`);
        }
      }
    }
    // One catalogue for all: the entry point itself, on the rows without entries of their own.
    const plain = golden!.rows.flatMap((row, i) => (row.catalog === undefined ? [rows[i]!] : []));
    const result = measureLists(plain, Catalog.from(items(golden!.catalog)));
    const single = plain.map((row) => measureRow(row, Catalog.from(items(golden!.catalog))));
    for (const metric of ["recall@20", "ndcg@5", "in_catalog", "duplicates"] as const) {
      const values = single.flatMap((row) => row[metric] ?? []);
      near(result[metric], values.reduce((a, b) => a + b, 0) / values.length, metric);
    }
    expect(result).toMatchObject({ truncation: "filter-then-cut", ideal: "standard", rows: plain.length });
    expect(result.rows_with_truths).toBe(plain.filter((row) => row.truths.length > 0).length);
  });

  it("have these in-catalogue shares over all rows", () => {
    const shares = golden!.rows.map((row) => measureRow(rowOf(row), catalogOf(row)));
    near(shares.reduce((sum, row) => sum + row.in_catalog!, 0) / shares.length, golden!.mean.in_catalog, "in_catalog");
    near(
      shares.reduce((sum, row) => sum + row.in_catalog_of_20!, 0) / shares.length,
      golden!.mean.in_catalog_of_20,
      "of 20",
    );
  });
});

describe("measureRow", () => {
  const catalog = Catalog.from(Array.from({ length: 40 }, (_, i) => ({ title: `Movie ${i}`, year: 1950 + i })));
  const item = fc.nat(50).map((i) => ({ title: `Movie ${i}`, year: 1950 + i }));
  const row = fc.record({
    slots: fc.array(fc.option(item), { maxLength: 30 }),
    truths: fc.array(item, { minLength: 1, maxLength: 25 }),
    seen: fc
      .array(
        item.map(({ title }) => title),
        { maxLength: 2 },
      )
      .map((titles) => new Set(titles)),
  });

  it("keeps to its bounds and orders", () => {
    fc.assert(
      fc.property(row, (given) => {
        for (const options of variants) {
          const got = measureRow(given, catalog, options);
          for (const [i, k] of cutoffs.entries()) {
            expect(got[`recall@${k}`]).toBeGreaterThanOrEqual(i === 0 ? 0 : got[`recall@${cutoffs[i - 1]!}`]!);
            expect(got[`recall@${k}`]).toBeLessThanOrEqual(1);
            expect(got[`ndcg@${k}`]).toBeGreaterThanOrEqual(0);
            expect(got[`ndcg@${k}`]).toBeLessThanOrEqual(1 + 1e-12);
            const standard = measureRow(given, catalog, { ...options, ideal: "standard" });
            expect(got[`ndcg@${k}`]).toBeGreaterThanOrEqual(standard[`ndcg@${k}`]!);
          }
        }
        const filtered = filterList(given.slots, given.seen, catalog);
        for (const k of cutoffs) {
          const [first, second] = [variants[0]!, variants[2]!].map((options) => measureRow(given, catalog, options));
          expect(first![`recall@${k}`]).toBeGreaterThanOrEqual(second![`recall@${k}`]!);
          // on a list with nothing to filter out both ways are one
          const clean = { ...given, slots: filtered };
          expect(measureRow(clean, catalog, variants[0]!)).toEqual(measureRow(clean, catalog, variants[2]!));
        }
      }),
    );
  });

  it("gives 1 to the truths themselves, in any order of the list", () => {
    const truths = catalog.items.slice(0, 5);
    const got = measureRow({ slots: truths.toReversed(), truths, seen: new Set() }, catalog);
    for (const k of cutoffs) expect([got[`recall@${k}`], got[`ndcg@${k}`]]).toEqual([1, 1]);
  });

  it("counts repeats, items and unreadable lines over the whole list", () => {
    const slots = [
      { title: "Movie 1", year: 1951 },
      null,
      { title: "movie 1", year: 1953 },
      { title: "Movie 1", year: 1960 },
      null,
    ];
    expect(measureRow({ slots, truths: [], seen: new Set() }, catalog)).toMatchObject({
      duplicates: 1,
      list_length: 3,
      unreadable_lines: 2,
    });
  });
});

describe("standard errors", () => {
  const value = fc.double({ min: 0, max: 1, noNaN: true });
  const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;

  it("are the same by row and by dialogue when every row is a dialogue", () => {
    fc.assert(
      fc.property(fc.array(value, { minLength: 2, maxLength: 30 }), (values) => {
        const clusters = values.map((_, i) => `d${i}`);
        expect(standardError(values, mean(values), clusters)).toBe(standardError(values, mean(values)));
      }),
    );
  });
  it("by dialogue do not shrink when every row is repeated, while those by row do", () => {
    fc.assert(
      fc.property(fc.array(value, { minLength: 2, maxLength: 30 }), fc.integer({ min: 2, max: 5 }), (values, times) => {
        const many = values.flatMap((v) => Array<number>(times).fill(v));
        const clusters = values.flatMap((_, i) => Array<string>(times).fill(`d${i}`));
        const alone = standardError(values, mean(values))!;
        expect(standardError(many, mean(many), clusters)).toBeCloseTo(alone, 10);
        expect(standardError(many, mean(many))!).toBeLessThanOrEqual(alone / Math.sqrt(times) + 1e-12);
      }),
    );
  });
  it("are unknown for one row or one dialogue", () => {
    expect(standardError([0.5], 0.5)).toBeNull();
    expect(standardError([0, 1], 0.5, ["a", "a"])).toBeNull();
  });
});

describe("measureLists", () => {
  const catalog = Catalog.from([{ title: "Heat", year: 1995 }]);
  const heat = [{ title: "Heat", year: 1995 }];
  it("clusters rows by dialogue, and is plain JSON", () => {
    const row = (slots: Slot[], dialogue: string): RankedRow => ({ slots, truths: heat, seen: new Set(), dialogue });
    const result = measureLists([row(heat, "a"), row(heat, "a"), row([], "b"), row([], "b")], catalog);
    expect(result).toMatchObject({ rows: 4, dialogues: 2, "recall@5": 0.5, "ndcg@20": 0.5 });
    expect(result["recall@5_stderr"]).toBeCloseTo(Math.sqrt(1 / 12), 12);
    expect(result["recall@5_stderr_dialogue"]).toBeCloseTo(0.5, 12);
    expect(JSON.parse(JSON.stringify(result))).toEqual(result);
  });
  it("refuses rows without any ground truth", () => {
    for (const rows of [[], [{ slots: heat, truths: [], seen: new Set<string>() }]]) {
      expect(() => measureLists(rows, catalog)).toThrow(expect.objectContaining({ code: "BAD_DATA" }));
    }
  });
});

describe("dialogueOf", () => {
  it.each([
    ["redial-16162-2", "redial-16162"],
    ["opendialkg-0-1", "opendialkg-0"],
    ["reddit-v2-train_2", "reddit-v2-train_2"],
    ["redial-16162", "redial-16162"],
    ["17", "17"],
    ["", ""],
  ])("of %s is %s", (id, dialogue) => expect(dialogueOf(id)).toBe(dialogue));
  it("is what the sample's column says, if it says anything", () => {
    expect(["t3_x", 7, undefined, null].map((named) => dialogueOf("reddit-1-2", named))).toEqual([
      "t3_x",
      "7",
      "reddit-1",
      "reddit-1",
    ]);
  });
});
