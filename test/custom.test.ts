// Objectives in TypeScript: their gradients, what the definition refuses, and the trainer running them.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { policyLoss } from "../src/kernels.ts";
import { clipCov, covariances, klCov } from "../src/objective/covariance.ts";
import {
  type CustomObjective,
  checkCustomObjective,
  defineObjective,
  type ObjectiveInput,
  sampleStep,
} from "../src/objective/custom.ts";
import { entropyTarget } from "../src/objective/entropy.ts";
import { resolveNamed } from "../src/objective/named.ts";
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

interface CovarianceGolden {
  logp: number[];
  old: number[];
  advantage: number[];
  weight: number[];
  segments: Record<string, number[][]>;
  objectives: { name: string; level: string; options: Record<string, number>; loss: number; dlogp: number[] }[];
}
const golden = JSON.parse(readFileSync(new URL("fixtures/signals.json", import.meta.url), "utf8")) as CovarianceGolden;

describe("Clip-Cov and KL-Cov", () => {
  const inputOf = (level: string): ObjectiveInput => {
    const segments = golden.segments[level]!;
    const offsets = [0];
    for (const segment of segments) offsets.push(offsets.at(-1)! + segment.length);
    return {
      ...sampleStep(0),
      logprobs: Float32Array.from(golden.logp),
      oldLogprobs: Float32Array.from(golden.old),
      advantages: Float32Array.from(golden.advantage),
      weights: Float32Array.from(golden.weight),
      segmentOffsets: Int32Array.from(offsets),
      segmentTokens: Int32Array.from(segments.flat()),
    };
  };
  const { refLogprobs: _, entropies: __, ...plain } = sampleStep(0);
  for (const { name, level, options, loss, dlogp } of golden.objectives)
    it(`${name} ${JSON.stringify(options)}, ${level}, is jax's`, () => {
      const clip = { objective: { params: { clipLow: 0.2, clipHigh: 0.2 } } };
      const objective = name === "kl-cov" ? klCov(options) : clipCov({ ...options, ...clip });
      const { refLogprobs: _ref, entropies: _entropies, ...input } = inputOf(level);
      const out = objective.evaluate(input);
      expect(Math.abs(out.loss - loss)).toBeLessThanOrEqual(1e-12 * Math.max(1, Math.abs(loss)));
      // the native gradient is rounded to float32 before the penalty's is added, which may cancel it
      const penalty = name === "kl-cov" ? options["coefficient"]! : 0;
      for (const [t, g] of dlogp.entries())
        expect(Math.abs(out.dlogp[t]! - g), `token ${t}`).toBeLessThanOrEqual(
          2 ** -23 * (Math.abs(g) + penalty * golden.weight[t]!) + 1e-12,
        );
      expect(Object.values(out.metrics!).some((x) => x > 0)).toBe(true);
    });
  it("gradients are those of the loss", () => {
    for (const objective of [
      clipCov({ share: 0.3, low: 0.1, high: 9 }),
      klCov({ share: 0.2 }),
      klCov({ share: 1, coefficient: 0.3 }),
      clipCov({ share: 0.3, low: 0.1, high: 9, objective: { beta: 0.3, entropyCoef: 0.2 } }),
      klCov({ share: 0.2, objective: { beta: 0.3, entropyCoef: 0.2 } }),
    ])
      expect(faults(objective)).toBe("");
  });
  it("leaves out as many tokens as asked for, the same ones each time, others in another step", () => {
    const objective = clipCov({ share: 0.1, low: -9, high: 9, objective: { rule: "nsr", params: { positive: 1 } } });
    const tokens = Int32Array.from(plain.segmentTokens).sort();
    const input = {
      ...plain,
      segmentOffsets: Int32Array.from({ length: tokens.length + 1 }, (_, i) => i),
      segmentTokens: tokens,
      advantages: plain.advantages.map((a) => a + 3),
    };
    const covered = plain.weights.filter((w) => w > 0).length;
    const missing = (step: ObjectiveInput): number[] => {
      const { dlogp } = objective.evaluate(step);
      return [...dlogp.keys()].filter((t) => step.weights[t]! > 0 && dlogp[t] === 0);
    };
    expect(missing(input)).toHaveLength(Math.floor(0.1 * covered));
    expect(missing(input)).toEqual(missing(input));
    expect(missing({ ...input, advantages: input.advantages.map((a) => a + 1) })).not.toEqual(missing(input));
    expect(covariances(input).filter((x) => !Number.isNaN(x)).length).toBe(covered);
  });
  it("refuses what is wrong", () => {
    expect(() => clipCov({ share: 0 })).toThrow(/share/);
    expect(() => clipCov({ low: 5 })).toThrow(/above low/);
    expect(() => klCov({ coefficient: -1 })).toThrow(/coefficient/);
  });
});

