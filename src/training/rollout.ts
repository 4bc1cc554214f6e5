// Rollouts: groups are sampled, read as lists and rewarded; rewards of one part run while the next is sampled.
import { setMaxListeners } from "node:events";

import type { Sample } from "../data/sample.ts";
import { RankGrpoError } from "../errors.ts";
import type { Objective } from "../objectives.ts";
import type { Generated, Policy } from "../policy.ts";
import { isLive } from "../ranking/advantages.ts";
import type { CatalogConstraint } from "../ranking/constraint.ts";
import { type AdvantageEstimator, estimate } from "../ranking/estimators.ts";
import { readList, type Slot } from "../ranking/list.ts";
import { type GroupRepair, repaired } from "../ranking/repair.ts";
import { type Completion, combineRewards, type Reward, totalReward } from "../ranking/rewards.ts";

export interface WeightedReward {
  name: string;
  weight: number;
  reward: Reward;
}

/** A function with its name, for errors. */
export interface Named<T> {
  readonly name: string;
  readonly use: T;
}

/** A group before its advantages are known, with each reward by itself [R][G][N]. */
type RewardedGroup = Omit<RolloutGroup, "advantages" | "live"> & {
  readonly parts: readonly (readonly Float64Array[])[];
};

export interface RolloutGroup {
  readonly sample: Sample;
  readonly prompt: Int32Array;
  readonly rollouts: readonly Generated[];
  readonly completions: readonly Completion[];
  /** [G][N] */
  readonly rewards: readonly Float64Array[];
  /** Completions and rewards as they were sampled; they differ from the above where the group was repaired. */
  readonly sampled: { readonly completions: readonly Completion[]; readonly rewards: readonly Float64Array[] };
  /** [G]: false where group repair left a list out */
  readonly kept: readonly boolean[];
  /** [G][N], by the estimator; exactly 0 where `group` finds a rank's rewards all equal, and for lists left out */
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
  estimator: Named<AdvantageEstimator>;
  /** In this order. */
  repairs: readonly Named<GroupRepair>[];
  /** Tokens of one pass where repaired lists are scored. */
  microBatchTokens: number;
  /** Lists hold items of the catalog only. */
  constraint?: CatalogConstraint;
}

const mean = (values: Float32Array): number => values.reduce((a, b) => a + b, 0) / Math.max(1, values.length);

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
  const pending: Promise<RewardedGroup>[] = [];
  const controller = new AbortController();
  const { signal } = controller;
  setMaxListeners(0, signal); // every list's rewards may listen
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
        group.catch((error: unknown) => controller.abort(error ?? withoutReason(options.rewards, sample)));
        pending.push(group);
      }
    }
    const groups = await scoreReplaced(policy, await Promise.all(pending), options);
    return withAdvantages(groups, options);
  } catch (error) {
    const failure: unknown = signal.aborted ? signal.reason : error; // a reward's, where it stopped the sampling
    controller.abort(failure);
    await Promise.allSettled(pending);
    throw failure;
  }
}

/** In place of a rejection that says nothing. */
const withoutReason = (rewards: readonly WeightedReward[], { id }: Sample): RankGrpoError =>
  new RankGrpoError(
    "BAD_REWARD",
    `Expected rewards of sample ${id} from ${rewards.map(({ name }) => name).join(", ")}, got a rejection without a reason.`,
  );

