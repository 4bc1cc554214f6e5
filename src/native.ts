// Loads the addon and describes it: the single TypeScript account of what crosses the native boundary (docs/native.md).
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { RankGrpoError } from "./errors.ts";

/** Ragged rows: group p is prompt p with completions groupOffsets[p] .. groupOffsets[p + 1). All arrays are copied. */
export interface NativeBatch extends NativeConstraint {
  promptIds: Int32Array;
  promptOffsets: Int32Array;
  completionIds: Int32Array;
  completionOffsets: Int32Array;
  groupOffsets: Int32Array;
}

/** What keeps the lists of a batch inside a catalog. Without `catalog` nothing does. */
export interface NativeConstraint extends Partial<NativeListRules>, NativeExclusions {
  catalog?: NativeCatalog;
}

export interface NativeForwardOptions {
  temperature?: number;
  microBatchTokens?: number;
  entropies?: boolean;
}

export interface NativeScores {
  logprobs: Float32Array;
  entropies?: Float32Array;
}

export interface NativeObjective {
  rule: string;
  params: number[];
  pool?: "mean" | "sum";
  spread?: "pooled" | "token";
  kl?: "k1" | "k2" | "k3";
  klBeta?: number;
  entropyCoef?: number;
}

export interface NativeStepInputs {
  advantages: Float32Array;
  weights: Float32Array;
  oldLogprobs?: Float32Array;
  refLogprobs?: Float32Array;
  segmentOffsets: Int32Array;
  segmentTokens: Int32Array;
}

export interface NativeObjectiveResult {
  loss: number;
  policyLoss: number;
  klSum: number;
  entropySum: number;
  ratioMin: number;
  ratioMax: number;
  ratioSum: number;
  covered: number;
  segments: number;
  clippedLow: number;
  clippedHigh: number;
  clippedDual: number;
  dlogp: Float32Array;
  dentropy?: Float32Array;
  segmentLogRatio: Float32Array;
  tokenLoss: Float32Array;
  tokenKl: Float32Array;
}

export interface NativeGenerateRequest extends NativeConstraint {
  promptIds: Int32Array;
  promptOffsets: Int32Array;
  promptKeys?: Int32Array;
  groupSize?: number;
  maxNewTokens?: number;
  maxRows?: number;
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  greedy?: boolean;
  stopIds?: Int32Array;
  stopStrings?: string[];
  ignoreStop?: boolean;
  seed?: number;
  step?: number;
}

/** Length and repeats of lists that come from a catalog alone. */
export interface NativeListRules {
  /** Items of a list, least <= most; most defaults to least. */
  least: number;
  most?: number;
  /** Default false: no item twice. */
  repeats?: boolean;
}

/** Items that the lists of each prompt may not hold: a CSR over prompts (groups). */
export interface NativeExclusions {
  excludedItems?: Int32Array;
  excludedOffsets?: Int32Array;
}

/** Ragged rows of token ids, one for each item: with the newline that follows, and with the stop token. */
export interface NativeLines {
  lineOffsets: Int32Array;
  lineTokens: Int32Array;
  lastOffsets: Int32Array;
  lastTokens: Int32Array;
}

/** The catalog's lines as a trie of tokens, with the newline that follows a line, and with the stop token of the last. */
export interface NativeCatalog {
  /** A cache file for `open` with the same key; under a temporary name, then renamed. */
  save(path: string, key: string): Promise<void>;
  /** Of given lists (a CSR, and their groups): for every token, how many could have stood in its place, counted up to `countTo` (at least 2). */
  choices(
    lists: { ids: Int32Array; offsets: Int32Array; groupOffsets: Int32Array; countTo: number } & NativeListRules &
      NativeExclusions,
  ): Int32Array;
  describe(): { items: number; tokens: number; bytes: number; longestLine: number };
}

export interface NativeCompletions {
  ids: Int32Array;
  offsets: Int32Array;
  logprobs: Float32Array;
  /** 0: a stop token or string, 1: the length limit */
  finish: Uint8Array;
}

export interface NativePlacement {
  /** Default "cpu". "cuda": an NVIDIA GPU (NO_DEVICE with the reason where it cannot be used). "auto": cuda where it can be used. */
  device?: "auto" | "cpu" | "cuda" | undefined;
}

