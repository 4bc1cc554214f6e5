// Rewards by rank: the golden hits and returns, the sample's columns, the built-in rewards and their weighted sum.
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import type { Sample } from "../src/data/sample.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { compact, formatItem, type Item, readList } from "../src/ranking/list.ts";
import {
  type Completion,
  combineRewards,
  createReward,
  duplicatePenalty,
  expGamma,
  expInf,
  gammaReturns,
  groundTruths,
  hits,
  inCatalog,
  listDcg,
  logDecay,
  logDecayReturns,
  repeats,
  rewardNames,
  seenTitles,
} from "../src/ranking/rewards.ts";
import { parseYear } from "../src/ranking/title.ts";
import { hasShared, readShared } from "./shared.ts";

type Pair = [string, unknown];
interface Returns {
  hits: number[];
  log_decay: number[];
  exp_gamma: Record<string, number[]>;
}
interface Case {
  name: string;
  n: number;
  text: string;
  truths: Pair[];
  seen: string[];
  catalog?: Pair[];
  aligned: Returns;
  reference: Returns;
}

const items = (pairs: Pair[]): Item[] => pairs.map(([title, year]) => ({ title, year: parseYear(year)! }));
const sampleOf = (columns: Record<string, unknown>): Sample => ({ index: 0, id: "s-1", prompt: "", columns });
const completionOf = (text: string): Completion => ({
  text,
  ids: new Int32Array(),
  finish: "stop",
  slots: readList(text),
});
const { signal } = new AbortController();

/** Within 1e-12, and 0 exactly where the golden is 0. */
function expectReturns(got: ArrayLike<number>, want: number[]): void {
  expect(got.length).toBe(want.length);
  for (const [k, value] of want.entries()) {
    if (value === 0) expect(got[k], `rank ${k + 1}`).toBe(0);
    else expect(Math.abs(got[k]! - value), `rank ${k + 1}`).toBeLessThanOrEqual(1e-12);
  }
}

describe.skipIf(!hasShared)("the golden rewards", () => {
  const golden = hasShared
    ? readShared<{ catalog: Pair[]; cases: Case[] }>("goldens/ranking/rewards.json")
    : { catalog: [], cases: [] };
  it.each(golden.cases)("$name", async (test) => {
    const catalog = Catalog.from(items([...golden.catalog, ...(test.catalog ?? [])]));
    const sample = sampleOf({ groundtruth_with_release_year: test.truths, seen_titles: test.seen });
    const completion = completionOf(test.text);
    for (const mode of ["aligned", "reference"] as const) {
      const want = test[mode];
      const hit = hits(completion.slots, groundTruths(sample), seenTitles(sample), catalog, test.n, mode);
      expect([...hit]).toEqual(want.hits);
      expectReturns(logDecayReturns(hit), want.log_decay);
      for (const [gamma, returns] of Object.entries(want.exp_gamma))
        expectReturns(gammaReturns(hit, Number(gamma)), returns);

      const options = { catalog, ranks: test.n, mode };
      expect(await expInf(options)(completion, sample, signal)).toEqual(hit);
      expectReturns((await logDecay(options)(completion, sample, signal)) as Float64Array, want.log_decay);
      expectReturns([(await listDcg(options)(completion, sample, signal)) as number], want.log_decay.slice(0, 1));
      expectReturns(
        (await expGamma({ ...options, gamma: 3 })(completion, sample, signal)) as Float64Array,
        want.exp_gamma["3"]!,
      );
    }
  });
});

