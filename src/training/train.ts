// A training by Rank-GRPO or its baselines: opens what the configuration names, checks that it fits together, and runs the steps.
import { readSamples } from "../data/samples.ts";
import { refuse } from "../errors.ts";
import { requireTruths } from "../evaluate.ts";
import { openLoggers } from "../log/open.ts";
import { type CustomObjective, defineObjective } from "../objective/custom.ts";
import { type ObjectiveChoice, resolveNamed } from "../objective/named.ts";
import { Policy } from "../policy.ts";
import { Catalog } from "../ranking/catalog.ts";
import { createTokenWeights, tokenWeightNames } from "../ranking/emphasis.ts";
import { createEstimator, estimatorNames } from "../ranking/estimators.ts";
import type { ReadingMode } from "../ranking/list.ts";
import { createRepair, repairNames } from "../ranking/repair.ts";
import { createReward, type Reward, rewardNames, truthReaders } from "../ranking/rewards.ts";
import { createSegmentation, segmentationNames } from "../ranking/segmentation.ts";
import { openSoftHits } from "../ranking/similarity.ts";
import { type ResolvedTrainConfig, type TrainConfig, trainSchema } from "./config.ts";
import { openConstraint } from "./constrain.ts";
import { choose, type Extensions, loadExtensions } from "./extensions.ts";
import { finish, runStage, type Stage, type StageOptions, stepsOf } from "./loop.ts";
import { planMemory } from "./memory.ts";
import { openModel } from "./model.ts";
import { parseConfig } from "./parse.ts";
import type { StepReport, Summary } from "./report.ts";
import type { WeightedReward } from "./rollout.ts";
import { Run } from "./run.ts";
import { Trainer, type TrainerParts } from "./trainer.ts";
import { openValidation } from "./validate.ts";

export interface TrainOptions extends StageOptions {
  /** Own rewards, instead of the configuration's. */
  rewards?: readonly (Reward | WeightedReward)[];
  /** Own functions by the names that the configuration uses, beside those of its `modules`. */
  extensions?: Extensions;
  /** An own loss (`defineObjective`); the configuration's objective still makes segments, weights and advantages. */
  objective?: CustomObjective;
}

/** Runs a whole training. @throws BAD_CONFIG, BAD_DATA, BAD_REWARD, NOT_FINITE, IO, OUT_OF_MEMORY; checkpoints stay */
export function train(config: TrainConfig, options: TrainOptions): Promise<Summary> {
  return finish(trainSteps(config, options), options.onStep);
}

/** The same as an async iteration over steps; returns the summary. */
export async function* trainSteps(config: TrainConfig, options: TrainOptions): AsyncGenerator<StepReport, Summary> {
  const resolved = parseConfig(trainSchema, config);
  const extensions = await loadExtensions(resolved.modules, options.extensions);
  const named = resolveNamed(resolved.objective as ObjectiveChoice, extensions.objectives);
  const { objective } = named;
  const custom = options.objective ? defineObjective(options.objective) : named.custom;
  const catalog = resolved.catalog === undefined ? undefined : await Catalog.load(resolved.catalog);
  const samples = await readSamples(resolved.train, resolved.limit === undefined ? {} : { limit: resolved.limit });
  const readers = [...(options.rewards ? [] : resolved.rewards), ...resolved.repair];
  if (readers.some(({ name }) => truthReaders.includes(name))) requireTruths(samples, resolved.train);
  const steps = stepsOf(resolved, samples.length, resolved.promptsPerStep);
  const signals = await openSignals(resolved, options, extensions, catalog, objective.reading);
  const validation = await openValidation(resolved.validation, catalog, resolved);
  const run = await Run.open(options.output, "train", resolved, options.resume ?? false);
  const loggers = openLoggers(
    { folder: run.folder, kind: "train", config: resolved, resumedAt: run.resumed?.state.step },
    options.loggers,
  );
  const policy = await openModel(resolved, run);
  let reference: Policy | undefined;
  try {
    if (custom ? custom.reference : objective.beta > 0) reference = await openReference(resolved, policy);
    const constraint = await openConstraint(resolved, policy, catalog);
    constraint?.check([...samples, ...(validation?.samples ?? [])]);
    const trainer = new Trainer({
      config: resolved,
      objective,
      custom,
      policy,
      reference,
      samples,
      ...signals,
      catalog,
      constraint,
    });
    const knobs = "activationMiB, microBatchTokens, maxRows or maxNewTokens";
    const plan = planMemory(policy, reference, trainer.workload(validation), knobs);
    options.onMemory?.(plan);
    const stage: Stage = {
      policy,
      steps,
      updatesPerStep: resolved.updatesPerRollout,
      optimizer: { ...resolved.optimizer, seed: resolved.seed },
      schedule: resolved.schedule,
      validation: resolved.validation,
      checkpoint: resolved.checkpoint,
      step: (state, update) => trainer.step(state, update),
      ...(validation ? { validate: () => validation.measure(policy, constraint) } : {}),
    };
    return yield* runStage(stage, run, options.signal, loggers);
  } finally {
    reference?.dispose();
    policy.dispose();
  }
}

