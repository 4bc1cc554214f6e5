// The whole method on a synthetic world in minutes: demonstrations, SFT, Rank-GRPO, and how much of the possible NDCG is reached.
import { existsSync } from "node:fs";
import { join } from "node:path";

import type { Sample } from "./data/sample.ts";
import { readSamples } from "./data/samples.ts";
import { evaluateLists, evaluatePolicy } from "./evaluate.ts";
import { requireFresh, writeFileAtomic } from "./files.ts";
import { Policy } from "./policy.ts";
import { Catalog } from "./ranking/catalog.ts";
import { CatalogConstraint } from "./ranking/constraint.ts";
import type { ListMetrics } from "./ranking/metrics.ts";
import { tokenizerFiles } from "./text/tokenizer.ts";
import type { Tokenizer } from "./text/types.ts";
import type { SftConfig, TrainConfig } from "./training/config.ts";
import type { StepReport, Summary } from "./training/report.ts";
import { sft } from "./training/sft.ts";
import { train } from "./training/train.ts";
import { World } from "./world.ts";

export interface QuickstartOptions {
  output: string;
  seed?: number;
  /** Default 3000. */
  demonstrations?: number;
  /** Default 650; far fewer leave duplicates in the lists. */
  sftSteps?: number;
  /** Default 150. */
  trainSteps?: number;
  /** Changes to the Rank-GRPO stage, for experiments. */
  trainConfig?: Partial<TrainConfig>;
  onStep?: (stage: "sft" | "train", report: StepReport) => void;
  signal?: AbortSignal;
}

export interface QuickstartRow {
  name: string;
  recall: number;
  ndcg: number;
  /** NDCG over the optimum's. */
  share: number;
  duplicates: number;
}

export interface QuickstartResult {
  rows: QuickstartRow[];
  folder: string;
  interrupted: boolean;
}

const testDialogues = 500;

/** Dialogue numbers: demonstrations first, prompts for Rank-GRPO from 0 on (the demonstrations' among them), validation, test. */
export const worldRanges = { prompts: 6000, validation: 1_000_000, test: 2_000_000 };

