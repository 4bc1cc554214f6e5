// Two builds, or two hours of one, held against each other: verdicts that take noise into account.
import { existsSync, statSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";

import { refuse } from "../errors.ts";
import { benchInChild, type ChildOptions } from "./child.ts";
import type { Recording, Row } from "./harness.ts";

export type Verdict = "faster" | "slower" | "same";

export interface Change {
  row: Row;
  /** Relative change of the cost: -0.2 takes a fifth less time. */
  change: number;
  /** 95 % interval of the change, where runs were paired. */
  interval?: [low: number, high: number];
  verdict: Verdict;
}

/** Paired changes below are not worth a word, whatever their interval. */
const negligible = 0.03;

const keyOf = (row: Row): string => [row.suite, row.name, row.shape, row.dtype, row.threads].join(" | ");

/** @throws IO where there is none, BAD_DATA where it is something else */
export async function readRecording(path: string): Promise<Recording> {
  const what = "a recording that `rank-grpo bench --json` wrote";
  const text = await readFile(path, "utf8").catch((error: Error) => refuse("IO", what, path, error.message));
  let value: Recording | null;
  try {
    value = JSON.parse(text) as Recording | null;
  } catch (error) {
    return refuse("BAD_DATA", what, path, (error as Error).message);
  }
  if (!Array.isArray(value?.rows)) refuse("BAD_DATA", what, path, value);
  return value as Recording;
}

/**
 * Rows of both recordings. Runs of different hours cannot be paired, and either a time or the bound beside it may have met a slower one: the
 * time and its ratio to its own run's bound have to say the same, the smaller change of the two counts, and it counts as one where it is
 * beyond three spreads of both runs and beyond 5 %.
 */
export function compareRecordings(before: Recording, after: Recording): Change[] {
  const old = new Map(before.rows.map((row) => [keyOf(row), row]));
  return after.rows.flatMap((row) => {
    const was = old.get(keyOf(row));
    if (!was) return [];
    const time = row.timeMs / was.timeMs - 1;
    const relative = row.ratio !== undefined && was.ratio !== undefined ? row.ratio / was.ratio - 1 : time;
    const change = time * relative <= 0 ? 0 : Math.abs(time) < Math.abs(relative) ? time : relative;
    const noise = 3 * Math.hypot(row.spreadMs / row.timeMs, was.spreadMs / was.timeMs);
    const verdict = Math.abs(change) <= Math.max(0.05, noise) ? "same" : change < 0 ? "faster" : "slower";
    return [{ row, change, verdict }];
  });
}

/** Two-sided 95 % points of Student's t for 1 to 12 degrees of freedom. */
const few = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179];
/** Of more by the normal distribution and its first corrections, within 0.002. */
const student = (freedom: number): number => few[freedom - 1] ?? 1.96 + 2.372 / freedom + 2.823 / freedom ** 2;

/** The mean of the pairs' log-ratios with its interval by Student's t; faster or slower where the interval leaves out no change. */
export function comparePairs(pairs: readonly { before: Recording; after: Recording }[]): Change[] {
  const rows = pairs[0]?.after.rows ?? [];
  return rows.flatMap((row) => {
    const key = keyOf(row);
    const logs = pairs.flatMap(({ before, after }) => {
      const [a, b] = [before, after].map(({ rows }) => rows.find((other) => keyOf(other) === key)?.timeMs);
      return a !== undefined && b !== undefined ? [Math.log(b / a)] : [];
    });
    const n = logs.length;
    if (n < 2) return [];
    const mean = logs.reduce((sum, x) => sum + x, 0) / n;
    const deviation = Math.sqrt(logs.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (n - 1));
    const half = student(n - 1) * (deviation / Math.sqrt(n));
    const change = Math.expm1(mean);
    const interval: [number, number] = [Math.expm1(mean - half), Math.expm1(mean + half)];
    const verdict =
      (interval[0] <= 0 && interval[1] >= 0) || Math.abs(change) <= negligible
        ? "same"
        : change < 0
          ? "faster"
          : "slower";
    return [{ row, change, interval, verdict }];
  });
}

/** The addon of another build: a .node file, a checkout, or a folder where rank-grpo is installed. @throws IO */
export function addonOf(build: string): string {
  const places = statSync(build, { throwIfNoEntry: false })?.isDirectory()
    ? ["", "node_modules/rank-grpo"].flatMap((folder) =>
        [".rank-grpo", "build-cmake/Release", "build/Release"].map((inner) =>
          join(build, folder, inner, "rank_grpo.node"),
        ),
      )
    : [build];
  const found = places.find((path) => existsSync(path));
  return resolve(found ?? refuse("IO", `an addon (${places.join(", ")})`, build, "none", "Build it first."));
}

/**
 * Runs suites with the addon of `build` and with this one's by turns, each in a process of its own: A B, B A, A B ... A slower minute of
 * the machine meets both.
 * @param rounds pairs, at least 2
 */
export async function compareBuilds(
  build: string,
  options: ChildOptions,
  rounds: number,
  onPair: (done: number) => void,
): Promise<Change[]> {
  if (rounds < 2) refuse("INVALID_ARGUMENT", "a whole number from 2", "rounds", rounds); // one pair tells nothing of its noise
  const other = { RANK_GRPO_ADDON: addonOf(build) };
  const mine = {}; // what the environment already says
  const pairs: { before: Recording; after: Recording }[] = [];
  for (let round = 0; round < rounds; round++) {
    const first = await benchInChild(options, round % 2 === 0 ? other : mine);
    const second = await benchInChild(options, round % 2 === 0 ? mine : other);
    pairs.push(round % 2 === 0 ? { before: first, after: second } : { before: second, after: first });
    onPair(round + 1);
  }
  return comparePairs(pairs);
}
