// Made-up run folders and evaluations for the tests of report, watch and compare: smooth curves with noise, nothing trained.
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { stringify } from "yaml";

import { uniform } from "../src/random.ts";

export interface MadeRun {
  folder: string;
  seed: number;
  steps: number;
  ranks?: number;
  /** Final gain over the start: separates groups. */
  gain?: number;
  config?: object;
  state?: string;
}

const noise = (seed: number, a: number, b = 0): number => uniform(seed, 99, a, b) - 0.5;
const lines = (rows: readonly object[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

export const titles = Array.from(
  { length: 40 },
  (_, i) => `Title ${String.fromCharCode(65 + (i % 26))}${i} (${1980 + i})`,
);

export function metricsRow(step: number, { seed, steps, ranks = 10, gain = 0.2 }: MadeRun): Record<string, unknown> {
  const done = step / steps;
  const byRank = (level: number, tilt: number): number[] =>
    Array.from({ length: ranks }, (_, k) =>
      Math.max(0, level * (1 - (tilt * k) / ranks) + 0.01 * noise(seed, step, k)),
    );
  const reward = byRank(0.05 + (0.4 * gain + 0.02) * Math.sqrt(done), 0.8);
  const duplicates = byRank(0.02 + 0.1 * done, -1);
  return {
    step,
    "reward/mean": reward.reduce((a, b) => a + b, 0),
    "reward/std": 0.3,
    "reward/by_rank": reward,
    "ranks/live": 0.3,
    "ranks/live_by_rank": byRank(0.4, 0.5),
    "groups/live": 0.8 - 0.3 * done + 0.05 * noise(seed, step),
    "list/items": ranks,
    "list/duplicates": duplicates.reduce((a, b) => a + b, 0),
    "list/duplicates_by_rank": duplicates,
    "list/in_catalog": 0.9,
    "list/in_catalog_by_rank": byRank(0.95, 0.1),
    "rollout/tokens": 40 + noise(seed, step),
    "rollout/stopped": 1,
    "rollout/rows": 512,
    "policy/loss": 0.01 * noise(seed, step, 77),
    "policy/kl": 0.2 * done * gain,
    "policy/ratio_min": 0.8 + 0.05 * noise(seed, step, 3),
    "policy/ratio_mean": 1 + 0.01 * noise(seed, step, 4),
    "policy/ratio_max": 1.3 + 0.1 * noise(seed, step, 5),
    "policy/clip_low": 0.01 * done,
    "policy/clip_high": 0.02 * done,
    "policy/logprob_mean": -1.9 + 0.5 * done,
    "policy/mismatch_max": 0,
    "optimizer/grad_norm": 0.05 + 0.01 * noise(seed, step, 6),
    "optimizer/learning_rate": 3e-4,
    "time/rollout_ms": 1100 + 100 * noise(seed, step, 7),
    "time/update_ms": 2900 + 300 * noise(seed, step, 8),
    "memory/rss_mb": 350 + 20 * done,
    ...(step % 10 === 0 || step === steps
      ? {
          "validation/rows": 200,
          "validation/dialogues": 200,
          "validation/recall@10": 0.24 + gain * done,
          "validation/ndcg@10": 0.2 + gain * done + 0.01 * noise(seed, step, 9),
          "validation/recall@20": 0.24 + gain * done,
          "validation/duplicates": 0.5 + 3 * done,
        }
      : {}),
  };
}

/** Writes config.yaml, metrics.jsonl, samples.jsonl and status.json. */
export function makeRun(made: MadeRun): void {
  const { folder, seed, steps, config = {}, state = "finished" } = made;
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, "config.yaml"),
    stringify({
      kind: "train",
      model: "m",
      seed,
      steps,
      validation: { metric: "ndcg@10" },
      objective: "rank-grpo",
      ...config,
    }),
  );
  writeFileSync(join(folder, "metrics.jsonl"), lines(Array.from({ length: steps }, (_, i) => metricsRow(i + 1, made))));
  const list = (step: number, i: number): string =>
    Array.from({ length: 10 }, (_, k) => titles[Math.floor(uniform(seed, 98, step, i, k) * titles.length)]!).join("\n");
  writeFileSync(
    join(folder, "samples.jsonl"),
    lines(
      Array.from({ length: steps }, (_, i) => ({
        step: i + 1,
        id: `made-${i % 30}-1`,
        completions: [0, 1, 2, 3].map((n) => ({
          text: list(i, n),
          rewards: Array.from({ length: 10 }, (_, k) => +(k === n)),
        })),
      })),
    ),
  );
  writeFileSync(
    join(folder, "status.json"),
    JSON.stringify({ state, step: steps, steps, process: { host: "elsewhere", pid: 1 } }),
  );
}

/** Samples (JSONL), their catalogue (TSV), and an evaluation of lists whose first items are wanted with probability `skill`. */
export function makeData(folder: string, count: number): void {
  mkdirSync(folder, { recursive: true });
  const pair = (title: string): [string, number] => [title.slice(0, -7), Number(title.slice(-5, -1))];
  writeFileSync(join(folder, "catalog.tsv"), titles.map((title) => `${pair(title).join("\t")}\n`).join(""));
  writeFileSync(
    join(folder, "test.jsonl"),
    lines(
      Array.from({ length: count }, (_, i) => ({
        id: `made-${i}-1`,
        prompt: `Recommend 10 titles, one a line, each with its year in parentheses, and nothing else.\nUSER: I liked <b>${titles[i % 40]}</b> & more\nSYSTEM: Anything else?\n`,
        groundtruth_with_release_year: [pair(titles[(i + 7) % 40]!), pair(titles[(i + 11) % 40]!)],
        seen_titles: [pair(titles[i % 40]!)[0]],
      })),
    ),
  );
}

export const madeList = (i: number, seed: number, skill: number): string =>
  Array.from({ length: 10 }, (_, k) => {
    const draw = (part: number): number => uniform(seed, 97, i, k, part);
    if (draw(0) < 0.05) return "no title at all </script><img src=x onerror=alert(1)>";
    if (draw(1) < 0.1) return "Nowhere Near It (1999)";
    return draw(2) < skill ? titles[(i + (k % 2 ? 7 : 11)) % 40]! : titles[Math.floor(draw(3) * 40)]!;
  }).join("\n");
