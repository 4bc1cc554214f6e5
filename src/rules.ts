// The parameters of every rule of this package. Made from the rules' own tables (`npx tsx scripts/rules.mts`); a test holds it to them.
// `rank-grpo build` adds those of a project's rules (.rank-grpo/objectives.d.ts).

/** Parameters by rule. */
export interface RuleParameters {
  /** -min(min(w, delta) A, clamp(w, 1 - clipLow, 1 + clipHigh) A), w = exp(s) (Rank-GRPO (arXiv 2510.20150) Eq. 6; PPO (1707.06347); dual clip (1912.09729)) */
  clip: {
    /** Default 0.06, from 0 to 1: the paper's range for rank ratios; token ratios use 0.2. */
    clipLow?: number;
    /** Default 0.08, from 0 to 1000000000: a little wider than clipLow keeps exploration (DAPO's clip-higher). */
    clipHigh?: number;
    /** Default Infinity, from 1 to Infinity: off: the paper has no dual clip, whose own authors take 3. */
    delta?: number;
  };
  /** -stop(clamp(w, 1 - clipLow, 1 + clipHigh)) A logp, w = exp(s) (MiniMax-M1 (arXiv 2506.13585) Eq. 4; with clipHigh 0 truncated importance sampling) */
  cispo: {
    /** Default 1, from 0 to 1: 1: no lower bound, as published. */
    clipLow?: number;
    /** Default 4, from 0 to 1000000000: cap of 5 on the ratio. */
    clipHigh?: number;
  };
  /** -scale A logp (Rank-GRPO (arXiv 2510.20150) Eq. 2 (SFT); REINFORCE (Williams 1992)) */
  likelihood: {
    /** Default 1, from 0 to 1000000000: the plain negative log-likelihood. */
    scale?: number;
  };
  /** -A exp(s), s the mean of min(d, clipHigh) where A > 0, of max(d, -clipLow) where A < 0 (GMPO (arXiv 2507.20673)) */
  gmpo: {
    /** Default 0.4, from 0 to 1000000000: in log-ratios: ratios from exp(-0.4), as published. */
    clipLow?: number;
    /** Default 0.4, from 0 to 1000000000: in log-ratios: ratios to exp(0.4), as published. */
    clipHigh?: number;
  };
  /** -4 / tau sigmoid(tau (w - 1)) A, w = exp(s), tau by the sign of A (SAPO (arXiv 2511.20347)) */
  sapo: {
    /** Default 1, from 0.000001 to 1000000: as published. */
    tauPositive?: number;
    /** Default 1.05, from 0.000001 to 1000000: as published: negative advantages raise many other tokens, so they fade faster. */
    tauNegative?: number;
  };
  /** -4 / tau sigmoid(tau (w - 1)) A, w = exp(s) (P3O (arXiv 2205.10047), the scopic objective without its KL term (beta has it)) */
  p3o: {
    /** Default 4, from 0.000001 to 1000000: half the slope by the ratio is left at w = 1.44 and 0.56. */
    tau?: number;
  };
  /** -stop(A > 0 ? 1 : min(w, cap)) A logp, w = exp(s) (TOPR (arXiv 2503.14286); as published with ratio: sequence, pool: sum) */
  topr: {
    /** Default 1, from 0 to 1000000000: as published: negatives the policy already avoids count less, none more. */
    cap?: number;
  };
  /** -w A; where clip would hold it at c: -b (c / stop(w)) w A, b = keepLow or keepHigh (GPPO (arXiv 2508.07629); its coefficients from CE-GPPO (2509.20712)) */
  gppo: {
    /** Default 0.2, from 0 to 1: the range of token ratios. */
    clipLow?: number;
    /** Default 0.2, from 0 to 1000000000: the range of token ratios. */
    clipHigh?: number;
    /** Default 1, from 0 to 1000000000: GPPO; below 1 converges more slowly, with 0 it is clip's gradient. */
    keepLow?: number;
    /** Default 1, from 0 to 1000000000: GPPO; below 1 explores less, with 0 it is clip's gradient. */
    keepHigh?: number;
  };
  /** -(w A - |A| / (2 epsilon) (w - 1)^2), w = exp(s) (Simple Policy Optimization (arXiv 2401.16025)) */
  spo: {
    /** Default 0.2, from 1e-9 to 1000000000: as published: PPO's range. */
    epsilon?: number;
  };
  /** -min(w A, f A), f = c + alpha (c - w) beyond the range's edge c, else w; w = exp(s) (Truly PPO (arXiv 1903.07940), PPO-RB) */
  rollback: {
    /** Default 0.2, from 0 to 1: PPO's range. */
    clipLow?: number;
    /** Default 0.2, from 0 to 1000000000: PPO's range. */
    clipHigh?: number;
    /** Default 0.3, from 0 to 1000000000: a third of the slope, turned; 0 is clip. */
    alpha?: number;
  };
  /** -(A > 0 ? positive : 1) w A, w = exp(s) (Negative sample reinforcement, W-REINFORCE (arXiv 2506.01347)) */
  nsr: {
    /** Default 0.1, from 0 to 1000000000: as published; 0 learns from negatives alone, 1 from both alike. */
    positive?: number;
  };
  /** -M stop(w) A logp, M = 0 where A > 0 and w > 1 + clipHigh or A < 0 and w < 1 - clipLow; w = exp(s) (MiniMax-M1 (arXiv 2506.13585), the unified form with the token mask) */
  "cispo-mask": {
    /** Default 0.2, from 0 to 1: the range of token ratios. */
    clipLow?: number;
    /** Default 0.28, from 0 to 1000000000: DAPO's clip-higher. */
    clipHigh?: number;
  };
  /** -p / (p + gamma) A, p = exp(logp) (LUFFY (arXiv 2504.14945), policy shaping) */
  shaping: {
    /** Default 0.1, from 1e-9 to 1000000000: as published. */
    gamma?: number;
  };
}
