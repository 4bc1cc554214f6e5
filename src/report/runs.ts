// Run folders as a report or a terminal sees them: configuration, metrics by step, samples; runs that differ in their seed alone are one group.
import { existsSync, statSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { basename, dirname, join, relative, resolve, sep } from "node:path";
import { parse } from "yaml";

import { readJsonl } from "../data/jsonl.ts";
import { refuse } from "../errors.ts";
import { asIoError } from "../files.ts";
import type { Metrics, RunStatus, StepSample } from "../training/run.ts";

export type Json = { readonly [key: string]: unknown };

/** One line of metrics.jsonl. Values that were not finite when written (JSON has no NaN) are left out. */
export interface Row {
  readonly step: number;
  readonly values: Metrics;
}

export interface StoredRun {
  readonly folder: string;
  /** Given as NAME=FOLDER; runs of one name are one group. */
  readonly name: string | undefined;
  readonly kind: string;
  /** Without `kind`. */
  readonly config: Json;
  /** The file as it stands. */
  readonly configText: string;
  /** Ascending steps, one row each. */
  readonly rows: readonly Row[];
  readonly samples: readonly StepSample[];
  readonly status: RunStatus | undefined;
}

export interface RunGroup {
  readonly label: string;
  readonly kind: string;
  /** By seed. */
  readonly runs: readonly StoredRun[];
}

const isRun = (folder: string): boolean => existsSync(join(folder, "config.yaml"));

/**
 * Reads run folders; a folder of run folders (such as the quickstart's) stands for those in it, `NAME=FOLDER` gives a name.
 * @throws IO where there is no run; BAD_DATA where a file is not what a run writes
 */
export async function readRuns(paths: readonly string[]): Promise<StoredRun[]> {
  const runs: StoredRun[] = [];
  for (const path of paths) {
    const at = existsSync(path) ? -1 : path.indexOf("=");
    const name = at > 0 ? path.slice(0, at) : undefined;
    const folder = path.slice(at + 1);
    for (const found of await runFolders(folder)) runs.push(await readRun(found, name));
  }
  return runs;
}

async function runFolders(folder: string): Promise<string[]> {
  if (isRun(folder)) return [folder];
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    throw asIoError(error, folder);
  });
  const inside = entries.filter((entry) => entry.isDirectory()).map((entry) => join(folder, entry.name));
  // in the order in which they were made: sft before what starts from it
  const made = (run: string): number => statSync(join(run, "config.yaml")).mtimeMs;
  const found = inside.filter(isRun).sort((a, b) => made(a) - made(b));
  if (found.length === 0) refuse("IO", "a run folder (with config.yaml), or a folder of them", "RUN", folder);
  return found;
}

export async function readRun(folder: string, name?: string): Promise<StoredRun> {
  const text = async (file: string): Promise<string> =>
    readFile(join(folder, file), "utf8").catch((error: unknown) => {
      throw asIoError(error, join(folder, file));
    });
  const configText = await text("config.yaml");
  const { kind, ...config } = parse(configText) as Json;
  const rows = new Map<number, Row>(); // a step done again after a crash counts once
  for await (const row of readLog(join(folder, "metrics.jsonl"), toRow)) rows.set(row.step, row);
  const samples: StepSample[] = [];
  for await (const sample of readLog(join(folder, "samples.jsonl"), toSample)) samples.push(sample);
  const status = existsSync(join(folder, "status.json"))
    ? (JSON.parse(await text("status.json")) as RunStatus)
    : undefined;
  return {
    folder,
    name,
    kind: String(kind),
    config,
    configText,
    rows: [...rows.values()].sort((a, b) => a.step - b.step),
    samples,
    status,
  };
}

/** A log that may not be there yet, and whose last line may be torn while the run goes on. */
async function* readLog<T>(path: string, convert: (row: Json) => T): AsyncGenerator<T> {
  if (!existsSync(path)) return;
  const text = await readFile(path);
  if (text.length === 0) return;
  if (text.at(-1) === 10) yield* readJsonl(path, convert);
  else
    for (const line of text.toString("utf8").split("\n").slice(0, -1))
      if (line.trim() !== "") yield convert(JSON.parse(line) as Json);
}

export function toRow(line: Json): Row {
  const { step } = line;
  if (typeof step !== "number") refuse("BAD_DATA", "a number", "step", step);
  const values: Record<string, number | readonly number[]> = {};
  for (const [name, value] of Object.entries(line)) {
    if (name === "step") continue;
    if (typeof value === "number") values[name] = value;
    else if (Array.isArray(value) && value.every((x) => typeof x === "number")) values[name] = value as number[];
  }
  return { step, values };
}

