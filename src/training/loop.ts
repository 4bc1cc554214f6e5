// The loop that sft and train share: steps, validation, best checkpoint, early stop, checkpoints, interruption, resume.
import { performance } from "node:perf_hooks";

import { refuse } from "../errors.ts";
import type { Ended, Logger, Loggers } from "../log/logger.ts";
import type { Policy } from "../policy.ts";
import type { MemoryPlan } from "./memory.ts";
import { reportLine, type StepReport, type Summary } from "./report.ts";
import { freshState, type Metrics, metricValue, type Run, type RunState, type StepSample } from "./run.ts";
import { type Schedule, scheduleFactor } from "./schedule.ts";

/** What a stage is told beside its configuration. */
export interface StageOptions {
  /** The run folder; new or empty unless `resume`. */
  output: string;
  resume?: boolean;
  /** Called once, before the first step. */
  onMemory?: (plan: MemoryPlan) => void;
  /** Called after every step; a promise is awaited. */
  onStep?: (report: StepReport) => void | Promise<void>;
  /** Called after every step beside the configuration's `log`, without being waited for. */
  loggers?: readonly Logger[];
  /** Finishes the step at hand, saves, and ends the run as interrupted. */
  signal?: AbortSignal;
}

/** Steps of a configuration. @param perStep samples that a step takes @throws BAD_CONFIG where it says neither steps nor epochs */
export function stepsOf(
  { steps, epochs }: { steps?: number | undefined; epochs?: number | undefined },
  samples: number,
  perStep: number,
): number {
  if (steps !== undefined) return steps;
  if (epochs === undefined) return refuse("BAD_CONFIG", "steps or epochs", "the configuration", "neither");
  return Math.max(1, Math.round((epochs * samples) / perStep));
}

/** What is left to sft and train: one step, and one validation. */
export interface Stage {
  readonly policy: Policy;
  readonly steps: number;
  readonly updatesPerStep: number;
  readonly optimizer: {
    learningRate: number;
    beta1: number;
    beta2: number;
    epsilon: number;
    weightDecay: number;
    maxGradNorm: number;
    /** Of weights that are rounded by chance. */
    seed: number;
  };
  readonly schedule: Schedule;
  readonly validation: { every: number; metric: string; patience?: number | undefined } | undefined;
  readonly checkpoint: { every: number; keep: number };
  /** Does step `state.step` (from 0), calling `update` for each optimizer update; advances `state.drawn`. */
  step(state: RunState, update: () => Promise<{ gradNorm: number; learningRate: number }>): Promise<StepOutcome>;
  validate?(): Promise<Metrics>;
}

export interface StepOutcome {
  metrics: Metrics;
  /** Lines for samples.jsonl. */
  samples?: readonly StepSample[];
}

/**
 * Runs a stage, a report each step. Where `signal` fires, the step at hand is finished, a checkpoint is written, and the run
 * ends as "interrupted". The folder then holds final (and best, where validated). A step that fails before it changed weights leaves
 * a checkpoint of those before it.
 */
export async function* runStage(
  stage: Stage,
  run: Run,
  signal: AbortSignal | undefined,
  loggers: Loggers,
): AsyncGenerator<StepReport, Summary> {
  await run.start();
  const state: RunState = run.resumed ? { ...run.resumed.state } : freshState();
  const totalUpdates = stage.steps * stage.updatesPerStep;
  const first = state.step;
  let validation: Metrics | undefined;
  let ended: Summary["ended"] = "finished";
  let saved = run.resumed ? state.step : -1;
  let outcome: Ended = "interrupted"; // where the caller leaves the iteration

  const update = async (): Promise<{ gradNorm: number; learningRate: number }> => {
    const learningRate = stage.optimizer.learningRate * scheduleFactor(stage.schedule, state.updates, totalUpdates);
    const gradNorm = await stage.policy.optimizerStep({ ...stage.optimizer, learningRate });
    state.updates++;
    return { gradNorm, learningRate };
  };
  const save = async (): Promise<void> => {
    if (saved === state.step) return;
    await run.checkpoint(stage.policy, state, stage.checkpoint.keep);
    saved = state.step;
  };
  /** Validates, keeps the best. */
  const validate = async (report: StepReport): Promise<void> => {
    if (!stage.validate || !stage.validation) return;
    validation = await stage.validate();
    const value = metricValue(validation, stage.validation.metric);
    report.validation = validation;
    if (state.best === null || value > state.best.value) {
      state.best = { step: state.step, value };
      state.stale = 0;
      report.best = true;
      await run.save("best", stage.policy);
    } else state.stale++;
  };
  const log = async (report: StepReport): Promise<void> => {
    await run.log(reportLine(report));
    await run.samples(report.samples ?? []);
    loggers.report(report);
  };

  await run.status("running", state.step, stage.steps);
  try {
    // once: a run that was interrupted right after has its best already
    if (state.step === 0 && !state.best && !signal?.aborted && stage.validate && stage.validation) {
      const report: StepReport = { step: 0, steps: stage.steps, metrics: {}, secondsLeft: Number.NaN };
      await validate(report);
      await log(report);
      yield report;
    }
    const started = performance.now(); // the validation before is no part of a step's time
    while (state.step < stage.steps) {
      // asked of the state, so that a resume asks it too
      if (state.stale >= (stage.validation?.patience ?? Number.POSITIVE_INFINITY)) {
        ended = "early-stop";
        break;
      }
      if (signal?.aborted) {
        ended = "interrupted";
        break;
      }
      const before = { ...state };
      const done = await stage.step(state, update).catch(async (error: unknown) => {
        // a reward that failed, say: the steps before are kept; not weights that give no numbers, which would drive sound ones out
        const sound =
          state.updates === before.updates && (error as { code?: unknown } | undefined)?.code !== "NOT_FINITE";
        if (sound && before.step > 0) {
          Object.assign(state, before);
          await save().catch(() => {}); // the step's error is the news
        }
        throw error;
      });
      state.step++;
      const perStep = (performance.now() - started) / 1000 / (state.step - first);
      const report: StepReport = {
        step: state.step,
        steps: stage.steps,
        metrics: done.metrics,
        secondsLeft: perStep * (stage.steps - state.step),
        ...(done.samples ? { samples: done.samples } : {}),
      };
      const due = stage.validation && (state.step % stage.validation.every === 0 || state.step === stage.steps);
      if (due) await validate(report);
      await log(report);
      if (state.step % stage.checkpoint.every === 0) await save();
      yield report;
    }
    await save();
    if (ended !== "interrupted") await run.save("final", stage.policy);
    outcome = ended;
    return {
      folder: run.folder,
      steps: state.step,
      ended,
      best: state.best && stage.validation ? { ...state.best, metric: stage.validation.metric } : null,
      validation,
    };
  } catch (error) {
    outcome = "failed";
    throw error;
  } finally {
    const told = run.status(outcome, state.step, stage.steps);
    // what ended the run is the news, not that its end could not be written down
    await (outcome === "failed" ? told.catch(() => {}) : told);
    await loggers.close(outcome);
  }
}

/** Drains a run; what `sft` and `train` return. */
export async function finish(
  steps: AsyncGenerator<StepReport, Summary>,
  onStep: ((report: StepReport) => void | Promise<void>) | undefined,
): Promise<Summary> {
  for (;;) {
    const next = await steps.next();
    if (next.done) return next.value;
    try {
      await onStep?.(next.value);
    } catch (error) {
      await steps.throw(error); // ends the run as failed: models are freed, loggers closed
    }
  }
}
