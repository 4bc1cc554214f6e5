// An experiment: arms x seeds, each a training run in a folder of its own. What is complete is not run again, what was interrupted goes on,
// so the command can be stopped and repeated; results are made of whatever is complete.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { cpus } from "node:os";
import { join } from "node:path";

import { writeFileAtomic } from "../../src/files.ts";
import { addon } from "../../src/native.ts";
import { readEvaluation } from "../../src/report/evaluations.ts";
import type { StepReport } from "../../src/training/report.ts";
import type { ArmResult, Results } from "./results.ts";

/** One run: where it lies, how many steps it has, how it is trained and then measured on the test rows. */
export interface ExperimentRun {
  readonly arm: string;
  readonly seed: number;
  readonly folder: string;
  readonly steps: number;
  /** Trains, resuming what is there; throws where it was interrupted. */
  readonly train: (onStep: (report: StepReport) => void) => Promise<unknown>;
  /** Writes `evaluation.json` into the folder. */
  readonly measure: () => Promise<void>;
}

const measured = (run: ExperimentRun): string => join(run.folder, "evaluation.json");
export const isComplete = (run: ExperimentRun): boolean => existsSync(measured(run));

/** Runs what is not complete, one after the other, with the time left over all of them. @param metric what is told of each, such as ndcg@10 */
export async function runAll(
  runs: readonly ExperimentRun[],
  metric: string,
  print: (line: string) => void,
): Promise<void> {
  const open = runs.filter((run) => !isComplete(run));
  let left = open.reduce((sum, run) => sum + run.steps, 0);
  let done = 0;
  const started = Date.now();
  for (const [i, run] of open.entries()) {
    let before = 0;
    let told = 0;
    await run.train(({ step }) => {
      if (before === 0) before = step - 1; // a resumed run begins where it stopped
      done += 1;
      left -= 1;
      if (Date.now() - told < 20_000) return;
      told = Date.now();
      const minutes = (((Date.now() - started) / done) * left) / 60_000;
      print(
        `run ${i + 1}/${open.length}: ${run.arm}, seed ${run.seed}: step ${step}/${run.steps}, ${minutes.toFixed(0)} min left`,
      );
    });
    left -= before;
    await run.measure();
    const { means } = await readEvaluation(run.folder);
    print(`run ${i + 1}/${open.length}: ${run.arm}, seed ${run.seed}: ${metric} ${means[metric]?.toFixed(4)}`);
  }
}

/** What a complete run gave. @param metric the one that rows are kept of, such as ndcg@10 */
async function resultOf(run: ExperimentRun, metric: string): Promise<ArmResult> {
  const { means, rows } = await readEvaluation(run.folder);
  const metrics = await readFile(join(run.folder, "metrics.jsonl"), "utf8");
  const curve = metrics
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, number>)
    .flatMap((line): [number, number][] => {
      const value = line[`validation/${metric}`];
      return value === undefined ? [] : [[line["step"]!, Math.round(1e4 * value) / 1e4]];
    });
  const kept = ["recall", "ndcg", "duplicates", "in_catalog"];
  return {
    name: run.arm,
    seed: run.seed,
    metrics: Object.fromEntries(
      Object.entries(means)
        .filter(([name]) => kept.includes(name.split("@")[0]!) || name === "duplicates")
        .map(([name, value]) => [name, Math.round(1e5 * value) / 1e5]),
    ),
    curve,
    perRow: rows.map((row) => Math.round(1e4 * ((row as Record<string, number | string>)[metric] as number)) / 1e4),
  };
}

const git = (...args: string[]): string => execFileSync("git", args, { encoding: "utf8" }).trim();

/** Writes the results of all complete runs, if there are any; what is not complete is named. */
export async function writeResults(
  file: string,
  runs: readonly ExperimentRun[],
  about: Omit<Results, "machine" | "commit" | "date" | "arms" | "missing">,
): Promise<void> {
  const complete = runs.filter(isComplete);
  if (complete.length === 0) return;
  const results: Results = {
    ...about,
    machine: `${addon.deviceInfo().threads} of ${cpus().length} threads of an ${cpus()[0]?.model.trim()} (${addon.deviceInfo().isa})`,
    commit: git("rev-parse", "--short", "HEAD"),
    date: new Date().toISOString().slice(0, 10),
    arms: await Promise.all(complete.map((run) => resultOf(run, about.metric))),
    missing: runs.filter((run) => !isComplete(run)).map(({ arm, seed }) => `${arm}, seed ${seed}`),
  };
  await mkdir(join(file, ".."), { recursive: true });
  await writeFileAtomic(file, `${JSON.stringify(results)}\n`);
}
