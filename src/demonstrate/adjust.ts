// Adjust (Rank-GRPO, Eq. 12 and 13): one weight and one bias for every catalogue item, shared by all dialogues, fitted to what users
// liked: w s + b under a multinomial likelihood over the full catalogue.
import { refuse } from "../errors.ts";
import type { NativeStage1 } from "../native.ts";
import { type Evaluation, minimize } from "./minimize.ts";

/** Rows of one table of scores. Rows whose scores come from different tables may be fitted together. */
export interface ScoreRows {
  scores: NativeStage1;
  rows: Int32Array;
}

export interface AdjustOptions {
  /** lambda_w of ||w - 1||^2. At least 0. Default 0.01, the paper's. */
  weightDecay?: number;
  /** lambda_b of ||b||^2. At least 0. Default 0.01, the paper's. */
  biasDecay?: number;
  /** Converged once an iteration gains less than this share of the loss, twice running. Default 1e-5: lists no longer change. */
  tolerance?: number;
  /** Default 200; ReDial needs about 60. The paper names neither optimizer nor epochs. */
  maxIterations?: number;
  signal?: AbortSignal;
  onIteration?: (state: { iteration: number; loss: number; gradientNorm: number; evaluations: number }) => void;
}

export interface Adjustment {
  /** [I] float32, what the native ranking reads. */
  w: Float32Array;
  b: Float32Array;
  /** The regularised loss at w = 1, b = 0 and at the end: a sum over positives, as the paper writes it. */
  initialLoss: number;
  loss: number;
  gradientNorm: number;
  iterations: number;
  converged: boolean;
}

/**
 * Fits w and b to the positives of the given rows. The loss is convex, so the end does not depend on the start (w = 1, b = 0).
 * Throws BAD_DATA where no row has a positive.
 */
export async function fitAdjustment(
  parts: readonly ScoreRows[],
  items: number,
  options: AdjustOptions = {},
): Promise<Adjustment> {
  const { weightDecay = 0.01, biasDecay = 0.01, tolerance = 1e-5, maxIterations = 200, signal, onIteration } = options;
  for (const [name, value] of [
    ["weightDecay", weightDecay],
    ["biasDecay", biasDecay],
  ] as const)
    if (!(value >= 0 && Number.isFinite(value))) refuse("INVALID_ARGUMENT", "a number from 0", name, value);
  if (!(tolerance > 0)) refuse("INVALID_ARGUMENT", "a number above 0", "tolerance", tolerance);

  // x = [w - 1, b]
  const weightsOf = (x: Float64Array): [Float32Array, Float32Array] => [
    Float32Array.from(x.subarray(0, items), (value) => 1 + value),
    Float32Array.from(x.subarray(items)),
  ];
  const evaluate = async (x: Float64Array): Promise<Evaluation> => {
    const [w, b] = weightsOf(x);
    const gradient = new Float64Array(2 * items);
    let loss = 0;
    for (const { scores, rows } of parts) {
      signal?.throwIfAborted();
      const slope = await scores.slope(rows, w, b);
      loss += slope.loss;
      for (let i = 0; i < items; i++) {
        gradient[i]! += slope.dw[i]!;
        gradient[items + i]! += slope.db[i]!;
      }
    }
    for (let i = 0; i < items; i++) {
      loss += weightDecay * x[i]! ** 2 + biasDecay * x[items + i]! ** 2;
      gradient[i]! += 2 * weightDecay * x[i]!;
      gradient[items + i]! += 2 * biasDecay * x[items + i]!;
    }
    return { loss, gradient };
  };

  // The loss is flat where an item is neither liked nor likely and steep where it is both, and an item's w and b do much the same: their own
  // second derivatives, two by two. Those of two items matter less: one has a small part of a softmax.
  const inverseAt = async (x: Float64Array): Promise<(v: Float64Array) => Float64Array> => {
    const [w, b] = weightsOf(x);
    // a little more than the decay, so that an item of no consequence has a curvature too
    const ww = new Float64Array(items).fill(2 * weightDecay + 1e-3);
    const wb = new Float64Array(items);
    const bb = new Float64Array(items).fill(2 * biasDecay + 1e-3);
    for (const { scores, rows } of parts) {
      signal?.throwIfAborted();
      const own = await scores.curvature(rows, w, b);
      for (let i = 0; i < items; i++) {
        ww[i]! += own.ww[i]!;
        wb[i]! += own.wb[i]!;
        bb[i]! += own.bb[i]!;
      }
    }
    return (v) => {
      const out = new Float64Array(2 * items);
      for (let i = 0; i < items; i++) {
        const determinant = ww[i]! * bb[i]! - wb[i]! ** 2; // above 0: Cauchy and Schwarz
        out[i] = (bb[i]! * v[i]! - wb[i]! * v[items + i]!) / determinant;
        out[items + i] = (ww[i]! * v[items + i]! - wb[i]! * v[i]!) / determinant;
      }
      return out;
    };
  };
  const minimum = await minimize(new Float64Array(2 * items), evaluate, {
    inverseAt,
    tolerance,
    maxIterations,
    ...(onIteration && { onIteration }),
  });
  if (minimum.initialLoss === 0)
    refuse("BAD_DATA", "feedback whose titles are in the catalogue", "the rows to fit", "none");
  const [w, b] = weightsOf(minimum.x);
  return {
    w,
    b,
    initialLoss: minimum.initialLoss,
    loss: minimum.loss,
    gradientNorm: minimum.gradientNorm,
    iterations: minimum.iterations,
    converged: minimum.converged,
  };
}
