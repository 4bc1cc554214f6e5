// Items as the next line of a list, and whole lists by beam search: both on top of the policy's exact log-probs.
import { refuse } from "../errors.ts";
import type { Policy } from "../policy.ts";
import { LineEncoder } from "../text/lines.ts";
import type { CatalogConstraint, Constraint } from "./constraint.ts";
import { formatItem, type Item } from "./list.ts";

export interface ScoreItemsOptions {
  /**
   * Log-probs of the distribution over a catalog: that of one prompt (`forSamples([sample])`). Default: the model's own, over all tokens.
   * An item that is not in the catalog, or that its exclusions close, is an error.
   */
  constraint?: Constraint;
  /** What ends the line: "newline" (default), since another follows, or "stop", as a list of this item alone. It counts. */
  end?: "newline" | "stop";
  /** Text of a line, default `Title (Year)`. */
  line?: (item: Item) => string;
  /** > 0, default 1. */
  temperature?: number;
  /** Tokens of one pass, default 8192 (the prompt is computed once a pass). */
  microBatchTokens?: number;
  signal?: AbortSignal;
}

/**
 * The log-prob of each item as the next line after the prompt [items], nats: the sum over its tokens, its end included. This is the item
 * scoring that the paper ranks its preference baselines with (appendix D.3); for the most probable items of a whole catalog
 * `policy.recommend` finds the same numbers with far fewer tokens.
 * @throws INVALID_ARGUMENT where the checkpoint has no tokenizer or stop token, or an item is not allowed
 */
export async function scoreItems(
  policy: Policy,
  prompt: Int32Array,
  items: readonly Item[],
  options: ScoreItemsOptions = {},
): Promise<Float64Array> {
  const { constraint, end = "newline", line = formatItem, microBatchTokens = 8192, ...forward } = options;
  if (items.length === 0) return new Float64Array(0);
  const { tokenizer, stopId } = policy;
  if (!tokenizer || stopId === undefined)
    refuse("INVALID_ARGUMENT", "a checkpoint with a tokenizer and a stop token", "policy", "one without");
  const encoder = new LineEncoder(tokenizer, stopId);
  const completions = items.map((item) => {
    const tokens = encoder.tokens(line(item));
    return Int32Array.from(end === "newline" ? tokens.line : tokens.last);
  });
  // as a list of one item, or as the first of two: then only a newline can end it
  const length = end === "newline" ? 2 : 1;
  const { logprobs } = await policy.score([{ prompt, completions }], {
    ...forward,
    microBatchTokens,
    ...(constraint ? { constraint: { ...constraint, rules: { least: length, most: length, repeats: true } } } : {}),
  });
  let at = 0;
  return Float64Array.from(completions, (ids) => {
    let sum = 0;
    for (const end = at + ids.length; at < end; at++) sum += logprobs[at]!;
    return sum;
  });
}

export interface BeamOptions {
  /** Lists kept at every rank, from 1: 1 is the greedy list of items (not of tokens). */
  beams: number;
  /** > 0, default 1. */
  temperature?: number;
  signal?: AbortSignal;
}

/** A list with its log-prob under the constrained distribution, nats. */
export interface ScoredList {
  /** Numbers of `constraint.items`. */
  readonly items: readonly number[];
  readonly logprob: number;
}

/**
 * The `beams` most probable lists that beam search over items finds, best first. At every rank each kept list is continued by its most
 * probable items, which best-first search proves, so what a rank keeps is exactly the best of all continuations; log-probs are those that
 * `policy.score` gives the list. The length must be fixed: lists that may end sooner or later are not comparable rank by rank.
 * @param excluded items of no list, as `constraint.forSamples([sample]).excluded[0]`
 */
export async function searchLists(
  policy: Policy,
  prompt: Int32Array,
  constraint: CatalogConstraint,
  excluded: readonly number[],
  options: BeamOptions,
): Promise<ScoredList[]> {
  const { beams, ...search } = options;
  const { least, most, repeats } = constraint.rules;
  if (!Number.isInteger(beams) || beams < 1) refuse("INVALID_ARGUMENT", "a whole number from 1", "beams", beams);
  if (least !== most)
    refuse("INVALID_ARGUMENT", "lists of one length", "beam search", `lists of ${least} to ${most} items`);
  let lists: ScoredList[] = [{ items: [], logprob: 0 }];
  for (let rank = 1; rank <= most; rank++) {
    const longer: ScoredList[] = [];
    for (const { items, logprob } of lists) {
      const closed = repeats ? excluded : [...new Set([...excluded, ...items])];
      const found = await policy.recommend(
        Int32Array.from([...prompt, ...items.flatMap((item) => constraint.lineOf(item))]),
        constraint.excluding(closed),
        { ...search, top: Math.min(beams, constraint.items.length - closed.length), last: rank === most },
      );
      for (const [i, item] of found.items.entries())
        longer.push({ items: [...items, item], logprob: logprob + found.logprobs[i]! });
    }
    // a stable sort: of equal lists the one whose beginning was better stands first
    lists = longer.sort((a, b) => b.logprob - a.logprob).slice(0, beams);
  }
  return lists;
}
