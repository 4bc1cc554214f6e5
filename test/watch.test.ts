// Watching a run while it is written: new rows, resumes, ends, and what a terminal and a pipe are shown.
import { appendFileSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";

import { ItemProgress, StepProgress } from "../src/cli/progress.ts";
import { describeView, secondsLeft, sparkline, watchRun } from "../src/cli/watch.ts";
import { RunTail } from "../src/report/tail.ts";
import { makeRun, metricsRow } from "./runs.ts";

const root = mkdtempSync(join(tmpdir(), "rank-grpo-watch-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const made = (
  name: string,
  steps: number,
  state = "finished",
): { folder: string; seed: number; steps: number; state: string } => {
  const run = { folder: join(root, name), seed: 1, steps, state };
  makeRun(run);
  return run;
};
const row = (step: number): string => `${JSON.stringify(metricsRow(step, { folder: "", seed: 1, steps: 40 }))}\n`;
const status = (folder: string, state: string, pid = process.pid, host = hostname()): void =>
  writeFileSync(join(folder, "status.json"), JSON.stringify({ state, step: 0, steps: 40, process: { host, pid } }));

describe("sparkline", () => {
  it("goes from the lowest to the highest block", () => {
    expect(sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8)).toBe("▁▂▃▄▅▆▇█");
    expect(sparkline([5, 5], 8)).toBe("▁▁");
    expect(sparkline([], 8)).toBe("");
    expect(
      sparkline(
        Array.from({ length: 1000 }, (_, i) => i),
        4,
      ),
    ).toBe("▁▃▆█");
  });
});

describe("RunTail", () => {
  it("reads whole lines as they come, and starts anew where a resume cut the log", async () => {
    const { folder } = made("tail", 3, "running");
    const tail = new RunTail(folder);
    expect(await tail.read()).toBe(3);
    expect(await tail.read()).toBe(0);
    const [half, rest] = [row(4).slice(0, 30), row(4).slice(30)];
    appendFileSync(join(folder, "metrics.jsonl"), half);
    expect(await tail.read()).toBe(0);
    appendFileSync(join(folder, "metrics.jsonl"), rest + row(5));
    expect(await tail.read()).toBe(2);
    writeFileSync(join(folder, "new"), row(1) + row(2));
    renameSync(join(folder, "new"), join(folder, "metrics.jsonl"));
    await tail.read();
    expect(tail.rows.map(({ step }) => step)).toEqual([1, 2]);
  });

  it("knows how the run stands", async () => {
    const { folder } = made("state", 2);
    const tail = new RunTail(folder);
    const state = async (): Promise<string> => {
      await tail.read();
      return tail.state;
    };
    expect(await state()).toBe("finished");
    status(folder, "running");
    expect(await state()).toBe("running");
    status(folder, "running", 2 ** 22 + 1); // above the largest process number
    expect(await state()).toBe("gone");
    status(folder, "running", 2 ** 22 + 1, "another machine");
    expect(await state()).toBe("running");
    expect(() => new RunTail(join(root, "nowhere"))).toThrow(/run folder/);
  });
});

describe("watchRun", () => {
  const screen = (
    isTTY: boolean,
  ): { texts: string[]; write(text: string): void; isTTY: boolean; columns: number; rows: number } => {
    const texts: string[] = [];
    return { texts, write: (text) => void texts.push(text), isTTY, columns: 100, rows: 30 };
  };

  it("shows a terminal the metrics in place, within its size", async () => {
    const { folder } = made("terminal", 12, "running");
    status(folder, "running");
    const output = screen(true);
    const controller = new AbortController();
    const watching = watchRun(folder, output, controller.signal, 0.01);
    while (output.texts.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    appendFileSync(join(folder, "metrics.jsonl"), row(13));
    while (output.texts.length === 1) await new Promise((resolve) => setTimeout(resolve, 5));
    status(folder, "finished");
    expect(await watching).toBe("finished");
    const [first, second] = output.texts as [string, string];
    expect(first).toMatch(/step 12 of 40 .*about 1m\d\ds left/);
    expect(first).toMatch(/reward\/mean +0\.\d+ ▁.*█/);
    const lines = first.split("\n").length - 1;
    expect(lines).toBeLessThanOrEqual(28);
    expect(second.startsWith(`\u001b[${lines}A\r\u001b[J`)).toBe(true);
    expect(second).toContain("step 13 of 40");
    expect(output.texts.at(-1)).toContain("finished");
  });

  it("shows runs of any length", () => {
    const rows = Array.from({ length: 300_000 }, (_, i) => ({ step: i + 1, values: { "sft/loss": 1 + (i % 2) } }));
    const [, line] = describeView({ folder: "f", rows, steps: undefined, state: "finished" }, 100, 24);
    expect(line).toMatch(/^sft\/loss +2 .* 1 to 2$/);
  });

  it("writes plain lines into a pipe, and stops looking at Ctrl-C", async () => {
    const { folder } = made("pipe", 12, "running");
    status(folder, "running");
    const output = screen(false);
    const controller = new AbortController();
    const watching = watchRun(folder, output, controller.signal, 600);
    while (output.texts.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    controller.abort();
    expect(await watching).toBe("running");
    expect(output.texts).toHaveLength(1);
    expect(output.texts[0]).toMatch(/^12\/40 {2}reward \d.*val ndcg@10 0\.\d+.* left\n$/);
    expect(output.texts[0]).not.toContain("\u001b");
  });

  it("tells the time left by the steps' own times", () => {
    const rows = Array.from({ length: 30 }, (_, i) => ({
      step: i + 1,
      values: { "time/rollout_ms": 1000, "time/update_ms": 3000 },
    }));
    expect(secondsLeft(rows, 40)).toBe(40);
    expect(secondsLeft([], 40)).toBeNaN();
    expect(describeView({ folder: "f", rows: [], steps: undefined, state: "running" }, 80, 24)).toEqual([
      "f  step 0  running",
    ]);
  });
});

describe("progress", () => {
  const { isTTY } = process.stderr;
  let written = "";
  const stderr = (terminal: boolean): void => {
    written = "";
    process.stderr.isTTY = terminal;
    vi.useFakeTimers();
    vi.spyOn(process.stderr, "write").mockImplementation((text) => {
      written += String(text);
      return true;
    });
  };
  afterEach(() => {
    process.stderr.isTTY = isTTY;
    vi.useRealTimers();
    vi.restoreAllMocks();
  });

  it("tells the time left by all of the time that went", () => {
    stderr(false);
    const progress = new ItemProgress("evaluate", 50);
    vi.advanceTimersByTime(30_000);
    progress.update(10, 40); // of 50 rows 40 prompts are distinct
    expect(written).toBe("evaluate 10/40  1m30s left\n");
    vi.advanceTimersByTime(11_000);
    new ItemProgress("reflect", 40, { started: Date.now() - 41_000 }).update(20, 40);
    progress.update(20, 40);
    expect(written).toMatch(/left\nevaluate 20\/40 {2}41s left\n$/);
  });

  it("leaves a terminal as it was whenever the process ends, and keeps none alive for a job that is done", () => {
    stderr(true);
    const progress = new ItemProgress("generate", 3);
    const steps = new StepProgress("train");
    steps.step({ step: 1, steps: 2, metrics: {}, secondsLeft: 1 });
    progress.update(1, 3);
    vi.advanceTimersByTime(1000);
    expect(written).toContain("generate [");
    expect(written).not.toContain("\u001b[?"); // no mode to be set back
    steps.done();
    progress.update(3, 3);
    expect(vi.getTimerCount()).toBe(0);
  });
});
