// `rank-grpo bench`: what it prints and records, that a wrong result ends it, and that comparisons know noise from change.
import { execFile } from "node:child_process";
import { mkdtemp, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";

import { comparePairs, compareRecordings, readRecording, type Verdict } from "../src/bench/compare.ts";
import { exponent } from "../src/bench/growth.ts";
import { Harness, type Recording, type Row, type Work } from "../src/bench/harness.ts";
import { objectives } from "../src/bench/objectives.ts";
import { objectiveList } from "../src/kernels.ts";

const run = promisify(execFile);
const command = (...args: string[]) => run(process.execPath, ["--import", "tsx", "bench/run.mts", ...args]);

describe("the command", () => {
  it("tells its suites and options", async () => {
    const { stdout } = await command("--help");
    for (const word of ["kernels", "matmul", "data", "--only", "--seconds", "--json", "--compare", "--peers"])
      expect(stdout).toContain(word);
  });

  it("refuses a suite that is none, by name", async () => {
    await expect(command("kernel")).rejects.toThrow(/kernels, objectives, .* for suite, got "kernel"/);
  });

  it("refuses words that no row holds", async () => {
    await expect(command("objectives", "--only", "clyp", "--seconds", "0.01")).rejects.toThrow(
      /Expected words of a row of objectives for --only, got "clyp"/,
    );
  });

  it("takes words of a row's shape", async () => {
    const only = ["1 rows", "prompts of 40", "f32"].flatMap((word) => ["--only", word]);
    const { stdout } = await command("generation", ...only, "--seconds", "0.01");
    expect(stdout).toMatch(/\nsmall .*: 1 rows +1 prompts of 40, 64 tokens +f32/);
    expect(stdout).not.toMatch(/: 8 rows|bf16 /);
  });

  it("records rows with shape, threads, spread, bound and error", async () => {
    const file = join(await mkdtemp(join(tmpdir(), "bench-")), "o.json");
    const { stdout } = await command("objectives", "--only", "clip", "--seconds", "0.01", "--json", file);
    const { machine, bounds, rows } = JSON.parse(await readFile(file, "utf8")) as Recording;
    expect(stdout).toContain(`Written: ${file}`);
    expect(machine.threads).toBeGreaterThan(0);
    expect(bounds.readBytes).toBeGreaterThan(1e8);
    expect(rows.length).toBe(1);
    const row = rows[0]!;
    expect(row).toMatchObject({ suite: "objectives", dtype: "f64", device: "cpu", threads: machine.threads });
    expect(row.samples).toBeGreaterThanOrEqual(3);
    expect(row.timeMs).toBeGreaterThan(0);
    expect(row.spreadMs).toBeGreaterThanOrEqual(0);
    expect(row.ratio! * row.boundMs!).toBeCloseTo(row.timeMs, 6);
    expect(row.error).toBeLessThan(1e-5);
    const again = await command("objectives", "--only", "clip", "--seconds", "0.01", "--compare", file);
    expect(again.stdout).toMatch(/compared with .*\n(same|faster|slower)/);
  });

  it("runs another build by turns", async () => {
    const { stdout } = await command(
      "objectives",
      "--only",
      "clip",
      "--seconds",
      "0.01",
      "--rounds",
      "2",
      "--compare",
      ".",
    );
    expect(stdout).toMatch(
      /2 pairs of runs in turn.*\n(same|faster|slower) +[+-]\d+\.\d % \[[+-]\d+\.\d %, [+-]\d+\.\d %\]/,
    );
    await expect(command("objectives", "--compare", "src")).rejects.toThrow(/Expected an addon .*src.*Build it first/);
    await expect(command("objectives", "--compare", "absent")).rejects.toThrow(/Expected an addon .*absent.*Build it/);
  });

  it("refuses what a comparison with a build would leave out, before anything runs", async () => {
    const against = ["objectives", "--compare", "."];
    await expect(command(...against, "--rounds", "1")).rejects.toThrow(/whole number from 2 for rounds, got 1/);
    for (const more of [
      ["--json", join(tmpdir(), "bench-never.json")],
      ["--peers", "model"],
    ])
      await expect(command(...against, ...more), more[0]).rejects.toThrow(
        /no --json and no --peers beside another build/,
      );
  });
});

it("every rule has a row, whose result is right", async () => {
  const works: Work[] = [];
  await objectives({ measure: async (work) => void works.push(work) });
  expect(works.map(({ name }) => name.split(": ")[1])).toEqual(objectiveList().map(({ name }) => name));
  for (const { name, validate } of works) {
    const { error, tolerance } = await validate();
    expect(error, name).toBeLessThanOrEqual(tolerance);
  }
});

it("what the addon times itself is validated and says what memory it needs", async () => {
  const harness = new Harness({ seconds: 0.01 });
  await harness.suite("attention", (h) => h.native("attention"));
  expect(harness.rows.length).toBeGreaterThan(5);
  for (const row of harness.rows) {
    expect(row.error).toBeLessThan(1e-5);
    expect(row.ratio).toBeGreaterThan(0);
    if (process.platform === "linux") expect(row.extraMiB).toBeGreaterThanOrEqual(0);
  }
  if (process.platform === "linux") expect(harness.rows.some(({ extraMiB }) => extraMiB! > 0)).toBe(true);
});

it("a wrong result ends the bench before anything is timed", async () => {
  const harness = new Harness();
  let runs = 0;
  const measuring = harness.suite("s", async (h) => {
    await h.measure({
      name: "sum",
      shape: "[2]",
      dtype: "f32",
      validate: () => ({ error: 0.5, tolerance: 0.1 }),
      run: () => runs++,
    });
  });
  await expect(measuring).rejects.toThrow(/^Expected sum \(\[2\], f32\) within 0.1 of its reference, got 0.5\.$/);
  expect(runs).toBe(0);
  expect(harness.rows).toEqual([]);
});

const row = (timeMs: number, spreadMs: number, boundMs?: number): Row => ({
  ...{
    suite: "s",
    name: "n",
    shape: "[1]",
    dtype: "f32",
    device: "cpu",
    threads: 2,
    samples: 10,
    error: 0,
    timeMs,
    spreadMs,
  },
  ...(boundMs === undefined ? {} : { boundMs, ratio: timeMs / boundMs }),
});
const recordingOf = (...rows: Row[]): Recording => ({
  date: "2026-01-02",
  machine: { cpu: "c", cores: 2, threads: 2, isa: "plain", system: "s", node: "n", version: "v" },
  bounds: { readBytes: 1, updateBytes: 1, flopsF32: 1, flopsBf16: 0 },
  rows,
  notes: [],
});

describe("two recordings", () => {
  const cases: [what: string, before: Row, after: Row, verdict: Verdict][] = [
    ["a fifth less time on the same machine", row(10, 0.1, 5), row(8, 0.1, 5), "faster"],
    ["a fifth more time on the same machine", row(10, 0.1, 5), row(12, 0.1, 5), "slower"],
    ["without a bound", row(10, 0.1), row(12, 0.1), "slower"],
    ["a slower hour: time and bound grew together", row(10, 0.1, 5), row(13, 0.1, 6.5), "same"],
    ["a bound that was measured badly", row(10, 0.1, 5), row(10.1, 0.1, 3), "same"],
    ["less than 5 %", row(10, 0.01, 5), row(10.4, 0.01, 5), "same"],
    ["a change within three spreads", row(10, 0.6, 5), row(12, 0.6, 5), "same"],
  ];
  for (const [what, before, after, verdict] of cases)
    it(`${what}: ${verdict}`, () => {
      expect(compareRecordings(recordingOf(before), recordingOf(after)).map((c) => c.verdict)).toEqual([verdict]);
    });

  it("refuses a file that is none, before anything is measured", async () => {
    const folder = await mkdtemp(join(tmpdir(), "bench-"));
    for (const [name, text, code] of [
      ["absent.json", undefined, "IO"],
      ["torn.json", '{"rows": [', "BAD_DATA"],
      ["other.json", '{"a": 1}', "BAD_DATA"],
      ["null.json", "null", "BAD_DATA"],
    ] as const) {
      if (text !== undefined) await writeFile(join(folder, name), text);
      await expect(readRecording(join(folder, name)), name).rejects.toMatchObject({
        code,
        message: expect.stringMatching(/^Expected a recording that `rank-grpo bench --json` wrote for .*json, got /),
      });
    }
  });

  it("rows of one side alone are left out", () => {
    const other = { ...row(10, 0.1), name: "another" };
    expect(compareRecordings(recordingOf(other), recordingOf(row(10, 0.1)))).toEqual([]);
  });
});

describe("two builds by turns", () => {
  const pairs = (ratios: readonly number[], hours: readonly number[]) =>
    ratios.map((ratio, i) => ({
      before: recordingOf(row(10 * hours[i]!, 0.1)),
      after: recordingOf(row(10 * hours[i]! * ratio, 0.1)),
    }));
  const hours = [1, 1.4, 0.9, 1.2, 1];

  it("finds a steady fifth through hours of different speed", () => {
    const [change] = comparePairs(pairs([0.8, 0.81, 0.79, 0.8, 0.8], hours));
    expect(change!.verdict).toBe("faster");
    expect(change!.change).toBeCloseTo(-0.2, 2);
    // mean and deviation of the log-ratios by hand, t of 4 degrees of freedom
    expect(change!.interval![0]).toBeCloseTo(-0.20873, 3);
    expect(change!.interval![1]).toBeCloseTo(-0.19116, 3);
  });

  it("takes Student's t for many pairs too", () => {
    const ratios = Array.from({ length: 20 }, (_, i) => 1 + 0.1 * (-1) ** i);
    const [change] = comparePairs(pairs(ratios, ratios));
    const logs = ratios.map(Math.log);
    const mean = logs.reduce((a, b) => a + b, 0) / 20;
    const deviation = Math.sqrt(logs.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 19);
    expect(Math.log1p(change!.interval![1])).toBeCloseTo(mean + (2.093 * deviation) / Math.sqrt(20), 4);
  });

  it("calls noise the same", () => {
    expect(comparePairs(pairs([0.8, 1.2, 0.95, 1.1, 1], hours))[0]!.verdict).toBe("same");
    expect(comparePairs(pairs([1.01, 1.011, 1.012, 1.01, 1.011], hours))[0]!.verdict).toBe("same");
  });
});

it("the exponent of a power law is the one it was made with", () => {
  const sizes = [1, 2, 4, 8];
  expect(
    exponent(
      sizes,
      sizes.map((n) => 3 * n ** 1.5),
    ),
  ).toBeCloseTo(1.5, 12);
  expect(exponent(sizes, [5, 5, 5, 5])).toBeCloseTo(0, 12);
});
