// Rank-GRPO and its baselines: sample groups, reward every rank, normalise within the group, update the policy.
import { performance } from "node:perf_hooks";

import type { Sample } from "../data/sample.ts";
import { readSamples } from "../data/samples.ts";
import { refuse } from "../errors.ts";
import type { Logger } from "../log/logger.ts";
import { openLoggers } from "../log/open.ts";
import type { CustomObjective, ObjectiveInput } from "../objective/custom.ts";
import { nativeObjective, type Objective, type RowPlan, resolveObjective, stepInputs } from "../objectives.ts";
import { type Group, Policy } from "../policy.ts";
import { permutation, Stream } from "../random.ts";
import { Catalog } from "../ranking/catalog.ts";
import type { CatalogConstraint } from "../ranking/constraint.ts";
import { createReward, type Reward, repeats } from "../ranking/rewards.ts";
import { ListReader, shapeAdvantages } from "../ranking/segments.ts";
import { encodePrompt } from "../text/encode.ts";
import { type ResolvedTrainConfig, type TrainConfig, trainSchema } from "./config.ts";
import { maskForced, openConstraint } from "./constrain.ts";
import { finish, runStage, type Stage, type StepOutcome, type StepReport, type Summary } from "./loop.ts";
import { openModel } from "./model.ts";
import { parseConfig } from "./parse.ts";
import { type RolloutGroup, rollOut, type WeightedReward } from "./rollout.ts";
import { Run, type RunState } from "./run.ts";
import { validator } from "./validate.ts";

export interface TrainOptions {
  /** The run folder; new or empty unless `resume`. */
  output: string;
  resume?: boolean;
  /** Own rewards, instead of the configuration's. */
  rewards?: readonly (Reward | WeightedReward)[];
  /** An own loss (`defineObjective`); the configuration's objective still makes segments, weights and advantages. */
  objective?: CustomObjective;
  /** Called after every step; a promise is awaited. */
  onStep?: (report: StepReport) => void | Promise<void>;
  /** Called after every step beside the configuration's `log`, without being waited for. */
  loggers?: readonly Logger[];
  /** Finishes the step at hand, saves, and ends the run as interrupted. */
  signal?: AbortSignal;
}

/** Runs a whole training. @throws BAD_CONFIG, BAD_DATA, BAD_REWARD, NOT_FINITE, IO, OUT_OF_MEMORY; checkpoints stay */
export function train(config: TrainConfig, options: TrainOptions): Promise<Summary> {
  return finish(trainSteps(config, options), options.onStep);
}

/** The same as an async iteration over steps; returns the summary. */
export async function* trainSteps(config: TrainConfig, options: TrainOptions): AsyncGenerator<StepReport, Summary> {
  const resolved = parseConfig(trainSchema, config);
  const objective = resolveObjective(resolved.objective as string | ({ name: string } & Partial<Objective>));
  const catalog = resolved.catalog === undefined ? undefined : await Catalog.load(resolved.catalog);
  const samples = await readSamples(resolved.train, resolved.limit === undefined ? {} : { limit: resolved.limit });
  const steps =
    resolved.steps ??
    (resolved.epochs === undefined
      ? refuse("BAD_CONFIG", "steps or epochs", "the configuration", "neither")
      : Math.max(1, Math.round((resolved.epochs * samples.length) / resolved.promptsPerStep)));
  const rewards = options.rewards
    ? options.rewards.map((r, i) =>
        typeof r === "function" ? { name: r.name || `reward ${i}`, weight: 1, reward: r } : r,
      )
    : resolved.rewards.map(({ name, weight, gamma }) => ({
        name,
        weight,
        reward: createReward(name, {
          catalog:
            catalog ??
            refuse("BAD_CONFIG", "a catalog", `reward ${name}`, "none", "Set catalog: to a TSV, JSON or pickle file."),
          ranks: resolved.ranks,
          mode: objective.reading,
          ...(gamma === undefined ? {} : { gamma }),
        }),
      }));
  const run = await Run.open(options.output, "train", resolved, options.resume ?? false);
  const loggers = openLoggers(
    { folder: run.folder, kind: "train", config: resolved, resumedAt: run.resumed?.state.step ?? 0 },
    options.loggers,
  );
  const policy = await openModel(resolved, run);
  let reference: Policy | undefined;
  try {
    if (options.objective ? options.objective.reference : objective.beta > 0)
      reference = await openReference(resolved, policy);
    const constraint = await openConstraint(resolved, policy, catalog);
    const validate =
      resolved.validation && (await validator(resolved.validation, policy, catalog, resolved, constraint));
    const trainer = new Trainer(
      resolved,
      objective,
      options.objective,
      policy,
      reference,
      samples,
      rewards,
      catalog,
      constraint,
    );
    const stage: Stage = {
      policy,
      steps,
      updatesPerStep: resolved.updatesPerRollout,
      optimizer: resolved.optimizer,
      schedule: resolved.schedule,
      validation: resolved.validation,
      checkpoint: resolved.checkpoint,
      step: (state, update) => trainer.step(state, update),
      ...(validate ? { validate } : {}),
    };
    return yield* runStage(stage, run, options.signal, loggers);
  } finally {
    reference?.dispose();
    policy.dispose();
  }
}

