// Preference losses over the lists of a group, in TypeScript: the list that earned more is preferred to one that earned less.
import { refuse } from "../errors.ts";
import { type CustomObjective, defineObjective, type ObjectiveInput, type ObjectiveOutput } from "./custom.ts";

export interface PreferenceOptions {
  /** Scale of the implicit reward beta log(pi / ref), above 0. Default 0.1, DPO's. */
  beta?: number;
}

const readBeta = (options: PreferenceOptions): number => {
  const beta = options.beta ?? 0.1;
  if (!(beta > 0 && Number.isFinite(beta))) refuse("INVALID_ARGUMENT", "a number above 0", "beta", beta);
  return beta;
};

/** log(1 + sum_i exp(x_i)) and its derivative by each x_i. */
function softplusOf(x: readonly number[]): { value: number; slopes: number[] } {
  const top = Math.max(0, ...x);
  const weights = x.map((xi) => Math.exp(xi - top));
  const sum = weights.reduce((a, b) => a + b, Math.exp(-top));
  return { value: top + Math.log(sum), slopes: weights.map((w) => w / sum) };
}

/**
 * Mean over comparisons of log(1 + sum over rejected r of exp(h_r - h_c)), h = beta (log pi(y) - log ref(y)): for one rejected list
 * -log sigmoid(h_c - h_r), DPO's loss. `compare` names the comparisons of a group from its lists' rewards.
 */
function preference(
  input: ObjectiveInput,
  beta: number,
  compare: (rewards: Float64Array) => { chosen: number; rejected: number[] }[],
): ObjectiveOutput {
  const { logprobs, refLogprobs, rowOffsets, groupOffsets, rewards } = input;
  const B = rowOffsets.length - 1;
  const implicit = new Float64Array(B);
  for (let row = 0; row < B; row++) {
    for (let t = rowOffsets[row]!; t < rowOffsets[row + 1]!; t++)
      implicit[row]! += beta * (logprobs[t]! - refLogprobs![t]!);
  }
  const slopes = new Float64Array(B); // of the loss by each list's log-prob
  let loss = 0;
  let right = 0;
  let comparisons = 0;
  for (let p = 0; p + 1 < groupOffsets.length; p++) {
    const first = groupOffsets[p]!;
    for (const { chosen, rejected } of compare(rewards.subarray(first, groupOffsets[p + 1]))) {
      const margins = rejected.map((r) => implicit[first + r]! - implicit[first + chosen]!);
      const { value, slopes: shares } = softplusOf(margins);
      comparisons++;
      loss += value;
      if (margins.every((margin) => margin < 0)) right++;
      for (const [i, r] of rejected.entries()) {
        slopes[first + r]! += beta * shares[i]!;
        slopes[first + chosen]! -= beta * shares[i]!;
      }
    }
  }
  const dlogp = new Float32Array(logprobs.length);
  if (comparisons > 0) {
    for (let row = 0; row < B; row++) dlogp.fill(slopes[row]! / comparisons, rowOffsets[row], rowOffsets[row + 1]);
  }
  const mean = (x: number): number => (comparisons > 0 ? x / comparisons : 0);
  return { loss: mean(loss), dlogp, metrics: { comparisons, accuracy: mean(right) } };
}

/**
 * Direct preference optimization (arXiv 2305.18290) over every pair of a group's lists that earned different rewards:
 *
 *   -log sigmoid( beta (log pi(y_c)/ref(y_c) - log pi(y_r)/ref(y_r)) ),  reward(c) > reward(r), mean over the pairs of the step
 */
export function dpo(options: PreferenceOptions = {}): CustomObjective {
  const beta = readBeta(options);
  return defineObjective({
    name: "dpo",
    source: "DPO (arXiv 2305.18290) Eq. 7, over the lists of a group",
    reference: true,
    evaluate: (input) =>
      preference(input, beta, (rewards) =>
        [...rewards].flatMap((high, chosen) =>
          [...rewards].flatMap((low, r) => (high > low ? [{ chosen, rejected: [r] }] : [])),
        ),
      ),
  });
}

/**
 * Softmax DPO for recommenders (arXiv 2406.09215): the best list of a group (each of them, in a tie) against all lists that earned less:
 *
 *   -log sigmoid( -log sum_r exp( beta (log pi(y_r)/ref(y_r) - log pi(y_c)/ref(y_c)) ) ), mean over the best lists of the step
 */
export function sDpo(options: PreferenceOptions = {}): CustomObjective {
  const beta = readBeta(options);
  return defineObjective({
    name: "s-dpo",
    source: "S-DPO (arXiv 2406.09215), over the lists of a group",
    reference: true,
    evaluate: (input) =>
      preference(input, beta, (rewards) => {
        const best = Math.max(...rewards);
        const rejected = [...rewards.keys()].filter((r) => rewards[r]! < best);
        const chosen = [...rewards.keys()].filter((r) => rewards[r] === best);
        return rejected.length > 0 ? chosen.map((c) => ({ chosen: c, rejected })) : [];
      }),
  });
}
