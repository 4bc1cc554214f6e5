// Objectives that hold the entropy by what single tokens do to it (arXiv 2505.22617): where log-prob and advantage are large together, a token
// is left out (Clip-Cov) or held near the old policy (KL-Cov). Which tokens is a statistic of the step, made here; the loss is the native one.
import { refuse } from "../errors.ts";
import { type LossOptions, policyLoss } from "../kernels.ts";
import { type Objective, resolveLoss } from "../objectives.ts";
import { Stream, uniform } from "../random.ts";
import { type CustomObjective, defineObjective, type ObjectiveInput } from "./custom.ts";

const source = "Clip-Cov and KL-Cov (arXiv 2505.22617) section 4";

/**
 * (A - mean A)(logp - mean logp) of each token with a weight, NaN of the others [T]. Its sum is what a step takes from the entropy.
 */
export function covariances({ logprobs, advantages, weights }: ObjectiveInput): Float64Array {
  let [count, logp, a] = [0, 0, 0];
  for (const [t, w] of weights.entries()) {
    if (w === 0) continue;
    count++;
    logp += logprobs[t]!;
    a += advantages[t]!;
  }
  return Float64Array.from(weights, (w, t) =>
    w === 0 ? Number.NaN : (advantages[t]! - a / count) * (logprobs[t]! - logp / count),
  );
}

/** `share` of the covered tokens, rounded down, one at least. */
const countOf = (share: number, covariance: Float64Array): number =>
  Math.max(1, Math.floor(share * covariance.filter((x) => !Number.isNaN(x)).length));

export interface ClipCovOptions {
  /** Share of the covered tokens left out, in (0, 1]; one token at least. Default 2e-4, the paper's. */
  share?: number;
  /** Covariances from which and up to which tokens may be left out. Defaults 1 and 5, the published code's. */
  low?: number;
  high?: number;
  /** The loss of all other tokens: a preset's or rule's name, or its parts. Default rank-grpo's clip without KL. */
  objective?: LossOptions | string;
}

/**
 * Clip-Cov: of the tokens whose covariance lies strictly between `low` and `high`, a random `share` is left out of the loss. The choice is a function
 * of the step's advantages alone, so the same step leaves out the same tokens.
 */
export function clipCov(options: ClipCovOptions = {}): CustomObjective {
  const { share = 2e-4, low = 1, high = 5, objective = { params: { clipLow: 0.06, clipHigh: 0.08 } } } = options;
  checkShare(share);
  if (!(low < high)) refuse("INVALID_ARGUMENT", `a number above low, ${low},`, "high", high);
  const inner = resolveLoss(objective);
  return defineObjective({
    name: "clip-cov",
    source,
    ...needsOf(inner),
    evaluate(input) {
      const covariance = covariances(input);
      const candidates = [...covariance.keys()].filter((t) => covariance[t]! > low && covariance[t]! < high);
      const seed = digest(input.advantages);
      const drawn = candidates
        .map((t) => ({ t, draw: uniform(seed, Stream.select, t) }))
        .sort((a, b) => a.draw - b.draw)
        .slice(0, countOf(share, covariance));
      const weights = input.weights.slice();
      for (const { t } of drawn) weights[t] = 0;
      const { loss, dlogp, dentropy } = policyLoss({ ...input, weights }, inner);
      return { loss, dlogp, ...(dentropy ? { dentropy } : {}), metrics: { cov_clipped: drawn.length } };
    },
  });
}

export interface KlCovOptions {
  /** Share of the covered tokens held, in (0, 1]; one token at least. Default 2e-4; the paper's for its larger model, 2e-3 for its smaller. */
  share?: number;
  /** Weight of their distance |logp - old|, >= 0. Default 1, the paper's. */
  coefficient?: number;
  /** The loss of all tokens. Default -w A, without clipping, as published. */
  objective?: LossOptions | string;
}

/** KL-Cov: the `share` of tokens of the largest covariance pay coefficient |logp - old| beside their loss. Without effect where logp = old. */
export function klCov(options: KlCovOptions = {}): CustomObjective {
  const { share = 2e-4, coefficient = 1, objective = { rule: "nsr", params: { positive: 1 } } } = options;
  checkShare(share);
  if (!(coefficient >= 0 && Number.isFinite(coefficient)))
    refuse("INVALID_ARGUMENT", "a number from 0", "coefficient", coefficient);
  const inner = resolveLoss(objective);
  return defineObjective({
    name: "kl-cov",
    source,
    ...needsOf(inner),
    evaluate(input) {
      const { logprobs, oldLogprobs, weights } = input;
      const covariance = covariances(input);
      const held = [...covariance.keys()]
        .filter((t) => !Number.isNaN(covariance[t]))
        .sort((a, b) => covariance[b]! - covariance[a]! || a - b)
        .slice(0, countOf(share, covariance));
      const { loss, dlogp, dentropy } = policyLoss(input, inner);
      let distance = 0;
      for (const t of held) {
        const d = logprobs[t]! - oldLogprobs[t]!;
        distance += weights[t]! * Math.abs(d);
        dlogp[t]! += coefficient * weights[t]! * Math.sign(d);
      }
      const metrics = { cov_held: held.length, cov_distance: distance };
      return { loss: loss + coefficient * distance, dlogp, ...(dentropy ? { dentropy } : {}), metrics };
    },
  });
}

/** What a native loss needs of a step beside log-probs: its KL term, its entropy bonus. */
const needsOf = ({ beta, entropyCoef }: Objective): Pick<CustomObjective, "reference" | "entropies"> => ({
  reference: beta > 0,
  entropies: entropyCoef > 0,
});

function checkShare(share: number): void {
  if (!(share > 0 && share <= 1)) refuse("INVALID_ARGUMENT", "a number above 0, at most 1", "share", share);
}

/** A whole number made of the bits of these numbers (FNV-1a). */
function digest(values: Float32Array): number {
  let hash = 0x811c9dc5;
  for (const word of new Uint32Array(values.slice().buffer)) hash = Math.imul(hash ^ word, 0x01000193) >>> 0;
  return hash;
}
