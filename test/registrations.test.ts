// What a configuration may name: segmentations, advantage estimators, group repairs, soft hits, token weights; own functions beside them.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import type { Sample } from "../src/data/sample.ts";
import { stepInputs } from "../src/objectives.ts";
import { worldConfigs, writeWorld } from "../src/quickstart.ts";
import { isLive } from "../src/ranking/advantages.ts";
import { Catalog } from "../src/ranking/catalog.ts";
import { createTokenWeights, tokenFactors, type WeightedTokens } from "../src/ranking/emphasis.ts";
import { betaDensity, betaMoments, createEstimator, estimate, estimatorNames } from "../src/ranking/estimators.ts";
import { readList } from "../src/ranking/list.ts";
import { createRepair, type Repair, type RepairGroup } from "../src/ranking/repair.ts";
import { type Completion, type Reward, totalReward } from "../src/ranking/rewards.ts";
import { createSegmentation, segmentsOf, type TokenText, tokenText } from "../src/ranking/segmentation.ts";
import {
  embeddingSimilarity,
  graphSimilarity,
  openSoftHits,
  readEdges,
  readEmbeddings,
  softHits,
} from "../src/ranking/similarity.ts";
import { type SftConfig, sftSchema, type TrainConfig } from "../src/training/config.ts";
import { openModel } from "../src/training/model.ts";
import { parseConfig } from "../src/training/parse.ts";
import { train, trainSteps } from "../src/training/train.ts";
import { World } from "../src/world.ts";

