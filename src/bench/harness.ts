// Benchmarks people can trust: a result is validated before it is timed, and every row stands beside a bound that was measured on this
// machine in the same run. Suites are lists of `Work`; this file measures, prints, records and compares them.
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, platform, release } from "node:os";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

import { Bench } from "tinybench";

import { RankGrpoError } from "../errors.ts";
import { addon, type NativeBounds } from "../native.ts";
import type { PeerRow } from "./peers.ts";

export interface Row {
  suite: string;
  name: string;
  shape: string;
  dtype: string;
  device: string;
  threads: number;
  samples: number;
  /** Median of the samples, and half the distance between their quartiles, in ms. */
  timeMs: number;
  spreadMs: number;
  gflops?: number;
  gbps?: number;
  /** What the machine allows, in ms, by the probes around the row's samples. */
  boundMs?: number;
  /** Time over bound, the median of the samples' own: 1 is the bound. */
  ratio?: number;
  /** Largest difference from the reference; the suite ends where it is above the tolerance. */
  error: number;
  /** What resident memory rose by at its peak during a call; only where the system tells. */
  extraMiB?: number;
  /** The whole process at its peak. */
  peakMiB?: number;
  /** Of a row that is one size of a series: what grows, and how large it is here. */
  series?: { over: string; size: number };
  /** Anything else worth a column: tokens a second, say. */
  rate?: { value: number; unit: string };
}

export interface Validation {
  error: number;
  tolerance: number;
}

/** One row to be: how to validate and how to run it, and what it has to compute and move at least. */
export interface Work {
  name: string;
  shape: string;
  /** "text": what JavaScript does with strings. */
  dtype: "f32" | "bf16" | "f64" | "text";
  validate: () => Promise<Validation> | Validation;
  run: () => unknown;
  flops?: number;
  /** Bytes read from memory once, and bytes read and written in place. */
  readBytes?: number;
  updateBytes?: number;
  /** In place of the bound that flops and bytes give. */
  bound?: (bounds: NativeBounds) => number;
  /** Tokens a call, for tokens a second. */
  tokens?: number;
  /** Where work is measured at growing sizes. */
  series?: { over: string; size: number };
}

export interface BenchOptions {
  /** About so long for a row, in seconds. Default 1. */
  seconds?: number;
  /** Only rows whose name, shape and dtype, in one line, hold every one of these words. */
  only?: string[];
  print?: (line: string) => void;
}

/** One repetition, and what the machine gave around it. */
interface Sample {
  ms: number;
  bounds: NativeBounds;
}

/** How often a row takes turns with the probes, at most: what a machine gives differs from one second to the next. */
const mostTurns = 5;

/** A suite makes its work one after the other, so that what a row needs is freed before the next. */
export type Suite = (harness: Harness) => Promise<void>;

const quantile = (sorted: readonly number[], q: number): number => {
  const at = q * (sorted.length - 1);
  const low = sorted[Math.floor(at)]!;
  return low + (sorted[Math.ceil(at)]! - low) * (at % 1);
};

/** Kilobytes of a line of /proc/self/status; undefined elsewhere than on Linux. */
function memoryLine(key: string): number | undefined {
  try {
    return Number(new RegExp(`${key}:\\s+(\\d+)`).exec(readFileSync("/proc/self/status", "utf8"))?.[1]) || undefined;
  } catch {
    return undefined;
  }
}

const collectGarbage = (): void => {
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
};

/** Peak resident memory of `run`, and what it is above the start, in MiB. What JavaScript no longer needs goes before. */
export async function peakOf(run: () => unknown): Promise<{ extraMiB?: number; peakMiB?: number }> {
  let start: number | undefined;
  collectGarbage();
  try {
    writeFileSync("/proc/self/clear_refs", "5"); // the peak starts anew
    start = memoryLine("VmRSS");
  } catch {}
  await run();
  const peak = memoryLine("VmHWM");
  if (start === undefined || peak === undefined) return {};
  return { extraMiB: Math.max(0, peak - start) / 1024, peakMiB: peak / 1024 };
}

export class Harness {
  readonly rows: Row[] = [];
  readonly notes: string[] = [];
  readonly device = addon.deviceInfo();
  readonly seconds: number;
  readonly #only: string[];
  readonly #print: (line: string) => void;
  #suite = "";
  #bounds: NativeBounds | undefined;
  readonly #probe = addon.benchProbe();
  /** The latest of it. */
  #now: NativeBounds | undefined;

