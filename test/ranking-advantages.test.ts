// Group advantages (`estimator: group`): the goldens, a plain reference for the pooling over a prompt, and the invariances that training relies on.
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { type AdvantageOptions, isLive } from "../src/ranking/advantages.ts";
import { createEstimator } from "../src/ranking/estimators.ts";
import { hasShared, readShared } from "./shared.ts";

const defaults: AdvantageOptions = { level: "rank", ddof: 1, epsilon: 1e-4, scale: true };
/** Of one group alone [G][N]. */
const groupAdvantages = (
  rewards: readonly ArrayLike<number>[],
  options: AdvantageOptions,
): readonly ArrayLike<number>[] =>
  createEstimator("group")({ rewards: [rewards], parts: [[rewards]], weights: [1], options })[0]!;

interface Case {
  name: string;
  params: Omit<AdvantageOptions, "epsilon"> & { eps: number; nan: "zero" | "exclude"; pool: "sum" | "first" };
  rewards: (number | null)[][];
  advantages: number[][];
}

describe.skipIf(!hasShared)("the golden advantages", () => {
  const { cases } = hasShared ? readShared<{ cases: Case[] }>("goldens/ranking/advantages.json") : { cases: [] };
  it.each(cases)("$name", ({ params: { eps, nan, pool, ...params }, rewards, advantages }) => {
    const missing = nan === "zero" ? 0 : Number.NaN;
    const got = groupAdvantages(
      rewards.map((row) => row.map((value, k) => (pool === "first" && k > 0 ? 0 : (value ?? missing)))),
      { ...params, epsilon: eps },
    );
    expect(got.length).toBe(advantages.length);
    for (const [g, row] of advantages.entries()) {
      expect(got[g]!.length).toBe(row.length);
      for (const [k, want] of row.entries()) {
        if (want === 0) expect(got[g]![k]).toBe(0);
        else
          expect(Math.abs(got[g]![k]! - want) / Math.max(1, Math.abs(want)), `${g}, ${k}`).toBeLessThanOrEqual(1e-12);
      }
    }
    expect(isLive(got)).toBe(advantages.flat().some((value) => value !== 0));
  });
});

// Multiples of 1/16: either equal or well apart, so that no rounding is magnified.
const group = fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 6 })).chain(([g, n]) =>
  fc.array(
    fc.array(
      fc.oneof(
        fc.constantFrom(0, 1),
        fc.integer({ min: -80, max: 80 }).map((x) => x / 16),
      ),
      {
        minLength: n,
        maxLength: n,
      },
    ),
    {
      minLength: g,
      maxLength: g,
    },
  ),
);
const options: fc.Arbitrary<AdvantageOptions> = fc.record({
  level: fc.constantFrom("rank", "sequence", "prompt"),
  ddof: fc.constantFrom(0, 1),
  epsilon: fc.constantFrom(1e-6, 1e-4),
  scale: fc.boolean(),
});

describe("group advantages", () => {
  it("pools mean and deviation over all ranks of the prompt", () => {
    fc.assert(
      fc.property(group, options, (rewards, given) => {
        const all = rewards.flat();
        const mean = all.reduce((a, b) => a + b, 0) / all.length;
        const variance = all.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (all.length - given.ddof);
        const equal = all.every((value) => value === all[0]);
        const got = groupAdvantages(rewards, { ...given, level: "prompt" });
        for (const [g, row] of rewards.entries()) {
          for (const [k, value] of row.entries()) {
            const want = equal ? 0 : (value - mean) / (given.scale ? Math.sqrt(variance) + given.epsilon : 1);
            expect(Math.abs(got[g]![k]! - want)).toBeLessThanOrEqual(1e-9 * Math.max(1, Math.abs(want)));
          }
        }
      }),
    );
  });

  it("permutes with the rows of the group", () => {
    fc.assert(
      fc.property(group, options, (rewards, given) => {
        const reversed = groupAdvantages(rewards.toReversed(), given).toReversed();
        for (const [g, row] of groupAdvantages(rewards, given).entries()) {
          for (const [k, value] of Array.from(row).entries()) expect(reversed[g]![k]).toBeCloseTo(value, 9);
        }
      }),
    );
  });

  it("is exactly 0, and not live, where all rewards are equal", () => {
    fc.assert(
      fc.property(
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        fc.integer({ min: 1, max: 9 }),
        options,
        (value, g, given) => {
          const got = groupAdvantages(
            Array.from({ length: g }, () => [value, value, value]),
            given,
          );
          expect(got).toEqual(Array.from({ length: g }, () => new Float64Array(3)));
          expect(isLive(got)).toBe(false);
        },
      ),
    );
  });

  it("is centred in each set of compared values, and the same after adding a constant to every reward", () => {
    fc.assert(
      fc.property(group, options, (rewards, given) => {
        const got = groupAdvantages(rewards, given);
        const sums = rewards[0]!.map((_, k) => got.reduce((sum, row) => sum + row[k]!, 0));
        if (given.level === "prompt") expect(sums.reduce((a, b) => a + b, 0)).toBeCloseTo(0, 6);
        else for (const sum of sums) expect(sum).toBeCloseTo(0, 6);
        const moved = groupAdvantages(
          rewards.map((row) => row.map((value) => value + 2)),
          given,
        );
        for (const [g, row] of got.entries()) {
          for (const [k, value] of Array.from(row).entries()) expect(moved[g]![k]).toBeCloseTo(value, 6);
        }
      }),
    );
  });

  it("leaves its input alone and gives every list its own row", () => {
    const rewards = [Float64Array.of(0, 1), Float64Array.of(1, 1)];
    const got = groupAdvantages(rewards, { ...defaults, level: "sequence" });
    expect(rewards).toEqual([Float64Array.of(0, 1), Float64Array.of(1, 1)]);
    expect(new Set(got.map((row) => (row as Float64Array).buffer)).size).toBe(2);
  });

  it("is 0 where differences are too small to have a deviation", () => {
    const got = groupAdvantages([[1e-300], [2e-300]], { ...defaults, epsilon: 0 });
    expect(got).toEqual([Float64Array.of(0), Float64Array.of(0)]);
  });

  it("gives nothing for an empty group", () => {
    expect(groupAdvantages([], defaults)).toEqual([]);
    expect(isLive([])).toBe(false);
  });
});
