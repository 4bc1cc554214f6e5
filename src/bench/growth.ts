// Cost as work grows: the time of one kind of work at growing sizes, and the exponent of a power law through them. Below 1 a fixed cost is
// spread; prompts shared by a group show as an exponent below 1 over the size of the group.
import { policyLoss } from "../kernels.ts";
import { benchInChild } from "./child.ts";
import type { Harness, Work } from "./harness.ts";
import { type BenchModel, createPolicy, forwardFlops, models, promptsOf, tokens } from "./models.ts";
import { gradientIsRight } from "./update.ts";

const small = models[1]!;

async function series(
  harness: Harness,
  what: string,
  sizes: readonly number[],
  make: (size: number) => Promise<Pick<Work, "shape" | "validate" | "run" | "flops" | "updateBytes">>,
): Promise<void> {
  const times: number[] = [];
  for (const size of sizes) {
    const row = await harness.measure({
      name: what,
      dtype: "f32",
      series: { over: what, size },
      ...(await make(size)),
    });
    if (row) times.push(row.timeMs);
  }
  if (times.length === sizes.length) noteGrowth(harness, what, sizes, times);
}

const noteGrowth = (harness: Harness, what: string, sizes: readonly number[], times: readonly number[]): void =>
  harness.note(`time of ${what} ~ size^p, p = ${exponent(sizes, times).toFixed(2)} over ${sizes.join(", ")}`);

/** An engine keeps the threads it started with: each number of them in a process of its own. */
async function overThreads(harness: Harness): Promise<void> {
  const over = "gradient, over threads";
  if (!harness.wants({ name: over, shape: "", dtype: "f32" })) return;
  const most = harness.device.threads;
  const counts = Array.from({ length: most }, (_, i) => i + 1).filter(
    (n) => n === most || Number.isInteger(Math.log2(n)),
  );
  const times: number[] = [];
  for (const size of counts) {
    const child = await benchInChild(
      { suites: ["growth"], only: ["gradient, over prompts"], seconds: harness.seconds },
      { RANK_GRPO_THREADS: String(size) },
    );
    const row = child.rows.at(-1)!; // of the most prompts
    harness.adopt({ ...row, name: over, series: { over, size } });
    times.push(row.timeMs);
  }
  if (counts.length > 1) noteGrowth(harness, over, counts, times);
}

/** p of the power law time = a size^p that lies nearest to the logarithms of the times. */
export function exponent(sizes: readonly number[], times: readonly number[]): number {
  const [x, y] = [sizes.map(Math.log), times.map(Math.log)];
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  const [mx, my] = [mean(x), mean(y)];
  const covariance = x.reduce((sum, xi, i) => sum + (xi - mx) * (y[i]! - my), 0);
  return covariance / x.reduce((sum, xi) => sum + (xi - mx) ** 2, 0);
}

export async function growth(harness: Harness): Promise<void> {
  const policy = await createPolicy(small, { compute: "f32" });
  const valid = () => gradientIsRight(policy, promptsOf(small, 1)[0]!, "f32");
  type Batch = Pick<BenchModel, "prompts" | "group" | "promptTokens" | "completionTokens">;
  const backward = (model: Batch) => {
    const groups = Array.from({ length: model.prompts }, (_, p) => ({
      prompt: tokens(model.promptTokens, small.shape.vocab_size, p),
      completions: Array.from({ length: model.group }, (_, s) =>
        tokens(model.completionTokens, small.shape.vocab_size, 500 + s),
      ),
    }));
    const slopes = new Float32Array(model.prompts * model.group * model.completionTokens).fill(0.01);
    return async () => {
      await policy.backward(groups, slopes);
    };
  };
  const base = { prompts: 4, group: 8, promptTokens: 40, completionTokens: 50 };
  const gradient = (shape: string, batch: Batch) => ({
    shape,
    flops: 3 * forwardFlops({ ...small, ...batch }), // twice that backward
    run: backward(batch),
    validate: valid,
  });
  await series(harness, "gradient, over prompts", [4, 8, 16, 32, 64], async (prompts) =>
    gradient(`${prompts} prompts x 8 lists`, { ...base, prompts }),
  );
  await series(harness, "gradient, over group size with a long prompt", [1, 2, 4, 8, 16], async (group) =>
    gradient(`prompt of 320, ${group} lists of 50`, { prompts: 8, group, promptTokens: 320, completionTokens: 50 }),
  );
  await series(harness, "gradient, over list length", [25, 50, 100, 200, 400], async (completionTokens) =>
    gradient(`lists of ${completionTokens}`, { ...base, prompts: 2, completionTokens }),
  );
  await series(harness, "gradient, over tokens of the prompt", [40, 80, 160, 320], async (promptTokens) =>
    gradient(`prompt of ${promptTokens}, 8 lists of 50`, { ...base, prompts: 2, promptTokens }),
  );
  policy.dispose();
  await overThreads(harness);
  await series(harness, "gradient, over vocabulary", [1000, 4000, 16_000, 64_000], async (vocabulary) => {
    const model = { ...small, shape: { ...small.shape, vocab_size: vocabulary } };
    const wide = await createPolicy(model, { compute: "f32" });
    const groups = [
      {
        prompt: tokens(40, vocabulary, 1),
        completions: Array.from({ length: 8 }, (_, s) => tokens(50, vocabulary, 2 + s)),
      },
    ];
    return {
      shape: `vocabulary ${vocabulary}, 8 lists of 50`,
      flops: 3 * forwardFlops({ ...model, ...base, prompts: 1 }),
      run: async () => {
        await wide.backward(groups, new Float32Array(400).fill(0.01));
      },
      validate: () => gradientIsRight(wide, groups[0]!.prompt, "f32"),
    };
  });
  await series(harness, "policy loss, over segments of 4096 tokens", [64, 256, 1024, 4096], async (segments) => {
    const T = 4096;
    const logprobs = new Float32Array(T).fill(-1);
    const input = {
      logprobs,
      oldLogprobs: logprobs.map((x) => x + 0.01),
      advantages: new Float32Array(T).fill(1),
      weights: new Float32Array(T).fill(1 / T),
      segmentOffsets: Int32Array.from({ length: segments + 1 }, (_, s) => (s * T) / segments),
      segmentTokens: Int32Array.from({ length: T }, (_, t) => t),
    };
    const ratio = Math.exp(-0.01);
    return {
      shape: `${segments} segments`,
      updateBytes: T * 4 * 9, // as the rows of objectives
      run: () => policyLoss(input),
      validate: () => ({ error: Math.abs(policyLoss(input).policyLoss + ratio), tolerance: 1e-6 }),
    };
  });
}
