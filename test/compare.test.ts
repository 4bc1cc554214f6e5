// The paired comparison against what is known of the bootstrap: normal theory, the null, pairing, seeds.
import { describe, expect, it } from "vitest";

import { describeComparison } from "../src/cli/compare.ts";
import { uniform } from "../src/random.ts";
import { compareEvaluations } from "../src/report/compare.ts";
import type { StoredEvaluation } from "../src/report/evaluations.ts";

/** Rows of `perDialogue` rows a dialogue; the metric by row number. */
function evaluation(
  values: readonly number[],
  perDialogue = 1,
  change: Partial<StoredEvaluation> = {},
): StoredEvaluation {
  return {
    file: "f.json",
    source: "s",
    data: "d",
    truncation: "filter-then-cut",
    ideal: "standard",
    means: {},
    baselines: {},
    lists: [],
    rows: values.map((value, i) => ({ id: `x-${i}`, dialogue: `d-${Math.floor(i / perDialogue)}`, "ndcg@10": value })),
    ...change,
  };
}
const draws = (n: number, seed: number): number[] => Array.from({ length: n }, (_, i) => uniform(seed, 50, i));
const options = { metrics: ["ndcg@10"], resamples: 4000 };
const single = (
  a: StoredEvaluation[],
  b: StoredEvaluation[],
  seed = 0,
): ReturnType<typeof compareEvaluations>["differences"][0] =>
  compareEvaluations(a, b, { ...options, seed }).differences[0]!;

