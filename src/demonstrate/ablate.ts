// What each stage does to the lists, on feedback that was held out from it: the paper's Table 2 for demonstrations.

import type { Sample } from "../data/sample.ts";
import { popularityLists } from "../ranking/baselines.ts";
import type { Catalog } from "../ranking/catalog.ts";
import type { Item } from "../ranking/list.ts";
import {
  dialogueOf,
  type ListMetrics,
  measureLists,
  measureRow,
  type RankedRow,
  standardError,
} from "../ranking/metrics.ts";
import { seenTitles, truthsIn } from "../ranking/rewards.ts";

export interface StageEffect {
  stage: string;
  metrics: ListMetrics;
  /** NDCG@20 against the stage before, over the same rows; standard error clustered by dialogue. Absent for the first. */
  gain?: { ndcg: number; stderr: number | null };
}

/** Rows of a stage: rows without ground truth are left out, for nothing can be said of them. */
function rowsOf(samples: readonly Sample[], lists: readonly (readonly Item[])[]): RankedRow[] {
  return samples.flatMap((sample, i) => {
    const truths = truthsIn(sample);
    const dialogue = dialogueOf(sample.id, sample.columns["dialogue"]);
    return truths.length === 0 ? [] : [{ slots: lists[i]!, truths, seen: seenTitles(sample), dialogue }];
  });
}

/** Popularity over the other folds' feedback: what a list must beat. */
export function heldOutPopularity(
  samples: readonly Sample[],
  feedback: readonly Sample[],
  foldOf: (sample: Sample) => number,
  catalog: Catalog,
  n: number,
): Item[][] {
  const lists = new Array<Item[]>(samples.length);
  for (const fold of new Set(samples.map(foldOf))) {
    const others = feedback.filter((sample) => foldOf(sample) !== fold);
    const rows = [...samples.keys()].filter((i) => foldOf(samples[i]!) === fold);
    popularityLists(
      others,
      rows.map((i) => samples[i]!),
      catalog,
      n,
    ).forEach((list, k) => {
      lists[rows[k]!] = list;
    });
  }
  return lists;
}

export function stageEffects(
  samples: readonly Sample[],
  stages: readonly { stage: string; lists: readonly (readonly Item[])[] }[],
  catalog: Catalog,
): StageEffect[] {
  let before: { values: number[]; clusters: string[] } | undefined;
  return stages.map(({ stage, lists }) => {
    const rows = rowsOf(samples, lists);
    const values = rows.map((row) => measureRow(row, catalog)["ndcg@20"] ?? 0);
    const effect: StageEffect = { stage, metrics: measureLists(rows, catalog) };
    if (before) {
      const differences = values.map((value, i) => value - before!.values[i]!);
      const ndcg = differences.reduce((sum, value) => sum + value, 0) / differences.length;
      effect.gain = { ndcg, stderr: standardError(differences, ndcg, before.clusters) };
    }
    before = { values, clusters: rows.map((row) => row.dialogue!) };
    return effect;
  });
}
