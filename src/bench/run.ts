// `rank-grpo bench` and `npm run bench`: suites by name, a table as it grows, a recording, a comparison with an earlier one.
import { readFile } from "node:fs/promises";

import { refuse } from "../errors.ts";
import { writeFileAtomic } from "../files.ts";
import { type BenchOptions, compare, format, Harness, type Recording, recording } from "./harness.ts";
import { suites } from "./suites.ts";

export interface RunOptions extends BenchOptions {
  /** Names of suites; none: all. */
  suites: readonly string[];
  /** Where to write the recording. */
  json?: string;
  /** An earlier recording to compare with. */
  compare?: string;
}

/** Runs suites and returns what it recorded. The last line printed is the recording as one line of JSON. */
export async function bench(options: RunOptions): Promise<Recording> {
  const names = options.suites.length > 0 ? options.suites : Object.keys(suites);
  for (const name of names)
    if (!(name in suites)) refuse("INVALID_ARGUMENT", Object.keys(suites).join(", "), "suite", name);
  const before = options.compare ? (JSON.parse(await readFile(options.compare, "utf8")) as Recording) : undefined;
  const print = options.print ?? ((line: string) => process.stdout.write(`${line}\n`));
  const harness = new Harness({ ...options, print });
  for (const name of names) await harness.suite(name, suites[name]!);
  const result = recording(harness);
  if (before) {
    print(`\ncompared with ${options.compare}, times relative to each run's own bounds:`);
    for (const { row, change, verdict } of compare(before, result))
      print(`${verdict.padEnd(7)} ${(100 * change).toFixed(1).padStart(6)} %  ${format(row)}`);
  }
  if (options.json) await writeFileAtomic(options.json, `${JSON.stringify(result, null, 1)}\n`);
  print(`\nBENCH ${JSON.stringify(result)}`);
  return result;
}
