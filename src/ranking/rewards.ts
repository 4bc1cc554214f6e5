// Rewards: what a list earns, rank by rank (method.md 3.1 and 3.3). Built-in rewards are made by factories from the catalogue; a
// reward of one's own is any function of the type `Reward`.

import type { Sample } from "../data/sample.ts";
import { refuse } from "../errors.ts";
import type { Catalog } from "./catalog.ts";
import { compact, type Item, type ReadingMode, type Slot } from "./list.ts";
import { isNearYear, normalizeTitle, parseYear, yearOffsets } from "./title.ts";

/** What a reward sees of one generated list. */
export interface Completion {
  /** Decoded, without special tokens. */
  readonly text: string;
  /** The tokens, the stop token included. */
  readonly ids: Int32Array;
  readonly finish: "stop" | "length";
  /** The line-aligned reading of `text` (`readList`). */
  readonly slots: readonly Slot[];
}

/** One number for the list, or one for each of its N ranks; now or later. `signal` is aborted when the step is given up, since a reward or the sampling failed. */
export type Reward = (
  completion: Completion,
  sample: Sample,
  signal: AbortSignal,
) => number | ArrayLike<number> | Promise<number | ArrayLike<number>>;

/** Options of the built-in rewards. */
export interface RewardOptions {
  readonly catalog: Catalog;
  /** N: how many ranks are scored; the rest of a longer list earns nothing. At least 1. */
  readonly ranks: number;
  /** How lines become ranks. Default "aligned"; "reference" reproduces the published code. */
  readonly mode?: ReadingMode;
}

export interface GammaOptions extends RewardOptions {
  /** Base of the decay, > 1: a hit j ranks below counts 1 / gamma^j. Large values approach exp_inf, 1 counts all later hits alike. */
  readonly gamma: number;
}

// ---- the sample's columns ----

/**
 * What the user liked: the column `groundtruth_with_release_year`, pairs [title, year] with the year as integer or string.
 * Pairs whose year cannot be read are skipped.
 *
 * @throws RankGrpoError `BAD_DATA` if the column is missing or is not a list of pairs.
 */
export function groundTruths(sample: Sample): Item[] {
  const column = sample.columns["groundtruth_with_release_year"];
  const name = `groundtruth_with_release_year of sample ${sample.id}`;
  if (!Array.isArray(column)) refuse("BAD_DATA", "a list of [title, year]", name, column);
  const truths: Item[] = [];
  for (const pair of column) {
    if (!Array.isArray(pair) || typeof pair[0] !== "string") refuse("BAD_DATA", "[title, year]", name, pair);
    const year = parseYear(pair[1]);
    if (year !== undefined) truths.push({ title: pair[0], year });
  }
  return truths;
}

/** The same of data that may have no such column, as those of one's own reward: none then. */
export const truthsIn = (sample: Sample): Item[] =>
  sample.columns["groundtruth_with_release_year"] === undefined ? [] : groundTruths(sample);

/**
 * Titles that the dialogue already names: the column `seen_titles`, without years. No column: none.
 *
 * @throws RankGrpoError `BAD_DATA` if the column is not a list of texts.
 */
export function seenTitles(sample: Sample): ReadonlySet<string> {
  const column = sample.columns["seen_titles"] ?? [];
  if (!Array.isArray(column) || !column.every((title) => typeof title === "string")) {
    refuse("BAD_DATA", "a list of titles", `seen_titles of sample ${sample.id}`, column);
  }
  return new Set(column as string[]);
}

// ---- hits and what is made of them ----

/**
 * 1 at each of the n ranks that hits, else 0 [n]. A hit: the title is not in `seen` (exactly, whatever the year), the pair is in the
 * catalogue (exactly), and a ground truth has the same normalised title and a year within 2. Each ground truth is used once, the
 * nearest offset first (0, +1, -1, +2, -2: its year minus the item's), so a repeated movie scores only where it is wanted twice.
 */
export function hits(
  slots: readonly Slot[],
  truths: readonly Item[],
  seen: ReadonlySet<string>,
  catalog: Catalog,
  n: number,
  mode: ReadingMode = "aligned",
): Float64Array {
  return Float64Array.from(matches(slots, truths, seen, catalog, n, mode), (truth) => (truth < 0 ? 0 : 1));
}

