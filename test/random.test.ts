// Philox against the known answers of Random123, and the permutation's properties.
import { describe, expect, it } from "vitest";

import { permutation, philox, uniform } from "../src/random.ts";

describe("philox", () => {
  it("gives Random123's known answer", () => {
    expect(philox(0, 0, 0, 0, 0)).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  });
  it("is uniform in [0, 1) and keyed by every counter", () => {
    const values = Array.from({ length: 4000 }, (_, i) => uniform(7, 1, i));
    expect(values.every((x) => x >= 0 && x < 1)).toBe(true);
    expect(Math.abs(values.reduce((a, b) => a + b, 0) / values.length - 0.5)).toBeLessThan(0.02);
    expect(
      new Set([uniform(7, 1, 0), uniform(8, 1, 0), uniform(7, 2, 0), uniform(7, 1, 0, 1), uniform(7, 1, 0, 0, 1)]).size,
    ).toBe(5);
  });
  it("permutes", () => {
    const order = permutation(101, 3, 1, 0);
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 101 }, (_, i) => i));
    expect([...permutation(101, 3, 1, 1)]).not.toEqual([...order]);
  });
});
