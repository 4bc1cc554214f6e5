// Objectives in TypeScript: their gradients, what the definition refuses, and the trainer running them.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { policyLoss } from "../src/kernels.ts";
import {
  type CustomObjective,
  checkCustomObjective,
  defineObjective,
  type ObjectiveInput,
  sampleStep,
} from "../src/objective/custom.ts";
import { entropyTarget } from "../src/objective/entropy.ts";
import { dpo, sDpo } from "../src/objective/preference.ts";
import { worldConfigs, writeWorld } from "../src/quickstart.ts";
import type { Reward } from "../src/ranking/rewards.ts";
import type { TrainConfig } from "../src/training/config.ts";
import { train, trainSteps } from "../src/training/train.ts";
import { World } from "../src/world.ts";

const faults = (objective: CustomObjective): string =>
  checkCustomObjective(objective)
    .findings.filter(({ grade }) => grade === "fault")
    .map(({ text }) => text)
    .join("\n");

/** Two groups of lists with the given log-probs of whole lists (one token each), references 0. */
const lists = (groups: { logp: number; reward: number }[][]): ObjectiveInput => {
  const rows = groups.flat();
  const n = rows.length;
  const offsets = Int32Array.from({ length: n + 1 }, (_, i) => i);
  const groupOffsets = [0];
  for (const group of groups) groupOffsets.push(groupOffsets.at(-1)! + group.length);
  return {
    logprobs: Float32Array.from(rows, (row) => row.logp),
    oldLogprobs: new Float32Array(n),
    refLogprobs: new Float32Array(n),
    advantages: new Float32Array(n),
    weights: new Float32Array(n).fill(1 / n),
    segmentOffsets: offsets,
    segmentTokens: offsets.slice(0, n),
    segmentItem: new Int32Array(n),
    rowSegments: offsets,
    rowOffsets: offsets,
    groupOffsets: Int32Array.from(groupOffsets),
    rewards: Float64Array.from(rows, (row) => row.reward),
  };
};
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

describe("preference losses", () => {
  it("gradients are those of the loss", () => {
    for (const objective of [dpo(), dpo({ beta: 2 }), sDpo(), sDpo({ beta: 2 })]) {
      expect(checkCustomObjective(objective)).toMatchObject({ passed: true });
      expect(faults(objective)).toBe("");
    }
  });

  it("dpo: every pair that differs, as the paper writes it", () => {
    const input = lists([
      [
        { logp: -1, reward: 2 },
        { logp: -2, reward: 0 },
        { logp: -1.5, reward: 0 },
      ],
      [
        { logp: -3, reward: 1 },
        { logp: -1, reward: 1 },
      ],
    ]);
    const { loss, dlogp, metrics } = dpo({ beta: 0.5 }).evaluate(input);
    const margins = [0.5 * (-1 + 2), 0.5 * (-1 + 1.5)];
    expect(loss).toBeCloseTo((-Math.log(sigmoid(margins[0]!)) - Math.log(sigmoid(margins[1]!))) / 2, 12);
    expect(dlogp[1]).toBeCloseTo((0.5 * sigmoid(-margins[0]!)) / 2, 7);
    expect(dlogp[0]).toBeCloseTo(-dlogp[1]! - dlogp[2]!, 7);
    expect([...dlogp.slice(3)]).toEqual([0, 0]);
    expect(metrics).toEqual({ comparisons: 2, accuracy: 1 });
  });

  it("s-dpo: the softmax of the rejected lists; with one of them it is dpo", () => {
    const three = lists([
      [
        { logp: -1, reward: 2 },
        { logp: -2, reward: 0 },
        { logp: -1.5, reward: 1 },
      ],
    ]);
    const sum = Math.exp(0.5 * (-2 + 1)) + Math.exp(0.5 * (-1.5 + 1));
    expect(sDpo({ beta: 0.5 }).evaluate(three).loss).toBeCloseTo(-Math.log(sigmoid(-Math.log(sum))), 12);
    const two = lists([
      [
        { logp: -1, reward: 2 },
        { logp: -2, reward: 0 },
      ],
    ]);
    expect(sDpo().evaluate(two)).toEqual(dpo().evaluate(two));
  });

  it("groups without a difference give exactly nothing", () => {
    const equal = lists([
      [
        { logp: -1, reward: 1 },
        { logp: -2, reward: 1 },
      ],
    ]);
    for (const objective of [dpo(), sDpo()]) {
      const { loss, dlogp } = objective.evaluate(equal);
      expect(loss).toBe(0);
      expect(dlogp.every((g) => g === 0)).toBe(true);
    }
  });
});

describe("entropy target", () => {
  it("gradients are those of the loss, by log-probs and by entropies", () => {
    for (const objective of [
      entropyTarget({ target: 1 }),
      entropyTarget({ target: 0.2, coefficient: 3, objective: "sapo" }),
    ]) {
      expect(faults(objective)).toBe("");
    }
  });
  it("pulls up below the target and down above it", () => {
    const input = sampleStep(1);
    const slope = (target: number): number =>
      entropyTarget({ target })
        .evaluate(input)
        .dentropy!.find((g) => g !== 0)!;
    expect(slope(100)).toBeLessThan(0);
    expect(slope(0)).toBeGreaterThan(0);
  });
});