/** The frozen model of the KL term: the configured one, or the policy as it was before its first step. */
async function openReference(config: ResolvedTrainConfig, policy: Policy): Promise<Policy> {
  const path = config.reference ?? (typeof config.model === "string" ? config.model : undefined);
  if (path !== undefined) {
    const { device, compute, chat } = config;
    const reference = await Policy.load(path, { device, compute, chat, trainable: false });
    if (reference.vocabSize !== policy.vocabSize)
      refuse(
        "BAD_CONFIG",
        `a vocabulary of ${policy.vocabSize} (the policy's)`,
        `reference ${path}`,
        reference.vocabSize,
      );
    return reference;
  }
  // from scratch: the same seed makes the same weights, also in a resumed run
  return openModel(config, { resumed: undefined }, { trainable: false });
}

/** A mean over `values`, 0 for none. */
const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / Math.max(1, values.length);

class Trainer {
  readonly #config: ResolvedTrainConfig;
  readonly #objective: Objective;
  readonly #custom: CustomObjective | undefined;
  readonly #policy: Policy;
  readonly #reference: Policy | undefined;
  readonly #samples: readonly Sample[];
  readonly #rewards: readonly WeightedReward[];
  readonly #catalog: Catalog | undefined;
  readonly #constraint: CatalogConstraint | undefined;
  readonly #reader: ListReader;
  readonly #eosId: number;
  readonly #promptLimit: number;
  #order: { epoch: number; indices: Int32Array } = { epoch: -1, indices: new Int32Array() };

