// `rank-grpo/kernels` as JavaScript calls them: log-probs of logits and of hidden states times a head, forward and backward.
import {
  fromBf16,
  headLogprobs,
  headLogprobsBackward,
  logprobs,
  logprobsBackward,
  type Matrix,
  toBf16,
} from "../kernels.ts";
import { philox } from "../random.ts";
import type { Harness, Validation } from "./harness.ts";
import { tokens } from "./models.ts";

/** Numbers in [-scale, scale), a block of random ones repeated over and over with a period that divides no row. */
export function numbers(count: number, scale: number, stream: number): Float32Array {
  const out = new Float32Array(count);
  const period = Math.min(count, 65_521);
  for (let i = 0; i < period; i++) out[i] = scale * ((philox(5, 0, stream, i, 0)[0] >>> 0) / 2 ** 31 - 1);
  for (let done = period; done < count; done *= 2) out.copyWithin(done, 0, Math.min(done, count - done));
  return out;
}

/** Largest difference, in parts of the largest value that is wanted. */
export const furthest = (got: ArrayLike<number>, wanted: Float64Array): number => {
  const largest = (values: Float64Array): number => values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  return largest(wanted.map((x, i) => x - got[i]!)) / largest(wanted);
};

const widened = (m: Matrix): Float32Array => (m instanceof Float32Array ? m : fromBf16(m));

/** Log-softmax of a row in float64, and the gradient's factors. */
function softmax(row: Float64Array): { logSumExp: number; p: Float64Array } {
  let top = -Infinity;
  for (const x of row) top = Math.max(top, x);
  let sum = 0;
  for (const x of row) sum += Math.exp(x - top);
  const logSumExp = top + Math.log(sum);
  return { logSumExp, p: row.map((x) => Math.exp(x - logSumExp)) };
}

async function givenLogits(harness: Harness): Promise<void> {
  const [T, V] = [2048, 49_152];
  const shape = `[${T} x ${V}]`;
  const names = ["log-prob", "gradient in place", "log-prob and gradient in place"];
  if (!names.some((name) => harness.wants({ name, shape, dtype: "f32" }))) return;
  const logits = numbers(T * V, 4, 1);
  const targets = tokens(T, V, 1);
  const input = { logits, targets, vocabulary: V };
  const dlogprobs = numbers(T, 1, 2);
  const rowOf = (t: number): Float64Array => Float64Array.from(logits.subarray(t * V, (t + 1) * V));
  const sample = [0, 1, 777, T - 1];
  const forward = await logprobs(input);
  const validForward = (): Validation => {
    let error = 0;
    for (const t of sample) {
      const row = rowOf(t);
      error = Math.max(error, Math.abs(row[targets[t]!]! - softmax(row).logSumExp - forward.logprobs[t]!));
    }
    return { error, tolerance: 1e-5 };
  };
  const validBackward = async (): Promise<Validation> => {
    let error = 0;
    for (const t of sample) {
      const part = { logits: logits.slice(t * V, (t + 1) * V), targets: targets.slice(t, t + 1), vocabulary: V };
      const got = await logprobsBackward({
        ...part,
        forward: await logprobs(part),
        dlogprobs: dlogprobs.slice(t, t + 1),
      });
      const { p } = softmax(rowOf(t));
      for (let v = 0; v < V; v++) {
        const wanted = dlogprobs[t]! * ((v === targets[t] ? 1 : 0) - p[v]!);
        error = Math.max(error, Math.abs(wanted - got[v]!));
      }
    }
    return { error, tolerance: 1e-6 };
  };
  const bytes = 4 * T * V;
  const backward = () => logprobsBackward({ ...input, forward, dlogprobs, out: logits });
  await harness.measure({
    name: names[0]!,
    shape,
    dtype: "f32",
    readBytes: bytes,
    validate: validForward,
    run: () => logprobs(input),
  });
  const gradientsAreRight = await validBackward(); // before the first run overwrites the logits
  await harness.measure({
    name: names[1]!,
    shape,
    dtype: "f32",
    updateBytes: 2 * bytes,
    validate: () => gradientsAreRight,
    run: backward,
  });
  await harness.measure({
    name: names[2]!,
    shape,
    dtype: "f32",
    readBytes: bytes,
    updateBytes: 2 * bytes,
    validate: () => gradientsAreRight,
    run: async () => {
      await logprobs(input);
      await backward();
    },
  });
}

