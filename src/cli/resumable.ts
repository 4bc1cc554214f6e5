// JSON Lines that a long command writes, one for each line of its input. What is done is kept beside the output, so that the same command goes
// on from there when it was interrupted: a line is the same whatever was computed together with it.
import { createHash } from "node:crypto";
import { createReadStream, existsSync, rmSync, statSync } from "node:fs";
import { mkdir, open, rename } from "node:fs/promises";
import { dirname } from "node:path";

import { refuse } from "../errors.ts";
import { asIoError, stampOf } from "../files.ts";
import { addon } from "../native.ts";
import { ItemProgress } from "./progress.ts";

/** The options of a command, with the files among them that decide what comes out. */
interface Flags {
  model: string;
  input: string;
  catalog?: string;
  output: string;
}

/** For a command's help. */
export const resumableHelp = "\nInterrupted, the same command goes on after the lines that it has.\n";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

function keptName(label: string, flags: Flags): string {
  const files = [flags.model, flags.input, ...(flags.catalog === undefined ? [] : [flags.catalog])];
  const call = JSON.stringify([addon.version, label, flags, files.map(stampOf)]);
  return `${flags.output}.${createHash("sha256").update(call).digest("hex").slice(0, 12)}.part`;
}

/** Whole lines of a file, and their bytes: a killed process may have left half of one behind them. */
async function wholeLines(path: string): Promise<{ lines: number; bytes: number }> {
  const whole = { lines: 0, bytes: 0 };
  if (!existsSync(path)) return whole;
  let before = 0; // bytes of the chunks before
  for await (const chunk of createReadStream(path) as AsyncIterable<Buffer>) {
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, end + 1)) {
      whole.lines++;
      whole.bytes = before + end + 1;
    }
    before += chunk.length;
  }
  return whole;
}

/**
 * Writes `flags.output` with `total` lines: `work(first)` gives records from the `first` line on, some at a time. Says on stderr where it goes
 * on, and when interrupted what is kept. @throws IO where the disk fails, or another process does the same work
 */
export async function writeResumable(
  label: string,
  flags: Flags,
  total: number,
  work: (first: number) => AsyncIterable<readonly object[]>,
): Promise<void> {
  const kept = keptName(label, flags);
  let { lines: done, bytes } = await wholeLines(kept);
  if (done > 0)
    process.stderr.write(`${label}: goes on after ${done} of ${total} lines of an earlier call (${kept})\n`);
  const progress = new ItemProgress(label, total, { first: done });
  const stop = (): void => {
    progress.done();
    if (done > 0)
      process.stderr.write(`${done} of ${total} lines are kept in ${kept}: the same command goes on from there.\n`);
    else if (statSync(kept, { throwIfNoEntry: false })?.size === 0) rmSync(kept);
  };
  const interrupted = (): void => {
    stop();
    process.exit(130);
  };
  for (const signal of signals) process.once(signal, interrupted);
  try {
    await mkdir(dirname(kept), { recursive: true });
    const file = await open(kept, "a");
    try {
      await file.truncate(bytes);
      for await (const records of work(done)) {
        const text = Buffer.from(records.map((record) => `${JSON.stringify(record)}\n`).join(""));
        if ((await file.stat()).size !== bytes)
          refuse("IO", "a file of this process alone", kept, "another process's lines", "Let that process end first.");
        await file.appendFile(text);
        bytes += text.length;
        done += records.length;
        progress.update(done, total);
      }
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(kept, flags.output);
    progress.done();
  } catch (error) {
    stop();
    throw asIoError(error, kept);
  } finally {
    for (const signal of signals) process.off(signal, interrupted);
  }
  process.stdout.write(`${total} lines: ${flags.output}\n`);
}