describe("hits", () => {
  const titles = fc.constantFrom("Heat", "heat", "Up", "Alien");
  const item = fc.record({ title: titles, year: fc.integer({ min: 1995, max: 2000 }) });

  it("are at most one for each ground truth, in the catalogue, unseen, and near a ground truth", () => {
    fc.assert(
      fc.property(
        fc.array(fc.option(item), { maxLength: 30 }),
        fc.array(item, { maxLength: 6 }),
        fc.array(item, { maxLength: 20 }),
        fc.array(titles, { maxLength: 1 }),
        fc.integer({ min: 1, max: 25 }),
        (slots, truths, stock, named, n) => {
          const catalog = Catalog.from(stock);
          const seen = new Set(named);
          const hit = hits(slots, truths, seen, catalog, n);
          expect(hit.length).toBe(n);
          expect(hit.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(truths.length);
          for (const [k, value] of hit.entries()) {
            const slot = slots[k];
            const possible =
              slot != null &&
              !seen.has(slot.title) &&
              catalog.has(slot) &&
              truths.some(
                (t) => t.title.toLowerCase() === slot.title.toLowerCase() && Math.abs(t.year - slot.year) <= 2,
              );
            if (value === 1) expect(possible).toBe(true);
            else expect(value).toBe(0);
          }
          // the reference reading is the aligned reading of the compacted list
          expect(hits(slots, truths, seen, catalog, n, "reference")).toEqual(
            hits(compact(slots), truths, seen, catalog, n),
          );
        },
      ),
    );
  });

  it("are all found when the list is its own ground truth without near repeats", () => {
    const list = Array.from({ length: 20 }, (_, i) => ({ title: `Movie ${i}`, year: 1950 + i }));
    const slots = readList(list.map(formatItem).join("\n"));
    expect([...hits(slots, list.toReversed(), new Set(), Catalog.from(list), 20)]).toEqual(Array(20).fill(1));
  });
});

describe("returns", () => {
  const vector = fc.array(fc.constantFrom(0, 1), { maxLength: 20 });
  it("lie between the hits alone and all later hits, and fall with gamma", () => {
    fc.assert(
      fc.property(vector, fc.double({ min: 1.01, max: 50, noNaN: true }), (hit, gamma) => {
        const slow = gammaReturns(hit, gamma);
        const fast = gammaReturns(hit, gamma * 2);
        for (const [k, value] of hit.entries()) {
          expect(slow[k]).toBeGreaterThanOrEqual(fast[k]!);
          expect(fast[k]).toBeGreaterThanOrEqual(value);
          if (value === 0 && hit.slice(k + 1).includes(1)) expect(slow[k]).toBeGreaterThan(fast[k]!);
        }
        expect([...gammaReturns(hit, Number.POSITIVE_INFINITY)]).toEqual(hit);
      }),
    );
  });
  it("discount twenty hits to 7.040 at rank 1", () => {
    expect(logDecayReturns(Array(20).fill(1))[0]).toBeCloseTo(7.04, 3);
  });
});

describe("the sample's columns", () => {
  it("skip ground truths without a usable year and take no seen titles for none", () => {
    const sample = sampleOf({
      groundtruth_with_release_year: [
        ["Heat", "1995"],
        ["Up", "soon"],
        ["Alien", 1979],
      ],
    });
    expect(groundTruths(sample)).toEqual([
      { title: "Heat", year: 1995 },
      { title: "Alien", year: 1979 },
    ]);
    expect(seenTitles(sample)).toEqual(new Set());
  });
  it.each([
    ["no ground truths", {}, groundTruths],
    ["a text", { groundtruth_with_release_year: "Heat (1995)" }, groundTruths],
    ["texts", { groundtruth_with_release_year: ["Heat (1995)"] }, groundTruths],
    ["numbers as titles", { groundtruth_with_release_year: [[1995, "Heat"]] }, groundTruths],
    ["one seen title", { seen_titles: "Heat" }, seenTitles],
    ["seen pairs", { seen_titles: [["Heat", 1995]] }, seenTitles],
  ] as [string, Record<string, unknown>, (sample: Sample) => unknown][])(
    "refuse %s and name the sample",
    (_, columns, read) => {
      expect(() => read(sampleOf(columns))).toThrow(
        expect.objectContaining({ code: "BAD_DATA", message: expect.stringContaining("sample s-1") }),
      );
    },
  );
});

describe("built-in rewards", () => {
  const catalog = Catalog.from(
    items([
      ["Heat", 1995],
      ["Up", 2009],
      ["Little Women", 1994],
      ["Little Women", 2019],
    ]),
  );
  const text =
    "Heat (1995)\nnothing here\nHEAT (1996)\nLittle Women (1994)\nLittle Women (2019)\nUp (2009)\nheat (1999)";

  it("pay catalogue membership at each line's own rank", async () => {
    expect(await inCatalog({ catalog, ranks: 8 })(completionOf(text), sampleOf({}), signal)).toEqual(
      Float64Array.of(1, 0, 0, 1, 1, 1, 0, 0),
    );
    expect(await inCatalog({ catalog, ranks: 5, mode: "reference" })(completionOf(text), sampleOf({}), signal)).toEqual(
      Float64Array.of(1, 0, 1, 1, 1),
    );
  });
  it("charge repeats of a movie, not remakes", async () => {
    expect([...repeats(readList(text))]).toEqual([0, 0, 1, 0, 0, 0, 0]);
    expect(await duplicatePenalty({ ranks: 4 })(completionOf(text), sampleOf({}), signal)).toEqual(
      Float64Array.of(0, 0, -1, 0),
    );
    expect(await duplicatePenalty({ ranks: 3, mode: "reference" })(completionOf(text), sampleOf({}), signal)).toEqual(
      Float64Array.of(0, -1, 0),
    );
  });
  it("are made by name", async () => {
    const sample = sampleOf({ groundtruth_with_release_year: [["Up", 2009]] });
    const value = async (name: string) => {
      const earned = await createReward(name, { catalog, ranks: 7, gamma: 2 })(completionOf(text), sample, signal);
      return typeof earned === "number" ? earned : Array.from(earned);
    };
    const tail = 1 / Math.log2(7);
    expect(await Promise.all(rewardNames.map(value))).toEqual([
      [0, 0, 0, 0, 0, 1, 0],
      [tail, tail, tail, tail, tail, tail, 0],
      [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 0],
      tail,
      [1, 0, 0, 1, 1, 1, 0],
      [0, 0, -1, 0, 0, 0, 0].map((x) => x + 0),
    ]);
  });
  it.each([
    ["an unknown name", () => createReward("ndcg", { catalog, ranks: 5 }), /one of exp_inf, log_decay/],
    ["exp_gamma without gamma", () => createReward("exp_gamma", { catalog, ranks: 5 }), /above 1 for gamma, got NaN/],
    ["gamma 1", () => expGamma({ catalog, ranks: 5, gamma: 1 }), /above 1 for gamma, got 1/],
    ["no ranks", () => expInf({ catalog, ranks: 0 }), /whole number from 1 for ranks, got 0/],
    ["half a rank", () => duplicatePenalty({ ranks: 1.5 }), /for ranks, got 1.5/],
    ["another mode", () => logDecay({ catalog, ranks: 5, mode: "legacy" as "aligned" }), /for mode, got "legacy"/],
  ])("refuse %s", (_, make, message) => {
    expect(make).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT", message: expect.stringMatching(message) }),
    );
  });
});