describe("compareEvaluations", () => {
  const a = draws(400, 1);
  const noise = draws(400, 2).map((x) => 0.4 * (x - 0.5));

  it("gives the mean difference and the interval of normal theory", () => {
    const b = a.map((x, i) => x + 0.02 + noise[i]!);
    const d = single([evaluation(a)], [evaluation(b)]);
    const differences = b.map((x, i) => x - a[i]!);
    const mean = differences.reduce((s, x) => s + x, 0) / 400;
    const error = Math.sqrt(differences.reduce((s, x) => s + (x - mean) ** 2, 0) / 399 / 400);
    expect(d.difference).toBeCloseTo(mean, 12);
    expect(d.low).toBeCloseTo(mean - 1.96 * error, 3);
    expect(d.high).toBeCloseTo(mean + 1.96 * error, 3);
    expect(d.p < 0.05).toBe(d.low > 0);
    expect(d.better + d.worse + d.equal).toBe(400);
  });

  it("is paired: what both sides share does not widen the interval", () => {
    const b = a.map((x) => x + 0.001);
    const d = single([evaluation(a)], [evaluation(b)]);
    expect(d.high - d.low).toBeLessThan(1e-9);
    expect(d.p).toBeCloseTo(2 / 4001, 10);
    expect(d).toMatchObject({ better: 400, worse: 0, equal: 0 });
  });

  it("of a side with itself is 0 with p = 1", () => {
    expect(single([evaluation(a)], [evaluation(a)])).toMatchObject({
      difference: 0,
      low: 0,
      high: 0,
      p: 1,
      equal: 400,
    });
  });

  it("is right about a true null in about 95 of 100 cases", () => {
    let covered = 0;
    for (let trial = 0; trial < 200; trial++) {
      const x = Array.from({ length: 80 }, (_, i) => uniform(trial, 60, i));
      const y = Array.from({ length: 80 }, (_, i) => uniform(trial, 61, i));
      const { low, high } = compareEvaluations([evaluation(x)], [evaluation(y)], { ...options, resamples: 400 })
        .differences[0]!;
      if (low <= 0 && high >= 0) covered++;
    }
    // binomial of 200 at 0.95, less what percentiles of 80 rows lose: below 176 in fewer than 1 of 10^4
    expect(covered).toBeGreaterThanOrEqual(176);
    expect(covered).toBeLessThan(200);
  });

  it("takes a dialogue with all its rows: four equal rows are no more than one", () => {
    const few = draws(100, 3);
    const b = few.map((x, i) => x + noise[i]!);
    const four = (values: number[]): number[] => values.flatMap((x) => [x, x, x, x]);
    const once = single([evaluation(few)], [evaluation(b)]);
    const fourfold = single([evaluation(four(few), 4)], [evaluation(four(b), 4)]);
    expect(fourfold.low).toBeCloseTo(once.low, 12);
    expect(fourfold.high).toBeCloseTo(once.high, 12);
  });

  it("widens the interval by what seeds differ, with the right variance for three", () => {
    // rows without noise: all spread comes from the seeds; the standard error of a mean of 3 is s / sqrt(3) a side
    const side = (levels: number[]): StoredEvaluation[] =>
      levels.map((level) => evaluation(new Array<number>(50).fill(level)));
    const [x, y] = [side([0.2, 0.23, 0.26]), side([0.3, 0.33, 0.36])];
    const { differences, seeds } = compareEvaluations(x, y, { ...options, resamples: 20_000 });
    expect(seeds).toEqual({ a: 3, b: 3 });
    expect(differences[0]!.difference).toBeCloseTo(0.1, 12);
    const error = Math.sqrt((2 * 0.03 ** 2) / 3);
    expect((differences[0]!.high - differences[0]!.low) / 2).toBeGreaterThan(1.5 * error);
    expect((differences[0]!.high - differences[0]!.low) / 2).toBeLessThan(2.2 * error);
  });

  it("does not mind the order of rows, and repeats itself", () => {
    const b = a.map((x, i) => x + noise[i]!);
    const turned = evaluation(b);
    const d = single([evaluation(a)], [turned], 7);
    expect(single([evaluation(a)], [{ ...turned, rows: turned.rows.toReversed() }], 7)).toEqual(d);
    expect(single([evaluation(a)], [turned], 8).low).not.toBe(d.low);
  });

  it("pairs rows that share an id in their order", () => {
    const shared = (values: readonly number[]): StoredEvaluation => {
      const made = evaluation(values);
      return { ...made, rows: made.rows.map((row, i) => ({ ...row, id: `x-${Math.floor(i / 2)}` })) };
    };
    expect(single([shared(a)], [shared(a)])).toMatchObject({ difference: 0, low: 0, high: 0, equal: 400 });
  });

  it("refuses what cannot be compared, by name", () => {
    const one = evaluation(a);
    const compare = (other: StoredEvaluation): unknown => compareEvaluations([one], [other], options);
    expect(() => compare(evaluation(a.slice(1)))).toThrow(/400 rows/);
    expect(() => compare(evaluation(a, 1, { truncation: "cut-then-filter" }))).toThrow(/truncation/);
    expect(() => compare(evaluation([]))).toThrow(/metrics by row.*rank-grpo evaluate/);
    expect(() =>
      compare({ ...one, file: "g.json", rows: one.rows.map((row) => ({ ...row, id: `${row.id}'` })) }),
    ).toThrow(/x-0.*g\.json/);
    expect(() => compareEvaluations([one], [one], { metrics: ["ndgc@10"] })).toThrow(/ndcg@10/);
    expect(() => compareEvaluations([one], [one], { ...options, resamples: 10 })).toThrow(/100/);
  });

  it("is told in words", () => {
    const text = describeComparison(compareEvaluations([evaluation(a)], [evaluation(a.map((x) => x + 0.01))], options));
    expect(text).toContain("+0.0100");
    expect(text).toContain("400 rows of 400 dialogues");
    expect(text).toContain("these two models");
    const seeds = (n: number): StoredEvaluation[] => new Array<StoredEvaluation>(n).fill(evaluation(a));
    const told = (n: number, m: number): string => describeComparison(compareEvaluations(seeds(n), seeds(m), options));
    expect(told(2, 2)).toContain("new training runs.");
    expect(told(1, 2)).toContain("new training runs of B alone.");
  });
});
