// One step of Rank-GRPO and its baselines: groups are sampled and rewarded, advantages become segments and weights, the policy is updated.
import { performance } from "node:perf_hooks";

import type { Sample } from "../data/sample.ts";
import { refuse } from "../errors.ts";
import { promptLimit } from "../evaluate.ts";
import type { CustomObjective, ObjectiveInput } from "../objective/custom.ts";
import { nativeObjective, type Objective, type RowPlan, type StepInputs, stepInputs } from "../objectives.ts";
import type { ForwardOptions, Group, Policy, Workload } from "../policy.ts";
import type { Catalog } from "../ranking/catalog.ts";
import type { CatalogConstraint } from "../ranking/constraint.ts";
import { type TokenWeights, tokenFactors } from "../ranking/emphasis.ts";
import type { AdvantageEstimator } from "../ranking/estimators.ts";
import type { GroupRepair } from "../ranking/repair.ts";
import { totalReward } from "../ranking/rewards.ts";
import { type Segmentation, segmentsOf, tokenText } from "../ranking/segmentation.ts";
import { ListReader, shapeAdvantages } from "../ranking/segments.ts";
import { encodePrompt, longestPrompt } from "../text/encode.ts";
import type { ResolvedTrainConfig } from "./config.ts";
import { maskForced } from "./constrain.ts";
import { describeRollouts, mean } from "./describe.ts";
import { Draws } from "./draw.ts";
import type { StepOutcome } from "./loop.ts";
import { type Named, type RolloutGroup, rollOut, type WeightedReward } from "./rollout.ts";
import type { RunState } from "./run.ts";
import type { Validation } from "./validate.ts";

type StepMetrics = Record<string, number | readonly number[]>;
type Update = () => Promise<{ gradNorm: number; learningRate: number }>;

/** Largest difference of a token's log-prob as it was sampled and as the trainer has it; tokens that it left out are NaN. */
function mismatch(computed: Float32Array, sampled: Float32Array): number {
  let largest = 0;
  for (const [t, x] of computed.entries()) if (!Number.isNaN(x)) largest = Math.max(largest, Math.abs(x - sampled[t]!));
  return largest;
}

/** Where ragged rows of these lengths begin, and the end. */
function offsetsOf(lengths: readonly number[]): Int32Array {
  const offsets = new Int32Array(lengths.length + 1);
  for (const [i, n] of lengths.entries()) offsets[i + 1] = offsets[i]! + n;
  return offsets;
}

/** A group as the update sees it: without the lists that group repair left out. */
function withoutLeftOut(group: RolloutGroup): RolloutGroup {
  const stay = <T>(rows: readonly T[]): T[] => rows.filter((_, i) => group.kept[i]);
  return {
    ...group,
    rollouts: stay(group.rollouts),
    completions: stay(group.completions),
    rewards: stay(group.rewards),
    advantages: stay(group.advantages),
    kept: stay(group.kept),
  };
}

/** What a run brings to its steps. */
export interface TrainerParts {
  config: ResolvedTrainConfig;
  objective: Objective;
  /** An own loss in place of the native one. */
  custom: CustomObjective | undefined;
  policy: Policy;
  reference: Policy | undefined;
  samples: readonly Sample[];
  rewards: readonly WeightedReward[];
  repairs: readonly Named<GroupRepair>[];
  estimator: Named<AdvantageEstimator>;
  /** In place of the objective's `ratio`. */
  segmentation: Named<Segmentation> | undefined;
  /** Undefined: uniform. */
  tokenWeights: Named<TokenWeights> | undefined;
  catalog: Catalog | undefined;
  constraint: CatalogConstraint | undefined;
}

export class Trainer {
  readonly #parts: TrainerParts;
  readonly #reader: ListReader;
  readonly #eosId: number;
  readonly #promptLimit: number;
  readonly #draws: Draws<Sample>;

