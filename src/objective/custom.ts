// Objectives wholly in TypeScript, for losses that are no scalar rule of (pooled log-ratio, advantage): a function from per-token
// log-probs to the loss and its gradient by them. The engine makes the log-probs and takes the gradient back.
import { refuse } from "../errors.ts";
import { uniform } from "../random.ts";

/** A step as a loss sees it. T completion tokens lie flat in row order; a row is one completion, a group the rows of one prompt. */
export interface ObjectiveInput {
  /** [T] under the policy, nats */
  logprobs: Float32Array;
  /** [T] under the policy that sampled */
  oldLogprobs: Float32Array;
  /** [T] under the frozen reference; where `reference` is asked for */
  refLogprobs?: Float32Array;
  /** [T]; where `entropies` is asked for */
  entropies?: Float32Array;
  /** [T], as the configuration's objective makes them (level, normalisation, length shaping) */
  advantages: Float32Array;
  /** [T], as the configuration's `weighting` makes them; 0 where masked */
  weights: Float32Array;
  /** [S + 1]: segment s is segmentTokens[segmentOffsets[s] .. segmentOffsets[s + 1]) */
  segmentOffsets: Int32Array;
  segmentTokens: Int32Array;
  /** [S]: the rank a segment stands for, from 0; -1 for none */
  segmentItem: Int32Array;
  /** [B + 1]: row b owns segments rowSegments[b] .. rowSegments[b + 1) */
  rowSegments: Int32Array;
  /** [B + 1]: row b owns tokens rowOffsets[b] .. rowOffsets[b + 1) */
  rowOffsets: Int32Array;
  /** [P + 1]: group p owns rows groupOffsets[p] .. groupOffsets[p + 1) */
  groupOffsets: Int32Array;
  /** [B]: total reward of a list */
  rewards: Float64Array;
}

export interface ObjectiveOutput {
  loss: number;
  /** [T]: dL/dlogprob */
  dlogp: Float32Array;
  /** [T]: dL/dentropy; only with `entropies` */
  dentropy?: Float32Array;
  /** Logged as objective/NAME. */
  metrics?: Record<string, number>;
}

export interface CustomObjective {
  readonly name: string;
  /** Paper and equation. */
  readonly source: string;
  /** Whether the frozen reference's log-probs are needed. Default false. */
  readonly reference?: boolean;
  /** Whether entropies are needed (and may carry a gradient). Default false. */
  readonly entropies?: boolean;
  /** Must not keep or change its input. */
  evaluate(input: ObjectiveInput): ObjectiveOutput;
}

/** A custom objective, its output checked at every call. @throws INVALID_ARGUMENT at once for a definition that is none */
export function defineObjective(definition: CustomObjective): CustomObjective {
  if (typeof definition !== "object" || definition === null)
    refuse("INVALID_ARGUMENT", "an object with name, source and evaluate", "objective", definition);
  const { name, source } = definition;
  if (typeof name !== "string" || !/^[a-z][a-z0-9-]*$/.test(name)) {
    refuse("INVALID_ARGUMENT", "a name of lower-case letters, digits and hyphens", "objective.name", name);
  }
  if (typeof source !== "string" || !source.trim()) {
    refuse("INVALID_ARGUMENT", "where the objective comes from", "objective.source", source);
  }
  if (typeof definition.evaluate !== "function") {
    refuse("INVALID_ARGUMENT", "a function", "objective.evaluate", definition.evaluate);
  }
  return { ...definition, evaluate: (input) => checkedOutput(definition, input) };
}

function checkedOutput(objective: CustomObjective, input: ObjectiveInput): ObjectiveOutput {
  const { name } = objective;
  if (objective.reference && !input.refLogprobs) refuse("INVALID_ARGUMENT", "log-probs of a reference", name, "none");
  if (objective.entropies && !input.entropies) refuse("INVALID_ARGUMENT", "entropies", name, "none");
  const output = objective.evaluate(input) as ObjectiveOutput | undefined;
  const T = input.logprobs.length;
  if (!output || !Number.isFinite(output.loss)) refuse("NOT_FINITE", "a finite loss", name, output?.loss);
  for (const key of ["dlogp", "dentropy"] as const) {
    const values = output[key];
    if (values === undefined && key === "dentropy") continue;
    if (!(values instanceof Float32Array) || values.length !== T) {
      const got = values instanceof Float32Array ? `${values.length} values` : typeof values;
      refuse("INVALID_ARGUMENT", `a Float32Array of ${T} values`, `${name}.${key}`, got);
    }
    const bad = values.findIndex((x) => !Number.isFinite(x));
    if (bad >= 0) refuse("NOT_FINITE", "finite gradients", `${name}.${key}`, `${values[bad]} at token ${bad}`);
  }
  if (output.dentropy && !objective.entropies) {
    refuse("INVALID_ARGUMENT", "entropies: true in the definition", `${name}.dentropy`, "a gradient without them");
  }
  return output;
}

const GRID = 2 ** -12; // float32 holds these sums exactly, so differences see nothing but the loss