const folder = mkdtempSync(join(tmpdir(), "rank-grpo-registrations-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A completion cut into these tokens; lines as a list is read. */
const cut = (...tokens: string[]): TokenText => {
  const offsets = [0];
  for (const token of tokens) offsets.push(offsets.at(-1)! + token.length);
  let line = 0;
  const lines = tokens.map((token) => {
    const own = line;
    if (token.includes("\n")) line++;
    return own;
  });
  return {
    ids: Int32Array.from(tokens.keys()),
    text: tokens.join(""),
    offsets: Int32Array.from(offsets),
    lines: Int32Array.from(lines),
  };
};

describe("segmentations", () => {
  const of = (name: string, completion: TokenText, options = {}): number[] => [
    ...segmentsOf(name, createSegmentation(name, options), completion),
  ];
  it("token, line, sequence, width", () => {
    const list = cut("A", " b", "\n", "C", "\n", "D");
    expect(of("token", list)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(of("line", list)).toEqual([0, 0, 0, 1, 1, 2]);
    expect(of("sequence", list)).toEqual([0, 0, 0, 0, 0, 0]);
    expect(of("width", list, { width: 4 })).toEqual([0, 0, 0, 0, 1, 1]);
  });
  it("sentences end behind their mark; a blank before a word belongs to the word", () => {
    expect(of("sentence", cut("Good", ".", " Very", " good", "!\n", "One", " 3.5", " of", " it", ""))).toEqual([
      0, 0, 1, 1, 1, 2, 2, 2, 2, 2,
    ]);
    expect(of("sentence", cut("好。", "很好", "。"))).toEqual([0, 1, 1]);
  });
  it("regex: what matches ends its segment", () => {
    expect(of("regex", cut("a", ";", " b", ";c", "d"), { pattern: ";" })).toEqual([0, 0, 1, 1, 2]);
    expect(of("regex", cut("a", "b"), { pattern: "x*" })).toEqual([0, 0]);
  });
  it("json: elements of the first array, brackets and commas within strings and objects apart", () => {
    const tokens = ['{"items": ', "[", '"A, b"', ",", ' {"t": [1', ', 2], "u": "]"}', ", ", '"\\"C"', "]", "}", ""];
    expect(of("json", cut(...tokens))).toEqual([0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]);
    expect(of("json", cut("no ", "list"))).toEqual([0, 0]);
  });
  it("offsets of tokens that cut characters, and of special tokens", () => {
    const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
    const film = bytes("é🎬");
    const tokenizer = {
      bytes: [bytes("a"), film.slice(0, 1), film.slice(1, 4), film.slice(4), bytes("<s>")],
      specialIds: new Set([4]),
    } as unknown as Parameters<typeof tokenText>[1];
    const read = tokenText(Int32Array.of(0, 1, 2, 3, 4), tokenizer, new Int32Array(5));
    expect(read.text).toBe("aé🎬");
    expect([...read.offsets]).toEqual([0, 1, 1, 2, 4, 4]);
  });
  it("whatever the cut, segments never decrease and as many characters lie in each", () => {
    fc.assert(
      fc.property(fc.array(fc.stringMatching(/^[a-c.; \n]{0,3}$/), { minLength: 1, maxLength: 20 }), (tokens) => {
        for (const name of ["sentence", "regex", "json"]) {
          const segments = of(name, cut(...tokens), { pattern: ";+" });
          expect(segments.every((s, t) => t === 0 || s >= segments[t - 1]!)).toBe(true);
        }
        // cut into characters, the ends are those of the text alone
        const characters = cut(...tokens.join(""));
        const segments = of("regex", characters, { pattern: ";+" });
        for (const [t, c] of [...characters.text].entries())
          if (/\S/.test(c)) {
            const before = characters.text.slice(0, t);
            const ended = (before.match(/;+/g) ?? []).length - (before.endsWith(";") && c === ";" ? 1 : 0);
            expect(segments[t]).toBe(ended);
          }
      }),
    );
  });
  it("refuses what is wrong", () => {
    expect(() => createSegmentation("lines")).toThrow(/one of token, line/);
    expect(() => createSegmentation("regex", {})).toThrow(/pattern/);
    expect(() => createSegmentation("regex", { pattern: "(" })).toThrow(/regular expression/);
    expect(() => createSegmentation("width", { width: 0 })).toThrow(/whole number/);
    expect(() => segmentsOf("own", () => [0], cut("a", "b"))).toThrow(/2 numbers.*segmentation own, got 1/);
    expect(() => segmentsOf("own", () => [0, -2], cut("a", "b"))).toThrow(/token 1, got -2/);
  });
  it("pool ratios over their segments, weights over items", () => {
    const row = { item: Int32Array.of(0, 0, 1, -1), advantage: new Float32Array(4) };
    const objective = { ratio: "rank", weighting: "rank-mean", reading: "aligned", drLength: 1 } as const;
    const own = stepInputs([{ ...row, segment: Int32Array.of(1, 0, 0, 0) }], objective, 3);
    expect([...own.segmentOffsets]).toEqual([0, 2, 3]);
    expect([...own.segmentTokens]).toEqual([1, 2, 0]);
    expect([...own.segmentItem]).toEqual([-1, 0]);
    expect(own.weights).toEqual(stepInputs([row], objective, 3).weights);
    const lines = stepInputs([{ ...row, segment: row.item.map((x) => Math.max(0, x)) }], objective, 3);
    expect(lines).toEqual(stepInputs([row], objective, 3));
  });
});

const levels = ["rank", "sequence", "prompt"] as const;
const options = { level: "rank", ddof: 1, epsilon: 1e-4, scale: true } as const;
const stepOf = (rewards: number[][][], o: object = {}) => ({
  rewards,
  parts: [rewards],
  weights: [1],
  options: { ...options, ...o },
});
const sixteenths = fc.integer({ min: -32, max: 32 }).map((x) => x / 16);
const rewardsOf = (value: fc.Arbitrary<number>): fc.Arbitrary<number[][][]> =>
  fc
    .record({ p: fc.integer({ min: 1, max: 4 }), g: fc.integer({ min: 2, max: 5 }), n: fc.integer({ min: 1, max: 3 }) })
    .chain(({ p, g, n }) => {
      const exactly = <T>(of: fc.Arbitrary<T>, length: number): fc.Arbitrary<T[]> =>
        fc.array(of, { minLength: length, maxLength: length });
      return exactly(exactly(exactly(value, n), g), p);
    });
const mean = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0) / x.length;
const sd = (x: readonly number[]): number => Math.sqrt(x.reduce((s, v) => s + (v - mean(x)) ** 2, 0) / (x.length - 1));
const near = (got: number, want: number): void =>
  expect(Math.abs(got - want)).toBeLessThanOrEqual(1e-10 * Math.max(1, Math.abs(want)));

interface Golden {
  parts: number[][][][];
  weights: number[];
  total: number[][][];
  estimators: { name: string; level: (typeof levels)[number]; advantages: number[][][] }[];
}
const golden = JSON.parse(readFileSync(new URL("fixtures/signals.json", import.meta.url), "utf8")) as Golden;

describe("advantage estimators against numpy and scipy", () => {
  const { parts, weights, total } = golden;
  it.each(golden.estimators)("$name at level $level", ({ name, level, advantages }) => {
    const got = createEstimator(name)({ rewards: total, parts, weights, options: { ...options, level } });
    for (const [p, group] of advantages.entries())
      for (const [g, row] of group.entries()) for (const [k, want] of row.entries()) near(got[p]![g]![k]!, want);
    expect(golden.estimators.map((c) => c.name)).toEqual(expect.arrayContaining([...estimatorNames]));
  });
});

describe("advantage estimators", () => {
  it("group is what groups alone give", () => {
    fc.assert(
      fc.property(rewardsOf(sixteenths), fc.constantFrom(...levels), fc.boolean(), (rewards, level, scale) => {
        const of = (groups: number[][][]) => createEstimator("group")(stepOf(groups, { level, scale }));
        expect(of(rewards)).toEqual(rewards.flatMap((group) => of([group])));
      }),
    );
  });
  it("lists that earned the same at other ranks are equal at level sequence, whatever the rounding of their sums", () => {
    const lists = Array.from({ length: 10 }, (_, hit) => Array.from({ length: 10 }, (_, k) => (k === hit ? 1.1 : 0.1)));
    expect(new Set(lists.map((row) => row.reduce((a, b) => a + b, 0))).size).toBeGreaterThan(1);
    for (const name of ["group", "leave-one-out", "batch"]) {
      const [group] = createEstimator(name)(stepOf([lists], { level: "sequence" }));
      expect(isLive(group!), name).toBe(false);
    }
    expect(new Set(lists.map(totalReward)).size).toBe(1);
  });
  it("leave-one-out: each list against the mean of the others, never scaled", () => {
    fc.assert(
      fc.property(rewardsOf(sixteenths), (rewards) => {
        const got = createEstimator("leave-one-out")(stepOf(rewards));
        for (const [p, group] of rewards.entries())
          for (const [g, row] of group.entries())
            for (const [k, r] of row.entries())
              near(got[p]![g]![k]!, r - mean(group.filter((_, h) => h !== g).map((other) => other[k]!)));
      }),
    );
  });
  it("batch, reinforce++ and its baseline against the formulas, rank by rank", () => {
    fc.assert(
      fc.property(rewardsOf(sixteenths), (rewards) => {
        const N = rewards[0]![0]!.length;
        for (let k = 0; k < N; k++) {
          const groups = rewards.map((group) => group.map((row) => row[k]!));
          const all = groups.flat();
          const centred = groups.map((g) => g.map((r) => r - mean(g)));
          const want: Record<string, number[][]> = {
            batch: centred.map((g) => g.map((a) => (sd(all) === 0 ? 0 : a / (sd(all) + 1e-4)))),
            "reinforce++": groups.map((g) => g.map((r) => (sd(all) === 0 ? 0 : (r - mean(all)) / (sd(all) + 1e-4)))),
            "reinforce++-baseline": centred.map((g) =>
              g.map((a) => (a - mean(centred.flat())) / (sd(centred.flat()) + 1e-4)),
            ),
          };
          for (const [name, values] of Object.entries(want)) {
            const got = createEstimator(name)(stepOf(rewards));
            for (const [p, g] of values.entries()) for (const [i, a] of g.entries()) near(got[p]![i]![k]!, a);
          }
        }
      }),
    );
  });
  it("gdpo: a rare reward counts as much as a common one", () => {
    const a = [[[1], [0], [0], [0]]];
    const b = [[[0], [10], [10], [0]]];
    const total = a.map((g, p) => g.map((row, i) => [row[0]! + b[p]![i]![0]!]));
    const got = createEstimator("gdpo")({ rewards: total, parts: [a, b], weights: [1, 1], options });
    const each = [a, b].map((part) => createEstimator("group")(stepOf(part))[0]!.map((row) => row[0]!));
    const sum = each[0]!.map((x, i) => x + each[1]![i]!);
    for (const [i, x] of sum.entries()) near(got[0]![i]![0]!, (x - mean(sum)) / (sd(sum) + 1e-4));
    expect(got[0]![0]![0]).toBeGreaterThan(0); // the plain sum puts it below the group's mean
    expect(createEstimator("group")(stepOf(total))[0]![0]![0]).toBeLessThan(0);
  });
  it("bnpo: the Beta density against the integral it must have, moments against those of Beta, values worked by hand", () => {
    for (const [alpha, beta] of [
      [1, 1],
      [1.5, 1.5],
      [3.25, 1.1],
      [40, 7],
    ] as const) {
      let sum = 0;
      const n = 200000;
      for (let i = 0; i < n; i++) sum += betaDensity((i + 0.5) / n, alpha, beta) / n;
      expect(Math.abs(sum - 1)).toBeLessThan(1e-5);
    }
    expect(betaDensity(0.3, 2, 3)).toBeCloseTo(12 * 0.3 * 0.7 ** 2, 12);
    const [a, b] = betaMoments([0, 0.5, 0.25, 0.75]);
    expect(a / (a + b)).toBeCloseTo(0.375, 12);
    expect((a * b) / ((a + b) ** 2 * (a + b + 1))).toBeCloseTo(0.078125, 12);
    expect(betaMoments([0.5, 0.5])).toEqual([0, 0]);
    // p = 1/2 and 1/4 with 4 lists: mean 3/8, variance 1/64, a + b = 14, a = 21/4, b = 35/4: Beta(11/4, 47/12)
    const got = createEstimator("bnpo")(
      stepOf([
        [[1], [1], [0], [0]],
        [[1], [0], [0], [0]],
      ]),
    );
    near(got[0]![0]![0]!, 0.5 / betaDensity(0.5, 11 / 4, 47 / 12));
    near(got[1]![0]![0]!, 0.75 / betaDensity(0.25, 11 / 4, 47 / 12));
    near(got[1]![1]![0]!, -0.25 / betaDensity(0.25, 11 / 4, 47 / 12));
    expect(() => createEstimator("bnpo")(stepOf([[[2], [0]]]))).toThrow(/from 0 to 1/);
  });
  it("equal rewards give exactly 0, lists left out 0 and no part in the others'", () => {
    for (const name of ["group", "leave-one-out", "batch", "bnpo"]) {
      const equal = createEstimator(name)(
        stepOf([
          [[0.1], [0.1], [0.1]],
          [[0.7], [0.1], [0.2]],
        ]),
      );
      expect(equal[0]!.map((row) => row[0])).toEqual([0, 0, 0]);
    }
    for (const name of estimatorNames)
      for (const level of levels) {
        const rewards = [
          [
            [1, 0],
            [0, 0],
            [1, 1],
          ],
          [
            [0, 1],
            [0, 0],
            [1, 0],
          ],
        ];
        const left = rewards.map((g) => [...g.slice(0, 2), [Number.NaN, Number.NaN], g[2]!]);
        const parts = (of: number[][][]): number[][][] => of.map((g) => g.map((row) => row.map((x) => Math.max(x, 0))));
        const all = left.map((g) => g.map((row) => row.map((x) => (Number.isNaN(x) ? 0.5 : x))));
        const estimator = createEstimator(name);
        const without = estimate(name, estimator, { ...stepOf(rewards, { level }), parts: [parts(rewards)] });
        const beside = estimate(name, estimator, { ...stepOf(left, { level }), parts: [parts(all)] });
        for (const [p, group] of beside.entries()) {
          expect([...group[2]!], `${name} ${level}`).toEqual([0, 0]);
          const kept = group.filter((_, i) => i !== 2);
          for (const [g, row] of kept.entries()) for (const [k, x] of row.entries()) near(x, without[p]![g]![k]!);
        }
      }
  });
  it("refuses what is wrong", () => {
    expect(() => createEstimator("rloo")).toThrow(/one of group/);
    expect(() => estimate("own", () => [[[1]]], stepOf([[[1], [0]]]))).toThrow(/estimator own, prompt 1, list 2/);
    expect(() => estimate("own", () => [[[1], [Number.NaN]]], stepOf([[[1], [0]]]))).toThrow(/list 2, rank 1, got NaN/);
  });
});

const catalog = Catalog.from([
  { title: "Heat", year: 1995 },
  { title: "Heathers", year: 1989 },
  { title: "Alien", year: 1979 },
  { title: "Aliens", year: 1986 },
  { title: "Solaris", year: 1972 },
]);
const sample = (truths: [string, number][], seen: string[] = []): Sample =>
  ({
    id: "s",
    index: 0,
    prompt: "",
    columns: { groundtruth_with_release_year: truths, seen_titles: seen },
  }) as unknown as Sample;
const listOf = (text: string): Completion => ({ text, ids: new Int32Array(1), finish: "stop", slots: readList(text) });

describe("group repair", () => {
  const group = (rewards: number[], likelihood: number[], change: Partial<RepairGroup> = {}): RepairGroup => ({
    sample: sample([
      ["Heat", 1995],
      ["Alien", 1979],
    ]),
    completions: rewards.map(() => listOf("Solaris (1972)\nAliens (1986)")),
    likelihood,
    rewards,
    kept: rewards.map(() => true),
    ...change,
  });
  const make = (name: string, own = {}) => createRepair(name, { catalog, ...own });
  it("anchor: a group without a hit gets one, first in the list that earned least", () => {
    const repair = make("anchor");
    expect(repair(group([0, -1, 0], [-1, -2, -3])).replace).toEqual(new Map([[1, "Heat (1995)\nAliens (1986)"]]));
    expect(repair(group([0, 0, 0], [-1, -3, -2])).replace?.has(1)).toBe(true);
    expect(repair(group([0, 1, 0], [-1, -2, -3]))).toEqual({});
    const seen = group([0, 0], [-1, -2], {
      sample: sample(
        [
          ["Heat", 1995],
          ["Alien", 1979],
        ],
        ["Heat"],
      ),
    });
    expect([...repair(seen).replace!.values()]).toEqual(["Alien (1979)\nAliens (1986)"]);
    expect(repair(group([0, 0], [-1, -2], { sample: sample([["Nowhere", 2000]]) }))).toEqual({});
    const named = group([0, 0], [-1, -2], {
      completions: [0, 1].map(() => listOf("Alien (1979)\nHeat (1940)\nAliens (1986)")),
    });
    expect([...repair(named).replace!.values()]).toEqual(["Heat (1995)\nAlien (1979)\nAliens (1986)"]);
    const cutOff = group([0], [-1], {
      completions: [{ ...listOf("Solaris (1972)\nAliens (1986)\nHea"), finish: "length" }],
    });
    expect([...repair(cutOff).replace!.values()]).toEqual(["Heat (1995)\nAliens (1986)"]);
    expect(() => createRepair("anchor", { catalog: undefined })).toThrow(/catalog/);
  });
  it("pair: the strongest positive and the hardest negative", () => {
    const repair = make("pair");
    expect(repair(group([0, 2, 2, 0], [-3, -2, -1, -2])).keep).toEqual([false, false, true, true]);
    expect(repair(group([0, 0], [-1, -2]))).toEqual({});
    const left = group([0, 2, 2, 0], [-3, -2, -1, -2], { kept: [true, true, false, true] });
    expect(repair(left).keep).toEqual([false, true, false, true]);
  });
  it("window: hits stay, of the others the likeliest", () => {
    const four = group([1, 0, 0, 0, 0], [-9, -4, -1, -3, -2]);
    expect(make("window")(four).keep).toEqual([true, false, true, false, true]);
    expect(make("window", { low: 0.25, width: 0.25 })(four).keep).toEqual([true, false, false, false, true]);
    expect(make("window", { width: 1 })(four).keep).toEqual([true, true, true, true, true]);
    expect(make("window", { width: 0.01 })(four).keep).toEqual([true, false, true, false, false]);
    expect(make("window")(group([0, 0], [-1, -2]))).toEqual({});
    expect(() => make("window", { low: 1 })).toThrow(/low/);
    expect(() => make("windows")).toThrow(/one of anchor/);
  });
});

describe("item similarity", () => {
  const signal = new AbortController().signal;
  const index = (title: string, year: number): number => catalog.indexOf({ title, year });
  const alien = index("Alien", 1979);
  const earn = (reward: Reward, text: string, truths: [string, number][], seen: string[] = []) =>
    reward(listOf(text), sample(truths, seen), signal) as Float64Array;
  it("cosine of embeddings", () => {
    const similarity = embeddingSimilarity(
      new Map([
        [0, [3, 4]],
        [1, [6, 8]],
        [2, [-3, -4]],
        [3, [4, -3]],
      ]),
    );
    expect(similarity(0, 1)).toBeCloseTo(1, 12);
    expect(similarity(0, 2)).toBe(0);
    expect(similarity(0, 3)).toBeCloseTo(0, 12);
    expect(similarity(0, 4)).toBe(0);
    expect(() =>
      embeddingSimilarity(
        new Map([
          [0, [1]],
          [1, [1, 2]],
        ]),
      ),
    ).toThrow(/1 numbers/);
  });
  it("the best path of a graph, no longer than depth", () => {
    const edges = [
      ["Alien (1979)", "Ridley Scott", 0.5],
      ["Ridley Scott", "Heat (1995)", 0.5],
      ["Alien (1979)", "horror", 0.8],
      ["horror", "Heat (1995)", 0.9],
      ["Heat (1995)", "Solaris (1972)", 1],
    ] as const;
    expect(graphSimilarity(catalog, edges)(alien, index("Heat", 1995))).toBeCloseTo(0.72, 12);
    expect(graphSimilarity(catalog, edges)(alien, index("Solaris", 1972))).toBe(0);
    expect(graphSimilarity(catalog, edges, 3)(index("Solaris", 1972), alien)).toBeCloseTo(0.72, 12);
    expect(graphSimilarity(catalog, edges, 1)(alien, alien)).toBe(1);
    expect(() => graphSimilarity(catalog, [["a", "b", 2]])).toThrow(/above 0/);
  });
  it("a graph with a hub takes no more memory the more items are asked for", () => {
    const source = (name: string): string => JSON.stringify(new URL(`../src/ranking/${name}.ts`, import.meta.url).href);
    const script = `
      const { Catalog } = await import(${source("catalog")});
      const { graphSimilarity } = await import(${source("similarity")});
      const items = Array.from({ length: 2000 }, (_, i) => ({ title: "T" + i, year: 2000 }));
      const edges = items.map(({ title }) => [title + " (2000)", "hub", 0.5]);
      const similarity = graphSimilarity(Catalog.from(items), edges);
      for (const i of items.keys()) if (similarity(i, 1999 - i) !== 0.25) throw new Error("item " + i);`;
    const options = ["--max-old-space-size=96", "--import", "tsx", "--input-type=module", "--eval", script];
    expect(spawnSync(process.execPath, options, { encoding: "utf8" })).toMatchObject({ status: 0, stderr: "" });
  }, 60_000);
  it("soft hits: a hit is 1, a truth without one pays once, at the nearest item", () => {
    const table: Record<string, number> = { "2-3": 0.8, "2-4": 0.6, "0-4": 0.7, "0-1": 0.3 };
    const reward = softHits({ catalog, ranks: 4, similarity: (a, b) => table[`${a}-${b}`] ?? 0 });
    const truths: [string, number][] = [
      ["Heat", 1995],
      ["Alien", 1979],
    ];
    expect([...earn(reward, "Solaris (1972)\nAliens (1986)\nAliens (1986)", truths)]).toEqual([0.7, 0.8, 0, 0]);
    expect([...earn(reward, "Alien (1979)\nAliens (1986)\nHeathers (1989)", truths)]).toEqual([1, 0, 0, 0]);
    expect([...earn(reward, "Aliens (1986)\nno title", truths, ["Aliens"])]).toEqual([0, 0, 0, 0]);
    expect(() => softHits({ catalog, ranks: 0, similarity: () => 0 })).toThrow(/ranks/);
  });
  it("files: read, and refused with their line", async () => {
    const embeddings = join(folder, "embeddings.jsonl");
    const row = (title: string, year: number, embedding: number[]): string =>
      JSON.stringify({ title, year, embedding });
    writeFileSync(
      embeddings,
      [row("Alien", 1979, [1, 0]), row("Aliens", 1986, [0.8, 0.6]), row("X", 1, [1, 1])].join("\n"),
    );
    expect((await readEmbeddings(embeddings, catalog)).size).toBe(2);
    const soft = await openSoftHits({ catalog, ranks: 2, embeddings });
    expect([...earn(soft, "Aliens (1986)", [["Alien", 1979]])]).toEqual([0.8, 0]);
    const edges = join(folder, "edges.tsv");
    writeFileSync(edges, "Alien (1979)\tspace\t0.9\nSolaris (1972)\tspace\n");
    expect(await readEdges(edges, catalog)).toEqual([
      ["Alien (1979)", "space", 0.9],
      ["Solaris (1972)", "space", 0.5],
    ]);
    const graph = await openSoftHits({ catalog, ranks: 2, edges });
    const strict = await openSoftHits({ catalog, ranks: 2, edges, threshold: 0.5 });
    expect([...earn(strict, "Solaris (1972)", [["Alien", 1979]])]).toEqual([0, 0]);
    expect([...earn(graph, "Solaris (1972)", [["Alien", 1979]])]).toEqual([0.45, 0]);
    writeFileSync(edges, "Alien (1979)\tspace\nbad\n");
    await expect(readEdges(edges, catalog)).rejects.toThrow(/edges.tsv, line 2/);
    writeFileSync(edges, "a\tb\n");
    await expect(readEdges(edges, catalog)).rejects.toThrow(/an edge of an item/);
    writeFileSync(embeddings, '{"title": 1}\n');
    await expect(readEmbeddings(embeddings, catalog)).rejects.toThrow(/embeddings.jsonl, line 1/);
    await expect(openSoftHits({ catalog, ranks: 2 })).rejects.toThrow(/embeddings or edges/);
    await expect(readEdges(join(folder, "none"), catalog)).rejects.toMatchObject({ code: "IO" });
  });
});

describe("token weights", () => {
  const tokens = (completion: TokenText, entropies?: number[]): WeightedTokens => ({
    ...completion,
    logprobs: new Float32Array(completion.ids.length),
    advantages: new Float32Array(completion.ids.length),
    weights: new Float32Array(completion.ids.length).fill(1),
    ...(entropies ? { entropies: Float32Array.from(entropies) } : {}),
  });
  it("choice: until a line names one item", () => {
    const weights = createTokenWeights("choice", { catalog });
    const list = tokens(cut("He", "at", " (", "1995)", "\n", "Al", "ien", "s", " (1986)", "\n", "Free", " text", ""));
    //                        He   at  ' ('  year  nl   Al  ien   s   year  nl
    expect([...tokenFactors("choice", weights, [list])]).toEqual([1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0]);
    const led = tokens(cut(" He", "at", " (", "1995)", ""));
    expect([...tokenFactors("choice", weights, [led])]).toEqual([1, 1, 1, 0, 0]);
  });
  it("entropy: the largest of the step", () => {
    const weights = createTokenWeights("entropy", { catalog: undefined, share: 0.5 });
    const step = [tokens(cut("a", "b"), [0.1, 3]), tokens(cut("c", "d"), [2, 1])];
    expect([...tokenFactors("entropy", weights, step)]).toEqual([0, 1, 1, 0]);
    step[0]!.weights[1] = 0; // of the other three, half are two
    expect([...tokenFactors("entropy", weights, step)]).toEqual([0, 1, 1, 1]);
    expect([...tokenFactors("uniform", createTokenWeights("uniform", { catalog }), step)]).toEqual([1, 1, 1, 1]);
  });
  it("refuses what is wrong", () => {
    expect(() => createTokenWeights("choices", { catalog })).toThrow(/one of uniform/);
    expect(() => createTokenWeights("choice", { catalog: undefined })).toThrow(/catalog/);
    expect(() => createTokenWeights("entropy", { catalog, share: 0 })).toThrow(/share/);
    expect(() => tokenFactors("own", { weigh: () => [[-1]] }, [tokens(cut("a"))])).toThrow(/token weights own.*got -1/);
  });
});

describe("training with them", () => {
  const data = join(folder, "world");
  const worlds = worldConfigs(data, 3);
  const base = (): TrainConfig => ({
    ...worlds.train,
    model: join(data, "model"),
    steps: 2,
    promptsPerStep: 4,
    groupSize: 4,
    limit: 40,
    validation: undefined,
  });
  beforeAll(async () => {
    await writeWorld(new World({ seed: 3 }), data, 64);
    const model = worlds.sft.model as Exclude<SftConfig["model"], string>;
    const shape = {
      ...model.shape,
      hidden_size: 32,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 2,
    };
    const sft = parseConfig(sftSchema, { ...worlds.sft, model: { ...model, shape } });
    const policy = await openModel(sft, { resumed: undefined });
    await policy.save(join(data, "model"));
    policy.dispose();
  });
  const metricsOf = async (
    name: string,
    config: Partial<TrainConfig>,
    more = {},
  ): Promise<Record<string, unknown>[]> => {
    const reports = [];
    for await (const report of trainSteps({ ...base(), ...config }, { output: join(folder, name), ...more }))
      reports.push(report.metrics);
    return reports;
  };
  const digest: Reward = ({ ids }) => ids.reduce((sum, id) => sum + id, 0) % 7;

  it("segmentation line and uniform weights change nothing", async () => {
    const timeless = (rows: Record<string, unknown>[]): unknown =>
      rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => !/^(time|memory)/.test(key))));
    const rewards = [digest];
    const plain = await metricsOf("plain", { updatesPerRollout: 2 }, { rewards });
    const named = await metricsOf("named", { updatesPerRollout: 2, segmentation: { name: "line" } }, { rewards });
    expect(timeless(named)).toEqual(timeless(plain));
    expect(plain[0]!["policy/loss"]).not.toBe(0);
  });

  it("every estimator, segmentation and weight by name", async () => {
    for (const estimator of estimatorNames) {
      const [row] = await metricsOf(
        `estimator-${estimator}`,
        { estimator, steps: 1 },
        { rewards: [(c: Completion) => (digest(c, {} as Sample, new AbortController().signal) as number) / 7] },
      );
      expect(Number.isFinite(row!["policy/loss"] as number), estimator).toBe(true);
    }
    for (const segmentation of [
      { name: "regex", pattern: "\\(" },
      { name: "json", credit: "segment" },
      { name: "width", width: 3 },
    ] as const) {
      const [row] = await metricsOf(
        `segmentation-${segmentation.name}`,
        { segmentation, steps: 1, updatesPerRollout: 2 },
        { rewards: [digest] },
      );
      expect(Number.isFinite(row!["policy/loss"] as number), segmentation.name).toBe(true);
    }
    for (const tokenWeights of [{ name: "choice" }, { name: "entropy", share: 0.3 }]) {
      const [row] = await metricsOf(`weights-${tokenWeights.name}`, { tokenWeights, steps: 1 }, { rewards: [digest] });
      expect(row!["optimizer/grad_norm"] as number, tokenWeights.name).toBeGreaterThan(0);
    }
  });

  it("an anchor makes dead groups live, at log-probs that are the policy's own; metrics tell what was sampled", async () => {
    const dead = { rewards: [{ name: "exp_inf" }], maxNewTokens: 100 };
    const [plain] = await metricsOf("dead", { ...dead, steps: 1 });
    const [repaired] = await metricsOf("anchor", { ...dead, steps: 1, repair: [{ name: "anchor" }, { name: "pair" }] });
    expect(repaired!["groups/live"] as number).toBeGreaterThan(plain!["groups/live"] as number);
    expect(repaired!["reward/mean"]).toBe(plain!["reward/mean"]);
    expect(repaired!["policy/mismatch_max"]).toBe(0);
    expect(repaired!["update/rows"] as number).toBeLessThan(16);
  });

  it("lists that a constraint forbids are not put in", async () => {
    const bad = { replace: new Map([[0, "No Such Thing (1900)"]]) };
    const repairs = {
      bad: () => bad,
      none: () => ({}),
      // reads as the list it was, but is not how its lines are written
      longer: ({ completions }: RepairGroup) => ({ replace: new Map([[0, `${completions[0]!.text}\n`]]) }),
    };
    const timeless = (rows: Record<string, unknown>[]): unknown =>
      rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => !/^(time|memory)/.test(key))));
    const one = await metricsOf("bad", { repair: [{ name: "bad" }] }, { rewards: [digest], extensions: { repairs } });
    const two = await metricsOf("none", { repair: [{ name: "none" }] }, { rewards: [digest], extensions: { repairs } });
    expect(timeless(one)).toEqual(timeless(two));
    const longer = await metricsOf(
      "longer",
      { repair: [{ name: "longer" }] },
      { rewards: [digest], extensions: { repairs } },
    );
    expect(timeless(longer)).toEqual(timeless(two));
    const free = await metricsOf(
      "free",
      { repair: [{ name: "bad" }], constrain: "none", steps: 1 },
      { rewards: [digest], extensions: { repairs } },
    );
    expect(free[0]!["policy/mismatch_max"]).toBe(0);
    expect(free[0]!["policy/logprob_mean"] as number).toBeLessThan(0);
  });

  it("own functions from a module and from the caller", async () => {
    const module = join(folder, "mine.mjs");
    writeFileSync(
      module,
      `export const rewards = { odd: ({ ids }) => -(ids.reduce((sum, id) => sum + id, 0) % 5) };
export const segmentations = { halves: ({ ids }) => Array.from(ids, (_, t) => (2 * t < ids.length ? 0 : 1)) };
export const estimators = { sign: ({ rewards }) => rewards.map((group) => group.map((row) => Array.from(row, (r) => Math.sign(r + 2)))) };
export const repairs = { none: ({ kept }) => ({ keep: kept }) };
`,
    );
    const tokenWeights = {
      first: {
        weigh: (step: readonly WeightedTokens[]) => step.map(({ ids }) => Array.from(ids, (_, t) => (t < 3 ? 1 : 0))),
      },
    };
    const rows = await metricsOf(
      "own",
      {
        modules: [module],
        rewards: [{ name: "odd" }],
        segmentation: { name: "halves" },
        estimator: "sign",
        repair: [{ name: "none" }],
        tokenWeights: { name: "first" },
      },
      { extensions: { tokenWeights } },
    );
    expect(rows[0]!["reward/mean"] as number).toBeLessThan(0);
    expect(rows[0]!["optimizer/grad_norm"] as number).toBeGreaterThan(0);
    expect(readFileSync(join(folder, "own/config.yaml"), "utf8")).toContain("mine.mjs");
  });

  it("a repair that gives nothing of use, or later, is refused by name", async () => {
    const run = (repair: unknown): Promise<unknown> =>
      train(
        { ...base(), repair: [{ name: "mine" }] },
        {
          output: mkdtempSync(join(folder, "repair-")),
          rewards: [() => 1],
          extensions: { repairs: { mine: () => repair as Repair } },
        },
      );
    await expect(run(undefined)).rejects.toThrow(/for repair mine, got undefined/);
    await expect(run(Promise.resolve({}))).rejects.toThrow(/for repair mine, got "a promise"/);
    await expect(run({ keep: [true] })).rejects.toThrow(/of true or false for keep of repair mine/);
    await expect(run({ keep: "true" })).rejects.toThrow(/keep of repair mine/);
    await expect(run({ replace: { 0: "A (2000)" } })).rejects.toThrow(/Map .* for replace of repair mine/);
    await expect(run({ replace: new Map([[99, "A (2000)"]]) })).rejects.toThrow(/a list from 0 to .*got 99/);
    await expect(run({ replace: new Map([[0, 5]]) })).rejects.toThrow(
      /a text for replace of repair mine, list 0, got 5/,
    );
  });

  it("unknown names, names given twice and modules that are none are refused before work starts", async () => {
    const run = (config: Partial<TrainConfig>, extensions = {}): Promise<unknown> =>
      train({ ...base(), ...config }, { output: join(folder, "refused"), extensions });
    await expect(run({ estimator: "leave-one" })).rejects.toThrow(/Did you mean leave-one-out/);
    await expect(run({ rewards: [{ name: "exp_in" }] })).rejects.toThrow(/Did you mean exp_inf/);
    await expect(run({ segmentation: { name: "lin" } })).rejects.toThrow(/Did you mean line/);
    await expect(run({ repair: [{ name: "anchr" }] })).rejects.toThrow(/Did you mean anchor/);
    await expect(run({ tokenWeights: { name: "entrop" } })).rejects.toThrow(/Did you mean entropy/);
    await expect(run({ estimator: "group" }, { estimators: { group: () => [] } })).rejects.toThrow(/not built in/);
    await expect(run({ modules: [join(folder, "absent.mjs")] })).rejects.toThrow(/absent.mjs/);
    writeFileSync(join(folder, "empty.mjs"), "export const other = 1;\n");
    await expect(run({ modules: [join(folder, "empty.mjs")] })).rejects.toThrow(
      /an export of segmentations.*got "?other/,
    );
    await expect(run({}, { rewards: { one: 1 } })).rejects.toThrow(
      /Expected a function for one, one of the rewards of extensions, got 1/,
    );
    await expect(run({}, { tokenWeights: { even: () => [] } })).rejects.toThrow(
      /an object with a function weigh for even/,
    );
    await expect(run({}, { objectives: { none: null } })).rejects.toThrow(/an objective or a function that makes one/);
  });
});