export interface NativePolicyOptions extends NativePlacement {
  compute?: "f32" | "bf16";
  determinism?: "exact" | "fast";
  /** INVALID_ARGUMENT for "bf16" without bf16 compute, and on the CPU. */
  weights?: "f32" | "bf16";
  trainable?: boolean;
  activationMiB?: number;
  optimizerState?: "device" | "host";
}

export interface NativeOptimizerOptions {
  learningRate: number;
  beta1?: number;
  beta2?: number;
  epsilon?: number;
  weightDecay?: number;
  maxGradNorm?: number;
  /** Of the rounding of weights that are kept in bf16 alone; default 0. */
  seed?: number;
}

export interface NativePolicyInfo {
  device: "cpu" | "cuda";
  metadata: string;
  config: string;
  vocabSize: number;
  maxPositions: number;
  bytes: number;
  /** What training will hold, in bytes; activations is the most a pass may keep, onHost what of it lies in the host's memory instead of a GPU's. */
  memory: {
    weights: number;
    packedWeights: number;
    gradients: number;
    optimizer: number;
    activations: number;
    onHost: number;
  };
  optimizerSteps: number;
  stopIds: Int32Array;
  parameters: string[];
  parameterCount: number;
}

/** The most that a policy will be asked for. */
export interface NativeWorkload {
  /** Tokens of a micro-batch; 0: no passes over batches. */
  passTokens: number;
  /** Whether those passes take a gradient. */
  backward: boolean;
  /** Generated together; 0: nothing is generated. */
  rows: number;
  groupSize: number;
  promptTokens: number;
  newTokens: number;
}

export interface NativePolicy {
  /** What the work will take beyond what is held now (an estimate), and what is free on the device; bytes. */
  workspace(work: NativeWorkload): { bytes: number; available: number };
  generate(request: NativeGenerateRequest): Promise<NativeCompletions>;
  recommend(
    request: {
      promptIds: Int32Array;
      catalog: NativeCatalog;
      /** The lines as a list's last ones, ended by the stop token instead of a newline. Default false. */
      last?: boolean;
      top?: number;
      branches?: number;
      temperature?: number;
    } & NativeExclusions,
  ): Promise<{ items: Int32Array; logprobs: Float32Array; evaluated: number }>;
  score(batch: NativeBatch, options?: NativeForwardOptions): Promise<NativeScores>;
  /** logprobs are NaN for tokens that cannot carry a gradient (no reference log-probs, no entropy bonus, behind the row's last non-zero advantage). */
  accumulate(
    batch: NativeBatch,
    inputs: NativeStepInputs,
    objective: NativeObjective,
    options?: NativeForwardOptions,
  ): Promise<NativeObjectiveResult & NativeScores>;
  backward(
    batch: NativeBatch,
    dlogprobs: Float32Array,
    dentropies?: Float32Array,
    options?: NativeForwardOptions,
  ): Promise<NativeScores>;
  optimizerStep(options: NativeOptimizerOptions): Promise<number>;
  zeroGradients(): Promise<void>;
  initialize(seed: number, std: number): Promise<void>;
  copyFrom(other: NativePolicy): Promise<void>;
  save(path: string, dtype?: "f32" | "bf16"): Promise<void>;
  saveOptimizer(path: string): Promise<void>;
  loadOptimizer(path: string): Promise<void>;
  setVocabulary(bytes: Uint8Array, offsets: Int32Array): Promise<void>;
  getParameter(name: string): Promise<Float32Array>;
  setParameter(name: string, values: Float32Array): Promise<void>;
  getGradient(name: string): Promise<Float32Array>;
  describe(): NativePolicyInfo;
  abort(): void;
  dispose(): void;
}

/** Compressed rows: row r holds columns[offsets[r]] .. columns[offsets[r + 1]), with their values. */
export interface NativeSparse {
  offsets: Int32Array;
  columns: Int32Array;
  values: Float32Array;
}

/** Stage 1's inputs: D dialogues, U items that the teacher named, I items of the catalogue, F features (native/demonstrate/scores.h). */
export interface NativeScoreInputs {
  dialogues: number;
  teacherItems: number;
  items: number;
  /** [D, U] weights of the named items' ranks */
  positions: NativeSparse;
  /** [U] the catalogue's identical item, or -1 */
  membership: Int32Array;
  features?:
    | { width: number; dense: true; items: Float32Array; teacher: Float32Array; context?: Float32Array }
    | { width: number; dense?: false; items: NativeSparse; teacher: NativeSparse; context?: NativeSparse };
  /** Weight of the context similarity. Default 1. */
  lambda?: number;
  /** [D, I] never ranked */
  excluded?: Omit<NativeSparse, "values">;
  /** [D, I] positives of the likelihood */
  truths?: Omit<NativeSparse, "values">;
}

