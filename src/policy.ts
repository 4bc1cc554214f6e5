// A model that can be sampled, scored, trained and saved: the library's face of the native policy.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";

import { RankGrpoError, refuse } from "./errors.ts";
import { writeFolderAtomic } from "./files.ts";
import {
  addon,
  type NativeBatch,
  type NativeExclusions,
  type NativeListRules,
  type NativeObjective,
  type NativeObjectiveResult,
  type NativeOptimizerOptions,
  type NativePolicy,
  type NativeScores,
  type NativeStepInputs,
  type NativeWorkload,
} from "./native.ts";
import type { Constraint } from "./ranking/constraint.ts";
import { stopIds, vocabularyTable } from "./text/encode.ts";
import type { ChatOptions } from "./text/template.ts";
import { loadTokenizer, tokenizerFiles } from "./text/tokenizer.ts";
import type { Tokenizer } from "./text/types.ts";

export interface PolicyOptions {
  /** Default "cpu". "cuda": an NVIDIA GPU (NO_DEVICE with the reason where it cannot be used). "auto": cuda where it can be used. */
  device?: "auto" | "cpu" | "cuda";
  /** Matrix products in f32 (default), or with bf16 operands and f32 accumulation; what is trained is f32 unless `weights` says else. */
  compute?: "f32" | "bf16";
  /**
   * Default "exact": the same bits every time, for a row alone as in a batch, and the sampler's log-probs are the trainer's. "fast": a GPU's large
   * products go to cuBLAS where there is one (`rank-grpo devices` says), and none of that is promised. On the CPU the two are the same.
   */
  determinism?: "exact" | "fast";
  /**
   * What is kept of matrices between steps. Default "f32". "bf16", on a GPU in bf16 compute: nothing but the bf16, 2 bytes a weight for 6; AdamW
   * rounds each step up or down by chance (keyed by seed, step and weight), so that steps below a bf16's last bit count on average.
   */
  weights?: "f32" | "bf16";
  /** Default true. false: no gradients or optimizer state (a reference, or inference). */
  trainable?: boolean;
  /** The day that the chat template prints, and its variables, such as { enable_thinking: false } for Qwen3. Default: neither. */
  chat?: ChatOptions;
  /**
   * Memory for what a pass keeps for its backward pass, in MiB; default 192 on the CPU, all of it on a GPU. As many layers as fit are
   * kept whole, the others are computed again (0: all of them, a third more work for a few percent of the memory).
   */
  activationMiB?: number;
  /**
   * Where AdamW's moments live, 8 bytes a weight. Default "device". "host": in the host's memory; each step sends them to the GPU and back, which
   * gives the same bits: 16 bytes a weight over the bus. On the CPU the two are the same memory.
   */
  optimizerState?: "device" | "host";
}

/** Shape of a model made from scratch, in the names of a Hugging Face config.json. */
export interface ModelShape {
  model_type: "llama" | "qwen2" | "qwen3";
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads?: number;
  head_dim?: number;
  max_position_embeddings: number;
  rms_norm_eps?: number;
  rope_theta?: number;
  tie_word_embeddings?: boolean;
  eos_token_id?: number | number[];
}

/** The most that a policy will be asked for: passes over micro-batches, and rows generated together. 0 of either: none. */
export type Workload = NativeWorkload;

/** Bytes. */
export interface PolicyMemory {
  /** In use now. */
  held: number;
  /** Reserved, but taken from the system only when first written. */
  promised: number;
  /** What the work will add: an estimate. */
  workspace: number;
  /** Free on the device; infinite where the system does not tell. */
  available: number;
  /** Held beside the device: optimizer state in the host's memory; 0 on the CPU, whose memory is the host's. */
  onHost: number;
}

/** A prompt with its completions: the prompt is computed once. Token ids lie in [0, vocabSize); neither may be empty. */
export interface Group {
  readonly prompt: Int32Array;
  readonly completions: readonly Int32Array[];
}

