// Evaluation: lists are generated once for every distinct prompt, then measured against the ground truth.
import type { Sample } from "./data/sample.ts";
import { refuse } from "./errors.ts";
import type { Policy } from "./policy.ts";
import type { Catalog } from "./ranking/catalog.ts";
import type { CatalogConstraint } from "./ranking/constraint.ts";
import { searchLists } from "./ranking/items.ts";
import { readList } from "./ranking/list.ts";
import {
  dialogueOf,
  type ListMetrics,
  type MetricOptions,
  meanMetrics,
  measureRow,
  type RowMetrics,
} from "./ranking/metrics.ts";
import { groundTruths, seenTitles } from "./ranking/rewards.ts";
import { encodePrompt } from "./text/encode.ts";

export interface EvaluateOptions extends MetricOptions, GenerateListsOptions {
  /** Items that exist: others count as misses. */
  catalog: Catalog;
}

export interface GenerateListsOptions {
  /** Default 512, or half of the context where that is less. */
  maxNewTokens?: number;
  /** Longer prompts lose their beginning, as in training. Default: what the context leaves. */
  maxPromptTokens?: number;
  /** Rows decoded together, default 64. */
  maxRows?: number;
  /** Default 0, the most probable token each time; above 0 samples, keyed by `seed`. */
  temperature?: number;
  seed?: number;
  /** Lists hold items of the catalog only. */
  constraint?: CatalogConstraint;
  /** Instead of one list token by token: the best that beam search over items finds with so many lists. Needs `constraint`. */
  beams?: number;
  /** Called with the number of prompts done. */
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

export interface Evaluation {
  /** By name, such as `ndcg@10`, with standard errors and the variants that were used. */
  metrics: ListMetrics;
  /** The list of every sample, as text. */
  lists: string[];
  /** The metrics of every sample: what a paired comparison needs. */
  rows: MeasuredRow[];
}

/** Recall and NDCG are absent for a row without ground truths. */
export type MeasuredRow = { readonly id: string; readonly dialogue: string } & RowMetrics;

/** The plain means among the metrics, without standard errors: what a training logs. */
export const meansOf = (metrics: ListMetrics): Record<string, number> =>
  Object.fromEntries(
    Object.entries(metrics).filter(
      (entry): entry is [string, number] => typeof entry[1] === "number" && !/_stderr/.test(entry[0]),
    ),
  );

/** Length limit of a completion in tokens: the default is `maxNewTokens`'s above. @throws INVALID_ARGUMENT where it leaves no prompt */
export function completionLimit(policy: Policy, asked: number | undefined): number {
  const limit = asked ?? Math.min(512, Math.floor(policy.maxPositions / 2));
  if (limit >= policy.maxPositions)
    refuse("INVALID_ARGUMENT", `fewer than ${policy.maxPositions} (the model's context)`, "maxNewTokens", limit);
  return limit;
}

/** Length limit of a prompt in tokens, beside completions of `maxNewTokens`. */
export const promptLimit = (policy: Policy, maxNewTokens: number, asked: number | undefined): number =>
  Math.min(asked ?? Number.POSITIVE_INFINITY, policy.maxPositions - maxNewTokens);

/** One list for each sample; equal prompts are generated once. */
export async function generateLists(
  policy: Policy,
  samples: readonly Sample[],
  options: GenerateListsOptions = {},
): Promise<string[]> {
  const { maxRows = 64, temperature = 0, seed = 0, signal, constraint, beams } = options;
  if (beams !== undefined && !constraint) refuse("INVALID_ARGUMENT", "a constraint", "beams", "none");
  const tokenizer = policy.tokenizer ?? refuse("INVALID_ARGUMENT", "a checkpoint with a tokenizer", "policy", "none");
  const maxNewTokens = completionLimit(policy, options.maxNewTokens);
  const limit = promptLimit(policy, maxNewTokens, options.maxPromptTokens);
  const distinct = new Map<string, number>();
  const prompts: Int32Array[] = [];
  const askedBy: Sample[] = []; // of each distinct prompt
  const indices = samples.map((sample) => {
    const prompt = encodePrompt(tokenizer, sample.prompt).slice(-limit);
    // under a constraint equal prompts may still differ in what they exclude
    const key = prompt.join() + (constraint ? JSON.stringify(constraint.forSamples([sample]).excluded) : "");
    const known = distinct.get(key);
    if (known !== undefined) return known;
    distinct.set(key, prompts.length);
    askedBy.push(sample);
    return prompts.push(prompt) - 1;
  });
  const texts: string[] = [];
  if (beams !== undefined) {
    for (const [i, prompt] of prompts.entries()) {
      const [excluded] = constraint!.forSamples([askedBy[i]!]).excluded;
      const [best] = await searchLists(policy, prompt, constraint!, excluded!, {
        beams,
        ...(signal ? { signal } : {}),
      });
      texts.push(constraint!.textOf(best!.items));
      options.onProgress?.(texts.length, prompts.length);
    }
    return indices.map((i) => texts[i]!);
  }
  const part = 4 * maxRows;
  for (let first = 0; first < prompts.length; first += part) {
    const chunk = prompts.slice(first, first + part);
    const generated = await policy.generate(chunk, {
      maxNewTokens,
      maxRows,
      seed,
      promptKeys: chunk.map((_, i) => first + i),
      ...(temperature > 0 ? { temperature } : { greedy: true }),
      ...(constraint ? { constraint: constraint.forSamples(askedBy.slice(first, first + part)) } : {}),
      ...(signal ? { signal } : {}),
    });
    for (const [completion] of generated) texts.push(tokenizer.decode(completion!.ids));
    options.onProgress?.(texts.length, prompts.length);
  }
  return indices.map((i) => texts[i]!);
}

/**
 * What rows are measured or rewarded by, asked before lists are generated or paid for.
 * @throws BAD_DATA where a row's ground truths or seen titles cannot be read, or no row has a ground truth
 */
export function requireTruths(samples: readonly Sample[], name = "the evaluation"): void {
  let truths = 0;
  for (const sample of samples) {
    truths += groundTruths(sample).length;
    seenTitles(sample);
  }
  if (truths === 0)
    refuse(
      "BAD_DATA",
      "at least one row with a ground truth",
      name,
      `${samples.length} rows without`,
      "A pair whose year is no whole number is none.",
    );
}

/** Metrics of given lists, one for each sample. */
export function evaluateLists(
  samples: readonly Sample[],
  lists: readonly string[],
  options: MetricOptions & { catalog: Catalog },
): Evaluation {
  if (samples.length !== lists.length)
    refuse("INVALID_ARGUMENT", `${samples.length} lists (one for each sample)`, "lists", lists.length);
  const dialogues = samples.map((sample) => dialogueOf(sample.id, sample.columns["dialogue"]));
  const measured = samples.map((sample, i) => {
    const row = { slots: readList(lists[i]!), truths: groundTruths(sample), seen: seenTitles(sample) };
    return measureRow(row, options.catalog, options);
  });
  return {
    metrics: meanMetrics(measured, dialogues, options),
    lists: [...lists],
    rows: measured.map((row, i) => ({ id: samples[i]!.id, dialogue: dialogues[i]!, ...row })),
  };
}

/** Generates and measures. */
export async function evaluatePolicy(
  policy: Policy,
  samples: readonly Sample[],
  options: EvaluateOptions,
): Promise<Evaluation> {
  requireTruths(samples);
  return evaluateLists(samples, await generateLists(policy, samples, options), options);
}
