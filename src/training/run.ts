// A run folder: config.yaml, status.json, metrics.jsonl, samples.jsonl, checkpoints/step-N, best, final. Whatever a crash leaves, it can be resumed:
// checkpoints appear whole or not at all, and the logs are cut back to the checkpoint that is resumed from.
import { existsSync } from "node:fs";
import { appendFile, mkdir, readdir, readFile, rm } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { z } from "zod";

import { lines } from "../data/jsonl.ts";
import { writeLines } from "../data/write.ts";
import { RankGrpoError, refuse } from "../errors.ts";
import { asIoError, isTemporary, requireFresh, writeFileAtomic, writeFolderAtomic } from "../files.ts";
import type { Policy } from "../policy.ts";

/** Values by name (docs/metrics.md); arrays are by rank. */
export type Metrics = Record<string, number | readonly number[]>;

/** A line of samples.jsonl: the rollouts of one prompt of a step, rewards by rank. */
export interface StepSample {
  step: number;
  id: string;
  completions: { text: string; rewards: number[] }[];
}

/** status.json: how far a run is and how it ended; with the process, a reader can tell a crash. */
export interface RunStatus {
  state: "running" | "finished" | "early-stop" | "interrupted" | "failed";
  /** Steps done when the file was written. */
  step: number;
  /** Steps to do. */
  steps: number;
  process: { host: string; pid: number };
}

/** What a resume needs beside weights and optimizer. */
export interface RunState {
  /** Steps done. */
  step: number;
  /** Optimizer updates done: the schedule's position. */
  updates: number;
  /** Samples drawn: the data's position. */
  drawn: number;
  best: { step: number; value: number } | null;
  /** Validations since the best. */
  stale: number;
}

const count = z.number().int().min(0);
const stateSchema = z.strictObject({
  step: count,
  updates: count,
  drawn: count,
  best: z.strictObject({ step: count, value: z.number() }).nullable(),
  stale: count,
}) satisfies z.ZodType<RunState>;