describe("combineRewards", () => {
  const context = { names: ["mine", "yours"], sample: "redial-1-2", ranks: 3 };
  it("adds numbers per rank and per list with their weights", () => {
    expect(combineRewards([[1, 2, 3], 10], [1, 0.5], context)).toEqual(Float64Array.of(6, 7, 8));
    expect(combineRewards([], [], context)).toEqual(new Float64Array(3));
  });
  it.each([
    ["NaN", Number.NaN, /finite number for reward yours of sample redial-1-2, got NaN/],
    ["an infinite number", Number.POSITIVE_INFINITY, /got Infinity/],
    ["NaN at a rank", [0, Number.NaN, 0], /rank 2 of reward yours of sample redial-1-2, got NaN/],
    ["a hole", [0, undefined, 0], /rank 2 .* got undefined/],
    ["too few", [0, 0], /one number or 3.* reward yours of sample redial-1-2, got "2 numbers"/],
    ["too many", new Float32Array(4), /got "4 numbers"/],
    ["nothing", undefined, /a number or 3 numbers for reward yours .* got undefined/],
    ["null", null, /got null/],
    ["a text as long as the ranks", "abc", /got "abc"/],
    ["a promise", Promise.resolve(1), /a number or 3 numbers/],
  ] as [string, unknown, RegExp][])("refuses %s and says whose", (_, value, message) => {
    expect(() => combineRewards([0, value as number], [1, 1], context)).toThrow(
      expect.objectContaining({ code: "BAD_REWARD", message: expect.stringMatching(message) }),
    );
  });
  it("refuses weights that do not fit", () => {
    expect(() => combineRewards([0], [], context)).toThrow(expect.objectContaining({ code: "INVALID_ARGUMENT" }));
    expect(() => combineRewards([0], [Number.NaN], context)).toThrow(
      expect.objectContaining({ code: "INVALID_ARGUMENT" }),
    );
  });
});
