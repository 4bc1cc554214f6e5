// ReDial for models of a million parameters: what its studies share, and the baselines on the same rows.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";

import type { Sample } from "../../src/data/sample.ts";
import { readSamples } from "../../src/data/samples.ts";
import { evaluateLists, meansOf } from "../../src/evaluate.ts";
import { cooccurrenceLists, mixedLists, neighborLists, popularityLists } from "../../src/ranking/baselines.ts";
import { Catalog } from "../../src/ranking/catalog.ts";
import { formatItem } from "../../src/ranking/list.ts";
import { perRow } from "./experiment.ts";
import type { Results } from "./results.ts";
import type { Study } from "./study.ts";

export const unified = "../shared/data/unified";
export const metric = "ndcg@20";
export const sftSteps = 5000;
export const trainSteps = 150;
/** Of the mix, which redial-candidates.ts puts into prompts; a list has 20 of them. */
export const candidates = 30;

/** A study whose data are files of one folder. */
export interface FiledStudy extends Study {
  readonly data: string;
}

/** Prepares the data in `output`/data where they are missing. */
export async function redialStudy(output: string): Promise<FiledStudy> {
  const data = join(output, "data");
  if (!["candidates.jsonl", "test.jsonl"].every((name) => existsSync(join(data, name))))
    execFileSync(process.execPath, [...process.execArgv, "recipes/evidence/redial-data.ts", data], {
      stdio: "inherit",
    });
  const file = (name: string): string => join(data, `${name}.jsonl`);
  const shared = {
    catalog: join(data, "catalog.tsv"),
    constrain: "catalog",
    compute: "bf16",
    microBatchTokens: 4096,
  } as const;
  return {
    output,
    data,
    catalog: await Catalog.load(shared.catalog),
    prompts: await readSamples(file("prompts")),
    test: await readSamples(file("test")),
    testFile: file("test"),
    ranks: 20,
    maxNewTokens: 160,
    metric,
    rates: [1e-4, 3e-4],
    tuningSteps: 100,
    sft: (seed) => ({
      ...shared,
      model: {
        shape: {
          model_type: "llama",
          hidden_size: 128,
          intermediate_size: 344,
          num_hidden_layers: 3,
          num_attention_heads: 4,
          max_position_embeddings: 320,
        },
        tokenizer: join(data, "tokenizer"),
      },
      train: file("mix"),
      seed,
      steps: sftSteps,
      batchSize: 64,
      optimizer: { learningRate: 3e-3, beta2: 0.999, weightDecay: 0.1 },
      schedule: { type: "cosine", warmup: 0.05 },
      checkpoint: { every: 500, keep: 1 },
    }),
    train: (seed) => ({
      ...shared,
      train: file("prompts"),
      seed,
      steps: trainSteps,
      promptsPerStep: 64,
      groupSize: 8,
      ranks: 20,
      maxNewTokens: 160,
      maxRows: 512,
      rewards: [{ name: "exp_inf" }],
      objective: "rank-grpo",
      schedule: { type: "constant", warmup: 5 },
      validation: { data: file("validation"), every: 25, metric, maxNewTokens: 160 },
      checkpoint: { every: 50, keep: 1 },
    }),
    measured: "best",
  };
}

const makers = {
  popularity: popularityLists,
  "neighbour voting": neighborLists,
  "co-occurrence": cooccurrenceLists,
  "their mix": mixedLists,
} as const;

/** What lists without a model give on `test`, and `metric` of every row. @param train rows that vote, prompts as published */
export function baselinesOf(
  train: readonly Sample[],
  test: readonly Sample[],
  catalog: Catalog,
  ranks: number,
  metric: string,
  names: readonly (keyof typeof makers)[] = Object.keys(makers) as (keyof typeof makers)[],
): Results["baselines"] {
  return names.map((name) => {
    const lists = makers[name](train, test, catalog, ranks).map((list) => list.map(formatItem).join("\n"));
    const { metrics, rows } = evaluateLists(test, lists, { catalog });
    return { name, metrics: meansOf(metrics), perRow: perRow(rows, metric) };
  });
}

/** The training rows that are not held out, as published: those vote. */
export async function voters({ data }: FiledStudy): Promise<Sample[]> {
  const kept = new Set((await readSamples(join(data, "train.jsonl"))).map(({ id }) => id));
  return (await readSamples(join(unified, "redial_train.jsonl"))).filter(({ id }) => kept.has(id));
}
