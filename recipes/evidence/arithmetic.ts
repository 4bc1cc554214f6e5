// An ablation's objective: Rank-GRPO with the arithmetic mean of an item's token ratios in place of the geometric one. The native driver pools
// log-ratios, so every token of a segment is given the log of their mean ratio, and the slope that comes back goes to each by its share of the mean.
import { policyLoss } from "../../src/kernels.ts";
import { type CustomObjective, defineObjective } from "../../src/objective/custom.ts";

/** Rank-GRPO's own values where nothing else is said. */
const arithmetic = ({ beta = 0.001, clipLow = 0.06, clipHigh = 0.08 } = {}): CustomObjective =>
  defineObjective({
    name: "arithmetic",
    source: "Rank-GRPO (arXiv 2510.20150) section 2.3 with another mean",
    reference: true,
    evaluate({ refLogprobs, ...input }) {
      const { logprobs, oldLogprobs, segmentOffsets, segmentTokens, weights } = input;
      const ratio = Float64Array.from(logprobs, (logp, t) => Math.exp(logp - oldLogprobs[t]!));
      const pooled = new Float32Array(logprobs.length);
      const segments = Array.from({ length: segmentOffsets.length - 1 }, (_, s) => {
        const tokens = segmentTokens.subarray(segmentOffsets[s]!, segmentOffsets[s + 1]!);
        const sum = tokens.reduce((total, t) => total + ratio[t]!, 0);
        for (const t of tokens) pooled[t] = Math.log(sum / tokens.length);
        return { tokens, sum };
      });
      const { loss, dlogp } = policyLoss(
        { ...input, logprobs: pooled, oldLogprobs: new Float32Array(logprobs.length) },
        { params: { clipLow, clipHigh } },
      );
      for (const { tokens, sum } of segments) {
        const slope = tokens.reduce((total, t) => total + dlogp[t]!, 0);
        for (const t of tokens) dlogp[t] = (slope * ratio[t]!) / sum;
      }
      let kl = 0;
      for (const [t, w] of weights.entries()) {
        const r = refLogprobs![t]! - logprobs[t]!;
        kl += w * (Math.exp(r) - r - 1); // k3
        dlogp[t]! += beta * w * (1 - Math.exp(r));
      }
      return { loss: loss + beta * kl, dlogp };
    },
  });

export const objectives = { arithmetic };
