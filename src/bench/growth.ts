// Cost as work grows: the time of one kind of work at doubling sizes, and the exponent of the growth between the last two. Below 1 a fixed
// cost is still being spread; prompts shared by a group show as an exponent below 1 over the size of the group.
import { policyLoss } from "../kernels.ts";
import { sampledIsScored } from "./generation.ts";
import type { Harness, Validation } from "./harness.ts";
import { type BenchModel, createPolicy, models, promptsOf, tokens } from "./models.ts";

const small = models[1]!;

async function series(
  harness: Harness,
  what: string,
  sizes: readonly number[],
  make: (
    size: number,
  ) => Promise<{ run: () => unknown; validate: () => Promise<Validation> | Validation; shape: string }>,
): Promise<void> {
  if (!harness.wants({ name: what, shape: "", dtype: "f32" })) return;
  const times: number[] = [];
  for (const size of sizes) {
    const { run, validate, shape } = await make(size);
    await harness.measure({ name: what, shape, dtype: "f32", validate, run });
    times.push(harness.rows.at(-1)!.timeMs);
  }
  const exponents = times.slice(1).map((t, i) => Math.log(t / times[i]!) / Math.log(sizes[i + 1]! / sizes[i]!));
  harness.note(
    `time of ${what} ~ size^p, p = ${exponents.map((p) => p.toFixed(2)).join(", ")} over ${sizes.join(", ")}`,
  );
}

export async function growth(harness: Harness): Promise<void> {
  const policy = await createPolicy(small, { compute: "f32" });
  const valid = () => sampledIsScored(policy, promptsOf(small, 1), 2);
  const backward = (model: Pick<BenchModel, "prompts" | "group" | "promptTokens" | "completionTokens">) => {
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
  await series(harness, "gradient, over prompts", [4, 8, 16, 32, 64], async (prompts) => ({
    shape: `${prompts} prompts x 8 lists`,
    run: backward({ ...base, prompts }),
    validate: valid,
  }));
  await series(harness, "gradient, over group size with a long prompt", [1, 2, 4, 8, 16], async (group) => ({
    shape: `prompt of 320, ${group} lists of 50`,
    run: backward({ prompts: 8, group, promptTokens: 320, completionTokens: 50 }),
    validate: valid,
  }));
  await series(harness, "gradient, over list length", [25, 50, 100, 200, 400], async (completionTokens) => ({
    shape: `lists of ${completionTokens}`,
    run: backward({ ...base, prompts: 2, completionTokens }),
    validate: valid,
  }));
  policy.dispose();
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
      run: async () => {
        await wide.backward(groups, new Float32Array(400).fill(0.01));
      },
      validate: () => sampledIsScored(wide, [groups[0]!.prompt], 2),
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
      run: () => policyLoss(input),
      validate: () => ({ error: Math.abs(policyLoss(input).policyLoss + ratio), tolerance: 1e-6 }),
    };
  });
}