/** The ground truth that each of the n ranks hits, -1 for none [n]; what a hit is stands at `hits`. */
export function matches(
  slots: readonly Slot[],
  truths: readonly Item[],
  seen: ReadonlySet<string>,
  catalog: Catalog,
  n: number,
  mode: ReadingMode = "aligned",
): Int32Array {
  const result = new Int32Array(n).fill(-1);
  const open = truths.map((truth, index) => ({ index, title: normalizeTitle(truth.title), year: truth.year }));
  const ranked = mode === "reference" ? compact(slots) : slots;
  for (let rank = 0; rank < Math.min(n, ranked.length) && open.length > 0; rank++) {
    const item = ranked[rank]!;
    if (item === null || seen.has(item.title) || !catalog.has(item)) continue;
    const title = normalizeTitle(item.title);
    for (const offset of yearOffsets) {
      const match = open.findIndex((truth) => truth.year === item.year + offset && truth.title === title);
      if (match < 0) continue;
      result[rank] = open.splice(match, 1)[0]!.index;
      break;
    }
  }
  return result;
}

/** DCG@k:N (paper, Eq. 8): r(k) = sum over j >= k of hit_j / log2(j + 1), ranks from 1. Exactly 0 after the last hit. */
export function logDecayReturns(hit: ArrayLike<number>): Float64Array {
  const returns = new Float64Array(hit.length);
  let tail = 0;
  for (let k = hit.length - 1; k >= 0; k--) {
    tail += hit[k]! / Math.log2(k + 2);
    returns[k] = tail;
  }
  return returns;
}

/** Exponential decay (paper, Eq. 9): r(k) = hit_k + r(k + 1) / gamma. Exactly 0 after the last hit. */
export function gammaReturns(hit: ArrayLike<number>, gamma: number): Float64Array {
  const returns = new Float64Array(hit.length);
  let tail = 0;
  for (let k = hit.length - 1; k >= 0; k--) {
    tail = hit[k]! + tail / gamma;
    returns[k] = tail;
  }
  return returns;
}

/** 1 at each slot that names a movie named before in the list (same normalised title, year within 2), else 0. */
export function repeats(slots: readonly Slot[]): Uint8Array {
  const result = new Uint8Array(slots.length);
  const years = new Map<string, number[]>();
  for (const [rank, slot] of slots.entries()) {
    if (slot === null) continue;
    const title = normalizeTitle(slot.title);
    const earlier = years.get(title);
    if (earlier === undefined) years.set(title, [slot.year]);
    else {
      if (earlier.some((year) => isNearYear(year, slot.year))) result[rank] = 1;
      earlier.push(slot.year);
    }
  }
  return result;
}

// ---- built-in rewards ----

/** Hits by rank: r(k) = hit_k, the paper's exp_inf (Eq. 9 with infinite Gamma); its simplest and best reward. */
export function expInf(options: RewardOptions): Reward {
  const { catalog, ranks, mode } = checked(options);
  return (completion, sample) => hits(completion.slots, groundTruths(sample), seenTitles(sample), catalog, ranks, mode);
}

/** DCG of the list from each rank on: r(k) = DCG@k:N (Eq. 8). Rank 1 carries the DCG of the whole list. */
export function logDecay(options: RewardOptions): Reward {
  const { catalog, ranks, mode } = checked(options);
  return (completion, sample) =>
    logDecayReturns(hits(completion.slots, groundTruths(sample), seenTitles(sample), catalog, ranks, mode));
}

/** Hits from each rank on with exponential decay (Eq. 9). */
export function expGamma(options: GammaOptions): Reward {
  const { catalog, ranks, mode } = checked(options);
  const { gamma } = options;
  if (!(gamma > 1)) refuse("INVALID_ARGUMENT", "a number above 1", "gamma", gamma, "For hits alone use exp_inf.");
  return (completion, sample) =>
    gammaReturns(hits(completion.slots, groundTruths(sample), seenTitles(sample), catalog, ranks, mode), gamma);
}

/**
 * DCG of the list, one number for all of it: what GRPO and its kin are rewarded with. Their total over the ranks of a list would count a hit in
 * `logDecay` or `expGamma` once for every rank above it, so that late hits earned most.
 */
export function listDcg(options: RewardOptions): Reward {
  const { catalog, ranks, mode } = checked(options);
  return (completion, sample) =>
    logDecayReturns(hits(completion.slots, groundTruths(sample), seenTitles(sample), catalog, ranks, mode))[0]!;
}

/** 1 at each rank whose item is in the catalogue (exact title and year), else 0. */
export function inCatalog(options: RewardOptions): Reward {
  const { catalog, ranks, mode } = checked(options);
  return (completion) => {
    const ranked = mode === "reference" ? compact(completion.slots) : completion.slots;
    return Float64Array.from({ length: ranks }, (_, k) => (ranked[k] && catalog.has(ranked[k]) ? 1 : 0));
  };
}

