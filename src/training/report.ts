// What a training tells: a report after every step, a summary at its end.
import type { Metrics, StepSample } from "./run.ts";

export interface StepReport {
  /** Steps done, from 1; 0 reports the validation before the first. */
  step: number;
  steps: number;
  metrics: Metrics;
  /** Present where this step was validated. */
  validation?: Metrics;
  /** Set where this validation is the best so far. */
  best?: boolean;
  /** Rollouts of the step to look at, where it made any. */
  samples?: readonly StepSample[];
  /** By the steps so far, with their validations; NaN before the first. */
  secondsLeft: number;
}

export interface Summary {
  folder: string;
  /** Steps done. */
  steps: number;
  /** Why it ended. */
  ended: "finished" | "interrupted" | "early-stop";
  best: { step: number; value: number; metric: string } | null;
  /** The last validation. */
  validation: Metrics | undefined;
}

/** A report as one line of names and values (docs/metrics.md), validation behind `validation/`. */
export function reportLine(report: StepReport): { step: number } & Metrics {
  const line: { step: number } & Metrics = { step: report.step, ...report.metrics };
  for (const [name, value] of Object.entries(report.validation ?? {})) line[`validation/${name}`] = value;
  return line;
}
