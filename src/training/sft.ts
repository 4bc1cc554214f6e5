// Supervised fine-tuning on demonstrations: mean negative log-likelihood of the completion's tokens (paper, Eq. 2).
import { performance } from "node:perf_hooks";

import type { Sample } from "../data/sample.ts";
import { readSamples } from "../data/samples.ts";
import { refuse } from "../errors.ts";
import { openLoggers } from "../log/open.ts";
import type { Group } from "../policy.ts";
import { Catalog } from "../ranking/catalog.ts";
import { encodeCompletion, encodePrompt } from "../text/encode.ts";
import { type SftConfig, sftSchema } from "./config.ts";
import { openConstraint } from "./constrain.ts";
import { Draws } from "./draw.ts";
import { finish, runStage, type Stage, type StageOptions, stepsOf } from "./loop.ts";
import { planMemory } from "./memory.ts";
import { openModel } from "./model.ts";
import { parseConfig } from "./parse.ts";
import type { StepReport, Summary } from "./report.ts";
import { Run } from "./run.ts";
import { openValidation } from "./validate.ts";

/** Runs a whole fine-tuning. @throws BAD_CONFIG, BAD_DATA, NOT_FINITE, IO, OUT_OF_MEMORY; checkpoints stay */
export function sft(config: SftConfig, options: StageOptions): Promise<Summary> {
  return finish(sftSteps(config, options), options.onStep);
}

/** The same as an async iteration over steps; returns the summary. */
export async function* sftSteps(config: SftConfig, options: StageOptions): AsyncGenerator<StepReport, Summary> {
  const resolved = parseConfig(sftSchema, config);
  const catalog = resolved.catalog === undefined ? undefined : await Catalog.load(resolved.catalog);
  const samples = await readSamples(resolved.train, resolved.limit === undefined ? {} : { limit: resolved.limit });
  const steps = stepsOf(resolved, samples.length, resolved.batchSize);
  if (resolved.batchSize > samples.length)
    refuse(
      "BAD_CONFIG",
      `at most ${samples.length} (the samples of ${resolved.train})`,
      "batchSize",
      resolved.batchSize,
    );
  const validation = await openValidation(resolved.validation, catalog, { maxPromptTokens: resolved.maxPromptTokens });
  const run = await Run.open(options.output, "sft", resolved, options.resume ?? false);
  const loggers = openLoggers(
    { folder: run.folder, kind: "sft", config: resolved, resumedAt: run.resumed?.state.step },
    options.loggers,
  );
  const policy = await openModel(resolved, run);
  try {
    const groupsOf = (rows: readonly Sample[]): Group[] =>
      rows.map((sample) => {
        if (sample.completion === undefined)
          refuse("BAD_DATA", "a completion", `sample ${sample.id} of ${resolved.train}`, "none");
        const completion = encodeCompletion(policy.tokenizer, sample.completion, policy.stopId);
        const room = policy.maxPositions - completion.length;
        if (room < 1 || completion.length > (resolved.maxCompletionTokens ?? Number.POSITIVE_INFINITY))
          refuse(
            "BAD_DATA",
            `at most ${Math.min(policy.maxPositions - 1, resolved.maxCompletionTokens ?? policy.maxPositions)} tokens`,
            `the completion of sample ${sample.id}`,
            completion.length,
            "A cut demonstration would teach to stop early.",
          );
        const prompt = encodePrompt(policy.tokenizer, sample.prompt).slice(
          -Math.min(room, resolved.maxPromptTokens ?? room),
        );
        return { prompt, completions: [completion] };
      });
    const groups = groupsOf(samples);
    const constraint = await openConstraint(resolved, policy, catalog);
    if (validation) constraint?.check(validation.samples);
    const held = groupsOf(validation?.samples.filter((sample) => sample.completion !== undefined) ?? []);
    const forward = { microBatchTokens: resolved.microBatchTokens };
    const lengths = [...groups, ...held].map(({ prompt, completions }) => prompt.length + completions[0]!.length);
    const longest = lengths.reduce((a, b) => Math.max(a, b));
    const plan = planMemory(
      policy,
      undefined,
      {
        passTokens: Math.max(longest, Math.min(resolved.microBatchTokens, resolved.batchSize * longest)),
        backward: true,
        ...(validation?.workload(policy) ?? { rows: 0, groupSize: 1, promptTokens: 0, newTokens: 0 }),
      },
      "activationMiB or microBatchTokens",
    );
    options.onMemory?.(plan);
    const draws = new Draws(groups, resolved.seed);
    const lossOf = (logprobs: Float32Array): number => -logprobs.reduce((sum, x) => sum + x, 0) / logprobs.length;

    const stage: Stage = {
      policy,
      steps,
      updatesPerStep: 1,
      optimizer: { ...resolved.optimizer, seed: resolved.seed },
      schedule: resolved.schedule,
      validation: resolved.validation,
      checkpoint: resolved.checkpoint,
      step: async (state, update) => {
        const started = performance.now();
        const batch = Array.from({ length: resolved.batchSize }, () => draws.at(state.drawn++));
        const tokens = batch.reduce((sum, group) => sum + group.completions[0]!.length, 0);
        const { logprobs } = await policy.backward(batch, new Float32Array(tokens).fill(-1 / tokens), forward);
        const loss = lossOf(logprobs);
        if (!Number.isFinite(loss))
          refuse("NOT_FINITE", "a finite loss", `step ${state.step + 1}`, loss, "Lower the learning rate.");
        const { gradNorm, learningRate } = await update();
        const prompts = batch.reduce((sum, group) => sum + group.prompt.length, 0);
        const ms = performance.now() - started;
        return {
          metrics: {
            "sft/loss": loss,
            "sft/tokens": tokens,
            "optimizer/grad_norm": gradNorm,
            "optimizer/learning_rate": learningRate,
            "time/update_ms": ms,
            "time/tokens_per_second": ((tokens + prompts) / ms) * 1000,
            "memory/rss_mb": process.memoryUsage.rss() / 2 ** 20,
          },
        };
      },
      ...(validation
        ? {
            validate: async () => {
              const metrics = await validation.measure(policy, constraint);
              if (held.length === 0) return metrics;
              return { ...metrics, loss: lossOf((await policy.score(held, forward)).logprobs) };
            },
          }
        : {}),
    };
    return yield* runStage(stage, run, options.signal, loggers);
  } finally {
    policy.dispose();
  }
}
