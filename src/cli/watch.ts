// `rank-grpo watch RUN`: a run's metrics live in the terminal; in a pipe, a line now and then.
import { setTimeout as sleep } from "node:timers/promises";
import { styleText } from "node:util";
import { Command } from "commander";

import { shortNumber } from "../report/html.ts";
import type { Row } from "../report/runs.ts";
import { RunTail } from "../report/tail.ts";
import type { Metrics } from "../training/run.ts";
import { describeStep, duration } from "./progress.ts";

const blocks = "▁▂▃▄▅▆▇█";

/** Values as blocks, means where there are more than `width`; the lowest is the smallest block. */
export function sparkline(values: readonly number[], width: number): string {
  const count = Math.min(width, values.length);
  const means = Array.from({ length: count }, (_, i) => {
    const part = values.slice(
      Math.floor((i * values.length) / count),
      Math.max(Math.floor(((i + 1) * values.length) / count), Math.floor((i * values.length) / count) + 1),
    );
    return part.reduce((sum, x) => sum + x, 0) / part.length;
  });
  const low = Math.min(...means);
  const high = Math.max(...means);
  return means.map((x) => blocks[high > low ? Math.min(7, Math.floor(((x - low) / (high - low)) * 8)) : 0]!).join("");
}

/** Shown in this order, as far as they are there; validation comes first. */
const order = [
  "sft/loss",
  "reward/mean",
  "groups/live",
  "ranks/live",
  "list/duplicates",
  "list/in_catalog",
  "policy/kl",
  "policy/ratio_min",
  "policy/ratio_max",
  "policy/clip_low",
  "policy/clip_high",
  "policy/logprob_mean",
  "optimizer/grad_norm",
  "optimizer/learning_rate",
  "time/rollout_ms",
  "time/update_ms",
  "time/tokens_per_second",
  "memory/rss_mb",
];

const numbers = (rows: readonly Row[], name: string): number[] =>
  rows.map((row) => row.values[name]).filter((value) => typeof value === "number");

/** Seconds to the end by the steps' own times, validation not counted. */
export function secondsLeft(rows: readonly Row[], steps: number): number {
  const last = rows.slice(-20).flatMap(({ values }) => {
    const times = Object.entries(values).filter(
      ([name, value]) => /^time\/.+_ms$/.test(name) && typeof value === "number",
    );
    return times.length > 0 ? [times.reduce((sum, [, value]) => sum + (value as number), 0)] : [];
  });
  if (last.length === 0) return Number.NaN;
  const step = last.reduce((sum, x) => sum + x, 0) / last.length / 1000;
  return step * Math.max(0, steps - (rows.at(-1)?.step ?? 0));
}

export interface View {
  folder: string;
  rows: readonly Row[];
  /** Steps to do, where known. */
  steps: number | undefined;
  state: RunTail["state"];
}

/** The screen: at most `height` lines of at most `width` characters. */
export function describeView(view: View, width: number, height: number): string[] {
  const { rows, steps, state } = view;
  const step = rows.at(-1)?.step ?? 0;
  const left = steps === undefined ? Number.NaN : secondsLeft(rows, steps);
  const head = [
    view.folder,
    `step ${step}${steps === undefined ? "" : ` of ${steps}`}`,
    state === "running" && Number.isFinite(left) ? `about ${duration(left)} left` : state,
  ].join("  ");
  const names = new Set(rows.flatMap((row) => Object.keys(row.values)));
  const validation = ["ndcg@10", "ndcg@20", "recall@10", "recall@20", "loss"].map((name) => `validation/${name}`);
  const shown = [...validation, ...order].filter((name) => names.has(name));
  const label = Math.max(0, ...shown.map((name) => name.length));
  const room = Math.max(8, Math.min(60, width - label - 31));
  const lines = shown.map((name) => {
    const values = numbers(rows, name);
    const last = shortNumber(values.at(-1) ?? Number.NaN);
    const low = values.reduce((a, b) => Math.min(a, b));
    const high = values.reduce((a, b) => Math.max(a, b));
    return `${name.padEnd(label)} ${last.padStart(8)} ${sparkline(values, room).padEnd(room)} ${shortNumber(low)} to ${shortNumber(high)}`;
  });
  const reward = rows.at(-1)?.values["reward/by_rank"];
  if (Array.isArray(reward))
    lines.push(`${"reward by rank".padEnd(label)} ${"".padStart(8)} ${sparkline(reward, room)}`);
  return [head, ...lines.slice(0, Math.max(0, height - 1))].map((line) => line.slice(0, width));
}

