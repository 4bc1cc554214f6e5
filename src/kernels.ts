// `rank-grpo/kernels`: the native kernels without a model. Log-probs and entropies from logits or from hidden states and a head, rank
// ratios over ragged segments, and the policy loss with its gradient.
//
// Letters: T tokens, V vocabulary, C channels, S segments. Matrices are row-major and flat. Log-probs and entropies are in nats.
// Matrices are f32 (Float32Array) or bf16 (Uint16Array of the upper halves of f32 bits, see `toBf16`); sums are f32 or wider.
//
// The asynchronous functions read large arrays where they lie, so the calling thread waits while the engine thread works: nothing can be
// written, transferred or freed meanwhile. Wrong kinds and lengths throw TypeError or RangeError at the call, before any work.
//
// With `device: "cuda"` the same arrays go to the GPU and results come back (docs/cuda.md); what the GPU gives differs from the CPU's by
// rounding alone.
import { addon, type NativeObjectiveResult, type NativeRule } from "./native.ts";
import { type LossOptions, nativeObjective, resolveLoss } from "./objectives.ts";

export type { LossOptions, NativeObjectiveResult, NativeRule };

/** Where to compute. Arrays lie on the host whatever it is. */
export interface Placement {
  /**
   * Default "cpu". "cuda": an NVIDIA GPU; NO_DEVICE with the reason where it cannot be used. "auto": cuda where it can be used, else cpu.
   * On a GPU the calling thread waits until it is free of what else the process has given it.
   */
  device?: "auto" | "cpu" | "cuda";
}

/** Float32Array, or bf16 bits. */
export type Matrix = Float32Array | Uint16Array;