describe("a definition", () => {
  const same = (change: Partial<CustomObjective> = {}): CustomObjective => ({
    name: "same",
    source: "a test",
    evaluate: (input) => policyLoss(input, { params: { clipLow: 0.06, clipHigh: 0.08 } }),
    ...change,
  });

  it("the native loss written as one passes", () => expect(faults(same())).toBe(""));

  it("wrong gradients, changed inputs and moods are found", () => {
    const evaluate = same().evaluate;
    expect(
      faults(same({ evaluate: (input) => ({ ...evaluate(input), dlogp: evaluate(input).dlogp.map((g) => 2 * g) }) })),
    ).toMatch(/gradient by logprobs\[\d+\]/);
    const changing = (input: ObjectiveInput) => {
      input.weights.fill(0.5);
      return evaluate(input);
    };
    expect(faults(same({ evaluate: changing }))).toContain("changes its input");
    let calls = 0;
    expect(faults(same({ evaluate: (input) => ({ ...evaluate(input), loss: calls++ }) }))).toContain("two losses");
    const nothing = (input: ObjectiveInput) => ({ loss: 0, dlogp: new Float32Array(input.logprobs.length) });
    expect(faults(same({ evaluate: nothing }))).toContain("no token carries a gradient");
  });

  it("is refused where it is none, and its output where it cannot be used", () => {
    expect(() => defineObjective(same({ name: "No Name" }))).toThrow(/objective.name/);
    expect(() => defineObjective(same({ source: " " }))).toThrow(/objective.source/);
    const given = (output: object): (() => unknown) => {
      const objective = defineObjective(same({ evaluate: () => output as ReturnType<CustomObjective["evaluate"]> }));
      return () => objective.evaluate(sampleStep(0));
    };
    const T = sampleStep(0).logprobs.length;
    expect(given({ loss: Number.NaN, dlogp: new Float32Array(T) })).toThrow(/finite loss for same, got NaN/);
    expect(given({ loss: 0, dlogp: new Float32Array(2) })).toThrow(/same.dlogp, got "2 values"/);
    expect(given({ loss: 0, dlogp: [0] })).toThrow(/same.dlogp/);
    expect(given({ loss: 0, dlogp: new Float32Array(T).fill(1 / 0) })).toThrow(/Infinity at token 0/);
    expect(given({ loss: 0, dlogp: new Float32Array(T), dentropy: new Float32Array(T) })).toThrow(/entropies: true/);
    expect(() => dpo().evaluate(lists([]))).not.toThrow();
    const { refLogprobs: _, ...without } = lists([]);
    expect(() => dpo().evaluate(without)).toThrow(/log-probs of a reference/);
    expect(() => dpo({ beta: 0 })).toThrow(/beta/);
    expect(() => entropyTarget({ target: -1 })).toThrow(/target/);
  });
});

describe("the trainer", () => {
  const root = mkdtempSync(join(tmpdir(), "rank-grpo-custom-"));
  beforeAll(() => writeWorld(new World({ seed: 3 }), join(root, "data"), 16));
  afterAll(() => rmSync(root, { recursive: true, force: true }));
  const config = (change: Partial<TrainConfig> = {}): TrainConfig => ({
    ...worldConfigs(join(root, "data"), 3).train,
    model: {
      shape: {
        hidden_size: 32,
        intermediate_size: 48,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        max_position_embeddings: 96,
      },
      tokenizer: join(root, "data/tokenizer"),
    },
    steps: 2,
    promptsPerStep: 4,
    groupSize: 4,
    maxNewTokens: 24,
    updatesPerRollout: 2,
    limit: 16,
    validation: undefined,
    ...change,
  });
  /** Something an untrained model can earn: differs by list and rank. */
  const reward: Reward = (completion) => Array.from({ length: 10 }, (_, k) => (completion.ids[k] ?? 0) % 3);
  const weights = (run: string): Buffer => readFileSync(join(root, run, "final/model.safetensors"));

  it("the native loss as an own one trains to the same bits", async () => {
    await train(config(), { output: join(root, "native"), rewards: [reward] });
    const own = defineObjective({
      name: "own",
      source: "Rank-GRPO Eq. 6, again",
      reference: true,
      evaluate: (input) => policyLoss(input, "rank-grpo"),
    });
    await train(config({ objective: "rank-grpo" }), { output: join(root, "own"), rewards: [reward], objective: own });
    expect(weights("own").equals(weights("native"))).toBe(true);
  });

  it("runs preference and entropy losses, and logs what they report", async () => {
    for (const objective of [sDpo(), dpo(), entropyTarget({ target: 2 })]) {
      const reports = [];
      const options = { output: join(root, objective.name), rewards: [reward], objective };
      for await (const report of trainSteps(config(), options)) reports.push(report.metrics);
      expect(reports).toHaveLength(2);
      for (const metrics of reports) {
        expect(Number.isFinite(metrics["policy/loss"])).toBe(true);
        expect(metrics["optimizer/grad_norm"] as number).toBeGreaterThan(0);
        expect(Object.keys(metrics).some((key) => key.startsWith("objective/"))).toBe(true);
      }
    }
  });
});