/** A row as the training itself would tell it. */
function describeRow({ step, values }: Row, steps: number | undefined, left: number): string {
  const metrics: Metrics = {};
  const validation: Metrics = {};
  for (const [name, value] of Object.entries(values)) {
    if (name.startsWith("validation/")) validation[name.slice("validation/".length)] = value;
    else metrics[name] = value;
  }
  const text = describeStep({ step, steps: steps ?? 0, metrics, validation, secondsLeft: left });
  return `${step}${steps === undefined ? "" : `/${steps}`}  ${text}${Number.isFinite(left) ? `  ${duration(left)} left` : ""}`;
}

const endings: Readonly<Record<RunTail["state"], string>> = {
  running: "Still running.",
  finished: "The run is finished.",
  "early-stop": "The run stopped early: validation no longer improved.",
  interrupted: "The run was interrupted; it goes on with --resume.",
  failed: "The run failed; it goes on from its newest checkpoint with --resume.",
  gone: "The run's process is gone; the run goes on from its newest checkpoint with --resume.",
};

interface Output {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

/** Shows the run until it ends or `signal` fires; returns the state it then has. `seconds` between two looks. */
export async function watchRun(
  folder: string,
  output: Output,
  signal: AbortSignal,
  seconds = 1,
): Promise<RunTail["state"]> {
  const tail = new RunTail(folder);
  let drawn = 0;
  let lastLine = 0;
  for (let first = true; ; first = false) {
    const before = tail.rows.length;
    await tail.read();
    const { rows, state } = tail;
    const steps = tail.status?.steps;
    const ended = state !== "running" || signal.aborted;
    const fresh = rows.length < before ? rows : rows.slice(before);
    if (output.isTTY && (fresh.length > 0 || first || ended)) {
      const width = output.columns || 80;
      const [head = "", ...lines] = describeView({ folder, rows, steps, state }, width - 1, (output.rows || 24) - 2);
      const back = drawn > 0 ? `\u001b[${drawn}A\r\u001b[J` : "";
      output.write(`${back}${[styleText("bold", head), ...lines].join("\n")}\n`);
      drawn = lines.length + 1;
    } else if (!output.isTTY) {
      // on the first look and at the end the newest row, then validations, and a row every ten seconds
      const due = (row: Row): boolean =>
        first || ended
          ? row === fresh.at(-1)
          : /"validation\//.test(JSON.stringify(row.values)) || Date.now() - lastLine > 10_000;
      for (const row of fresh) {
        if (!due(row)) continue;
        lastLine = Date.now();
        output.write(`${describeRow(row, steps, steps === undefined ? Number.NaN : secondsLeft(rows, steps))}\n`);
      }
    }
    if (ended) return state;
    await sleep(seconds * 1000, undefined, { signal }).catch(() => {}); // woken by Ctrl-C
  }
}

export function watchCommand(): Command {
  return new Command("watch")
    .description("Show a run's metrics live in the terminal until it ends (Ctrl-C stops looking, not the run)")
    .argument("<RUN>", "run folder")
    .addHelpText("after", "\nExample:\n  rank-grpo watch runs/rank-grpo\n")
    .action(async (folder: string) => {
      const controller = new AbortController();
      process.once("SIGINT", () => controller.abort());
      const state = await watchRun(folder, process.stdout, controller.signal);
      process.stdout.write(`${endings[state]}\n`);
    });
}