export interface GenerateOptions {
  /** Completions of each prompt. Default 1. */
  groupSize?: number;
  /** Default 128. A completion that reaches it has finish "length". */
  maxNewTokens?: number;
  /** Rows decoded together, default 64: more is faster until the processor is busy, and takes key/value memory. */
  maxRows?: number;
  /** > 0, default 1. Log-probs are those of logits / temperature. */
  temperature?: number;
  /** 0 (default): off. */
  topK?: number;
  /** In (0, 1]; 1 (default): off. */
  topP?: number;
  /** In [0, 1]; 0 (default): off. */
  minP?: number;
  /** The most probable token each time; temperature then only scales the log-probs. */
  greedy?: boolean;
  /** Default: the checkpoint's full set. The stop token is part of the completion. */
  stopIds?: Iterable<number>;
  /** A row ends after the token that completes one of these. Needs a tokenizer. */
  stopStrings?: readonly string[];
  /** Go on to maxNewTokens whatever is drawn. */
  ignoreStop?: boolean;
  /** Random numbers are keyed by (seed, step, prompt key, sample, position), never by the batch. Default 0. */
  seed?: number;
  step?: number;
  /** One int32 for each prompt; default its index. */
  promptKeys?: ArrayLike<number>;
  /** Lists from a catalog alone, one set of exclusions for each prompt: the log-probs are those of the distribution over allowed tokens. */
  constraint?: Constraint;
  signal?: AbortSignal;
}

export interface Generated {
  readonly ids: Int32Array;
  /** Of the temperature-scaled distribution, untruncated: the trainer's old log-probs, bit for bit in f32. Nats. */
  readonly logprobs: Float32Array;
  readonly finish: "stop" | "length";
}

export interface ForwardOptions {
  temperature?: number;
  /** Prompt and completion tokens of one pass, default 2048. A group that is larger is split; one row is not. */
  microBatchTokens?: number;
  /** The distribution over the tokens that the catalog allows, one set of exclusions for each group. */
  constraint?: Constraint;
  signal?: AbortSignal;
}

const offsetsOf = (parts: readonly { length: number }[]): Int32Array => {
  const offsets = new Int32Array(parts.length + 1);
  for (const [i, part] of parts.entries()) offsets[i + 1] = offsets[i]! + part.length;
  return offsets;
};

/** @throws INVALID_ARGUMENT for other kinds: a text, or numbers that are not whole, would become other ids without a word */
const concatenate = (parts: readonly Int32Array[], name: string): Int32Array => {
  const offsets = offsetsOf(parts);
  const out = new Int32Array(offsets.at(-1)!);
  for (const [i, part] of parts.entries()) {
    if (!(part instanceof Int32Array)) refuse("INVALID_ARGUMENT", "an Int32Array of token ids", `${name} ${i}`, part);
    out.set(part, offsets[i]!);
  }
  return out;
};

const int32Of = (values: readonly number[], name: string): Int32Array => {
  for (const value of values)
    if ((value | 0) !== value) refuse("INVALID_ARGUMENT", "whole numbers from -2^31 to 2^31 - 1", name, value);
  return Int32Array.from(values);
};

/** A constraint as the addon takes it, its exclusions a CSR over prompts. */
function nativeConstraint(constraint: Constraint, prompts: number): NativeListRules & NativeExclusions {
  if (constraint.excluded.length !== prompts)
    refuse("INVALID_ARGUMENT", `${prompts} sets of excluded items`, "constraint", constraint.excluded.length);
  const sets = constraint.excluded.map((set) => Int32Array.from(set));
  return { ...constraint.rules, excludedItems: concatenate(sets, "excluded set"), excludedOffsets: offsetsOf(sets) };
}

/**
 * How many tokens the constraint allowed at each completion token, flat in the order of the groups.
 * @param countTo counts no further, which is faster; at least 2
 * @throws INVALID_ARGUMENT where a completion is no list of the catalog
 */
