// What a policy holds, and that saving memory changes no result: weights in panels alone, activations computed again.
import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";

import { addon, type NativeBatch, type NativePolicyOptions } from "../src/native.ts";
import { Policy, type PolicyOptions } from "../src/policy.ts";
import { describePlan, planMemory, planned } from "../src/training/memory.ts";
import { hasShared, shared } from "./shared.ts";

const batch = (): NativeBatch => ({
  promptIds: Int32Array.from({ length: 45 }, (_, i) => (i * 11) % 50),
  promptOffsets: Int32Array.of(0, 37, 45),
  completionIds: Int32Array.from({ length: 70 }, (_, i) => (i * 7 + 3) % 50),
  completionOffsets: Int32Array.of(0, 20, 41, 42, 70),
  groupOffsets: Int32Array.of(0, 2, 4),
});
const slopes = Float32Array.from({ length: 70 }, (_, i) => Math.sin(i));

const load = (model: string, options: NativePolicyOptions) =>
  addon.NativePolicy.load(shared(`models/tiny/${model}`), options);
const models = ["llama-default", "llama-mha-tied", "qwen2", "qwen3", "odd-shapes"];

describe.skipIf(!hasShared)("a policy keeps its weights in panels alone", () => {
  for (const compute of ["f32", "bf16"] as const) {
    it(`scores and samples with the bits of a trained one, ${compute}`, async () => {
      for (const model of models) {
        const trained = await load(model, { compute });
        const frozen = await load(model, { compute, trainable: false });
        const ours = await frozen.score(batch(), { entropies: true });
        const theirs = await trained.score(batch(), { entropies: true });
        expect([...ours.logprobs], model).toEqual([...theirs.logprobs]);
        expect([...ours.entropies!], model).toEqual([...theirs.entropies!]);
        const request = { ...batch(), groupSize: 2, maxNewTokens: 12, seed: 5, ignoreStop: true };
        expect([...(await frozen.generate(request)).ids]).toEqual([...(await trained.generate(request)).ids]);
        trained.dispose();
        frozen.dispose();
      }
    });
  }

  it("gives back and takes every parameter", async () => {
    for (const model of models) {
      const trained = await load(model, {});
      const frozen = await load(model, { trainable: false });
      const copy = await load(model, { trainable: false });
      for (const name of trained.describe().parameters) {
        const values = await trained.getParameter(name);
        expect([...(await frozen.getParameter(name))], `${model} ${name}`).toEqual([...values]);
        await copy.setParameter(
          name,
          values.map((x) => 2 * x),
        );
        await trained.setParameter(
          name,
          values.map((x) => 2 * x),
        );
        expect([...(await copy.getParameter(name))], `${model} ${name}`).toEqual([
          ...(await trained.getParameter(name)),
        ]);
      }
      await frozen.copyFrom(trained);
      const wanted = [...(await trained.score(batch())).logprobs];
      expect([...(await frozen.score(batch())).logprobs]).toEqual(wanted);
      expect([...(await copy.score(batch())).logprobs]).toEqual(wanted);
      for (const policy of [trained, frozen, copy]) policy.dispose();
    }
  });

  it("takes over the weights of its own shape alone", async () => {
    const shaped = (heads: number, keyHeads: number, headDim: number, intermediate: number) =>
      addon.NativePolicy.create(
        JSON.stringify({
          model_type: "llama",
          vocab_size: 16,
          hidden_size: 16,
          intermediate_size: intermediate,
          num_hidden_layers: 1,
          num_attention_heads: heads,
          num_key_value_heads: keyHeads,
          head_dim: headDim,
        }),
        { trainable: false },
      );
    const policy = await shaped(4, 2, 6, 12);
    await policy.copyFrom(await shaped(4, 2, 6, 12));
    // as many values in as many parameters: more of them in keys and values, and the same ones as other heads
    for (const other of [await shaped(4, 4, 6, 4), await shaped(2, 1, 12, 12)])
      await expect(policy.copyFrom(other)).rejects.toThrow(/a policy of the same shape/);
  });

  it("holds no matrix but the packed ones, trained or not", async () => {
    for (const compute of ["f32", "bf16"] as const) {
      const trained = (await load("llama-mha-tied", { compute })).describe().memory;
      const frozen = (await load("llama-mha-tied", { compute, trainable: false })).describe().memory;
      expect(frozen.weights).toBe(trained.weights);
      expect(frozen.weights).toBeLessThan(trained.gradients / 20);
      expect(trained.packedWeights).toBe(trained.gradients);
      expect(frozen.packedWeights).toBe(trained.gradients / (compute === "bf16" ? 2 : 1));
      expect(frozen.gradients + frozen.optimizer + frozen.activations).toBe(0);
      expect(trained.optimizer).toBe(2 * trained.gradients);
    }
  });
});