/** Rounds to bf16, to nearest even; NaN stays NaN. */
export function toBf16(values: ArrayLike<number>): Uint16Array {
  const source = values instanceof Float32Array ? values : Float32Array.from(values);
  const bits = new Uint32Array(source.buffer, source.byteOffset, source.length);
  const out = new Uint16Array(source.length);
  for (let i = 0; i < out.length; i++) {
    const x = bits[i]!;
    const isNan = (x & 0x7fffffff) > 0x7f800000;
    out[i] = isNan ? (x >>> 16) | 0x40 : (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** bf16 bits as numbers, exactly. */
export function fromBf16(bits: Uint16Array): Float32Array {
  const out = new Float32Array(bits.length);
  const words = new Uint32Array(out.buffer);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
  return out;
}

export interface LogitsInput extends Placement {
  /** [T, V] */
  logits: Matrix;
  /** [T], each in [0, V) */
  targets: Int32Array;
  /** V */
  vocabulary: number;
  /** Logits are divided by it before everything else; above 0, default 1. */
  temperature?: number;
}

export interface HeadInput extends Placement {
  /** [T, C] */
  hidden: Matrix;
  /** [V, C], the checkpoint's layout of lm_head */
  head: Matrix;
  /** [T], each in [0, V) */
  targets: Int32Array;
  /** V */
  vocabulary: number;
  /** Logits are divided by it before everything else; above 0, default 1. */
  temperature?: number;
  /** What is multiplied: f32, or operands rounded to bf16 with f32 sums. Default: bf16 where both matrices are bf16, else f32. */
  compute?: "f32" | "bf16";
}

/** What a forward pass gives, and the backward pass needs again. */
export interface Logprobs {
  /** [T]: log softmax(logits / temperature) at the target. */
  logprobs: Float32Array;
  /** [T]: log-sum-exp of logits / temperature. */
  logSumExp: Float32Array;
  /** [T]: entropy of the distribution; only where asked for. */
  entropies?: Float32Array;
}

/** dL/dlogprob and dL/dentropy of every row, with the forward pass they belong to. */
export interface LogprobGradient {
  /** The result of the forward pass over the same inputs (`entropies` needed with `dentropies`). */
  forward: Logprobs;
  /** [T] */
  dlogprobs: Float32Array;
  /** [T] */
  dentropies?: Float32Array;
}

/** Log-probs (and entropies) of T targets under T rows of logits. */
export function logprobs(input: LogitsInput & { entropies?: boolean }): Promise<Logprobs> {
  return addon.logprobForward(input.logits, input.targets, input);
}

/**
 * The gradient by the logits, [T, V] f32: of sum_t dlogprobs[t] logprobs[t] + dentropies[t] entropies[t].
 *
 * @param input.out where to write it, also the f32 `logits` themselves, which are then overwritten (no extra memory); by default a new array.
 */
export async function logprobsBackward(
  input: LogitsInput & LogprobGradient & { out?: Float32Array },
): Promise<Float32Array> {
  const { logits, targets, vocabulary, temperature, device, forward, dlogprobs, dentropies } = input;
  const out = input.out ?? new Float32Array(logits.length);
  const { logSumExp, entropies } = forward;
  await addon.logprobBackward(logits, targets, {
    vocabulary,
    temperature,
    device,
    logSumExp,
    entropies,
    dlogprobs,
    dentropies,
    out,
  });
  return out;
}

/** Log-probs (and entropies) of T targets from hidden states and a head; a [T, V] tensor is never made. */
export function headLogprobs(input: HeadInput & { entropies?: boolean }): Promise<Logprobs> {
  return addon.headForward(input.hidden, input.head, input.targets, input);
}

/**
 * Gradients by hidden [T, C] and head [V, C], f32, of the sum `logprobsBackward` names. Logits are computed again in chunks of 8 MiB (64 on a GPU).
 *
 * @param input.dhead is added to, so micro-batches accumulate; by default a new array of zeros; null: not wanted (a frozen head).
 */
export async function headLogprobsBackward(
  input: HeadInput & LogprobGradient & { dhidden?: Float32Array; dhead?: Float32Array | null },
): Promise<{ dhidden: Float32Array; dhead: Float32Array | null }> {
  const { hidden, head, targets, vocabulary, temperature, compute, device, forward, dlogprobs, dentropies } = input;
  const dhidden = input.dhidden ?? new Float32Array(hidden.length);
  const dhead = input.dhead === undefined ? new Float32Array(head.length) : input.dhead;
  const { logSumExp, entropies } = forward;
  const rows = { logSumExp, entropies, dlogprobs, dentropies };
  const outputs = { dhidden, dhead: dhead ?? undefined };
  await addon.headBackward(hidden, head, targets, { vocabulary, temperature, compute, device, ...rows, ...outputs });
  return { dhidden, dhead };
}

/** Ragged segments over T tokens: segment s is segmentTokens[segmentOffsets[s] .. segmentOffsets[s + 1]), and may be empty. */
export interface Segments {
  /** [S + 1], from 0 */
  segmentOffsets: Int32Array;
  /** Token indices in [0, T), each in one segment at most. */
  segmentTokens: Int32Array;
}

/**
 * Geometric-mean importance ratios w = exp(mean over the segment of logprob - oldLogprob), Rank-GRPO section 2.3; summed in float64.
 * An empty segment has ratio 1. Beyond f32 (a mean log-ratio above 88.7) a ratio is Infinity; its logarithm stays exact.
 * @throws RangeError for lengths, indices, a token in two segments, or log-probs that are not finite
 */
export function rankRatios(input: Segments & Placement & { logprobs: Float32Array; oldLogprobs: Float32Array }): {
  ratios: Float32Array;
  logRatios: Float32Array;
} {
  return addon.segmentRatios(input);
}

export interface PolicyLossInput extends Segments, Placement {
  /** [T] under the policy */
  logprobs: Float32Array;
  /** [T] under the policy that sampled; left out: on-policy, every ratio is exactly 1 */
  oldLogprobs?: Float32Array;
  /** [T] under the reference; left out: no KL term */
  refLogprobs?: Float32Array;
  /** [T], needed with an entropy bonus */
  entropies?: Float32Array;
  /** [T] */
  advantages: Float32Array;
  /** [T]: mask times normaliser (docs/objectives.md, Weights) */
  weights: Float32Array;
}

/**
 * Policy loss and its gradient: pool log-ratios over segments, apply the rule, spread its slope, add KL and entropy (docs/objectives.md).
 *
 *   loss = sum_t weights[t] (rule(s(t), advantages[t]) + beta kl[t]) - entropyCoef mean entropy over covered tokens
 *
 * A token in no segment is masked: no loss, no KL, gradient exactly 0. Float64 inside.
 *
 * @param objective a preset's or rule's name, or the parts of an objective that are a loss; by default `rank-grpo` without KL
 * @returns loss; `dlogp` [T]; `dentropy` [T] with a bonus; per-token `tokenLoss` and `tokenKl`; `segmentLogRatio` [S]; and counts over
 *   covered tokens (`covered`, `clippedLow`, `clippedHigh`, `clippedDual`) and over non-empty segments (`segments`, `ratioMin/Max/Sum`).
 * @throws RangeError for lengths, indices or numbers that are not finite; INVALID_ARGUMENT for a field, rule or parameter that is not known
 *   or out of range; NO_DEVICE for a GPU that cannot be used.
 */
export function policyLoss(input: PolicyLossInput, objective: LossOptions | string = {}): NativeObjectiveResult {
  return addon.policyLoss(input, nativeObjective(resolveLoss(objective)));
}

/** Every rule the addon holds: name, source, formula, and its parameters with default, range and reason. */
export const objectiveList = (): NativeRule[] => addon.objectiveList();
