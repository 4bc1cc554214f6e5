// Loggers: functions that a training calls with every step's report. None of them can stop or slow a run: they are not waited for between
// steps, and one that fails warns once and is called again all the same.
import type { StepReport, Summary } from "../training/report.ts";
import type { Metrics } from "../training/run.ts";

/** How a run ended; "failed" where an error ended it. */
export type Ended = Summary["ended"] | "failed";

/**
 * A logger is one function, called once for every step (and for the validation before the first), in order and never twice at a time.
 * `close` is called once after the last step and is waited for, `closeSeconds` at most.
 */
export interface Logger {
  (report: StepReport): void | Promise<void>;
  close?: (ended: Ended) => void | Promise<void>;
}

/** How long the end of a run waits for its loggers. */
const closeSeconds = 30;

/** Finite numbers by name; arrays by rank become `name/01`, `name/02`, ... */
export function scalars(line: { step: number } & Metrics): [name: string, value: number][] {
  return Object.entries(line).flatMap(([name, value]): [string, number][] => {
    if (name === "step") return [];
    if (typeof value === "number") return Number.isFinite(value) ? [[name, value]] : [];
    return value.map((x, k): [string, number] => [rankName(name, k), x]).filter(([, x]) => Number.isFinite(x));
  });
}

export const rankName = (name: string, k: number): string => `${name}/${String(k + 1).padStart(2, "0")}`;

/** A warning on stderr (`process.on("warning")` sees it too), with the command's name in front. */
export function warn(message: string): void {
  process.emitWarning(message, { type: "RankGrpoWarning" });
}

/** Calls several loggers; what the training loop holds. */
export class Loggers {
  readonly #entries: { name: string; logger: Logger; tail: Promise<void>; warned: boolean }[];

  constructor(loggers: readonly Logger[]) {
    this.#entries = loggers.map((logger, i) => ({
      name: logger.name || `logger ${i + 1}`,
      logger,
      tail: Promise.resolve(),
      warned: false,
    }));
  }

  /** Hands the report on and returns at once. */
  report(report: StepReport): void {
    for (const entry of this.#entries) this.#then(entry, () => entry.logger(report));
  }

  async close(ended: Ended): Promise<void> {
    for (const entry of this.#entries) this.#then(entry, () => entry.logger.close?.(ended));
    await Promise.all(
      this.#entries.map(async ({ name, tail }) => {
        let timer: NodeJS.Timeout | undefined;
        const late = new Promise<"late">((resolve) => {
          timer = setTimeout(() => resolve("late"), closeSeconds * 1000);
        });
        if ((await Promise.race([tail, late])) === "late")
          warn(`Logger ${name} did not finish within ${closeSeconds} s; going on without it.`);
        clearTimeout(timer);
      }),
    );
  }

  #then(entry: { name: string; tail: Promise<void>; warned: boolean }, call: () => void | Promise<void>): void {
    entry.tail = entry.tail.then(call).catch((error: unknown) => {
      if (entry.warned) return;
      entry.warned = true;
      warn(`Logger ${entry.name} failed: ${error instanceof Error ? error.message : String(error)}`);
    });
  }
}