/** Rewards, and what is made of them: the configuration's names as functions. */
async function openSignals(
  config: ResolvedTrainConfig,
  options: TrainOptions,
  extensions: Extensions,
  catalog: Catalog | undefined,
  mode: ReadingMode,
): Promise<Pick<TrainerParts, "rewards" | "repairs" | "estimator" | "segmentation" | "tokenWeights">> {
  const { segmentation, tokenWeights, estimator, ranks } = config;
  if (options.rewards?.length === 0) refuse("INVALID_ARGUMENT", "at least one reward", "rewards", "none");
  const rewards = options.rewards
    ? options.rewards.map(ownReward)
    : await Promise.all(
        config.rewards.map(async ({ name, weight, ...own }) => {
          const needed = (): Catalog =>
            catalog ??
            refuse("BAD_CONFIG", "a catalog", `reward ${name}`, "none", "Set catalog: to a TSV, JSON or pickle file.");
          const reward = await choose<Reward | Promise<Reward>>(
            "the reward",
            name,
            [...rewardNames, "similarity"],
            extensions.rewards,
            () => {
              const base = { catalog: needed(), ranks, mode };
              if (name === "similarity") return openSoftHits({ ...base, ...own });
              return createReward(name, { ...base, ...(own.gamma === undefined ? {} : { gamma: own.gamma }) });
            },
          );
          return { name, weight, reward };
        }),
      );
  return {
    rewards,
    repairs: config.repair.map(({ name, ...own }) => ({
      name,
      use: choose("the repair", name, repairNames, extensions.repairs, () => createRepair(name, { catalog, ...own })),
    })),
    estimator: {
      name: estimator,
      use: choose("the advantage estimator", estimator, estimatorNames, extensions.estimators, createEstimator),
    },
    segmentation: segmentation && {
      name: segmentation.name,
      use: choose("the segmentation", segmentation.name, segmentationNames, extensions.segmentations, (name) =>
        createSegmentation(name, segmentation),
      ),
    },
    tokenWeights:
      tokenWeights.name === "uniform"
        ? undefined
        : {
            name: tokenWeights.name,
            use: choose("the token weights", tokenWeights.name, tokenWeightNames, extensions.tokenWeights, (name) =>
              createTokenWeights(name, { catalog, share: tokenWeights.share }),
            ),
          },
  };
}

/** A reward of the caller's, with its name. */
function ownReward(given: Reward | WeightedReward, i: number): WeightedReward {
  const own = typeof given === "function" ? { name: given.name || `reward ${i}`, weight: 1, reward: given } : given;
  if (typeof own?.reward !== "function")
    refuse("INVALID_ARGUMENT", "a function, or { name, weight, reward }", `rewards[${i}]`, given);
  return own;
}

/** The frozen model of the KL term: the configured one, or the policy as it was before its first step. */
async function openReference(config: ResolvedTrainConfig, policy: Policy): Promise<Policy> {
  const path = config.reference ?? (typeof config.model === "string" ? config.model : undefined);
  if (path !== undefined) {
    const { device, determinism, compute, weights, chat } = config;
    const reference = await Policy.load(path, { device, determinism, compute, weights, chat, trainable: false });
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