async function givenHidden(harness: Harness, dtype: "f32" | "bf16"): Promise<void> {
  const [T, C, V] = [1024, 576, 49_152];
  const shape = `[${T} x ${C}] x [${V} x ${C}]`;
  const names = ["head: log-prob", "head: gradients by hidden and head"];
  if (!names.some((name) => harness.wants({ name, shape, dtype }))) return;
  const cast = (x: Float32Array): Matrix => (dtype === "bf16" ? toBf16(x) : x);
  const hidden = cast(numbers(T * C, 1, 3));
  const head = cast(numbers(V * C, 0.2, 4));
  const targets = tokens(T, V, 2);
  const input = { hidden, head, targets, vocabulary: V };
  const forward = await headLogprobs(input);
  const [h, W] = [widened(hidden), widened(head)];
  const rows = [0, T - 1].map((t) => {
    const logits = new Float64Array(V);
    for (let v = 0; v < V; v++) for (let c = 0; c < C; c++) logits[v]! += h[t * C + c]! * W[v * C + c]!;
    return { t, logits, ...softmax(logits) };
  });
  const flops = 2 * T * C * V;
  const weightBytes = V * C * (dtype === "bf16" ? 2 : 4);
  await harness.measure({
    name: names[0]!,
    shape,
    dtype,
    flops,
    readBytes: weightBytes,
    validate: () => ({
      error: Math.max(
        ...rows.map(({ t, logits, logSumExp }) => Math.abs(logits[targets[t]!]! - logSumExp - forward.logprobs[t]!)),
      ),
      tolerance: 2e-5,
    }),
    run: () => headLogprobs(input),
  });
  const dlogprobs = numbers(T, 1, 5);
  const dhidden = new Float32Array(T * C);
  const dhead = new Float32Array(V * C);
  const run = () => headLogprobsBackward({ ...input, forward, dlogprobs, dhidden, dhead });
  await harness.measure({
    name: names[1]!,
    shape,
    dtype,
    flops: 3 * flops, // the logits are computed again
    readBytes: 2 * weightBytes,
    updateBytes: 8 * V * C,
    validate: async () => {
      await run();
      const errors = rows.map(({ t, p }) => {
        const wanted = Float64Array.from(W.subarray(targets[t]! * C, (targets[t]! + 1) * C));
        for (let v = 0; v < V; v++) for (let c = 0; c < C; c++) wanted[c]! -= p[v]! * W[v * C + c]!;
        for (let c = 0; c < C; c++) wanted[c]! *= dlogprobs[t]!;
        return furthest(dhidden.subarray(t * C, (t + 1) * C), wanted);
      });
      for (const v of [targets[0]!, V - 1]) {
        const wanted = new Float64Array(C);
        for (let t = 0; t < T; t++) {
          let logit = 0;
          for (let c = 0; c < C; c++) logit += h[t * C + c]! * W[v * C + c]!;
          const slope = dlogprobs[t]! * ((targets[t] === v ? 1 : 0) - Math.exp(logit - forward.logSumExp[t]!));
          for (let c = 0; c < C; c++) wanted[c]! += slope * h[t * C + c]!;
        }
        errors.push(furthest(dhead.subarray(v * C, (v + 1) * C), wanted));
      }
      return { error: Math.max(...errors), tolerance: dtype === "bf16" ? 2e-2 : 1e-5 }; // bf16: the slopes are rounded too
    },
    run,
  });
}

export async function kernels(harness: Harness): Promise<void> {
  await givenLogits(harness);
  for (const dtype of ["f32", "bf16"] as const) await givenHidden(harness, dtype);
}
