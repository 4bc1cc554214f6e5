// Studies in synthetic worlds whose best lists are known: their data, configurations, and the lists that need no training.
import { existsSync } from "node:fs";
import { join } from "node:path";

import { readSamples } from "../../src/data/samples.ts";
import { evaluateLists, meansOf } from "../../src/evaluate.ts";
import { worldConfigs, worldRanges, writeWorld } from "../../src/quickstart.ts";
import { Catalog } from "../../src/ranking/catalog.ts";
import type { Tokenizer } from "../../src/text/types.ts";
import type { SftConfig, TrainConfig } from "../../src/training/config.ts";
import type { World } from "../../src/world.ts";
import type { Results } from "./results.ts";
import type { Study } from "./study.ts";

/** A world and what is spent in it; all else is the quickstart's. */
export interface Setup {
  readonly world: World;
  /** Default: the world's, three tokens a title. */
  readonly tokenizer?: Tokenizer;
  /** Tokens that a list may take. */
  readonly maxNewTokens: number;
  readonly demonstrations: number;
  readonly sft: Partial<SftConfig> & { steps: number };
  readonly train: Partial<TrainConfig> & { steps: number };
  readonly rates: readonly number[];
  readonly tuningSteps: number;
}

const metricOf = ({ ranks }: World): string => `ndcg@${ranks}`;

export async function prepare(setup: Setup, output: string): Promise<Study> {
  const { world, maxNewTokens, rates, tuningSteps } = setup;
  const metric = metricOf(world);
  const data = join(output, "data");
  if (!existsSync(join(data, "tokenizer"))) await writeWorld(world, data, setup.demonstrations, setup.tokenizer);
  const file = (name: string): string => join(data, `${name}.jsonl`);
  return {
    output,
    catalog: await Catalog.load(join(data, "catalog.tsv")),
    prompts: await readSamples(file("prompts")),
    test: await readSamples(file("test")),
    testFile: file("test"),
    ranks: world.ranks,
    maxNewTokens,
    metric,
    rates,
    tuningSteps,
    sft: (seed) => {
      const { sft } = worldConfigs(data, seed);
      return { ...sft, validation: undefined, checkpoint: { every: 500 }, ...setup.sft };
    },
    train: (seed) => ({
      ...worldConfigs(data, seed).train,
      compute: "bf16",
      ranks: world.ranks,
      maxNewTokens,
      validation: { data: file("validation"), every: 20, metric, maxNewTokens },
      checkpoint: { every: 60, keep: 1 },
      ...setup.train,
    }),
    measured: "final",
  };
}

/** What the results of all arms of a world share. */
export function baselines(
  { test, catalog }: Study,
  world: World,
): Pick<Results, "metric" | "baselines"> & { optimum: number } {
  const metric = metricOf(world);
  const lists = (make: (named: readonly number[], index: number) => number[]): Record<string, number> => {
    const texts = test.map((_, i) =>
      world.text(make(world.dialogue(worldRanges.test + i).named, worldRanges.test + i)),
    );
    const all = meansOf(evaluateLists(test, texts, { catalog }).metrics);
    return Object.fromEntries(
      [`recall@${world.ranks}`, metric].map((name) => [name, Math.round(1e5 * all[name]!) / 1e5]),
    );
  };
  const optimum = lists((named) => world.bestList(named));
  return {
    metric,
    optimum: optimum[metric]!,
    baselines: [
      { name: "optimum", metrics: optimum },
      { name: "teacher of the demonstrations", metrics: lists((named, i) => world.teacherList(named, i)) },
      { name: "popularity", metrics: lists((named) => world.popularList(named)) },
    ],
  };
}

/** Of the main arms: is the second better than the first? */
export const mainPairs: [a: string, b: string][] = [
  ["SFT", "GRPO"],
  ["GRPO", "Rank-GRPO log"],
  ["Rank-GRPO log", "Rank-GRPO exp_inf"],
  ["GRPO", "Rank-GRPO exp_inf"],
  ["Rank-GRPO log", "Rank-GRPO exp 2"],
  ["GRPO, mu 2", "GSPO, mu 2"],
  ["GSPO, mu 2", "exp_inf, mu 2"],
  ["Rank-GRPO exp_inf", "exp_inf, mu 2"],
];
