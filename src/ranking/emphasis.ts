// Token weights: factors on the weights of a completion's tokens, beside the normaliser that `weighting` makes. The built-in ones are made by
// name; one of your own is any function of the type `TokenWeights`.
import { refuse } from "../errors.ts";
import type { Catalog } from "./catalog.ts";
import { formatItem } from "./list.ts";
import type { TokenText } from "./segmentation.ts";

/** A completion as token weights see it. T tokens. */
export interface WeightedTokens extends TokenText {
  /** [T] under the policy that sampled, nats */
  readonly logprobs: Float32Array;
  /** [T] entropy of the distribution each token was drawn from, nats; where `needs` asks for it */
  readonly entropies?: Float32Array;
  /** [T], list shaping included */
  readonly advantages: Float32Array;
  /** [T] as the objective's `weighting` makes them; 0 where a token has no part in the loss */
  readonly weights: Float32Array;
}

/** A function over all completions of a step. */
export interface TokenWeights {
  /** What has to be computed first. Entropies take a forward pass. Default: nothing. */
  readonly needs?: "entropies";
  /** One factor >= 0 for each token of each completion; 0 leaves a token without loss and KL. The step's weights are not normalised again. */
  weigh(step: readonly WeightedTokens[]): readonly ArrayLike<number>[];
}

/** Names of the built-in token weights, as the configuration spells them. */
export const tokenWeightNames = ["uniform", "choice", "entropy"] as const;
export type TokenWeightName = (typeof tokenWeightNames)[number];

export interface TokenWeightOptions {
  /** Of choice. */
  readonly catalog: Catalog | undefined;
  /** Of entropy: share of the step's weighted tokens that keep their weight, above 0, at most 1. Default 0.2, the paper's. */
  readonly share?: number | undefined;
}

/**
 * Built-in token weights by name:
 *
 *   uniform   1
 *   choice    1 where a token still decides which item a line names: what stands before it on its line begins at least two lines of the
 *             catalog, or none (free text); else 0: the rest of a title that is settled, its newline, the stop token
 *   entropy   1 for the `share` of the step's tokens of the largest entropy (arXiv 2506.01939), else 0; those without a weight are not
 *             counted, such as the ones that a catalog forces
 *
 * @throws RankGrpoError INVALID_ARGUMENT for an unknown name or share, BAD_CONFIG for choice without a catalog.
 */
export function createTokenWeights(name: string, options: TokenWeightOptions): TokenWeights {
  switch (name as TokenWeightName) {
    case "uniform":
      return { weigh: (step) => step.map(({ ids }) => new Float32Array(ids.length).fill(1)) };
    case "choice":
      return choice(
        options.catalog ??
          refuse(
            "BAD_CONFIG",
            "a catalog",
            "token weights choice",
            "none",
            "Set catalog: to a TSV, JSON or pickle file.",
          ),
      );
    case "entropy":
      return byEntropy(options.share ?? 0.2);
    default:
      return refuse("INVALID_ARGUMENT", `one of ${tokenWeightNames.join(", ")}`, "the token weights' name", name);
  }
}

function choice(catalog: Catalog): TokenWeights {
  const lines = catalog.items.map(formatItem).sort((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  /** First line that is not before `text`. */
  const lower = (text: string): number => {
    let [low, high] = [0, lines.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (lines[middle]! < text) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const weight = (before: string): number => {
    const first = lower(before);
    if (!lines[first]?.startsWith(before)) return 1;
    if (lines[first] === before) return 0; // the title stands: what follows ends it
    return lines[first + 1]?.startsWith(before) ? 1 : 0;
  };
  return {
    weigh: (step) =>
      step.map(({ ids, text, offsets }) => {
        const last = text.trimEnd().length;
        return Float32Array.from(ids.keys(), (t) => {
          const at = offsets[t]!;
          const own = text.slice(at, offsets[t + 1]);
          if (own.trim() === "" && (own.includes("\n") || at >= last)) return 0;
          return weight(text.slice(text.lastIndexOf("\n", at - 1) + 1, at).trimStart()); // words of some tokenizers begin with a blank
        });
      }),
  };
}

function byEntropy(share: number): TokenWeights {
  if (!(share > 0 && share <= 1)) refuse("INVALID_ARGUMENT", "a number above 0, at most 1", "share of entropy", share);
  return {
    needs: "entropies",
    weigh: (step) => {
      const all = Float32Array.from(
        step.flatMap(({ entropies, weights }) => [...entropies!].filter((_, t) => weights[t] !== 0)),
      ).sort();
      const least = all[Math.max(0, all.length - Math.max(1, Math.round(share * all.length)))] ?? 0;
      return step.map(({ entropies }) => entropies!.map((h) => (h >= least ? 1 : 0)));
    },
  };
}

/** Runs token weights and checks what they give: all completions' factors, flat. @throws RankGrpoError INVALID_ARGUMENT */
export function tokenFactors(name: string, weights: TokenWeights, step: readonly WeightedTokens[]): Float32Array {
  const given = weights.weigh(step);
  const flat = new Float32Array(step.reduce((sum, { ids }) => sum + ids.length, 0));
  let at = 0;
  for (const [row, { ids }] of step.entries()) {
    const factors = given?.[row];
    const place = `token weights ${name}, completion ${row + 1}`;
    if (factors?.length !== ids.length) refuse("INVALID_ARGUMENT", `${ids.length} numbers`, place, factors?.length);
    for (let t = 0; t < ids.length; t++, at++) {
      const factor = factors[t]!;
      if (!(factor >= 0 && Number.isFinite(factor)))
        refuse("INVALID_ARGUMENT", "a finite number from 0", place, factor);
      flat[at] = factor;
    }
  }
  return flat;
}
