// Sampling at 1, 8 and 64 rows. A decoding step reads every weight once, and computes with it for each row: the bound of a step is the longer
// of the two, the prompts' is compute.
import type { Policy } from "../policy.ts";
import type { Harness, Validation } from "./harness.ts";
import { type BenchModel, createPolicy, models, promptsOf, spanFlops, tokenFlops } from "./models.ts";

/** The sampler's log-probs are the trainer's, bit for bit. */
export async function sampledIsScored(policy: Policy, prompts: Int32Array[], groupSize: number): Promise<Validation> {
  const lists = await policy.generate(prompts, { groupSize, maxNewTokens: 6, ignoreStop: true, seed: 7 });
  const groups = prompts.map((prompt, p) => ({ prompt, completions: lists[p]!.map((list) => list.ids) }));
  const scored = (await policy.score(groups)).logprobs;
  const sampled = lists.flat().flatMap((list) => [...list.logprobs]);
  return { error: Math.max(...sampled.map((x, t) => Math.abs(x - scored[t]!))), tolerance: 0 };
}

/** What a row is, before it is measured. */
function rowOf(model: BenchModel, rows: number) {
  const group = Math.min(rows, model.group);
  const [prompts, newTokens] = [rows / group, rows === 64 ? 32 : 64];
  const name = `${model.name}: ${rows} rows`;
  return { group, newTokens, name, shape: `${prompts} prompts of ${model.promptTokens}, ${newTokens} tokens` };
}

async function decode(
  harness: Harness,
  model: BenchModel,
  policy: Policy,
  compute: "f32" | "bf16",
  rows: number,
): Promise<void> {
  const { group, newTokens, name, shape } = rowOf(model, rows);
  const prompts = promptsOf(model, rows / group);
  const { layers, head } = tokenFlops(model);
  const perWeight = compute === "bf16" ? 2 : 4;
  const { shape: s } = model;
  const halves = compute === "bf16" && harness.bounds.flopsBf16 > 0; // then keys and values are kept as bf16, too
  const cache = (halves ? 4 : 8) * s.num_hidden_layers * s.num_key_value_heads * s.head_dim; // bytes a token
  const seen = rows * (newTokens / 2) + prompts.length * model.promptTokens;
  const stepBytes = ((layers + head) / 2) * perWeight + cache * seen;
  const { promptTokens } = model;
  const prompt = prompts.length * spanFlops(model, 0, promptTokens);
  const steps = rows * (spanFlops(model, promptTokens, promptTokens + newTokens - 1) + newTokens * head);
  await harness.measure({
    name,
    shape,
    dtype: compute,
    flops: prompt + steps,
    readBytes: newTokens * stepBytes,
    tokens: rows * newTokens,
    bound: (b) => {
      const peak = compute === "bf16" && b.flopsBf16 ? b.flopsBf16 : b.flopsF32;
      return prompt / peak + Math.max(steps / peak, (newTokens * stepBytes) / b.readBytes);
    },
    validate: () => sampledIsScored(policy, prompts, group),
    run: () => policy.generate(prompts, { groupSize: group, maxNewTokens: newTokens, ignoreStop: true, seed: 3 }),
  });
}

export async function generation(harness: Harness): Promise<void> {
  for (const model of models)
    for (const compute of ["f32", "bf16"] as const) {
      const wanted = [1, 8, 64].filter((rows) => harness.wants({ ...rowOf(model, rows), dtype: compute }));
      if (wanted.length === 0) continue;
      const policy = await createPolicy(model, { compute, trainable: false });
      for (const rows of wanted) await decode(harness, model, policy, compute, rows);
      policy.dispose();
    }
}
