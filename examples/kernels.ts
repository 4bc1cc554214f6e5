// The kernels alone, without a model: log-probs of logits, rank ratios, and the Rank-GRPO loss with its gradient.
// npx tsx examples/kernels.ts
import { logprobs, policyLoss, rankRatios } from "rank-grpo/kernels";

const [tokens, vocabulary] = [6, 50];
const logits = Float32Array.from({ length: tokens * vocabulary }, (_, i) => Math.sin(i));
const targets = Int32Array.of(3, 1, 4, 1, 5, 9);
const now = await logprobs({ logits, targets, vocabulary, entropies: true });

// two items of the list: tokens 0 to 2 and 3 to 5; the policy that sampled them was a little different
const segments = { segmentOffsets: Int32Array.of(0, 3, 6), segmentTokens: Int32Array.of(0, 1, 2, 3, 4, 5) };
const oldLogprobs = now.logprobs.map((x, t) => x - 0.05 * Math.cos(t));
console.log("rank ratios", rankRatios({ logprobs: now.logprobs, oldLogprobs, ...segments }));

const loss = policyLoss(
  {
    logprobs: now.logprobs,
    oldLogprobs,
    advantages: Float32Array.of(1, 1, 1, -0.5, -0.5, -0.5), // per token: the item's advantage
    weights: new Float32Array(tokens).fill(1 / tokens),
    ...segments,
  },
  "rank-grpo",
);
console.log("loss", loss.loss, "dL/dlogp", loss.dlogp);
