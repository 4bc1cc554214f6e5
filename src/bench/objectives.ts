// Policy losses with their gradients, every rule, over the tokens of a step; no matrix product in them.
import { objectiveList, type PolicyLossInput, policyLoss } from "../kernels.ts";
import { philox } from "../random.ts";
import type { Harness, Validation } from "./harness.ts";

const T = 13_312; // 64 lists of 208 tokens
const SEGMENT = 10;

function inputs(): PolicyLossInput {
  const noise = (stream: number, scale: number) => (_: unknown, i: number) =>
    scale * ((philox(9, 0, stream, i, 0)[0] >>> 0) / 2 ** 31 - 1);
  const logprobs = Float32Array.from({ length: T }, (_, i) => -2 + noise(1, 1.5)(_, i));
  const starts = Array.from({ length: Math.ceil(T / SEGMENT) }, (_, s) => s * SEGMENT);
  return {
    logprobs,
    oldLogprobs: logprobs.map((x, i) => x + noise(2, 0.02)(x, i)),
    advantages: Float32Array.from({ length: T }, (_, i) => noise(3, 1)(_, Math.floor(i / SEGMENT))),
    weights: new Float32Array(T).fill(1 / T),
    segmentOffsets: Int32Array.from([...starts, T]),
    segmentTokens: Int32Array.from({ length: T }, (_, i) => i),
  };
}

/** Rank-GRPO's Eq. 6 inside the clip range: loss -w A, slope -w A spread over the segment's mean. */
function validateClip(input: PolicyLossInput): Validation {
  const { dlogp } = policyLoss(input, { rule: "clip", params: { clipLow: 0.5, clipHigh: 0.5 } });
  let error = 0;
  for (let s = 0; s + 1 < input.segmentOffsets.length; s++) {
    const [begin, end] = [input.segmentOffsets[s]!, input.segmentOffsets[s + 1]!];
    let mean = 0;
    for (let t = begin; t < end; t++) mean += (input.logprobs[t]! - input.oldLogprobs![t]!) / (end - begin);
    let slope = 0;
    for (let t = begin; t < end; t++) slope -= input.weights[t]! * input.advantages[t]! * Math.exp(mean);
    for (let t = begin; t < end; t++) error = Math.max(error, Math.abs(slope / (end - begin) - dlogp[t]!) * T);
  }
  return { error, tolerance: 1e-6 };
}

/** What every rule owes: finite numbers, a gradient, and none where all advantages are 0. */
function validateRule(input: PolicyLossInput, rule: string): Validation {
  const { loss, dlogp } = policyLoss(input, { rule });
  const flat = policyLoss({ ...input, advantages: new Float32Array(T) }, { rule });
  const sound =
    Number.isFinite(loss) &&
    dlogp.every(Number.isFinite) &&
    dlogp.some((x) => x !== 0) &&
    flat.dlogp.every((x) => x === 0);
  return { error: sound ? 0 : 1, tolerance: 0 };
}

export async function objectives(harness: Pick<Harness, "measure">): Promise<void> {
  const input = inputs();
  for (const { name: rule } of objectiveList())
    await harness.measure({
      name: `policy loss and gradient: ${rule}`,
      shape: `${T} tokens, segments of ${SEGMENT}`,
      dtype: "f64",
      updateBytes: T * 4 * 9, // five arrays in, four out
      validate: () => (rule === "clip" ? validateClip(input) : validateRule(input, rule)),
      run: () => policyLoss(input, { rule }),
      tokens: T,
    });
}