/** @throws BAD_CHECKPOINT where a checkpoint was changed after it was written */
async function readState(checkpoint: string): Promise<RunState> {
  const path = join(checkpoint, "state.json");
  try {
    return stateSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch (cause) {
    throw new RankGrpoError(
      "BAD_CHECKPOINT",
      `Expected the state that a run wrote in ${path}, got another or none. Remove ${checkpoint}, and --resume goes on from the checkpoint before.`,
      { cause },
    );
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Of the process that a run says is at it; undefined where the run has ended, or is on another machine, which cannot be seen from here. */
export function runnerOf({ state, process: runner }: RunStatus): "alive" | "gone" | undefined {
  if (state !== "running" || runner.host !== hostname()) return undefined;
  return isAlive(runner.pid) ? "alive" : "gone";
}

/** @throws IO where another process of this machine is at this run; a status that cannot be read speaks of none */
async function requireOver(folder: string): Promise<void> {
  const path = join(folder, "status.json");
  const status = await readFile(path, "utf8")
    .then((text) => JSON.parse(text) as RunStatus)
    .catch(() => undefined);
  if (!status?.process || runnerOf(status) !== "alive" || status.process.pid === process.pid) return;
  const fix = `Wait for it or stop it; if that is no run of it, remove ${path}.`;
  refuse("IO", "a run that no process is at", `--resume of ${folder}`, `process ${status.process.pid}`, fix);
}

const folderOf = (step: number): string => `step-${String(step).padStart(6, "0")}`;

/** Names of the whole checkpoints, oldest first. */
async function checkpointsOf(folder: string): Promise<string[]> {
  const names = await readdir(join(folder, "checkpoints")).catch(() => []);
  const stepOf = (name: string): number => Number(name.slice("step-".length));
  return names.filter((name) => /^step-\d+$/.test(name)).sort((a, b) => stepOf(a) - stepOf(b));
}

/** Drops the lines of a log that belong to steps after `step`, and a torn last line. Of any size: samples may be more than a text can hold. */
async function truncateLog(path: string, step: number): Promise<void> {
  if (!existsSync(path)) return;
  const parse = (line: Buffer): { step: number } | undefined => {
    try {
      return JSON.parse(line.toString("utf8")) as { step: number };
    } catch {
      return undefined;
    }
  };
  async function* kept(): AsyncGenerator<object> {
    for await (const { bytes } of lines(path)) {
      const row = parse(bytes);
      if (row && row.step <= step) yield row;
    }
  }
  await writeLines(path, kept(), true);
}

export class Run {
  readonly folder: string;
  /** Where a resume goes on; undefined for a fresh run. */
  readonly resumed: { folder: string; state: RunState } | undefined;

  readonly #config: string;

  readonly #goesOn: boolean;

  private constructor(folder: string, config: string, resume: boolean, resumed: Run["resumed"]) {
    this.folder = folder;
    this.#config = config;
    this.#goesOn = resume;
    this.resumed = resumed;
  }

  /**
   * Checks the folder, and with `resume` finds its newest checkpoint (a fresh start where there is none yet). Writes nothing.
   * @throws IO where the folder holds something and `resume` is not set; BAD_CONFIG where the configuration differs;
   * BAD_CHECKPOINT where the newest checkpoint was changed; IO where another process is at the run
   */
  static async open(folder: string, kind: "sft" | "train", config: object, resume: boolean): Promise<Run> {
    const text = stringify({ kind, ...config });
    const path = join(folder, "config.yaml");
    if (!resume) requireFresh(folder, "Choose another --output, or go on with --resume.");
    else if (existsSync(path)) {
      const before = await readFile(path, "utf8");
      if (before !== text) {
        const a = before.split("\n");
        const b = text.split("\n");
        const at = b.findIndex((line, i) => line !== a[i]);
        refuse(
          "BAD_CONFIG",
          `the configuration of ${path} (line ${at + 1}: ${a[at] ?? ""})`,
          "--resume",
          b[at] ?? "",
          "A resumed run is the same run: start a new one to change it.",
        );
      }
    }
    if (resume) await requireOver(folder);
    const newest = resume ? (await checkpointsOf(folder)).at(-1) : undefined;
    let resumed: Run["resumed"];
    if (newest) {
      const from = join(folder, "checkpoints", newest);
      resumed = { folder: from, state: await readState(from) };
    }
    return new Run(folder, text, resume, resumed);
  }

  /**
   * Makes the folder, writes the configuration, and cuts the logs back to where the run goes on. Until then nothing is touched.
   * @throws IO where nothing can be made, or another run began here while this one opened its model
   */
  async start(): Promise<void> {
    const refused = (error: unknown): never => {
      throw asIoError(error, this.folder);
    };
    await mkdir(this.folder, { recursive: true }).catch(refused);
    // of two fresh runs one makes it
    await mkdir(join(this.folder, "checkpoints"), { recursive: this.#goesOn }).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST" || this.#goesOn) refused(error);
      refuse("IO", "a folder of its own", "the run", this.folder, "Another run began there: choose another --output.");
    });
    // of a process that was killed
    for (const place of [this.folder, join(this.folder, "checkpoints")])
      for (const name of await readdir(place)) if (isTemporary(name)) await rm(join(place, name), { recursive: true });
    await writeFileAtomic(join(this.folder, "config.yaml"), this.#config);
    for (const log of ["metrics.jsonl", "samples.jsonl"])
      await truncateLog(join(this.folder, log), this.resumed?.state.step ?? -1);
  }

  async status(state: RunStatus["state"], step: number, steps: number): Promise<void> {
    const status: RunStatus = { state, step, steps, process: { host: hostname(), pid: process.pid } };
    await writeFileAtomic(join(this.folder, "status.json"), `${JSON.stringify(status)}\n`);
  }

  async log(metrics: { step: number } & Metrics): Promise<void> {
    await this.#append("metrics.jsonl", [metrics]);
  }

  async samples(lines: readonly StepSample[]): Promise<void> {
    await this.#append("samples.jsonl", lines);
  }

  /** Weights, optimizer and state, then drops checkpoints beyond the newest `keep`. */
  async checkpoint(policy: Policy, state: RunState, keep: number): Promise<string> {
    const target = join(this.folder, "checkpoints", folderOf(state.step));
    await writeFolderAtomic(
      target,
      async (folder) => {
        await policy.save(folder, { replace: true, optimizer: true });
        await writeFileAtomic(join(folder, "state.json"), `${JSON.stringify(state, null, 2)}\n`);
      },
      { replace: true },
    );
    const all = await checkpointsOf(this.folder);
    for (const name of all.slice(0, Math.max(0, all.length - keep)))
      await rm(join(this.folder, "checkpoints", name), { recursive: true, force: true });
    return target;
  }

  /** `best` or `final`: an ordinary Hugging Face folder. */
  async save(name: "best" | "final", policy: Policy): Promise<string> {
    const target = join(this.folder, name);
    await policy.save(target, { replace: true });
    return target;
  }

  async #append(name: string, lines: readonly object[]): Promise<void> {
    if (lines.length === 0) return;
    const path = join(this.folder, name);
    await appendFile(path, lines.map((line) => `${JSON.stringify(line)}\n`).join("")).catch((error: unknown) => {
      throw asIoError(error, path);
    });
  }
}

/** The state of a run that has done nothing yet. */
export const freshState = (): RunState => ({ step: 0, updates: 0, drawn: 0, best: null, stale: 0 });

/** What a metric must be for `best`; @throws BAD_CONFIG where validation does not give it */
export function metricValue(metrics: Metrics, name: string): number {
  const value = metrics[name];
  if (typeof value === "number") return value;
  throw new RankGrpoError(
    "BAD_CONFIG",
    `Expected validation.metric to be one of ${Object.keys(metrics).join(", ")}, got ${name}.`,
  );
}