  constructor(
    config: ResolvedTrainConfig,
    objective: Objective,
    custom: CustomObjective | undefined,
    policy: Policy,
    reference: Policy | undefined,
    samples: readonly Sample[],
    rewards: readonly WeightedReward[],
    catalog: Catalog | undefined,
    constraint: CatalogConstraint | undefined,
  ) {
    this.#config = config;
    this.#objective = objective;
    this.#custom = custom;
    this.#policy = policy;
    this.#reference = reference;
    this.#samples = samples;
    this.#rewards = rewards;
    this.#catalog = catalog;
    this.#constraint = constraint;
    this.#reader = new ListReader(
      policy.tokenizer ?? new Array<undefined>(policy.vocabSize).fill(undefined),
      policy.stopIds,
    );
    this.#eosId = policy.stopId ?? -1;
    const room = policy.maxPositions - config.maxNewTokens;
    if (room < 1)
      refuse(
        "BAD_CONFIG",
        `fewer than ${policy.maxPositions} (the model's context)`,
        "maxNewTokens",
        config.maxNewTokens,
      );
    this.#promptLimit = Math.min(config.maxPromptTokens ?? room, room);
    if (config.promptsPerStep > samples.length)
      refuse(
        "BAD_CONFIG",
        `at most ${samples.length} (the samples of ${config.train})`,
        "promptsPerStep",
        config.promptsPerStep,
      );
  }

  /** The sample that is drawn `position`-th: passes over shuffled data. */
  #draw(position: number): Sample {
    const epoch = Math.floor(position / this.#samples.length);
    if (epoch !== this.#order.epoch)
      this.#order = { epoch, indices: permutation(this.#samples.length, this.#config.seed, Stream.shuffle, epoch) };
    return this.#samples[this.#order.indices[position % this.#samples.length]!]!;
  }

  #prompt(sample: Sample): Int32Array {
    return encodePrompt(this.#policy.tokenizer, sample.prompt).slice(-this.#promptLimit);
  }

  async step(state: RunState, update: () => Promise<{ gradNorm: number; learningRate: number }>): Promise<StepOutcome> {
    const config = this.#config;
    const startedAt = performance.now();
    const groups: RolloutGroup[] = [];
    const rounds = config.dynamicSampling?.maxRounds ?? 1;
    const wanted = config.dynamicSampling?.minLiveGroups ?? 0;
    let live = 0;
    for (let round = 0; round < rounds; round++) {
      const prompts = Array.from({ length: config.promptsPerStep }, () => this.#draw(state.drawn++)).map((sample) => ({
        sample,
        prompt: this.#prompt(sample),
      }));
      const rolled = await rollOut(
        this.#policy,
        prompts,
        {
          groupSize: config.groupSize,
          ranks: config.ranks,
          maxNewTokens: config.maxNewTokens,
          maxRows: config.maxRows,
          sampling: config.sampling,
          seed: config.seed,
          step: state.step,
          rewards: this.#rewards,
          objective: this.#objective,
          ...(this.#constraint ? { constraint: this.#constraint } : {}),
        },
        new AbortController().signal,
      );
      // with dynamic sampling only groups with a signal stay beside the first round's
      groups.push(...(round === 0 ? rolled : rolled.filter((group) => group.live)));
      live = groups.filter((group) => group.live).length;
      if (live >= wanted) break;
    }
    const sampledAt = performance.now();
    const metrics = this.#describe(groups);
    metrics["groups/live"] = live / groups.length;
    metrics["time/rollout_ms"] = sampledAt - startedAt;
    await this.#update(groups, metrics, update);
    metrics["time/update_ms"] = performance.now() - sampledAt;
    metrics["memory/rss_mb"] = process.memoryUsage.rss() / 2 ** 20;
    const shown = groups[0]!;
    return {
      metrics,
      samples: [
        {
          step: state.step + 1,
          id: shown.sample.id,
          completions: shown.completions.map((completion, i) => ({
            text: completion.text,
            rewards: [...shown.rewards[i]!],
          })),
        },
      ],
    };
  }

  /** Rows of a group as the loss sees them. */
  #plan(group: RolloutGroup): RowPlan[] {
    const o = this.#objective;
    return group.rollouts.map(({ ids }, i) => {
      const reading = o.reading === "reference" ? this.#reader.readReference(ids, this.#eosId) : this.#reader.read(ids);
      const advantage = shapeAdvantages(reading, group.advantages[i]!, {
        mode: o.reading,
        earlyStop: o.earlyStop,
        overflow: o.overflow,
        overflowPer: o.overflowPer,
        exactLength: o.exactLength,
      });
      return { tokens: ids.length, item: reading.item, advantage, items: reading.items, stop: reading.stop };
    });
  }

  async #update(
    groups: readonly RolloutGroup[],
    metrics: Record<string, number | readonly number[]>,
    update: () => Promise<{ gradNorm: number; learningRate: number }>,
  ): Promise<void> {
    const config = this.#config;
    const objective = this.#objective;
    const constraint = this.#constraint?.forSamples(groups.map((group) => group.sample));
    const plans = groups.map((group) => this.#plan(group));
    if (constraint && config.forced === "exclude")
      maskForced(
        groups.map(({ prompt, rollouts }) => ({ prompt, completions: rollouts.map(({ ids }) => ids) })),
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
          this.#custom !== undefined ||
          objective.beta > 0 ||
          objective.entropyCoef > 0 ||
          plan.some((row) => row.advantage.some((a) => a !== 0)),
      );
    metrics["update/rows"] = needed.length * config.groupSize;
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
    const sampled = Float32Array.from(needed.flatMap(({ group }) => group.rollouts.flatMap((r) => [...r.logprobs])));
    const refLogprobs = this.#reference ? (await this.#reference.score(batch, forward)).logprobs : undefined;
    if (this.#custom) {
      const groupsUsed = needed.map(({ group }) => group);
      const counts = (lengths: readonly number[]): Int32Array => {
        const offsets = new Int32Array(lengths.length + 1);
        for (const [i, n] of lengths.entries()) offsets[i + 1] = offsets[i]! + n;
        return offsets;
      };
      const step = {
        ...inputs,
        oldLogprobs: sampled,
        ...(refLogprobs ? { refLogprobs } : {}),
        rowOffsets: counts(groupsUsed.flatMap((group) => group.rollouts.map(({ ids }) => ids.length))),
        groupOffsets: counts(groupsUsed.map((group) => group.rollouts.length)),
        rewards: Float64Array.from(
          groupsUsed.flatMap((group) => group.rewards.map((r) => r.reduce((a, b) => a + b, 0))),
        ),
      };
      for (let u = 0; u < config.updatesPerRollout; u++)
        await this.#updateCustom(this.#custom, batch, step, forward, metrics, update);
      return;
    }
    for (let u = 0; u < config.updatesPerRollout; u++) {
      const result = await this.#policy.accumulate(
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
      if (u === 0) {
        let mismatch = 0;
        const computed = [...result.logprobs.entries()].filter(([, x]) => !Number.isNaN(x)); // dead ends are left out
        for (const [t, x] of computed) mismatch = Math.max(mismatch, Math.abs(x - sampled[t]!));
        metrics["policy/mismatch_max"] = mismatch;
        metrics["policy/logprob_mean"] = mean(computed.map(([, x]) => x));
      }
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

  /** One update by an own loss: log-probs out, gradient back. */
  async #updateCustom(
    custom: CustomObjective,
    batch: readonly Group[],
    step: Omit<ObjectiveInput, "logprobs" | "entropies">,
    forward: { temperature: number; microBatchTokens: number },
    metrics: Record<string, number | readonly number[]>,
    update: () => Promise<{ gradNorm: number; learningRate: number }>,
  ): Promise<void> {
    const scores = await this.#policy.score(batch, { ...forward, entropies: custom.entropies ?? false });
    const output = custom.evaluate({ ...step, ...scores });
    const { dentropy } = output;
    await this.#policy.backward(batch, output.dlogp, { ...forward, ...(dentropy ? { dentropies: dentropy } : {}) });
    const { gradNorm, learningRate } = await update();
    metrics["policy/loss"] = output.loss;
    metrics["policy/logprob_mean"] = mean([...scores.logprobs]);
    for (const [name, value] of Object.entries(output.metrics ?? {})) metrics[`objective/${name}`] = value;
    metrics["optimizer/grad_norm"] = gradNorm;
    metrics["optimizer/learning_rate"] = learningRate;
  }

  /** What the rollouts look like, before the update. */
  #describe(groups: readonly RolloutGroup[]): Record<string, number | readonly number[]> {
    const ranks = this.#config.ranks;
    const rows = groups.flatMap((group) =>
      group.completions.map((completion, i) => ({ completion, reward: group.rewards[i]! })),
    );
    const byRank = Array.from({ length: ranks }, (_, k) => mean(rows.map(({ reward }) => reward[k] ?? 0)));
    const liveByRank = Array.from({ length: ranks }, (_, k) =>
      mean(groups.map((group) => (group.advantages.some((a) => a[k] !== 0) ? 1 : 0))),
    );
    const sums = rows.map(({ reward }) => reward.reduce((sum, x) => sum + x, 0));
    const duplicates = Array.from({ length: ranks }, () => 0);
    const known = Array.from({ length: ranks }, () => 0);
    for (const { completion } of rows) {
      const again = repeats(completion.slots);
      for (const [k, slot] of completion.slots.slice(0, ranks).entries()) {
        duplicates[k]! += again[k]! / rows.length;
        if (slot && this.#catalog?.has(slot)) known[k]! += 1 / rows.length;
      }
    }
    const total = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0);
    return {
      "reward/mean": mean(sums),
      "reward/std": Math.sqrt(mean(sums.map((x) => (x - mean(sums)) ** 2))),
      "reward/by_rank": byRank,
      "ranks/live": mean(liveByRank),
      "ranks/live_by_rank": liveByRank,
      "list/items": mean(rows.map(({ completion }) => completion.slots.length)),
      "list/duplicates": total(duplicates),
      "list/duplicates_by_rank": duplicates,
      ...(this.#catalog ? { "list/in_catalog": total(known) / ranks, "list/in_catalog_by_rank": known } : {}),
      "rollout/tokens": mean(rows.map(({ completion }) => completion.ids.length)),
      "rollout/stopped": mean(rows.map(({ completion }) => (completion.finish === "stop" ? 1 : 0))),
      "rollout/rows": rows.length,
    };
  }
}