export interface NativeStage1 {
  setRatings(ratings: NativeSparse, gamma: number): Promise<void>;
  /** s [rows, I] */
  dense(rows: Int32Array): Promise<Float32Array>;
  /** The n best items of each row by w s + b, -1 where fewer remain; w and b absent: by s. */
  rank(
    rows: Int32Array,
    options: { n: number; w?: Float32Array; b?: Float32Array },
  ): Promise<{ items: Int32Array; scores: Float32Array }>;
  /** Sum over rows and positives of -log softmax(w s + b), and its gradient. */
  slope(
    rows: Int32Array,
    w: Float32Array,
    b: Float32Array,
  ): Promise<{ loss: number; dw: Float64Array; db: Float64Array }>;
  /** Of the same sum, [I] each: its second derivatives by an item's own w twice, w and b, b twice. */
  curvature(
    rows: Int32Array,
    w: Float32Array,
    b: Float32Array,
  ): Promise<{ ww: Float64Array; wb: Float64Array; bb: Float64Array }>;
  dispose(): void;
}

export interface NativeRule {
  name: string;
  source: string;
  formula: string;
  parameters: { name: string; value: number; min: number; max: number; reason: string }[];
}

/** A device, and where it cannot be used the reason. */
export interface DeviceStatus {
  device: "cpu" | "cuda";
  usable: boolean;
  reason?: string;
  name?: string;
  memoryBytes?: number;
  /** What multiplies large products with determinism "fast"; only of a device with two modes. */
  fast?: string;
}

export interface DeviceInfo {
  devices: DeviceStatus[];
  device: string;
  isa: string;
  threads: number;
}

export interface NativeLogprobs {
  logprobs: Float32Array;
  logSumExp: Float32Array;
  entropies?: Float32Array;
}

export interface NativeRowGradients {
  logSumExp: Float32Array;
  dlogprobs: Float32Array;
  /** Of the forward pass; needed with dentropies. */
  entropies?: Float32Array | undefined;
  dentropies?: Float32Array | undefined;
}

export interface NativeLogitsOptions extends NativePlacement {
  vocabulary: number;
  temperature?: number | undefined;
}

export interface NativeHeadOptions extends NativeLogitsOptions {
  compute?: "f32" | "bf16" | undefined;
}

/** What the machine can do at most, all threads together: bytes and flops a second. */
export interface NativeBounds {
  readBytes: number;
  /** Read and written in place; both count. */
  updateBytes: number;
  flopsF32: number;
  /** 0 without the instruction. */
  flopsBf16: number;
}

/**
 * Measures the bounds, in memory that it keeps (768 MiB) until it is released: what runs just after so much is given back to the system takes
 * a tenth longer.
 */
export interface NativeProbe {
  measure(): Promise<NativeBounds>;
  release(): Promise<void>;
}

export interface NativeMeasurement {
  name: string;
  shape: string;
  dtype: string;
  samplesMs: number[];
  /** Bytes a second that memory gave around each sample; empty where `bytes` is 0. */
  readBytes: number[];
  flops: number;
  bytes: number;
  error: number;
  /** That one repetition needs beside operands and result; absent elsewhere than on Linux. */
  extraMiB?: number;
}

