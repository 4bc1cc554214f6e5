// The synthetic world's optimum is exact: inclusion probabilities against enumeration, and no list does better; worlds of thousands of items.
import { describe, expect, it } from "vitest";

import { inclusionOfThree, World } from "../src/world.ts";

/** P(item among three draws without replacement) by going through all ordered triples. */
function enumerated(probability: Float64Array, named: readonly number[]): Float64Array {
  const open = [...probability.keys()].filter((i) => !named.includes(i));
  const total = open.reduce((sum, i) => sum + probability[i]!, 0);
  const q = (i: number): number => probability[i]! / total;
  const inclusion = new Float64Array(probability.length);
  for (const a of open)
    for (const b of open)
      for (const c of open) {
        if (a === b || b === c || a === c) continue;
        const p = (((q(a) * q(b)) / (1 - q(a))) * q(c)) / (1 - q(a) - q(b));
        for (const i of [a, b, c]) inclusion[i]! += p;
      }
  return inclusion;
}

describe("inclusionOfThree", () => {
  it.each([
    [[0.3, 0.25, 0.2, 0.15, 0.1], []],
    [[0.1, 0.1, 0.2, 0.2, 0.2, 0.15, 0.05], [2]], // items of equal probability are counted together
    [
      [0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],
      [1, 3],
    ],
  ])("is what enumeration gives for %j without %j", (probability, named) => {
    const p = Float64Array.from(probability);
    const inclusion = inclusionOfThree(p, named);
    const expected = enumerated(p, named);
    for (const [i, x] of inclusion.entries()) expect(x).toBeCloseTo(expected[i]!, 12);
    expect(inclusion.reduce((a, b) => a + b)).toBeCloseTo(3, 12);
  });
});

describe("a world", () => {
  const world = new World({ genres: 20, itemsPerGenre: 100, ranks: 20, seed: 2 });
  it("of 2,000 items has as many titles, and a tokenizer that reads every one back", () => {
    expect(new Set(world.items.map(({ title }) => title)).size).toBe(2000);
    const tokenizer = world.tokenizer();
    const text = world.text([...world.items.keys()]);
    const ids = tokenizer.encode(text);
    expect(ids).toHaveLength(4 * 2000 - 1);
    expect(tokenizer.decode(ids)).toBe(text);
  });
  it("keeps the smaller worlds' words where these are enough", () => {
    const adjectives = new Set(new World({ seed: 1 }).items.map(({ title }) => title.split(" ")[0]));
    expect(adjectives.size).toBeLessThanOrEqual(30);
    expect(() => new World({ genres: 60, itemsPerGenre: 61 })).toThrow("1 to 3600");
  });
  it("knows lists that no other way of making lists beats on average", () => {
    const hits = (make: (named: readonly number[], i: number) => number[]): number => {
      let sum = 0;
      for (let i = 0; i < 60; i++) {
        const { named, truth } = world.dialogue(i);
        sum += make(named, i).filter((item) => truth.includes(item)).length;
      }
      return sum;
    };
    const best = hits((named) => world.bestList(named));
    expect(best).toBeGreaterThan(hits((named, i) => world.teacherList(named, i)));
    expect(best).toBeGreaterThan(hits((named) => world.popularList(named)));
  });
});