export function choices(groups: readonly Group[], constraint: Constraint, countTo: number): Int32Array {
  const completions = groups.flatMap((group) => group.completions);
  return constraint.native.choices({
    ids: concatenate(completions, "completion"),
    offsets: offsetsOf(completions),
    groupOffsets: offsetsOf(groups.map((group) => group.completions)),
    countTo,
    ...nativeConstraint(constraint, groups.length),
  });
}

/** Which completion tokens had no alternative (1), flat in the order of the groups: their log-prob is 0 whatever the policy. */
export const forcedTokens = (groups: readonly Group[], constraint: Constraint): Uint8Array =>
  Uint8Array.from(choices(groups, constraint, 2), (count) => Number(count === 1));

function batchOf(groups: readonly Group[], constraint?: Constraint): NativeBatch {
  const completions = groups.flatMap((group) => group.completions);
  return {
    ...(constraint ? { catalog: constraint.native, ...nativeConstraint(constraint, groups.length) } : {}),
    promptIds: concatenate(
      groups.map((group) => group.prompt),
      "prompt",
    ),
    promptOffsets: offsetsOf(groups.map((group) => group.prompt)),
    completionIds: concatenate(completions, "completion"),
    completionOffsets: offsetsOf(completions),
    groupOffsets: offsetsOf(groups.map((group) => group.completions)),
  };
}

export class Policy {
  /** Undefined for a checkpoint without one: everything works on ids, nothing on text. */
  readonly tokenizer: Tokenizer | undefined;
  /** Token ids that end a completion; the first is the one that demonstrations end with. */
  readonly stopIds: ReadonlySet<number>;
  readonly vocabSize: number;
  /** Longest prompt and completion together, in tokens. */
  readonly maxPositions: number;
  readonly parameterCount: number;
  readonly #native: NativePolicy;
  #vocabularySet = false;

  private constructor(native: NativePolicy, tokenizer: Tokenizer | undefined) {
    const info = native.describe();
    this.#native = native;
    this.tokenizer = tokenizer;
    this.vocabSize = info.vocabSize;
    this.maxPositions = info.maxPositions;
    this.parameterCount = info.parameterCount;
    this.stopIds = new Set(stopIds(tokenizer, info));
  }

  /**
   * Opens a Hugging Face folder or a .gguf file.
   * @throws BAD_CHECKPOINT, IO, OUT_OF_MEMORY, with the file and what was expected
   */
  static async load(path: string, options: PolicyOptions = {}): Promise<Policy> {
    const { chat, ...rest } = options;
    const tokenizer = await loadTokenizer(path, chat);
    const native = await addon.NativePolicy.load(path, rest);
    const policy = new Policy(native, tokenizer);
    if (tokenizer && tokenizer.vocabSize > policy.vocabSize)
      refuse(
        "BAD_CHECKPOINT",
        `a tokenizer of at most ${policy.vocabSize} ids (the model's vocabulary)`,
        path,
        tokenizer.vocabSize,
        "The tokenizer belongs to another model.",
      );
    return policy;
  }

  /** A model from scratch: normal weights of deviation `std` (default 0.02, Llama's), norms 1, biases 0, keyed by `seed`. */
  static async create(
    shape: ModelShape,
    options: Omit<PolicyOptions, "chat"> & { seed: number; std?: number; tokenizer?: Tokenizer },
  ): Promise<Policy> {
    const { seed, std = 0.02, tokenizer, ...rest } = options;
    const native = await addon.NativePolicy.create(JSON.stringify(shape), rest);
    await native.initialize(seed, std);
    return new Policy(native, tokenizer);
  }

  /** The stop token that ends a demonstration; undefined where the checkpoint names none. */
  get stopId(): number | undefined {
    return this.stopIds.values().next().value;
  }

