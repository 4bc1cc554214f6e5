// A Rank-GRPO update with a reference (its pass included), and the whole step: sample, score under the reference, update, optimize.
import type { NativeObjective, NativeStepInputs } from "../native.ts";
import { nativeObjective, resolveObjective } from "../objectives.ts";
import type { ForwardOptions, Group, Policy } from "../policy.ts";
import { sampledIsScored } from "./generation.ts";
import type { Harness, Validation } from "./harness.ts";
import { type BenchModel, createPolicy, forwardFlops, groupsOf, models, promptsOf } from "./models.ts";

type Compute = "f32" | "bf16";

/** Made when it is needed: the command's help works without an addon. */
const objective = (): NativeObjective => nativeObjective({ ...resolveObjective("rank-grpo"), beta: 0.001 });

/** Ten tokens a rank, an advantage for each rank. */
function stepOf(groups: readonly Group[]): NativeStepInputs {
  const rows = groups.flatMap((group) => group.completions.map((ids) => ids.length));
  const total = rows.reduce((sum, n) => sum + n, 0);
  const offsets = [0];
  let token = 0;
  for (const length of rows)
    for (let left = length; left > 0; left -= 10) {
      token += Math.min(10, left);
      offsets.push(token);
    }
  return {
    advantages: Float32Array.from({ length: total }, (_, t) => ((Math.floor(t / 10) * 7) % 11) / 5 - 1),
    weights: new Float32Array(total).fill(1 / total),
    segmentOffsets: Int32Array.from(offsets),
    segmentTokens: Int32Array.from({ length: total }, (_, t) => t),
  };
}

/** A few short lists: sampler and trainer agree as bits, and the gradient's slope along itself in the final norm is the loss's. */
export async function gradientIsRight(policy: Policy, prompt: Int32Array, compute: Compute): Promise<Validation> {
  const prompts = [prompt];
  const bits = await sampledIsScored(policy, prompts, 2);
  const [lists] = await policy.generate(prompts, { groupSize: 2, maxNewTokens: 12, ignoreStop: true, seed: 9 });
  const groups = [{ prompt, completions: lists!.map((list) => list.ids) }];
  const slopes = Float32Array.from({ length: 24 }, (_, t) => Math.sin(t + 1));
  const name = "model.norm.weight";
  const loss = async (): Promise<number> =>
    (await policy.score(groups)).logprobs.reduce((sum, x, t) => sum + x * slopes[t]!, 0);
  await policy.zeroGradients(); // of earlier runs
  await policy.backward(groups, slopes);
  const gradient = await policy.gradient(name);
  await policy.zeroGradients();
  const weights = await policy.parameter(name);
  const length = Math.hypot(...gradient);
  const h = compute === "f32" ? 0.02 : 0.3; // along the unit vector of the gradient; a step that bf16 can see
  const sides: number[] = [];
  for (const sign of [1, -1]) {
    await policy.setParameter(
      name,
      weights.map((w, i) => w + (sign * h * gradient[i]!) / length),
    );
    sides.push(await loss());
  }
  await policy.setParameter(name, weights);
  const slope = (sides[0]! - sides[1]!) / (2 * h);
  return { error: Math.max(bits.error, Math.abs(slope - length) / length), tolerance: compute === "f32" ? 0.02 : 0.1 };
}

async function withModels(
  harness: Harness,
  name: (model: BenchModel) => string,
  use: (model: BenchModel, compute: Compute, policy: Policy, reference: Policy) => Promise<void>,
): Promise<void> {
  for (const model of models)
    for (const compute of ["f32", "bf16"] as const) {
      if (!harness.wants({ name: name(model), shape: shapeOf(model), dtype: compute })) continue;
      const policy = await createPolicy(model, { compute });
      const reference = await createPolicy(model, { compute, trainable: false });
      await use(model, compute, policy, reference);
      policy.dispose();
      reference.dispose();
    }
}

/** Scores under the reference, accumulates, takes an optimizer step. */
export const updateOnce = async (
  policy: Policy,
  reference: Policy,
  groups: readonly Group[],
  options: ForwardOptions = {},
): Promise<void> => {
  const { logprobs: refLogprobs } = await reference.score(groups, options);
  await policy.accumulate(groups, { ...stepOf(groups), refLogprobs }, objective(), options);
  await policy.optimizerStep({ learningRate: 1e-6 });
};

const shapeOf = (m: BenchModel): string =>
  `${m.prompts * m.group} lists of ${m.completionTokens}, ${m.prompts} prompts of ${m.promptTokens}`;

export const update = (harness: Harness): Promise<void> =>
  withModels(
    harness,
    (model) => `${model.name}: update with reference`,
    async (model, compute, policy, reference) => {
      const groups = groupsOf(model);
      await harness.measure({
        name: `${model.name}: update with reference`,
        shape: shapeOf(model),
        dtype: compute,
        flops: 4 * forwardFlops(model), // the reference's pass, forward, and twice that backward
        tokens: model.prompts * model.group * model.completionTokens,
        validate: () => gradientIsRight(policy, promptsOf(model, 1)[0]!, compute),
        run: () => updateOnce(policy, reference, groups),
      });
    },
  );

export const step = (harness: Harness): Promise<void> =>
  withModels(
    harness,
    (model) => `${model.name}: whole step`,
    async (model, compute, policy, reference) => {
      const prompts = promptsOf(model);
      let seed = 0;
      await harness.measure({
        name: `${model.name}: whole step`,
        shape: shapeOf(model),
        dtype: compute,
        flops: 5 * forwardFlops(model), // as update, and once more to sample
        tokens: model.prompts * model.group * model.completionTokens,
        validate: () => gradientIsRight(policy, promptsOf(model, 1)[0]!, compute),
        run: async () => {
          const lists = await policy.generate(prompts, {
            groupSize: model.group,
            maxNewTokens: model.completionTokens,
            ignoreStop: true,
            seed: seed++,
          });
          await updateOnce(
            policy,
            reference,
            prompts.map((prompt, p) => ({ prompt, completions: lists[p]!.map((list) => list.ids) })),
          );
        },
      });
    },
  );
