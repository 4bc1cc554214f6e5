// Liger's fused GRPO losses beside the objectives that are the same here (test/fixtures/liger.py): hidden states and a head in, loss and
// both gradients out, by the kernels alone.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

import { headLogprobs, headLogprobsBackward, policyLoss } from "../src/kernels.ts";
import { type Objective, type RowPlan, resolveObjective, stepInputs } from "../src/objectives.ts";

interface Golden {
  lengths: number[];
  width: number;
  vocabulary: number;
  targets: number[];
  hidden: number[];
  head: number[];
  old: number[];
  ref: number[];
  advantages: number[];
  cases: {
    liger: Record<string, number | string>;
    objective: { name: string } & Partial<Objective>;
    temperature: number;
    loss: number;
    dhidden: number[];
    dhead: number[];
  }[];
}
const golden = JSON.parse(readFileSync(new URL("fixtures/liger.json", import.meta.url), "utf8")) as Golden;

describe("Liger's fused losses", () => {
  const { lengths, width, vocabulary } = golden;
  const rows = lengths.map((length, b): RowPlan => {
    const item = Int32Array.from({ length: width }, (_, t) => (t < length ? 0 : -1));
    return { item, advantage: new Float32Array(width).fill(golden.advantages[b]!) };
  });
  for (const { liger, objective: given, temperature, ...wanted } of golden.cases)
    it(`${JSON.stringify(liger)} is ${given.name}, beta ${given.beta}, temperature ${temperature}`, async () => {
      const objective = resolveObjective(given);
      const input = {
        hidden: Float32Array.from(golden.hidden),
        head: Float32Array.from(golden.head),
        targets: Int32Array.from(golden.targets),
        vocabulary,
        temperature,
      };
      const forward = await headLogprobs(input);
      const { loss, dlogp } = policyLoss(
        {
          ...stepInputs(rows, objective, 1),
          logprobs: forward.logprobs,
          oldLogprobs: Float32Array.from(golden.old),
          refLogprobs: Float32Array.from(golden.ref),
        },
        objective,
      );
      const { dhidden, dhead } = await headLogprobsBackward({ ...input, forward, dlogprobs: dlogp });
      expect(Math.abs(loss - wanted.loss)).toBeLessThan(1e-6); // both are f32
      for (const [got, exact] of [
        [dhidden, wanted.dhidden],
        [dhead!, wanted.dhead],
      ] as const) {
        expect(exact.filter((x) => Math.abs(x) > 0.01).length).toBeGreaterThan(10);
        for (const [i, x] of exact.entries()) expect(Math.abs(got[i]! - x), `${i}`).toBeLessThan(1e-6);
      }
    });
});
