// Rollouts: groups are sampled, read as lists and rewarded; rewards of one part run while the next is sampled.

import type { Sample } from "../data/sample.ts";
import type { Objective } from "../objectives.ts";
import type { Generated, Policy } from "../policy.ts";
import { groupAdvantages, isLive } from "../ranking/advantages.ts";
import type { CatalogConstraint } from "../ranking/constraint.ts";
import { readList, type Slot } from "../ranking/list.ts";
import { type Completion, combineRewards, type Reward } from "../ranking/rewards.ts";

export interface WeightedReward {
  name: string;
  weight: number;
  reward: Reward;
}

export interface RolloutGroup {
  readonly sample: Sample;
  readonly prompt: Int32Array;
  readonly rollouts: readonly Generated[];
  readonly completions: readonly Completion[];
  /** [G][N] */
  readonly rewards: readonly Float64Array[];
  /** [G][N], exactly 0 where a rank's rewards are all equal */
  readonly advantages: readonly Float64Array[];
  readonly live: boolean;
}

export interface RolloutOptions {
  groupSize: number;
  ranks: number;
  maxNewTokens: number;
  maxRows: number;
  sampling: { temperature: number; topK: number; topP: number; minP: number };
  seed: number;
  step: number;
  rewards: readonly WeightedReward[];
  objective: Objective;
  /** Lists hold items of the catalog only. */
  constraint?: CatalogConstraint;
}

/** Reads a completion once; parsing, rewards and metrics all use these slots. */
export function readCompletion(policy: Policy, generated: Generated): Completion {
  const text = policy.tokenizer?.decode(generated.ids) ?? "";
  const slots: Slot[] = readList(text);
  return { text, ids: generated.ids, finish: generated.finish, slots };
}

/**
 * Samples `groupSize` completions of each prompt and rewards them; `key` tells the prompt to the random numbers. The first failure stops
 * the sampling, and the signal that rewards get is aborted.
 * @throws BAD_REWARD naming reward, sample and value; whatever a reward throws
 */
export async function rollOut(
  policy: Policy,
  prompts: readonly { sample: Sample; prompt: Int32Array; key: number }[],
  options: RolloutOptions,
): Promise<RolloutGroup[]> {
  // parts of two full batches: large enough to keep the batch filled, small enough that slow rewards overlap with sampling
  const part = Math.max(1, Math.floor((2 * options.maxRows) / options.groupSize));
  const pending: Promise<RolloutGroup>[] = [];
  const controller = new AbortController();
  const { signal } = controller;
  try {
    for (let first = 0; first < prompts.length; first += part) {
      const chunk = prompts.slice(first, first + part);
      const generated = await policy.generate(
        chunk.map(({ prompt }) => prompt),
        {
          ...options.sampling,
          groupSize: options.groupSize,
          maxNewTokens: options.maxNewTokens,
          maxRows: options.maxRows,
          seed: options.seed,
          step: options.step,
          promptKeys: chunk.map(({ key }) => key),
          ...(options.constraint
            ? { constraint: options.constraint.forSamples(chunk.map(({ sample }) => sample)) }
            : {}),
          signal,
        },
      );
      for (const [i, { sample, prompt }] of chunk.entries()) {
        const group = rewardGroup(policy, sample, prompt, generated[i]!, options, signal);
        group.catch((error: unknown) => controller.abort(error));
        pending.push(group);
      }
    }
    return await Promise.all(pending);
  } catch (error) {
    const failure: unknown = signal.aborted ? signal.reason : error; // a reward's, where it stopped the sampling
    controller.abort(failure);
    await Promise.allSettled(pending);
    throw failure;
  }
}

async function rewardGroup(
  policy: Policy,
  sample: Sample,
  prompt: Int32Array,
  rollouts: readonly Generated[],
  options: RolloutOptions,
  signal: AbortSignal,
): Promise<RolloutGroup> {
  const completions = rollouts.map((generated) => readCompletion(policy, generated));
  const rewards = await Promise.all(
    completions.map(async (completion) => {
      const values = await Promise.all(options.rewards.map(({ reward }) => reward(completion, sample, signal)));
      return combineRewards(
        values,
        options.rewards.map(({ weight }) => weight),
        { names: options.rewards.map(({ name }) => name), sample: sample.id, ranks: options.ranks },
      );
    }),
  );
  const { objective } = options;
  const advantages = groupAdvantages(rewards, {
    level: objective.advantage,
    ddof: objective.ddof,
    epsilon: objective.epsilon,
    scale: objective.scale,
    nan: "error",
    pool: "sum",
  });
  return { sample, prompt, rollouts, completions, rewards, advantages, live: isLive(advantages) };
}