/** A made-up step, the same for a seed: groups of lists of items of tokens, rewards with ties, a row without tokens, masked tokens. */
export function sampleStep(seed: number): ObjectiveInput {
  const draw = (a: number, b: number): number => uniform(seed, 200, a, b);
  const grid = (low: number, high: number, a: number, b: number): number =>
    Math.round((low + (high - low) * draw(a, b)) / GRID) * GRID;
  const [groups, size] = [3, 4];
  const rowOffsets = [0];
  const rowSegments = [0];
  const segmentOffsets = [0];
  const segmentItem: number[] = [];
  const segmentTokens: number[] = [];
  let T = 0;
  for (let row = 0; row < groups * size; row++) {
    const items = row === 5 ? 0 : 1 + Math.floor(draw(row, 0) * 4);
    for (let item = 0; item < items; item++) {
      const tokens = 1 + Math.floor(draw(row, 1 + item) * 3);
      for (let t = 0; t < tokens; t++, T++) if (draw(T, 50) > 0.1) segmentTokens.push(T);
      segmentOffsets.push(segmentTokens.length);
      segmentItem.push(item);
    }
    rowOffsets.push(T);
    rowSegments.push(segmentItem.length);
  }
  const values = (low: number, high: number, stream: number): Float32Array =>
    Float32Array.from({ length: T }, (_, t) => grid(low, high, t, stream));
  const logprobs = values(-4, -0.5, 60);
  const near = (stream: number): Float32Array => logprobs.map((x, t) => x + grid(-0.4, 0.4, t, stream));
  const covered = new Set(segmentTokens);
  return {
    logprobs,
    oldLogprobs: near(61),
    refLogprobs: near(62),
    entropies: values(0.1, 3, 63),
    advantages: values(-2, 2, 64),
    weights: Float32Array.from({ length: T }, (_, t) => (covered.has(t) ? 1 / covered.size : 0)),
    segmentOffsets: Int32Array.from(segmentOffsets),
    segmentTokens: Int32Array.from(segmentTokens),
    segmentItem: Int32Array.from(segmentItem),
    rowSegments: Int32Array.from(rowSegments),
    rowOffsets: Int32Array.from(rowOffsets),
    groupOffsets: Int32Array.from({ length: groups + 1 }, (_, p) => p * size),
    rewards: Float64Array.from({ length: groups * size }, (_, row) => Math.floor(draw(row, 70) * 3)),
  };
}

/** One thing that was looked at. */
export interface Finding {
  /** ok; note: worth knowing; fault: the rule must not be trained with. */
  grade: "ok" | "note" | "fault";
  text: string;
}

/**
 * Holds a custom objective's gradients against central differences of its loss, over made-up steps, as `objective check` does for rules.
 * Tokens where two step sizes disagree are at a kink and are counted, not compared.
 */
export function checkCustomObjective(objective: CustomObjective): {
  findings: Finding[];
  worst: number;
  passed: boolean;
} {
  const checked = defineObjective(objective);
  const findings: Finding[] = [];
  let worst = 0;
  let compared = 0;
  let kinks = 0;
  let moving = 0;
  for (let seed = 0; seed < 6 && findings.length === 0; seed++) {
    const input = sampleStep(seed);
    const before = JSON.stringify(input);
    const output = checked.evaluate(input);
    if (JSON.stringify(input) !== before) findings.push({ grade: "fault", text: "evaluate changes its input" });
    if (checked.evaluate(input).loss !== output.loss) {
      findings.push({ grade: "fault", text: "two calls with the same input give two losses" });
    }
    for (const [key, gradient] of [
      ["logprobs", output.dlogp],
      ["entropies", output.dentropy],
    ] as const) {
      if (!gradient) continue;
      for (let t = 0; t < gradient.length; t++) {
        const shifted = (h: number): number => {
          const values = Float32Array.from(input[key]!);
          values[t]! += h;
          return checked.evaluate({ ...input, [key]: values }).loss;
        };
        const at = (h: number): number =>
          (8 * (shifted(h) - shifted(-h)) - (shifted(2 * h) - shifted(-2 * h))) / (12 * h);
        const [wide, narrow] = [at(2 ** -8), at(2 ** -9)];
        if (!(Math.abs(wide - narrow) <= 1e-6 * (Math.abs(narrow) + 1))) {
          kinks++;
          continue;
        }
        compared++;
        if (narrow !== 0) moving++;
        const error = Math.abs(gradient[t]! - narrow) / (1 + Math.abs(narrow));
        worst = Math.max(worst, error);
        if (error > 1e-6) {
          const text = `gradient by ${key}[${t}] is ${gradient[t]}, by central differences ${narrow} (sampleStep(${seed}))`;
          findings.push({ grade: "fault", text });
          break;
        }
      }
    }
  }
  if (findings.length === 0) {
    findings.push({
      grade: "ok",
      text: `gradient = central differences, at ${compared} tokens, within ${worst.toExponential(1)}`,
    });
    if (moving === 0) findings.push({ grade: "fault", text: "no token carries a gradient" });
    if (kinks > 0) findings.push({ grade: "note", text: `${kinks} tokens at a kink were left out` });
    if (kinks > compared) findings.push({ grade: "fault", text: "more kinks than smooth places" });
  }
  return { findings, worst, passed: findings.every((finding) => finding.grade !== "fault") };
}