function toSample(line: Json): StepSample {
  const { step, id, completions } = line as Partial<StepSample>;
  if (typeof step !== "number" || typeof id !== "string" || !Array.isArray(completions))
    refuse("BAD_DATA", "step, id and completions", "a line of samples.jsonl", line);
  return { step, id, completions };
}

// ---- groups ----

/** A number that stands alone in a path or behind `seed`: not one inside a random name. */
const pathNumber = /(?<![A-Za-z\d])\d+(?![A-Za-z\d])|(?<=seed[-_]?)\d+/g;

const seedOf = (run: StoredRun): number => (typeof run.config["seed"] === "number" ? run.config["seed"] : 0);

const isPath = (text: string): boolean => text.includes("/") || text.includes(sep);

/** Paths under the run's parent folder begin alike, wherever that is. */
function fromParent(run: StoredRun, path: string): string {
  const parent = resolve(dirname(run.folder)) + sep;
  const full = resolve(path);
  return full.startsWith(parent) ? `<runs>/${full.slice(parent.length)}` : path;
}

/**
 * Whether values of two runs' configurations differ in nothing but what the seed or the output folder put into them: in paths each of two
 * numbers may be its own run's seed (`runs/sft-seed2/final` with seed 2). Other numbers of paths are the same (`Llama-3.2-1B`).
 */
export function alike(a: StoredRun, x: unknown, b: StoredRun, y: unknown): boolean {
  if (x === y) return true;
  if (typeof x === "string" && typeof y === "string") {
    if (!isPath(x) || !isPath(y)) return false;
    const [p, q] = [fromParent(a, x), fromParent(b, y)];
    const numbers = q.match(pathNumber) ?? [];
    return (
      p.replace(pathNumber, "*") === q.replace(pathNumber, "*") &&
      (p.match(pathNumber) ?? []).every(
        (digits, i) => digits === numbers[i] || (Number(digits) === seedOf(a) && Number(numbers[i]) === seedOf(b)),
      )
    );
  }
  if (typeof x !== "object" || typeof y !== "object" || x === null || y === null) return false;
  const [xs, ys] = [x as Json, y as Json];
  const keys = Object.keys(xs);
  return keys.length === Object.keys(ys).length && keys.every((key) => key in ys && alike(a, xs[key], b, ys[key]));
}

/** Given names count first, else equal configurations but for seed and output. */
const belongTogether = (a: StoredRun, b: StoredRun): boolean =>
  a.kind === b.kind &&
  a.name === b.name &&
  (a.name !== undefined || alike(a, { ...a.config, seed: 0 }, b, { ...b.config, seed: 0 }));

/** Groups in the order of their first run. */
export function groupRuns(runs: readonly StoredRun[]): RunGroup[] {
  const groups: StoredRun[][] = [];
  for (const run of runs) {
    const members = groups.find(([first]) => belongTogether(first!, run));
    if (members) members.push(run);
    else groups.push([run]);
  }
  const root = commonParent(runs.map((run) => resolve(run.folder)));
  const labels = groups.map((members) => {
    const [first] = members as [StoredRun, ...StoredRun[]];
    if (first.name !== undefined) return first.name;
    const path = relative(root, resolve(first.folder)) || basename(resolve(first.folder));
    const seed = String(seedOf(first));
    return members.length > 1 ? path.replace(pathNumber, (digits) => (digits === seed ? "*" : digits)) : path;
  });
  return groups.map((members, i) => ({
    label: labels.filter((label) => label === labels[i]).length > 1 ? `${labels[i]} (${members[0]!.kind})` : labels[i]!,
    kind: members[0]!.kind,
    runs: members.toSorted((a, b) => seedOf(a) - seedOf(b)),
  }));
}

export const seedsOf = (group: RunGroup): number[] => group.runs.map(seedOf);

function commonParent(folders: readonly string[]): string {
  let parent = dirname(folders[0] ?? sep);
  while (!folders.every((folder) => folder.startsWith(parent.endsWith(sep) ? parent : parent + sep)))
    parent = dirname(parent);
  return parent;
}

/** Values by keys joined by dots, the seed left out. */
export function flatConfig(run: StoredRun): Map<string, unknown> {
  const flat = new Map<string, unknown>([["stage", run.kind]]);
  const visit = (value: unknown, path: string): void => {
    if (value !== null && typeof value === "object" && !Array.isArray(value))
      for (const [key, inner] of Object.entries(value)) visit(inner, path === "" ? key : `${path}.${key}`);
    else if (path !== "seed") flat.set(path, value);
  };
  visit(run.config, "");
  return flat;
}
