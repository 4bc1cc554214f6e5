// An entropy-regularised objective in TypeScript: any of the native losses, and a pull of the mean entropy towards a target.
import { refuse } from "../errors.ts";
import { type LossOptions, policyLoss } from "../kernels.ts";
import { resolveLoss } from "../objectives.ts";
import { type CustomObjective, defineObjective } from "./custom.ts";

export interface EntropyTargetOptions {
  /** Mean entropy of a token to hold, nats, >= 0. */
  target: number;
  /** Weight of the squared distance, >= 0. Default 0.1. */
  coefficient?: number;
  /** The policy loss: a preset's or rule's name, or its parts. Default rank-grpo without KL. */
  objective?: LossOptions | string;
}

/**
 * policyLoss + coefficient (mean entropy - target)^2, the mean over tokens that carry a weight. Unlike a bonus it also pulls down an
 * entropy that is too high, and fades at the target (soft actor-critic's constraint, arXiv 1812.05905 section 5, as a penalty).
 */
export function entropyTarget(options: EntropyTargetOptions): CustomObjective {
  const { target, coefficient = 0.1, objective = {} } = options;
  for (const [name, value] of Object.entries({ target, coefficient })) {
    if (!(value >= 0 && Number.isFinite(value))) refuse("INVALID_ARGUMENT", "a number from 0", name, value);
  }
  const inner = resolveLoss(objective);
  return defineObjective({
    name: "entropy-target",
    source: "soft actor-critic (arXiv 1812.05905) section 5, the entropy constraint as a squared penalty",
    reference: inner.beta > 0,
    entropies: true,
    evaluate(input) {
      const { loss, dlogp, dentropy: bonus } = policyLoss(input, inner);
      const { entropies, weights } = input;
      let [sum, count] = [0, 0];
      for (const [t, w] of weights.entries()) {
        if (w === 0) continue;
        sum += entropies![t]!;
        count++;
      }
      const gap = count > 0 ? sum / count - target : 0;
      const slope = count > 0 ? (2 * coefficient * gap) / count : 0;
      const dentropy = weights.map((w, t) => (w === 0 ? 0 : slope) + (bonus?.[t] ?? 0));
      return { loss: loss + coefficient * gap * gap, dlogp, dentropy, metrics: { entropy_gap: gap } };
    },
  });
}