describe("objectives by name", () => {
  const own = { mine: dpo({ beta: 3 }), made: (params: Readonly<Record<string, unknown>>) => dpo(params as object) };
  it("presets, rules, the package's own, and own ones, on the segments of a base", () => {
    expect(resolveNamed("grpo")).toMatchObject({ custom: undefined, objective: { name: "grpo" } });
    expect(resolveNamed({ name: "gmpo", beta: 0.5 }).objective).toMatchObject({ rule: "gmpo", beta: 0.5 });
    expect(resolveNamed("dpo")).toMatchObject({ custom: { name: "dpo" }, objective: { name: "rank-grpo" } });
    const held = resolveNamed({ name: "kl-cov", base: "grpo", params: { share: 0.1 }, weighting: "dr-grpo" });
    expect(held).toMatchObject({ custom: { name: "kl-cov" }, objective: { ratio: "token", weighting: "dr-grpo" } });
    const losses = ["grpo", { beta: 0.1 }, { rule: "gmpo" }, undefined];
    for (const name of ["clip-cov", "kl-cov", "entropy-target"])
      expect(
        losses.map((objective) => {
          const params = { objective, ...(name === "entropy-target" ? { target: 1 } : {}) };
          return resolveNamed({ name, params }).custom!.reference;
        }),
      ).toEqual([true, true, false, false]);
    expect(resolveNamed("mine", own).custom).toMatchObject({ name: "dpo", source: own.mine.source });
    expect(() => resolveNamed("bad", { bad: { name: "Bad Name" } as CustomObjective })).toThrow(/lower-case/);
    expect(resolveNamed({ name: "made", params: { beta: 2 } }, own).custom).toMatchObject({ name: "dpo" });
  });
  it("refuses what is wrong, with the nearest name", () => {
    expect(() => resolveNamed("minee", own)).toThrow(/Did you mean mine\?/);
    expect(() => resolveNamed({ name: "kl-cov", params: { shar: 1 } })).toThrow(/Did you mean share\?/);
    expect(() => resolveNamed({ name: "kl-cov", params: { share: 2 } })).toThrow(/share/);
    expect(() => resolveNamed({ name: "kl-cov", params: { objective: "grpoo" } })).toThrow(/Did you mean grpo\?/);
    expect(() => resolveNamed({ name: "grpo", base: "gspo" })).toThrow(/no base/);
    expect(() => resolveNamed({ name: "mine", params: { beta: 1 } }, own)).toThrow(/takes none/);
    expect(() => resolveNamed("entropy-target")).toThrow(/target/);
    expect(() => resolveNamed({ name: "dpo", beta: 0.5 })).toThrow(/objective dpo, got "beta".*objective\.params/);
    expect(() => resolveNamed({ name: "mine", spread: "token" }, own)).toThrow(/no field of the native loss/);
    expect(() => resolveNamed("grpo", { grpo: own.mine })).toThrow(/not built in/);
  });
});

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
      entropyTarget({ target: 1, objective: { beta: 0.3, entropyCoef: 0.2 } }),
    ]) {
      expect(faults(objective)).toBe("");
    }
  });
  it("asks for the reference and the entropies that the loss inside needs", () => {
    const needs = ({ reference, entropies }: CustomObjective) => ({ reference, entropies });
    for (const make of [clipCov, klCov]) {
      expect(needs(make())).toEqual({ reference: false, entropies: false });
      expect(needs(make({ objective: "grpo" }))).toEqual({ reference: true, entropies: false });
      expect(needs(make({ objective: { entropyCoef: 0.1 } }))).toEqual({ reference: false, entropies: true });
    }
    expect(needs(entropyTarget({ target: 1 }))).toEqual({ reference: false, entropies: true });
    expect(needs(entropyTarget({ target: 1, objective: "grpo" }))).toEqual({ reference: true, entropies: true });
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
    expect(given(undefined as unknown as object)).toThrow(/finite loss for same, got undefined/);
    expect(() => defineObjective(undefined as unknown as CustomObjective)).toThrow(
      /evaluate for objective, got undefined/,
    );
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
    const sampled = ["own", "native"].map((run) =>
      readFileSync(join(root, run, "metrics.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => (JSON.parse(line) as Record<string, number>)["policy/logprob_mean"]),
    );
    expect(sampled[0]).toEqual(sampled[1]);
  });

  it("runs preference and entropy losses, and logs what they report", async () => {
    for (const objective of [sDpo(), dpo(), entropyTarget({ target: 2 })]) {
      const reports = [];
      const options = { output: join(root, `own-${objective.name}`), rewards: [reward], objective };
      for await (const report of trainSteps(config(), options)) reports.push(report.metrics);
      expect(reports).toHaveLength(2);
      for (const metrics of reports) {
        expect(Number.isFinite(metrics["policy/loss"])).toBe(true);
        expect(metrics["policy/mismatch_max"]).toBe(0);
        expect(metrics["optimizer/grad_norm"] as number).toBeGreaterThan(0);
        expect(Object.keys(metrics).some((key) => key.startsWith("objective/"))).toBe(true);
      }
    }
  });
  it("by name from a configuration and a module", async () => {
    const module = join(root, "objectives.mjs");
    writeFileSync(
      module,
      `export const objectives = { flat: ({ size }) => ({ name: "flat", source: "test", evaluate: ({ logprobs }) => ({ loss: 0, dlogp: logprobs.map(() => size) }) }) };\n`,
    );
    for (const objective of [
      "dpo",
      { name: "kl-cov", base: "grpo", params: { share: 0.1 } },
      { name: "flat", params: { size: 0.5 } },
    ]) {
      const name = typeof objective === "string" ? objective : objective.name;
      const reports = [];
      const more = { objective, modules: [module], updatesPerRollout: 2, steps: 1 };
      for await (const report of trainSteps(config(more), { output: join(root, `named-${name}`), rewards: [reward] }))
        reports.push(report.metrics);
      expect(reports[0]!["optimizer/grad_norm"] as number, name).toBeGreaterThan(0);
    }
  });
});
