// `rank-grpo bench` and `npm run bench`: suites by name, a table as it grows, a recording, a comparison with an earlier one.
import { refuse } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { type Change, compareBuilds, compareRecordings, readRecording } from "./compare.ts";
import { type BenchOptions, format, Harness, type Recording, recording } from "./harness.ts";
import { suites } from "./suites.ts";

export interface RunOptions extends BenchOptions {
  /** Names of suites; none: all. */
  suites: readonly string[];
  /** Where to write the recording. */
  json?: string;
  /** An earlier recording (.json) to compare with. */
  compare?: string;
  /** A model with its tokenizer: the same work by torch, transformers, TRL and Liger too. */
  peers?: string;
}

const percent = (x: number): string => `${x < 0 ? "" : "+"}${(100 * x).toFixed(1)} %`;

/** One line: verdict, change of the time, its interval, and the row as it is now. */
function formatChange({ row, change, interval, verdict }: Change): string {
  const range = interval ? ` [${percent(interval[0])}, ${percent(interval[1])}]` : "";
  return `${verdict.padEnd(7)} ${percent(change).padStart(8)}${range.padEnd(interval ? 20 : 0)}  ${format(row)}`;
}

const namesOf = (suites_: readonly string[]): readonly string[] => {
  for (const name of suites_)
    if (!(name in suites)) refuse("INVALID_ARGUMENT", Object.keys(suites).join(", "), "suite", name);
  return suites_.length > 0 ? suites_ : Object.keys(suites);
};

/** Runs suites with the addon of another build and with this one's by turns, and prints what changed. */
export async function benchBuilds(build: string, options: RunOptions & { rounds?: number }): Promise<Change[]> {
  const names = namesOf(options.suites);
  const print = options.print ?? ((line: string) => process.stdout.write(`${line}\n`));
  const rounds = options.rounds ?? 6;
  const changes = await compareBuilds(build, { ...options, suites: names }, rounds, (done) =>
    process.stderr.write(`pair ${done}/${rounds}\n`),
  );
  print(`\nthis build against ${build}, ${rounds} pairs of runs in turn, mean change and its 95 % interval:`);
  for (const change of changes) print(formatChange(change));
  return changes;
}

/** Runs suites and returns what it recorded. */
export async function bench(options: RunOptions): Promise<Recording> {
  const names = namesOf(options.suites);
  const before = options.compare ? await readRecording(options.compare) : undefined;
  const print = options.print ?? ((line: string) => process.stdout.write(`${line}\n`));
  const harness = new Harness({ ...options, print });
  for (const name of names) await harness.suite(name, suites[name]!);
  if (options.only?.length && harness.rows.length === 0)
    refuse("INVALID_ARGUMENT", `words of a row of ${names.join(", ")}`, "--only", options.only.join(" "));
  const result = recording(harness);
  if (options.peers !== undefined) {
    const { peers } = await import("./peers.ts");
    print("\npeers, each checked against this engine's result:");
    result.peers = await peers(options.peers, { seconds: harness.seconds, only: options.only ?? [], print });
  }
  if (before) {
    print(`\ncompared with ${options.compare}:`);
    for (const change of compareRecordings(before, result)) print(formatChange(change));
  }
  if (options.json) {
    await writeFileAtomic(options.json, `${JSON.stringify(result, null, 1)}\n`);
    print(`Written: ${options.json}`);
  }
  return result;
}