  constructor(options: BenchOptions = {}) {
    this.seconds = options.seconds ?? 1;
    this.#only = options.only ?? [];
    this.#print = options.print ?? (() => {});
  }

  /** The best of all probes of this run. */
  get bounds(): NativeBounds {
    return this.#bounds!;
  }

  async suite(name: string, suite: Suite): Promise<void> {
    this.#suite = name;
    await this.#measureBounds();
    await this.#probe.release();
    this.#print(
      `\n${name}: ${this.device.isa}, ${this.device.threads} threads; at most ${describeBounds(this.bounds)}\n${header}`,
    );
    await suite(this);
  }

  wants(work: { name: string; shape: string; dtype: string }): boolean {
    const text = `${work.name} ${work.shape} ${work.dtype}`.toLowerCase();
    return this.#only.every((word) => text.includes(word.toLowerCase()));
  }

  /** Validates, then times; undefined where the row is not wanted. @throws WRONG_RESULT */
  async measure(work: Work): Promise<Row | undefined> {
    if (!this.wants(work)) return undefined;
    const { error, tolerance } = await work.validate();
    if (!(error <= tolerance))
      throw new RankGrpoError(
        "WRONG_RESULT",
        `Expected ${work.name} (${work.shape}, ${work.dtype}) within ${tolerance} of its reference, got ${error}.`,
      );
    const begun = performance.now();
    const memory = await peakOf(work.run); // warms up, too
    const slow = performance.now() - begun > 10_000;
    const bounded = work.flops || work.readBytes || work.updateBytes;
    const turns = !bounded ? 1 : slow ? 2 : Math.max(1, Math.min(mostTurns, Math.round(this.seconds / 0.2)));
    const samples: Sample[] = [];
    if (bounded) await this.#measureBounds(); // the last one is as old as the validation and the row before
    for (let turn = 0; turn < turns; turn++) {
      const before = this.#now!;
      const times = await this.#time(work, this.seconds / turns, Math.ceil((slow ? 2 : 3) / turns));
      if (bounded) await this.#measureBounds();
      const bounds = better(before, this.#now!);
      samples.push(...times.map((ms) => ({ ms, bounds })));
    }
    await this.#probe.release();
    return this.#add(work, samples, error, memory);
  }

  /** A row that was measured elsewhere: in a process of its own. */
  adopt(row: Row): void {
    this.rows.push({ ...row, suite: this.#suite });
    this.#print(format(row));
  }

  /** Rows that the addon timed and validated itself. */
  async native(suite: "matmul" | "attention"): Promise<void> {
    for (const m of await addon.benchNative(suite, this.seconds)) {
      const { name, shape, flops } = m;
      const dtype = m.dtype === "bf16" ? "bf16" : "f32";
      if (this.wants({ name, shape, dtype }))
        this.#add(
          { name, shape, dtype, flops, readBytes: m.bytes },
          m.samplesMs.map((ms, i) => ({
            ms,
            bounds: { ...this.bounds, readBytes: m.readBytes[i] ?? this.bounds.readBytes },
          })),
          m.error,
          m.extraMiB === undefined ? {} : { extraMiB: m.extraMiB },
        );
    }
  }

  note(text: string): void {
    this.notes.push(`${this.#suite}: ${text}`);
    this.#print(text);
  }

  /** Milliseconds of each repetition. */
  async #time(work: Work, seconds: number, least: number): Promise<number[]> {
    const bench = new Bench({
      time: seconds * 1000,
      iterations: least,
      warmup: false,
      retainSamples: true,
      throws: true,
    });
    bench.add(work.name, async () => {
      await work.run();
    });
    const [task] = await bench.run();
    const result = task?.result;
    if (!result || !("latency" in result))
      throw new RankGrpoError("WRONG_RESULT", `Expected samples of ${work.name}, got none.`);
    return [...result.latency.samples!];
  }

  async #measureBounds(): Promise<void> {
    this.#now = await this.#probe.measure();
    this.#bounds = better(this.#now, this.#bounds ?? this.#now);
  }

  #add(
    work: Omit<Work, "validate" | "run">,
    samples: readonly Sample[],
    error: number,
    memory: { extraMiB?: number; peakMiB?: number },
  ): Row {
    const ascending = (values: number[]): number[] => values.toSorted((a, b) => a - b);
    const sorted = ascending(samples.map(({ ms }) => ms));
    const timeMs = quantile(sorted, 0.5);
    const boundOf = ({ bounds }: Sample): number => 1000 * (work.bound?.(bounds) ?? lowerBound(work, bounds));
    const ratio = quantile(ascending(samples.map((sample) => sample.ms / boundOf(sample))), 0.5);
    const bytes = (work.readBytes ?? 0) + (work.updateBytes ?? 0);
    const row: Row = {
      suite: this.#suite,
      name: work.name,
      shape: work.shape,
      dtype: work.dtype,
      device: this.device.device,
      threads: this.device.threads,
      samples: sorted.length,
      timeMs,
      spreadMs: (quantile(sorted, 0.75) - quantile(sorted, 0.25)) / 2,
      error,
      ...memory,
      ...(work.series ? { series: work.series } : {}),
      ...(work.flops ? { gflops: work.flops / timeMs / 1e6 } : {}),
      ...(bytes ? { gbps: bytes / timeMs / 1e6 } : {}),
      ...(Number.isFinite(ratio) ? { boundMs: timeMs / ratio, ratio } : {}),
      ...(work.tokens ? { rate: { value: (1000 * work.tokens) / timeMs, unit: "tokens/s" } } : {}),
    };
    this.rows.push(row);
    this.#print(format(row));
    return row;
  }
}

