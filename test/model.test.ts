// The engine against float64 goldens of the field's own framework: log-probs, entropies, gradients, AdamW and greedy ids.
import { describe, expect, it } from "vitest";

import { addon, type NativeBatch } from "../src/native.ts";
import { hasShared, readShared, shared } from "./shared.ts";

interface Golden {
  rows: number[][];
  mask: number[][];
  forward: { temperature: number; logprobs: number[][]; entropies: number[][] }[];
  loss: { value: number; grad_norm: number; grad_l2: Record<string, number> };
  greedy: { prompt: number[]; ids: number[] };
  rl: {
    prompt: number[];
    completions: number[][];
    coefficients: number[][];
    logprobs: number[][];
    grad_l2: Record<string, number>;
  };
}

const batchOf = (groups: { prompt: number[]; completions: number[][] }[]): NativeBatch => {
  const offsets = (lengths: number[]): Int32Array => {
    const out = new Int32Array(lengths.length + 1);
    lengths.forEach((n, i) => {
      out[i + 1] = (out[i] ?? 0) + n;
    });
    return out;
  };
  const completions = groups.flatMap((g) => g.completions);
  return {
    promptIds: Int32Array.from(groups.flatMap((g) => g.prompt)),
    promptOffsets: offsets(groups.map((g) => g.prompt.length)),
    completionIds: Int32Array.from(completions.flat()),
    completionOffsets: offsets(completions.map((c) => c.length)),
    groupOffsets: offsets(groups.map((g) => g.completions.length)),
  };
};

const rowBatch = (rows: number[][]): NativeBatch =>
  batchOf(rows.map((row) => ({ prompt: row.slice(0, 1), completions: [row.slice(1)] })));

const norm = (values: Float32Array): number => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0));
const largestDifference = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  expect(a.length).toBe(b.length);
  let worst = 0;
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs((a[i] as number) - (b[i] as number)));
  return worst;
};

const cases = [
  "llama-default",
  "llama-mha-tied",
  "llama3-rope",
  "qwen2",
  "qwen3",
  "odd-shapes",
  "llama-default-sharded",
];

describe.skipIf(!hasShared)("tiny models against float64 transformers", () => {
  for (const name of cases) {
    const golden = (): Golden => readShared<Golden>(`models/tiny/${name.replace("-sharded", "")}/golden.json`);

    it(`${name}: log-probs and entropies at both temperatures`, async () => {
      const g = golden();
      const policy = await addon.NativePolicy.load(shared(`models/tiny/${name}`), { trainable: false });
      for (const forward of g.forward) {
        const scores = await policy.score(rowBatch(g.rows), { temperature: forward.temperature, entropies: true });
        expect(largestDifference(scores.logprobs, forward.logprobs.flat())).toBeLessThan(3e-5);
        expect(
          largestDifference(
            scores.entropies ?? [],
            forward.entropies.flatMap((row) => row.slice(0, -1)),
          ),
        ).toBeLessThan(3e-5);
      }
      policy.dispose();
    });

    it(`${name}: loss, gradient of every parameter and its norm`, async () => {
      const g = golden();
      const policy = await addon.NativePolicy.load(shared(`models/tiny/${name}`));
      const mask = g.rows.flatMap((row, i) => row.slice(1).map((_, t) => g.mask[i]?.[t] ?? 0));
      const tokens = mask.reduce((a, b) => a + b, 0);
      const scores = await policy.backward(
        rowBatch(g.rows),
        Float32Array.from(mask, (m) => -m / tokens),
      );
      const loss = scores.logprobs.reduce((sum, x, t) => sum - (x * (mask[t] as number)) / tokens, 0);
      expect(Math.abs(loss - g.loss.value)).toBeLessThan(1e-5);
      for (const [parameter, l2] of Object.entries(g.loss.grad_l2)) {
        expect(Math.abs(norm(await policy.getGradient(parameter)) - l2) / l2, parameter).toBeLessThan(1e-5);
      }
      expect(Math.abs((await policy.optimizerStep({ learningRate: 0 })) - g.loss.grad_norm)).toBeLessThan(1e-4);
      policy.dispose();
    });

    it(`${name}: greedy ids`, async () => {
      const g = golden();
      const policy = await addon.NativePolicy.load(shared(`models/tiny/${name}`), { trainable: false });
      const out = await policy.generate({
        promptIds: Int32Array.from(g.greedy.prompt),
        promptOffsets: Int32Array.of(0, g.greedy.prompt.length),
        maxNewTokens: g.greedy.ids.length,
        greedy: true,
        ignoreStop: true,
      });
      expect([...out.ids]).toEqual(g.greedy.ids);
      policy.dispose();
    });
  }

  it("a group's prompt computed once gives the gradient of separate copies", async () => {
    for (const name of cases.slice(0, 6)) {
      const g = readShared<Golden>(`models/tiny/${name}/golden.json`);
      const policy = await addon.NativePolicy.load(shared(`models/tiny/${name}`));
      const batch = batchOf([{ prompt: g.rl.prompt, completions: g.rl.completions }]);
      const scores = await policy.backward(batch, Float32Array.from(g.rl.coefficients.flat()));
      expect(largestDifference(scores.logprobs, g.rl.logprobs.flat())).toBeLessThan(3e-5);
      for (const [parameter, l2] of Object.entries(g.rl.grad_l2)) {
        expect(Math.abs(norm(await policy.getGradient(parameter)) - l2) / l2, `${name} ${parameter}`).toBeLessThan(
          1e-5,
        );
      }
      policy.dispose();
    }
  });
});

describe.skipIf(!hasShared)("sampler = trainer, bit for bit in f32", () => {
  it("log-probs sampled with are those scored: alone, in groups, permuted, in small micro-batches", async () => {
    for (const name of cases.slice(0, 6)) {
      const policy = await addon.NativePolicy.load(shared(`models/tiny/${name}`), { trainable: false });
      const prompts = [5, 37, 32, 64].map((n) => Array.from({ length: n }, (_, i) => (i * 7 + n) % 50));
      const out = await policy.generate({
        promptIds: Int32Array.from(prompts.flat()),
        promptOffsets: Int32Array.from([0, 5, 42, 74, 138]),
        groupSize: 3,
        maxNewTokens: 40,
        maxRows: 7,
        temperature: 0.7,
        seed: 3,
        ignoreStop: true,
      });
      const row = (r: number): number[] => [...out.ids.subarray(out.offsets[r], out.offsets[r + 1])];
      const logprobs = (r: number): number[] => [...out.logprobs.subarray(out.offsets[r], out.offsets[r + 1])];
      const grouped = await policy.score(
        batchOf(prompts.map((prompt, p) => ({ prompt, completions: [0, 1, 2].map((s) => row(p * 3 + s)) }))),
        { temperature: 0.7, microBatchTokens: 150 },
      );
      expect([...grouped.logprobs]).toEqual([...out.logprobs]);
      const order = [7, 2, 11, 0, 5, 9, 1];
      const permuted = await policy.score(
        batchOf(order.map((r) => ({ prompt: prompts[Math.floor(r / 3)] as number[], completions: [row(r)] }))),
        { temperature: 0.7 },
      );
      expect([...permuted.logprobs]).toEqual(order.flatMap(logprobs));
      const alone = await policy.score(batchOf([{ prompt: prompts[1] as number[], completions: [row(4)] }]), {
        temperature: 0.7,
      });
      expect([...alone.logprobs]).toEqual(logprobs(4));
      policy.dispose();
    }
  });
});
