// Progress of long work on stderr: a bar with time left in a terminal, a line now and then elsewhere.
import { SingleBar } from "cli-progress";

import type { StepReport } from "../training/report.ts";
import type { Metrics } from "../training/run.ts";

export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  const s = Math.round(seconds);
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${String(s % 60).padStart(2, "0")}s`;
  return `${Math.floor(s / 3600)}h${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
}

const number = (metrics: Metrics, name: string): string | undefined => {
  const value = metrics[name];
  return typeof value === "number"
    ? Math.abs(value) < 1e-3 && value !== 0
      ? value.toExponential(1)
      : value.toFixed(3)
    : undefined;
};

/** The few numbers worth a line, with short names. */
const shown: readonly [metric: string, label: string][] = [
  ["sft/loss", "loss"],
  ["reward/mean", "reward"],
  ["groups/live", "live"],
  ["policy/kl", "kl"],
  ["list/duplicates", "dup"],
];

export function describeStep(report: StepReport): string {
  const parts = shown.flatMap(([metric, label]) => {
    const text = number(report.metrics, metric);
    return text === undefined ? [] : [`${label} ${text}`];
  });
  for (const [name, value] of Object.entries(report.validation ?? {}))
    if (/^(ndcg|recall)@\d+$/.test(name) && typeof value === "number" && name.endsWith("@10"))
      parts.push(`val ${name} ${value.toFixed(4)}`);
  if (report.best) parts.push("(best)");
  return parts.join("  ");
}

/** Where stderr is a terminal. Lines are cut to its width, and it is left in no other mode where Ctrl-C ends the process. */
const openBar = (format: string): SingleBar | undefined =>
  process.stderr.isTTY ? new SingleBar({ format, linewrap: true, stream: process.stderr }) : undefined;

/** `step` is called with every report, `done` once at the end: until then a bar keeps the process alive. */
export class StepProgress {
  readonly #bar: SingleBar | undefined;
  readonly #label: string;
  #lastLine = 0;
  #started = false;

  constructor(label: string) {
    this.#label = label;
    this.#bar = openBar(`${label} [{bar}] {value}/{total} {left} left  {text}`);
  }

  step(report: StepReport): void {
    const text = describeStep(report);
    if (this.#bar) {
      if (!this.#started) this.#bar.start(report.steps, report.step, { left: "?", text });
      else this.#bar.update(report.step, { left: duration(report.secondsLeft), text });
      this.#started = true;
      return;
    }
    const now = Date.now();
    if (report.step < report.steps && !report.validation && now - this.#lastLine < 10_000) return;
    this.#lastLine = now;
    process.stderr.write(
      `${this.#label} ${report.step}/${report.steps}  ${text}  ${duration(report.secondsLeft)} left\n`,
    );
  }

  done(): void {
    this.#bar?.stop();
  }
}

/**
 * Counts items of a job, such as prompts of `generate`, `first` of which were done before; it began at `started`. `done` is called however the
 * job ends: until then a bar keeps the process alive.
 */
export class ItemProgress {
  readonly #started: number;
  readonly #bar: SingleBar | undefined;
  readonly #label: string;
  readonly #first: number;
  #lastLine = Date.now();

  constructor(label: string, total: number, { first = 0, started = Date.now() } = {}) {
    this.#label = label;
    this.#first = first;
    this.#started = started;
    this.#bar = openBar(`${label} [{bar}] {value}/{total} {left} left`);
    this.#bar?.start(total, first, { left: "?" });
  }

  update(done: number, total: number): void {
    const left = (((Date.now() - this.#started) / 1000) * (total - done)) / Math.max(1, done - this.#first);
    if (this.#bar) {
      this.#bar.setTotal(total);
      this.#bar.update(done, { left: duration(left) });
      if (done === total) this.done();
    } else if (Date.now() - this.#lastLine > 10_000) {
      this.#lastLine = Date.now();
      process.stderr.write(`${this.#label} ${done}/${total}  ${duration(left)} left\n`);
    }
  }

  done(): void {
    this.#bar?.stop();
  }
}