  /** Samples `groupSize` completions of every prompt; the prompt is computed once, finished rows leave the batch. */
  async generate(prompts: readonly Int32Array[], options: GenerateOptions = {}): Promise<Generated[][]> {
    const { signal, stopIds: stops, promptKeys, stopStrings, constraint, ...rest } = options;
    if (stopStrings?.length) await this.#setVocabulary();
    const groupSize = options.groupSize ?? 1;
    if (promptKeys && promptKeys.length !== prompts.length)
      refuse("INVALID_ARGUMENT", `${prompts.length} numbers, one for each prompt,`, "promptKeys", promptKeys.length);
    const out = await this.#run(signal, () =>
      this.#native.generate({
        ...rest,
        promptIds: concatenate(prompts, "prompt"),
        promptOffsets: offsetsOf(prompts),
        stopIds: int32Of([...(stops ?? this.stopIds)], "stopIds"),
        ...(stopStrings ? { stopStrings: [...stopStrings] } : {}),
        ...(promptKeys ? { promptKeys: int32Of(Array.from(promptKeys), "promptKeys") } : {}),
        ...(constraint ? { catalog: constraint.native, ...nativeConstraint(constraint, prompts.length) } : {}),
      }),
    );
    return prompts.map((_, p) =>
      Array.from({ length: groupSize }, (_, g) => {
        const row = p * groupSize + g;
        const [begin, end] = [out.offsets[row]!, out.offsets[row + 1]!];
        return {
          ids: out.ids.slice(begin, end),
          logprobs: out.logprobs.slice(begin, end),
          finish: out.finish[row] === 0 ? ("stop" as const) : ("length" as const),
        };
      }),
    );
  }

  /**
   * The most probable items of a catalog as the next line, exactly: best-first search proves that none outside the answer is more
   * probable. `constraint` has one set of exclusions. Log-probs (nats) are those of the distribution over the catalog; with `last`, of the
   * lines as a list's last ones. `branches` (default 32) of the search are evaluated together: it changes the time, never the answer.
   */
  async recommend(
    prompt: Int32Array,
    constraint: Constraint,
    options: { top: number; last?: boolean; temperature?: number; branches?: number; signal?: AbortSignal },
  ): Promise<{ items: Int32Array; logprobs: Float32Array; evaluated: number }> {
    const { signal, ...rest } = options;
    return this.#run(signal, () =>
      this.#native.recommend({
        promptIds: prompt,
        catalog: constraint.native,
        ...nativeConstraint(constraint, 1),
        ...rest,
      }),
    );
  }

  /** Log-probs (and entropies) of every completion token, flat in the order of the groups. Nats. */
  score(groups: readonly Group[], options: ForwardOptions & { entropies?: boolean } = {}): Promise<NativeScores> {
    const { signal, constraint, ...rest } = options;
    return this.#run(signal, () => this.#native.score(batchOf(groups, constraint), rest));
  }

  /** Adds the gradient of an objective over these groups; `inputs` are per completion token, flat. The weights stay. */
  accumulate(
    groups: readonly Group[],
    inputs: NativeStepInputs,
    objective: NativeObjective,
    options: ForwardOptions = {},
  ): Promise<NativeObjectiveResult & NativeScores> {
    const { signal, constraint, ...rest } = options;
    return this.#run(signal, () => this.#native.accumulate(batchOf(groups, constraint), inputs, objective, rest));
  }

  /** Adds the gradient of sum_t dlogprobs[t] logprob[t] (+ dentropies[t] entropy[t]): any loss computed elsewhere. */
  backward(
    groups: readonly Group[],
    dlogprobs: Float32Array,
    options: ForwardOptions & { dentropies?: Float32Array } = {},
  ): Promise<NativeScores> {
    const { signal, dentropies, constraint, ...rest } = options;
    return this.#run(signal, () => this.#native.backward(batchOf(groups, constraint), dlogprobs, dentropies, rest));
  }

  /** Clips the accumulated gradient, applies AdamW, clears it. Returns the norm before clipping. */
  optimizerStep(options: NativeOptimizerOptions): Promise<number> {
    return this.#native.optimizerStep(options);
  }

  zeroGradients(): Promise<void> {
    return this.#native.zeroGradients();
  }

  /** A copy of a parameter, or of its accumulated gradient, by its checkpoint's name and in its layout, f32. */
  parameter(name: string): Promise<Float32Array> {
    return this.#native.getParameter(name);
  }
  gradient(name: string): Promise<Float32Array> {
    return this.#native.getGradient(name);
  }
  setParameter(name: string, values: Float32Array): Promise<void> {
    return this.#native.setParameter(name, values);
  }

  /** Takes over the other policy's weights (same shape). */
  copyFrom(other: Policy): Promise<void> {
    return this.#native.copyFrom(other.#native);
  }

  /** Hugging Face names of all parameters. */
  get parameterNames(): string[] {
    return this.#native.describe().parameters;
  }

  /** Bytes held by the engine for this policy now. */
  get bytes(): number {
    return this.#native.describe().bytes;
  }

  /** What the policy holds, and what `work` will add to it. */
  memory(work: Workload): PolicyMemory {
    const { bytes: workspace, available } = this.#native.workspace(work);
    const { bytes, device, memory, optimizerSteps } = this.#native.describe();
    const promised = device === "cpu" ? memory.gradients + (optimizerSteps > 0 ? 0 : memory.optimizer) : 0;
    return {
      held: bytes - promised,
      promised,
      workspace,
      available: available < Number.MAX_SAFE_INTEGER ? available : Number.POSITIVE_INFINITY,
      onHost: memory.onHost,
    };
  }

  /**
   * Writes a Hugging Face folder (config, weights, tokenizer) that transformers opens; under a temporary name, then renamed.
   * @throws IO where `folder` exists and `replace` is not set
   */
  async save(
    folder: string,
    options: { dtype?: "f32" | "bf16"; replace?: boolean; optimizer?: boolean } = {},
  ): Promise<void> {
    await writeFolderAtomic(
      folder,
      async (target) => {
        await this.#native.save(join(target, "model.safetensors"), options.dtype ?? "f32");
        const config = JSON.parse(this.#native.describe().config) as Record<string, unknown>;
        if (options.dtype === "bf16") config["torch_dtype"] = "bfloat16";
        await writeFile(join(target, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
        const stops = [...this.stopIds];
        if (stops.length > 0)
          await writeFile(
            join(target, "generation_config.json"),
            `${JSON.stringify({ eos_token_id: stops.length === 1 ? stops[0] : stops }, null, 2)}\n`,
          );
        if (this.tokenizer)
          for (const [name, text] of Object.entries(tokenizerFiles(this.tokenizer)))
            await writeFile(join(target, name), text);
        if (options.optimizer) await this.#native.saveOptimizer(join(target, "optimizer.safetensors"));
      },
      options.replace ? { replace: true } : {},
    );
  }

  /** Optimizer moments and step count of a folder saved with `optimizer`. */
  loadOptimizer(folder: string): Promise<void> {
    return this.#native.loadOptimizer(join(folder, "optimizer.safetensors"));
  }

  /** Frees the engine's memory; later calls throw DISPOSED. A running operation is aborted. */
  dispose(): void {
    this.#native.dispose();
  }

  async #run<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    if (!signal) return work();
    if (signal.aborted)
      throw new RankGrpoError("ABORTED", "Expected a signal that has not fired, got one that was aborted.", {
        cause: signal.reason,
      });
    const abort = (): void => this.#native.abort();
    signal.addEventListener("abort", abort, { once: true });
    try {
      return await work();
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  async #setVocabulary(): Promise<void> {
    if (this.#vocabularySet) return;
    if (!this.tokenizer) refuse("INVALID_ARGUMENT", "a checkpoint with a tokenizer", "stopStrings", "none");
    const { bytes, offsets } = vocabularyTable(this.tokenizer, this.vocabSize);
    await this.#native.setVocabulary(bytes, offsets);
    this.#vocabularySet = true;
  }
}