/** -1 at each rank that repeats a movie of the list, else 0. Scale it with its weight. */
export function duplicatePenalty(options: Omit<RewardOptions, "catalog">): Reward {
  const { ranks, mode } = checked(options);
  return (completion) => {
    const repeated = repeats(mode === "reference" ? compact(completion.slots) : completion.slots);
    return Float64Array.from({ length: ranks }, (_, k) => (repeated[k] === 1 ? -1 : 0));
  };
}

function checked<T extends Omit<RewardOptions, "catalog">>(options: T): T & { mode: ReadingMode } {
  const { ranks, mode = "aligned" } = options;
  if (!Number.isSafeInteger(ranks) || ranks < 1) refuse("INVALID_ARGUMENT", "a whole number from 1", "ranks", ranks);
  if (mode !== "aligned" && mode !== "reference") refuse("INVALID_ARGUMENT", '"aligned" or "reference"', "mode", mode);
  return { ...options, mode };
}

/** Names of the built-in rewards, as the configuration spells them. */
export const rewardNames = ["exp_inf", "log_decay", "exp_gamma", "dcg", "catalog", "duplicate"] as const;
export type RewardName = (typeof rewardNames)[number];

/** Built-in rewards and repairs that read ground truths and seen titles. */
export const truthReaders: readonly string[] = ["exp_inf", "log_decay", "exp_gamma", "dcg", "similarity", "anchor"];

/** A built-in reward by name. `gamma` is for exp_gamma, which needs it, and is ignored by the others. */
export function createReward(name: string, options: RewardOptions & Partial<Pick<GammaOptions, "gamma">>): Reward {
  switch (name as RewardName) {
    case "exp_inf":
      return expInf(options);
    case "log_decay":
      return logDecay(options);
    case "exp_gamma":
      return expGamma({ ...options, gamma: options.gamma ?? Number.NaN });
    case "dcg":
      return listDcg(options);
    case "catalog":
      return inCatalog(options);
    case "duplicate":
      return duplicatePenalty(options);
    default:
      return refuse("INVALID_ARGUMENT", `one of ${rewardNames.join(", ")}`, "the reward's name", name);
  }
}

/** What a list earned: the sum over its ranks, by size, so that lists that earned the same at other ranks are equal to the last bit. */
export const totalReward = (ranks: ArrayLike<number>): number =>
  Float64Array.from(ranks)
    .sort()
    .reduce((sum, x) => sum + x, 0);

// ---- several rewards ----

/** For error messages of `combineRewards`: which rewards, which sample, and how many ranks are expected. */
export interface RewardContext {
  /** Name of each reward. */
  readonly names: readonly string[];
  /** The sample's id. */
  readonly sample: string;
  /** N. */
  readonly ranks: number;
}

/**
 * The weighted sum of what several rewards gave for one list [N]. One number for the list counts at every rank.
 *
 * @throws RankGrpoError `BAD_REWARD` if a value is no number, not finite, or has not exactly N entries.
 */
export function combineRewards(
  values: readonly (number | ArrayLike<number>)[],
  weights: readonly number[],
  context: RewardContext,
): Float64Array {
  const { names, sample, ranks } = context;
  if (values.length !== weights.length) {
    refuse("INVALID_ARGUMENT", `${values.length} numbers`, "the weights of the rewards", weights.length);
  }
  const total = new Float64Array(ranks);
  for (const [index, value] of values.entries()) {
    const weight = weights[index]!;
    const name = `reward ${names[index] ?? index} of sample ${sample}`;
    if (!Number.isFinite(weight)) refuse("INVALID_ARGUMENT", "a finite weight", name, weight);
    if (typeof value === "number") {
      if (!Number.isFinite(value)) refuse("BAD_REWARD", "a finite number", name, value);
      for (let k = 0; k < ranks; k++) total[k]! += weight * value;
      continue;
    }
    if (typeof value !== "object" || value === null || typeof value.length !== "number") {
      refuse("BAD_REWARD", `a number or ${ranks} numbers`, name, value);
    }
    if (value.length !== ranks) {
      refuse("BAD_REWARD", `one number or ${ranks}, one for each rank,`, name, `${value.length} numbers`);
    }
    for (let k = 0; k < ranks; k++) {
      const part = value[k];
      if (typeof part !== "number" || !Number.isFinite(part)) {
        refuse("BAD_REWARD", "a finite number", `rank ${k + 1} of ${name}`, part);
      }
      total[k]! += weight * part;
    }
  }
  return total;
}