  /** @throws BAD_CONFIG where lists leave no room for prompts, or a step asks for more prompts than there are */
  constructor(parts: TrainerParts) {
    const { config, policy, samples } = parts;
    this.#parts = parts;
    this.#draws = new Draws(samples, config.seed);
    // every id that can be drawn: a model's vocabulary may be padded beyond its tokenizer's (Qwen's is)
    const bytes = Array.from({ length: policy.vocabSize }, (_, id) => policy.tokenizer?.bytes[id] ?? new Uint8Array());
    this.#reader = new ListReader({ bytes, specialIds: policy.tokenizer?.specialIds ?? new Set() }, policy.stopIds);
    this.#eosId = policy.stopId ?? -1;
    if (config.maxNewTokens >= policy.maxPositions)
      refuse(
        "BAD_CONFIG",
        `fewer than ${policy.maxPositions} (the model's context)`,
        "maxNewTokens",
        config.maxNewTokens,
      );
    this.#promptLimit = promptLimit(policy, config.maxNewTokens, config.maxPromptTokens);
    if (config.promptsPerStep > samples.length)
      refuse(
        "BAD_CONFIG",
        `at most ${samples.length} (the samples of ${config.train})`,
        "promptsPerStep",
        config.promptsPerStep,
      );
  }

  /** The most that a step, or a validation, asks of the policy. */
  workload(validation: Validation | undefined): Workload {
    const { config, policy, samples } = this.#parts;
    const { groupSize, maxNewTokens, promptsPerStep } = config;
    const prompts = samples.map(({ prompt }) => prompt);
    const promptTokens = Math.min(this.#promptLimit, longestPrompt(policy.tokenizer, prompts));
    const row = promptTokens + maxNewTokens;
    const step = promptsPerStep * (promptTokens + groupSize * maxNewTokens);
    const rows = Math.min(Math.max(config.maxRows, groupSize), promptsPerStep * groupSize);
    const held = validation?.workload(policy);
    return {
      passTokens: Math.max(row, Math.min(config.microBatchTokens, step)),
      backward: true,
      rows: Math.max(rows, held?.rows ?? 0),
      groupSize: held?.groupSize ?? groupSize,
      promptTokens: Math.max(promptTokens, held?.promptTokens ?? 0),
      newTokens: Math.max(maxNewTokens, held?.newTokens ?? 0),
    };
  }

  /** Samples, rewards, updates; `state.drawn` moves on by the prompts that were drawn. */
  async step(state: RunState, update: Update): Promise<StepOutcome> {
    const { config, catalog } = this.#parts;
    const startedAt = performance.now();
    const { drawn, kept } = await this.#rollOut(state);
    const sampledAt = performance.now();
    const metrics = describeRollouts(drawn, config.ranks, catalog);
    metrics["time/rollout_ms"] = sampledAt - startedAt;
    await this.#update(kept, metrics, update);
    metrics["time/update_ms"] = performance.now() - sampledAt;
    metrics["memory/rss_mb"] = process.memoryUsage.rss() / 2 ** 20;
    const [{ sample, sampled }] = kept as [RolloutGroup];
    const { completions, rewards } = sampled;
    const shown = completions.map(({ text }, i) => ({ text, rewards: [...rewards[i]!] }));
    return { metrics, samples: [{ step: state.step + 1, id: sample.id, completions: shown }] };
  }

  /** All groups of a step, and those that go into the update: the first round's, and of further rounds those with a signal. */
  async #rollOut(state: RunState): Promise<{ drawn: RolloutGroup[]; kept: RolloutGroup[] }> {
    const { config, policy, rewards, repairs, estimator, objective, constraint } = this.#parts;
    const { minLiveGroups, maxRounds } = config.dynamicSampling ?? { minLiveGroups: 0, maxRounds: 1 };
    const drawn: RolloutGroup[] = [];
    const kept: RolloutGroup[] = [];
    const times = new Map<number, number>(); // that a sample was drawn in this step
    for (let round = 0; round < maxRounds; round++) {
      const prompts = Array.from({ length: config.promptsPerStep }, () => {
        const sample = this.#draws.at(state.drawn++);
        const before = times.get(sample.index) ?? 0;
        times.set(sample.index, before + 1);
        const prompt = encodePrompt(policy.tokenizer, sample.prompt).slice(-this.#promptLimit);
        // a sample that comes again gets random numbers of its own
        return { sample, prompt, key: (sample.index + before * 0x9e3779b1) | 0 };
      });
      const rolled = await rollOut(policy, prompts, {
        groupSize: config.groupSize,
        ranks: config.ranks,
        maxNewTokens: config.maxNewTokens,
        maxRows: config.maxRows,
        sampling: config.sampling,
        seed: config.seed,
        step: state.step,
        rewards,
        repairs,
        estimator,
        microBatchTokens: config.microBatchTokens,
        objective,
        ...(constraint ? { constraint } : {}),
      });
      drawn.push(...rolled);
      kept.push(...(round === 0 ? rolled : rolled.filter((group) => group.live)));
      if (kept.filter((group) => group.live).length >= minLiveGroups) break;
    }
    return { drawn, kept };
  }

  /** Rows of a group as the loss sees them. */
  #plan(group: RolloutGroup): RowPlan[] {
    const { objective: o, segmentation, policy, config } = this.#parts;
    return group.rollouts.map(({ ids }, i) => {
      const lines = o.reading === "reference" ? this.#reader.readReference(ids, this.#eosId) : this.#reader.read(ids);
      const segment =
        segmentation &&
        segmentsOf(
          segmentation.name,
          segmentation.use,
          tokenText(ids, policy.tokenizer, o.reading === "reference" ? this.#reader.read(ids).item : lines.item),
        );
      const reading =
        segment && config.segmentation?.credit === "segment"
          ? { item: segment.slice(), items: segment.reduce((most, s) => Math.max(most, s + 1), 0), stop: lines.stop }
          : lines;
      const ranks = group.advantages[i]!;
      const advantage = shapeAdvantages(reading, ranks, {
        mode: o.reading,
        base: o.advantage === "sequence" ? ranks[0]! : 0,
        earlyStop: o.earlyStop,
        overflow: o.overflow,
        overflowPer: o.overflowPer,
        exactLength: o.exactLength,
      });
      const item = reading.item.map((line, t) => (segment?.[t] === -1 ? -1 : line));
      for (const [t, line] of item.entries()) if (line < 0) advantage[t] = 0;
      return { item, advantage, ...(segment ? { segment } : {}) };
    });
  }

  async #update(kept: readonly RolloutGroup[], metrics: StepMetrics, update: Update): Promise<void> {
    const { config, objective, custom, policy, reference } = this.#parts;
    const groups = kept.map(withoutLeftOut).filter((group) => group.rollouts.length > 0);
    const constraint = this.#parts.constraint?.forSamples(groups.map((group) => group.sample));
    const plans = groups.map((group) => this.#plan(group));
    if (constraint && config.forced === "exclude")
      maskForced(
        groups.map((group) => ({ prompt: group.prompt, completions: group.rollouts.map((rollout) => rollout.ids) })),
        plans,
        constraint,
      );
    const all = plans.flat();
    const whole = {
      rows: all.length,
      covered: all.reduce((sum, row) => sum + row.item.filter((x) => x >= 0).length, 0),
    };
    // a group without advantages adds nothing but KL and entropy; what an own loss makes of it nobody knows
    const needed = groups
      .map((group, index) => ({ group, index, plan: plans[index]! }))
      .filter(
        ({ plan }) =>
          custom !== undefined ||
          objective.beta > 0 ||
          objective.entropyCoef > 0 ||
          plan.some((row) => row.advantage.some((a) => a !== 0)),
      );
    metrics["update/rows"] = needed.reduce((sum, { plan }) => sum + plan.length, 0);
    if (needed.length === 0) return;
    const batch: Group[] = needed.map(({ group }) => ({
      prompt: group.prompt,
      completions: group.rollouts.map((rollout) => rollout.ids),
    }));
    const inputs = stepInputs(
      needed.flatMap(({ plan }) => plan),
      objective,
      config.ranks,
      whole,
    );
    const forward = {
      temperature: config.sampling.temperature,
      microBatchTokens: config.microBatchTokens,
      ...(constraint
        ? { constraint: { ...constraint, excluded: needed.map(({ index }) => constraint.excluded[index]!) } }
        : {}),
    };
    await this.#weighTokens(needed, batch, inputs, forward);
    const sampled = Float32Array.from(needed.flatMap(({ group }) => group.rollouts.flatMap((r) => [...r.logprobs])));
    /** Of the policy as it sampled, before the first update; tokens that were left out are NaN. */
    const describe = (logprobs: Float32Array): void => {
      metrics["policy/mismatch_max"] = mismatch(logprobs, sampled);
      metrics["policy/logprob_mean"] = mean(logprobs.filter((x) => !Number.isNaN(x)));
    };
    const refLogprobs = reference ? (await reference.score(batch, forward)).logprobs : undefined;
    if (custom) {
      const rewards = needed.flatMap(({ group }) => group.rewards.map(totalReward));
      const step = {
        ...inputs,
        oldLogprobs: sampled,
        ...(refLogprobs ? { refLogprobs } : {}),
        rowOffsets: offsetsOf(batch.flatMap(({ completions }) => completions.map((ids) => ids.length))),
        groupOffsets: offsetsOf(batch.map(({ completions }) => completions.length)),
        rewards: Float64Array.from(rewards),
      };
      for (let u = 0; u < config.updatesPerRollout; u++) {
        const logprobs = await this.#updateCustom(custom, batch, step, forward, metrics, update);
        if (u === 0) describe(logprobs);
      }
      return;
    }
    for (let u = 0; u < config.updatesPerRollout; u++) {
      const result = await policy.accumulate(
        batch,
        {
          advantages: inputs.advantages,
          weights: inputs.weights,
          segmentOffsets: inputs.segmentOffsets,
          segmentTokens: inputs.segmentTokens,
          // the sampler's log-probs are the old ones; on-policy the ratio is 1 and needs none
          ...(config.updatesPerRollout > 1 ? { oldLogprobs: sampled } : {}),
          ...(refLogprobs ? { refLogprobs } : {}),
        },
        nativeObjective(objective),
        forward,
      );
      if (u === 0) describe(result.logprobs);
      const { gradNorm, learningRate } = await update();
      metrics["policy/loss"] = result.loss;
      metrics["policy/kl"] = result.covered > 0 ? result.klSum / result.covered : 0;
      metrics["policy/ratio_min"] = result.ratioMin;
      metrics["policy/ratio_max"] = result.ratioMax;
      metrics["policy/ratio_mean"] = result.segments > 0 ? result.ratioSum / result.segments : 1;
      metrics["policy/clip_low"] = result.covered > 0 ? result.clippedLow / result.covered : 0;
      metrics["policy/clip_high"] = result.covered > 0 ? result.clippedHigh / result.covered : 0;
      metrics["optimizer/grad_norm"] = gradNorm;
      metrics["optimizer/learning_rate"] = learningRate;
    }
  }

  /** Multiplies the step's weights by those of its tokens. */
  async #weighTokens(
    needed: readonly { group: RolloutGroup; plan: readonly RowPlan[] }[],
    batch: readonly Group[],
    inputs: StepInputs,
    forward: ForwardOptions,
  ): Promise<void> {
    const { policy, tokenWeights } = this.#parts;
    if (!tokenWeights) return;
    const entropies =
      tokenWeights.use.needs === "entropies"
        ? (await policy.score(batch, { ...forward, entropies: true })).entropies
        : undefined;
    let at = 0;
    const step = needed.flatMap(({ group, plan }) =>
      group.rollouts.map(({ ids, logprobs }, i) => {
        const own = entropies?.subarray(at, at + ids.length);
        const weights = inputs.weights.subarray(at, at + ids.length);
        at += ids.length;
        const text = tokenText(ids, policy.tokenizer, this.#reader.read(ids).item);
        return { ...text, logprobs, advantages: plan[i]!.advantage, weights, ...(own ? { entropies: own } : {}) };
      }),
    );
    const factors = tokenFactors(tokenWeights.name, tokenWeights.use, step);
    for (const [t, factor] of factors.entries()) inputs.weights[t]! *= factor;
  }

  /** One update by an own loss: log-probs out, gradient back; returns the log-probs. */
  async #updateCustom(
    custom: CustomObjective,
    batch: readonly Group[],
    step: Omit<ObjectiveInput, "logprobs" | "entropies">,
    forward: ForwardOptions,
    metrics: StepMetrics,
    update: Update,
  ): Promise<Float32Array> {
    const { policy } = this.#parts;
    const scores = await policy.score(batch, { ...forward, entropies: custom.entropies ?? false });
    const output = custom.evaluate({ ...step, ...scores });
    const { dentropy } = output;
    await policy.backward(batch, output.dlogp, { ...forward, ...(dentropy ? { dentropies: dentropy } : {}) });
    const { gradNorm, learningRate } = await update();
    metrics["policy/loss"] = output.loss;
    for (const [name, value] of Object.entries(output.metrics ?? {})) metrics[`objective/${name}`] = value;
    metrics["optimizer/grad_norm"] = gradNorm;
    metrics["optimizer/learning_rate"] = learningRate;
    return scores.logprobs;
  }
}