describe.skipIf(!hasShared)("a trained policy in bf16 keeps every weight in f32", () => {
  it("takes and gives back values that bf16 cannot hold", async () => {
    for (const model of models) {
      const policy = await load(model, { compute: "bf16" });
      for (const name of policy.describe().parameters) {
        const values = (await policy.getParameter(name)).map((_, i) => Math.sin(i * 1.7 + 1) * 10 ** (i % 7));
        await policy.setParameter(name, values);
        expect([...(await policy.getParameter(name))], `${model} ${name}`).toEqual([...values]);
      }
      policy.dispose();
    }
  });

  it("takes AdamW's steps that bf16 would lose", async () => {
    const learningRate = 1e-5;
    const weightDecay = 0.1;
    for (const model of models) {
      const policy = await load(model, { compute: "bf16" });
      const names = policy.describe().parameters;
      await policy.backward(batch(), slopes);
      const before = new Map<string, { w: Float32Array; g: Float32Array }>();
      for (const name of names)
        before.set(name, { w: await policy.getParameter(name), g: await policy.getGradient(name) });
      await policy.optimizerStep({ learningRate, weightDecay, maxGradNorm: 0 });
      for (const name of names) {
        const { w, g } = before.get(name)!;
        const after = await policy.getParameter(name);
        // the first step: the moments' quotient is g / |g|, but for epsilon
        const wanted = w.map((x, i) => x - learningRate * (g[i]! / (Math.abs(g[i]!) + 1e-8) + weightDecay * x));
        const furthest = Math.max(...after.map((x, i) => Math.abs(x - wanted[i]!) / Math.max(1, Math.abs(x))));
        expect(furthest, `${model} ${name}`).toBeLessThan(2e-7);
      }
      policy.dispose();
    }
  });
});

describe("weights kept in bf16 alone", () => {
  const shape = { model_type: "llama", hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2 } as const;
  const sizes = { ...shape, num_attention_heads: 4, vocab_size: 100, max_position_embeddings: 64 };
  const create = (options: PolicyOptions) => Policy.create(sizes, { seed: 1, std: 0.02, ...options });
  it("are refused on the CPU and in f32 compute, in words", async () => {
    await expect(create({ weights: "bf16", compute: "bf16" })).rejects.toThrow(
      "Expected f32 on device cpu (weights in bf16 are for a GPU) for weights, got bf16.",
    );
    await expect(create({ weights: "bf16" })).rejects.toThrow("weights in bf16 need bf16 compute");
    await expect(create({ weights: "f16" as "f32" })).rejects.toThrow(/"f32" or "bf16" for weights/);
  });
});

describe.skipIf(!hasShared)("layers computed again", () => {
  it("give the bits of layers kept, whatever the budget", async () => {
    for (const model of models) {
      const gradients: number[][] = [];
      for (const activationMiB of [1024, 0]) {
        const policy = await load(model, { activationMiB });
        await policy.backward(batch(), slopes);
        const all: number[] = [];
        for (const name of policy.describe().parameters) all.push(...(await policy.getGradient(name)));
        gradients.push(all);
        policy.dispose();
      }
      expect(gradients[1], model).toEqual(gradients[0]);
    }
  });
});

describe("memory is estimated before work starts", () => {
  const run = promisify(execFile);
  for (const compute of ["f32", "bf16"])
    for (const [work, shape] of [
      ["many tokens", "small"],
      ["many rows", "wide"],
    ] as const)
      it.skipIf(!existsSync("/proc/self/clear_refs"))(
        `${compute}, ${work}: the peak is near what was said`,
        async () => {
          const { stdout } = await run(process.execPath, [
            "--import",
            "tsx",
            "test/fixtures/memory.mts",
            compute,
            shape,
          ]);
          const { said, peak } = JSON.parse(stdout) as { said: number; peak: number };
          expect(peak).toBeGreaterThan(0.75 * said);
          expect(peak).toBeLessThan(1.1 * said);
        },
        60_000,
      );

  it("refuses what does not fit, and says what would help", async () => {
    const shape = { model_type: "llama", hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2 } as const;
    const policy = await Policy.create(
      { ...shape, num_attention_heads: 4, vocab_size: 100, max_position_embeddings: 64 },
      { seed: 1, std: 0.02 },
    );
    const held = policy.bytes;
    const work = { passTokens: 0, backward: true, rows: 2 ** 24, groupSize: 1, promptTokens: 32, newTokens: 32 };
    expect(() => planMemory(policy, undefined, work, "maxRows")).toThrow(
      /^Expected \d+\.\d GB \(policy \S+, passes \S+\) of \S+ GB to be free, got less\. Lower maxRows, or/,
    );
    expect(policy.bytes).toBe(held);
    policy.dispose();
  });

  it("optimizer state in the host's memory: nothing beside the CPU's own, and said apart for a GPU", async () => {
    const shape = { model_type: "llama", hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2 } as const;
    const options = { seed: 1, std: 0.02 };
    const sizes = { ...shape, num_attention_heads: 4, vocab_size: 100, max_position_embeddings: 64 };
    const [device, host] = [
      await Policy.create(sizes, options),
      await Policy.create(sizes, { ...options, optimizerState: "host" }),
    ];
    const work = { passTokens: 64, backward: true, rows: 0, groupSize: 1, promptTokens: 0, newTokens: 0 };
    const plan = planMemory(host, undefined, work, "anything");
    expect(plan.onHost).toBe(0);
    expect(planned(plan)).toBe(planned(planMemory(device, undefined, work, "anything")));
    expect(describePlan(plan)).not.toContain("host");
    expect(describePlan({ policy: 2e9, reference: 0, passes: 1e9, available: 8e9, onHost: 4e9 })).toBe(
      "memory: at most 3.0 GB (policy 2.0, passes 1.0) of 8.0 GB, and 4.0 GB of the host's for the optimizer",
    );
    await expect(Policy.create(sizes, { ...options, optimizerState: "disk" as "host" })).rejects.toThrow(
      /"device" or "host" for optimizerState, got "disk"/,
    );
    device.dispose();
    host.dispose();
  });
});