/** Of two probes the better: another process can only make a bound look lower. */
const better = (a: NativeBounds, b: NativeBounds): NativeBounds => ({
  readBytes: Math.max(a.readBytes, b.readBytes),
  updateBytes: Math.max(a.updateBytes, b.updateBytes),
  flopsF32: Math.max(a.flopsF32, b.flopsF32),
  flopsBf16: Math.max(a.flopsBf16, b.flopsBf16),
});

/** Seconds that flops and bytes take at best: they overlap, so the longer of the two. */
function lowerBound(work: Pick<Work, "dtype" | "flops" | "readBytes" | "updateBytes">, bounds: NativeBounds): number {
  const peak = work.dtype === "bf16" && bounds.flopsBf16 > 0 ? bounds.flopsBf16 : bounds.flopsF32;
  const memory = (work.readBytes ?? 0) / bounds.readBytes + (work.updateBytes ?? 0) / bounds.updateBytes;
  return Math.max(work.dtype === "f64" || work.dtype === "text" ? 0 : (work.flops ?? 0) / peak, memory);
}

const describeBounds = (b: NativeBounds): string =>
  `${(b.readBytes / 1e9).toFixed(1)} GB/s read, ${(b.updateBytes / 1e9).toFixed(1)} GB/s updated in place, ` +
  `${(b.flopsF32 / 1e9).toFixed(0)} GFLOP/s f32${b.flopsBf16 ? `, ${(b.flopsBf16 / 1e9).toFixed(0)} bf16` : ""}`;

const columns = [52, 46, 5, 20, 9, 8, 10, 7, 8];
const line = (cells: readonly string[]): string =>
  cells
    .map((cell, i) => (i < 3 ? cell.padEnd(columns[i]!) : cell.padStart(columns[i]!)))
    .join(" ")
    .trimEnd();
const header = line(["what", "shape", "dtype", "ms (± spread)", "GFLOP/s", "GB/s", "bound ms", "ratio", "+MiB"]);
const digits = (x: number | undefined, n = 1): string => (x === undefined ? "" : x.toFixed(n));

export function format(row: Row): string {
  const n = row.timeMs < 10 ? 3 : 1;
  const rate = row.rate ? `  ${row.rate.value.toFixed(0)} ${row.rate.unit}` : "";
  const cells = [
    row.name,
    row.shape,
    row.dtype,
    `${row.timeMs.toFixed(n)} ± ${row.spreadMs.toFixed(n)}`,
    digits(row.gflops),
    digits(row.gbps),
    digits(row.boundMs, n),
    row.ratio === undefined ? "" : `${row.ratio.toFixed(2)}x`,
    digits(row.extraMiB, 0),
  ];
  return line(cells) + rate;
}

export interface Recording {
  /** YYYY-MM-DD */
  date: string;
  machine: { cpu: string; cores: number; threads: number; isa: string; system: string; node: string; version: string };
  bounds: NativeBounds;
  rows: Row[];
  notes: string[];
  peers?: PeerRow[];
}

export function recording(harness: Harness): Recording {
  const { device } = harness;
  return {
    date: new Date().toISOString().slice(0, 10),
    machine: {
      cpu: cpus()[0]?.model.trim() ?? "unknown",
      cores: cpus().length,
      threads: device.threads,
      isa: device.isa,
      system: `${platform()} ${release()}`,
      node: process.version,
      version: addon.version,
    },
    bounds: harness.bounds,
    rows: harness.rows,
    notes: harness.notes,
  };
}
