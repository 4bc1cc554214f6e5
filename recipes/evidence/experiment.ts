// An experiment: arms x seeds, each a training run in a folder of its own. What is complete is not run again, what was interrupted goes on,
// so the command can be stopped and repeated; results are made of whatever is complete.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { cpus } from "node:os";
import { join } from "node:path";

import { refuse } from "../../src/errors.ts";
import { writeFileAtomic } from "../../src/files.ts";
import { addon } from "../../src/native.ts";
import { readEvaluation } from "../../src/report/evaluations.ts";
import type { StepReport } from "../../src/training/report.ts";
import type { ArmResult, Origin, Results } from "./results.ts";

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

/** A metric of every row, as a results file keeps it. */
export const perRow = (rows: readonly object[], metric: string): number[] =>
  rows.map((row) => Math.round(1e4 * (row as Record<string, number>)[metric]!) / 1e4);

/** What a complete run gave; one that trains nothing has no curve. @param metric the one that rows are kept of, such as ndcg@10 */
async function resultOf(run: ExperimentRun, metric: string): Promise<ArmResult> {
  const { means, rows } = await readEvaluation(run.folder);
  const metrics = join(run.folder, "metrics.jsonl");
  const lines = existsSync(metrics) ? (await readFile(metrics, "utf8")).trim().split("\n") : [];
  const curve = lines
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
    perRow: perRow(rows, metric),
  };
}

const git = (...args: string[]): string => execFileSync("git", args, { encoding: "utf8" }).trim();

/** What a file gathered so far. @throws BAD_DATA where that is of another configuration */
async function gathered(file: string, configuration: string): Promise<ArmResult[]> {
  if (!existsSync(file)) return [];
  const { arms, ...about } = JSON.parse(await readFile(file, "utf8")) as Results;
  if (about.configuration !== configuration)
    refuse(
      "BAD_DATA",
      `runs of configuration ${configuration}`,
      file,
      String(about.configuration),
      "Runs of two configurations do not belong in one table: move the file away.",
    );
  return arms;
}

/**
 * Writes the results of all complete runs, if there are any; what is not complete is named.
 * @param configuration a hash of what all runs share, where the file gathers runs of several days and machines: what it holds already
 * stays, and each run says where and when it was made
 */
export async function writeResults(
  file: string,
  runs: readonly ExperimentRun[],
  about: Omit<Results, keyof Origin | "configuration" | "arms" | "missing">,
  configuration?: string,
): Promise<void> {
  const origin: Origin = {
    machine: `${addon.deviceInfo().threads} of ${cpus().length} threads of an ${cpus()[0]?.model.trim()} (${addon.deviceInfo().isa})`,
    commit: git("rev-parse", "--short", "HEAD"),
    date: new Date().toISOString().slice(0, 10),
  };
  const before = configuration === undefined ? [] : await gathered(file, configuration);
  const open = runs.filter(({ arm, seed }) => !before.some((known) => known.name === arm && known.seed === seed));
  const fresh = await Promise.all(open.filter(isComplete).map((run) => resultOf(run, about.metric)));
  const arms = [...before, ...(configuration === undefined ? fresh : fresh.map((arm) => ({ ...arm, origin })))];
  if (arms.length === 0) return;
  const results: Results = {
    ...about,
    ...origin,
    ...(configuration === undefined ? {} : { configuration }),
    arms,
    missing: open.filter((run) => !isComplete(run)).map(({ arm, seed }) => `${arm}, seed ${seed}`),
  };
  await mkdir(join(file, ".."), { recursive: true });
  await writeFileAtomic(file, `${JSON.stringify(results)}\n`);
}