const jsonl = (rows: readonly object[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join("");

/** Writes the world's data, catalog and tokenizer into `folder`. */
export async function writeWorld(
  world: World,
  folder: string,
  demonstrations: number,
  tokenizer: Tokenizer = world.tokenizer(),
): Promise<void> {
  const samples = (first: number, count: number, withLists = false): object[] =>
    Array.from({ length: count }, (_, i) => world.sample(first + i, withLists));
  await writeFileAtomic(join(folder, "sft.jsonl"), jsonl(samples(0, demonstrations, true)));
  await writeFileAtomic(join(folder, "prompts.jsonl"), jsonl(samples(0, worldRanges.prompts)));
  await writeFileAtomic(join(folder, "validation.jsonl"), jsonl(samples(worldRanges.validation, 200)));
  await writeFileAtomic(join(folder, "test.jsonl"), jsonl(samples(worldRanges.test, testDialogues)));
  await writeFileAtomic(
    join(folder, "catalog.tsv"),
    world.items.map((item) => `${item.title}\t${item.year}\n`).join(""),
  );
  for (const [name, text] of Object.entries(tokenizerFiles(tokenizer)))
    await writeFileAtomic(join(folder, "tokenizer", name), text);
}

/** The quickstart's configurations, also recipes for own experiments with the world in `data`. */
export function worldConfigs(data: string, seed: number): { sft: SftConfig; train: TrainConfig } {
  const validation = { data: join(data, "validation.jsonl"), every: 50, metric: "ndcg@10", maxNewTokens: 60 };
  return {
    sft: {
      model: {
        shape: {
          model_type: "llama",
          hidden_size: 96,
          intermediate_size: 256,
          num_hidden_layers: 3,
          num_attention_heads: 4,
          max_position_embeddings: 128,
        },
        tokenizer: join(data, "tokenizer"),
      },
      train: join(data, "sft.jsonl"),
      catalog: join(data, "catalog.tsv"),
      seed,
      steps: 650,
      batchSize: 64,
      optimizer: { learningRate: 3e-3 },
      schedule: { type: "cosine", warmup: 0.05 },
      validation: { ...validation, every: 1000 },
      checkpoint: { every: 1000 },
    },
    train: {
      model: "",
      train: join(data, "prompts.jsonl"),
      catalog: join(data, "catalog.tsv"),
      seed,
      steps: 150,
      promptsPerStep: 64,
      groupSize: 8,
      ranks: 10,
      maxNewTokens: 60,
      maxRows: 512,
      constrain: "catalog",
      optimizer: { learningRate: 3e-4 },
      schedule: { type: "constant", warmup: 10 },
      validation,
      checkpoint: { every: 1000 },
    },
  };
}

/** Runs the quickstart into `output`. Same seed, same machine, same figures. */
export async function quickstart(options: QuickstartOptions): Promise<QuickstartResult> {
  const { output, seed = 1, demonstrations = 3000 } = options;
  requireFresh(output, "Choose another --output, or remove it first.");
  const world = new World({ seed });
  const data = join(output, "data");
  await writeWorld(world, data, demonstrations);
  const catalog = await Catalog.load(join(data, "catalog.tsv"));
  const test = await readSamples(join(data, "test.jsonl"));
  const dialogues = test.map((_, i) => world.dialogue(worldRanges.test + i));
  const lists = (make: (named: readonly number[], i: number) => number[]): string[] =>
    dialogues.map(({ named }, i) => world.text(make(named, worldRanges.test + i)));
  const rows: QuickstartRow[] = [];
  const optimum = evaluateLists(
    test,
    lists((named) => world.bestList(named)),
    { catalog },
  ).metrics;
  const add = (name: string, metrics: ListMetrics): void => {
    rows.push({
      name,
      recall: metrics["recall@10"],
      ndcg: metrics["ndcg@10"],
      share: metrics["ndcg@10"] / optimum["ndcg@10"],
      duplicates: metrics.duplicates,
    });
  };
  const measure = async (name: string, folder: string, samples: readonly Sample[]): Promise<void> => {
    const policy = await Policy.load(folder, { trainable: false });
    const constraint = await CatalogConstraint.create(catalog, policy.tokenizer!, policy.stopId!, {
      length: world.ranks,
    });
    const free = options.trainConfig?.constrain === "none";
    const lists = { catalog, maxNewTokens: 60, maxRows: 512, ...(free ? {} : { constraint }) };
    add(name, (await evaluatePolicy(policy, samples, lists)).metrics);
    policy.dispose();
  };
  const common = (stage: "sft" | "train"): object => ({
    onStep: (report: StepReport) => options.onStep?.(stage, report),
    ...(options.signal ? { signal: options.signal } : {}),
  });
  add(
    "popularity",
    evaluateLists(
      test,
      lists((named) => world.popularList(named)),
      { catalog },
    ).metrics,
  );
  add(
    "teacher",
    evaluateLists(
      test,
      lists((named, i) => world.teacherList(named, i)),
      { catalog },
    ).metrics,
  );
  const configs = worldConfigs(data, seed);
  const interrupted = (summary: Summary): boolean => summary.ended === "interrupted";

  const first = await sft(
    { ...configs.sft, ...(options.sftSteps ? { steps: options.sftSteps } : {}) },
    { output: join(output, "sft"), ...common("sft") },
  );
  if (interrupted(first)) return { rows, folder: output, interrupted: true };
  await measure("SFT (before)", join(output, "sft", "final"), test);

  const second = await train(
    {
      ...configs.train,
      model: join(output, "sft", "final"),
      ...(options.trainSteps ? { steps: options.trainSteps } : {}),
      ...options.trainConfig,
    },
    { output: join(output, "rank-grpo"), ...common("train") },
  );
  if (existsSync(join(output, "rank-grpo", "final")))
    await measure("Rank-GRPO (after)", join(output, "rank-grpo", "final"), test);
  add("optimum", optimum);
  await writeFileAtomic(join(output, "result.json"), `${JSON.stringify({ seed, rows }, null, 2)}\n`);
  return { rows, folder: output, interrupted: interrupted(second) };
}