async function rewardGroup(
  policy: Policy,
  sample: Sample,
  prompt: Int32Array,
  rollouts: readonly Generated[],
  options: RolloutOptions,
  signal: AbortSignal,
): Promise<RewardedGroup> {
  const sampled = rollouts.map((generated) => readCompletion(policy, generated));
  const names = options.rewards.map(({ name }) => name);
  const weights = options.rewards.map(({ weight }) => weight);
  const context = { sample: sample.id, ranks: options.ranks };
  const earn = async (completion: Completion): Promise<{ parts: Float64Array[]; total: Float64Array }> => {
    const values = await Promise.all(options.rewards.map(({ reward }) => reward(completion, sample, signal)));
    const total = combineRewards(values, weights, { ...context, names });
    return { parts: values.map((value, i) => combineRewards([value], [1], { ...context, names: [names[i]!] })), total };
  };
  const sampledEarned = await Promise.all(sampled.map(earn));
  const drawn = { completions: sampled, rewards: sampledEarned.map(({ total }) => total) };
  const lists = [...rollouts];
  const completions = [...sampled];
  const earned = [...sampledEarned];
  let kept: readonly boolean[] = rollouts.map(() => true);
  for (const { name, use } of options.repairs) {
    const { replace, keep } = repaired(name, use, {
      sample,
      completions,
      likelihood: lists.map(({ logprobs }) => mean(logprobs)),
      rewards: earned.map(({ total }) => totalReward(total)),
      kept,
    });
    kept = keep;
    for (const [row, text] of replace) {
      const ids = Int32Array.from([
        ...policy.tokenizer!.encode(text),
        ...(policy.stopId === undefined ? [] : [policy.stopId]),
      ]);
      // what sampling could not have made has no log-prob to be trained on
      if (ids.length > options.maxNewTokens || options.constraint?.allows(sample, text) === false) continue;
      lists[row] = { ids, logprobs: new Float32Array(ids.length).fill(Number.NaN), finish: "stop" };
      completions[row] = readCompletion(policy, lists[row]);
      earned[row] = await earn(completions[row]);
    }
  }
  return {
    sample,
    prompt,
    rollouts: lists,
    completions,
    rewards: earned.map(({ total }) => total),
    sampled: drawn,
    kept,
    parts: options.rewards.map((_, i) => earned.map(({ parts }) => parts[i]!)),
  };
}

/** Gives lists that a repair put in the log-probs that the policy would have sampled them with. */
async function scoreReplaced(
  policy: Policy,
  groups: readonly RewardedGroup[],
  options: RolloutOptions,
): Promise<RewardedGroup[]> {
  const unknown = groups.flatMap((group, g) =>
    group.rollouts.flatMap((rollout, row) => (Number.isNaN(rollout.logprobs[0]) ? [{ g, row, group, rollout }] : [])),
  );
  if (unknown.length === 0) return [...groups];
  const { logprobs } = await policy.score(
    unknown.map(({ group, rollout }) => ({ prompt: group.prompt, completions: [rollout.ids] })),
    {
      temperature: options.sampling.temperature,
      microBatchTokens: options.microBatchTokens,
      ...(options.constraint
        ? { constraint: options.constraint.forSamples(unknown.map(({ group }) => group.sample)) }
        : {}),
    },
  );
  const rollouts = groups.map((group) => [...group.rollouts]);
  let at = 0;
  for (const { g, row, rollout } of unknown) {
    rollouts[g]![row] = { ...rollout, logprobs: logprobs.slice(at, at + rollout.ids.length) };
    at += rollout.ids.length;
  }
  return groups.map((group, g) => ({ ...group, rollouts: rollouts[g]! }));
}

function withAdvantages(groups: readonly RewardedGroup[], options: RolloutOptions): RolloutGroup[] {
  const { objective, estimator } = options;
  const step = groups.map(({ rewards, kept }) =>
    rewards.map((row, g) => (kept[g] ? row : new Float64Array(row.length).fill(Number.NaN))),
  );
  const advantages = estimate(estimator.name, estimator.use, {
    rewards: step,
    parts: options.rewards.map((_, i) => groups.map(({ parts }) => parts[i]!)),
    weights: options.rewards.map(({ weight }) => weight),
    options: {
      level: objective.advantage,
      ddof: objective.ddof,
      epsilon: objective.epsilon,
      scale: objective.scale,
    },
  });
  return groups.map(({ parts: _, ...group }, p) => ({
    ...group,
    advantages: advantages[p]!,
    live: isLive(advantages[p]!),
  }));
}
