// The published rules against losses and gradients made independently (test/fixtures/rules.py: jax, whole losses as the papers write
// them), and that every header is listed, short, and documented.
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

import { objectiveList, policyLoss } from "../src/kernels.ts";

interface Golden {
  logp: number[];
  old: number[];
  advantage: number[];
  weight: number[];
  segments: Record<string, number[][]>;
  cases: {
    rule: string;
    params: Record<string, number>;
    level: string;
    pool: "mean" | "sum";
    loss: number;
    dlogp: number[];
  }[];
}
const golden = JSON.parse(readFileSync(new URL("fixtures/rules.json", import.meta.url), "utf8")) as Golden;

describe("published rules against jax", () => {
  const f32 = (values: number[]): Float32Array => Float32Array.from(values);
  for (const c of golden.cases) {
    it(`${c.rule} ${JSON.stringify(c.params)}, ${c.level}, ${c.pool}`, () => {
      const segments = golden.segments[c.level]!;
      const offsets = [0];
      for (const segment of segments) offsets.push(offsets.at(-1)! + segment.length);
      const out = policyLoss(
        {
          logprobs: f32(golden.logp),
          oldLogprobs: f32(golden.old),
          advantages: f32(golden.advantage),
          weights: f32(golden.weight),
          segmentOffsets: Int32Array.from(offsets),
          segmentTokens: Int32Array.from(segments.flat()),
        },
        { rule: c.rule, params: c.params, pool: c.pool },
      );
      // inputs are float32 exactly and the driver works in float64: only the returned gradient is rounded
      expect(Math.abs(out.loss - c.loss)).toBeLessThanOrEqual(1e-12 * Math.max(1, Math.abs(c.loss)));
      for (const [t, g] of c.dlogp.entries()) {
        expect(Math.abs(out.dlogp[t]! - g), `token ${t}`).toBeLessThanOrEqual(2 ** -24 * Math.abs(g) + 1e-13);
      }
      expect(c.dlogp.filter((g) => g !== 0).length).toBeGreaterThan(5);
    });
  }

  it("cover every rule the goldens of given log-probs do not", () => {
    const covered = new Set([...golden.cases.map((c) => c.rule), "clip", "cispo", "likelihood"]);
    for (const rule of objectiveList()) expect(covered).toContain(rule.name);
  });
});

describe("headers", () => {
  const folder = new URL("../native/objectives/rules/", import.meta.url);
  for (const file of readdirSync(folder)) {
    it(`${file}: at most 25 lines, listed, documented`, () => {
      const text = readFileSync(new URL(file, folder), "utf8");
      expect(text.trimEnd().split("\n").length).toBeLessThanOrEqual(25);
      const name = /name = "([^"]+)"/.exec(text)?.[1];
      expect(file).toBe(`${name?.replaceAll("-", "_")}.h`);
      expect(objectiveList().map((rule) => rule.name)).toContain(name);
      const page = readFileSync(new URL("../docs/objectives.md", import.meta.url), "utf8");
      expect(page).toContain(`### ${name}\n`);
    });
  }
});
