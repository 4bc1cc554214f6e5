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
  const evaluate = async (x: Float64Array): Promise<Evaluation> => {
    const w = Float32Array.from(x.subarray(0, items), (value) => 1 + value);
    const b = Float32Array.from(x.subarray(items));
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

  const start = new Float64Array(2 * items);
  const first = await evaluate(start);
  if (first.loss === 0) refuse("BAD_DATA", "feedback whose titles are in the catalogue", "the rows to fit", "none");
  // The loss is flat where an item is neither liked nor likely and steep where it is both. At w = 1, b = 0 the gradient of b is expected
  // minus observed count; its size, and the decay, stand for the curvature well enough to start with.
  const curvature = new Float64Array(2 * items);
  for (let i = 0; i < items; i++) {
    const count = Math.abs(first.gradient[items + i]!);
    curvature[i] =
      (process.env["CURV"] ? (0.25 * first.gradient[i]! ** 2) / Math.max(count, 1e-3) : 0.25 * count) +
      2 * weightDecay +
      1e-3;
    curvature[items + i] = 0.25 * count + 2 * biasDecay + 1e-3;
  }
  const minimum = await minimize(start, evaluate, {
    curvature,
    tolerance,
    maxIterations,
    ...(onIteration && { onIteration }),
  });
  return {
    w: Float32Array.from(minimum.x.subarray(0, items), (value) => 1 + value),
    b: Float32Array.from(minimum.x.subarray(items)),
    initialLoss: first.loss,
    loss: minimum.loss,
    gradientNorm: minimum.gradientNorm,
    iterations: minimum.iterations,
    converged: minimum.converged,
  };
}