export interface Addon {
  benchProbe(): NativeProbe;
  /** Validated against float64 before they are timed. @throws WRONG_RESULT */
  benchNative(suite: "matmul" | "attention", seconds: number): Promise<NativeMeasurement[]>;
  /** Of the package it was built from. */
  version: string;
  deviceInfo(): DeviceInfo;
  setThreads(threads: number): void;
  objectiveList(): NativeRule[];
  NativeStage1: {
    create(inputs: NativeScoreInputs): Promise<NativeStage1>;
  };
  /** JSON text: a folder's config.json, or a GGUF file's { config, tokenizer, tokenizer_config }. Reads no weights. */
  checkpointMetadata(path: string): Promise<string>;
  NativeCatalog: {
    build(lines: NativeLines & { names: string[] }): Promise<NativeCatalog>;
    open(path: string, key: string): Promise<NativeCatalog>;
  };
  NativePolicy: {
    load(path: string, options?: NativePolicyOptions): Promise<NativePolicy>;
    create(config: string, options?: NativePolicyOptions): Promise<NativePolicy>;
  };
  logprobForward(
    logits: Float32Array | Uint16Array,
    targets: Int32Array,
    options: NativeLogitsOptions & { entropies?: boolean | undefined },
  ): Promise<NativeLogprobs>;
  /** Writes dlogits into `out`, which may be `logits`. */
  logprobBackward(
    logits: Float32Array | Uint16Array,
    targets: Int32Array,
    options: NativeRowGradients & NativeLogitsOptions & { out: Float32Array },
  ): Promise<void>;
  headForward(
    hidden: Float32Array | Uint16Array,
    head: Float32Array | Uint16Array,
    targets: Int32Array,
    options: NativeHeadOptions & { entropies?: boolean | undefined },
  ): Promise<NativeLogprobs>;
  /** Writes dhidden, adds to dhead. */
  headBackward(
    hidden: Float32Array | Uint16Array,
    head: Float32Array | Uint16Array,
    targets: Int32Array,
    options: NativeHeadOptions & NativeRowGradients & { dhidden: Float32Array; dhead?: Float32Array | undefined },
  ): Promise<void>;
  segmentRatios(
    inputs: NativePlacement & {
      logprobs: Float32Array;
      oldLogprobs: Float32Array;
      segmentOffsets: Int32Array;
      segmentTokens: Int32Array;
    },
  ): { ratios: Float32Array; logRatios: Float32Array };
  policyLoss(
    inputs: NativePlacement & NativeStepInputs & { logprobs: Float32Array; entropies?: Float32Array | undefined },
    objective: NativeObjective,
  ): NativeObjectiveResult;
}

const root = fileURLToPath(new URL("..", import.meta.url)); // the package, one level above src and dist alike

/** Folder where `rank-grpo build` puts an addon: looked for from the working directory up to the project's package.json. */
export const PROJECT_FOLDER = ".rank-grpo";
export const ADDON_FILE = "rank_grpo.node";

function projectAddon(): string | undefined {
  for (let folder = process.cwd(); ; folder = dirname(folder)) {
    const path = join(folder, PROJECT_FOLDER, ADDON_FILE);
    if (existsSync(path)) return path;
    if (folder === dirname(folder) || existsSync(join(folder, "package.json"))) return undefined;
  }
}

/** What to do about an addon that is missing or of another version. */
const howToBuild = existsSync(join(root, "src"))
  ? "Run `npm run build:native` (needs cmake and a C++17 compiler)."
  : "Run `npx rank-grpo build` (needs cmake and a C++17 compiler; --objectives DIR adds own rules).";

/** Opens one addon and refuses that of another version, whose functions may mean something else. */
function open(path: string): Addon {
  const { version } = createRequire(import.meta.url)(join(root, "package.json")) as { version: string };
  const addon = createRequire(import.meta.url)(path) as Addon;
  if (addon.version === version) return addon;
  const got = typeof addon.version === "string" ? `one of ${addon.version}` : "one that names no version";
  throw new RankGrpoError(
    "NO_DEVICE",
    `Expected an addon of rank-grpo ${version} in ${path}, got ${got}. ${howToBuild}`,
  );
}

/** RANK_GRPO_ADDON, else the project's own addon, else the package's: what is found first must work, or it is refused in words. */
function load(): Addon {
  const chosen = process.env["RANK_GRPO_ADDON"] || projectAddon();
  // cmake-js's folder first, then node-gyp's
  const places = chosen
    ? [chosen]
    : ["build-cmake/Release", "build/Release"].map((folder) => join(root, folder, ADDON_FILE));
  const tried: string[] = [];
  for (const path of places) {
    try {
      if (existsSync(path)) return open(resolve(path));
      tried.push(`${path}: not there`);
    } catch (error) {
      if (error instanceof RankGrpoError) throw error;
      tried.push(`${path}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  throw new RankGrpoError("NO_DEVICE", `Expected the native addon, got:\n  ${tried.join("\n  ")}\n${howToBuild}`);
}

let loaded: Addon | undefined;

/** The addon, opened when it is first used: what needs none (building one, reading help) works without. @throws NO_DEVICE */
export const addon: Addon = new Proxy({} as Addon, {
  get(_, key) {
    loaded ??= load();
    return Reflect.get(loaded, key);
  },
});
