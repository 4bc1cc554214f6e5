// Configurations of sft and train: every option with default, range and reason. docs/configuration.md is made from these schemas;
// parse.ts reads files by them.
import { z } from "zod";

import { logSchema } from "../log/schema.ts";
import { tokenWeightNames } from "../ranking/emphasis.ts";
import { estimatorNames } from "../ranking/estimators.ts";
import { repairNames } from "../ranking/repair.ts";
import { rewardNames } from "../ranking/rewards.ts";
import { segmentationNames } from "../ranking/segmentation.ts";
import { scheduleSchema } from "./schedule.ts";

const positive = z.number().int().min(1);

const optimizer = z
  .strictObject({
    learningRate: z.number().positive().describe("base rate of AdamW"),
    beta1: z.number().min(0).lt(1).default(0.9).describe("the field's default"),
    beta2: z.number().min(0).lt(1).default(0.99).describe("the published RL setting; 0.999 is usual for long SFT"),
    epsilon: z.number().positive().default(1e-8).describe("torch's default, outside the root"),
    weightDecay: z.number().min(0).default(0).describe("decoupled; off as in the paper"),
    maxGradNorm: z.number().min(0).default(1).describe("global norm clipping as published; 0: off"),
    state: z
      .enum(["device", "host"])
      .default("device")
      .describe(
        "where a GPU's AdamW moments live, 8 bytes a weight; host: slower steps, the same bits; the same on the CPU",
      ),
  })
  .describe("AdamW");

const modelShape = z
  .strictObject({
    model_type: z.enum(["llama", "qwen2", "qwen3"]).default("llama").describe("family; llama is the plainest"),
    hidden_size: positive.describe("width of the residual stream"),
    intermediate_size: positive.describe("width of the MLP; 8/3 of hidden_size is usual"),
    num_hidden_layers: positive.describe("layers"),
    num_attention_heads: positive.describe("query heads; a multiple of the key/value heads"),
    num_key_value_heads: positive
      .optional()
      .describe("default: num_attention_heads; fewer take less memory in generation"),
    head_dim: positive.optional().describe("even; default: hidden_size / num_attention_heads"),
    max_position_embeddings: positive.default(2048).describe("context: longest prompt and list together, in tokens"),
    rms_norm_eps: z.number().positive().default(1e-5).describe("Llama's"),
    rope_theta: z
      .number()
      .positive()
      .default(10000)
      .describe("base of the rotary frequencies; Llama 2's, enough for short contexts"),
    tie_word_embeddings: z.boolean().default(true).describe("one matrix for embedding and head: most of a small model"),
  })
  .describe("names of a Hugging Face config.json; the vocabulary is the tokenizer's");

const model = z
  .union([
    z.string().min(1),
    z.strictObject({
      shape: modelShape,
      tokenizer: z.string().min(1).describe("folder or .gguf whose tokenizer the new model uses"),
      std: z.number().positive().default(0.02).describe("deviation of the initial weights (Llama's)"),
    }),
  ])
  .describe("a Hugging Face folder, a .gguf file, or a shape to start from scratch");

const validation = z
  .strictObject({
    data: z.string().min(1).describe("JSONL; never the test set"),
    limit: positive.optional().describe("rows used, the first ones; default all"),
    every: positive.default(50).describe("steps between two validations; step 0 and the last are validated too"),
    metric: z.string().default("ndcg@10").describe("what `best` is chosen by, larger is better"),
    patience: positive.optional().describe("validations without a better value before training stops; default never"),
    maxNewTokens: positive
      .optional()
      .describe("length limit of a list in tokens; default: the training's, in sft 512 or half of the context"),
  })
  .describe("lists are generated greedily and measured against the ground truth");

const chat = z
  .strictObject({
    date: z
      .string()
      .regex(/^\d{4}-\d\d-\d\d$/, "Expected a day as YYYY-MM-DD")
      .default("2024-07-26")
      .describe(
        "day that templates print, YYYY-MM-DD; Llama 3.1's own fallback, since a prompt must not change from day to day",
      ),
    variables: z
      .record(z.string(), z.unknown())
      .default({})
      .describe("further variables of the template, such as enable_thinking: false for Qwen3"),
  })
  .describe("how chats are rendered; evaluate with the same (--chat)");

const common = {
  model,
  chat: chat.prefault({}),
  seed: z
    .number()
    .int()
    .min(0)
    .max(2 ** 53)
    .default(1)
    .describe("of the shuffle, the sampling and a model from scratch"),
  device: z
    .enum(["auto", "cpu", "cuda"])
    .default("cpu")
    .describe("auto: an NVIDIA GPU where one can be used; the CPU is the reference (docs/cuda.md)"),
  compute: z
    .enum(["f32", "bf16"])
    .default("f32")
    .describe(
      "bf16: half the memory to read, and faster products where the processor multiplies pairs of it; master weights stay f32 unless `weights` says else",
    ),
  determinism: z
    .enum(["exact", "fast"])
    .default("exact")
    .describe(
      "fast: a GPU's large products go to cuBLAS; what sampler and trainer then differ by is policy/mismatch_max",
    ),
  weights: z
    .enum(["f32", "bf16"])
    .default("f32")
    .describe(
      "what is kept of matrices in bf16 compute; bf16 (a GPU alone): 2 bytes a weight for 6, steps rounded by chance",
    ),
  activationMiB: z
    .number()
    .int()
    .min(0)
    .default(192)
    .describe("memory of a pass's activations; layers that do not fit are computed again (0: all, a third more work)"),
  microBatchTokens: positive
    .default(2048)
    .describe("tokens of one forward and backward pass; lower it for less memory"),
  maxPromptTokens: positive
    .optional()
    .describe("longer prompts lose their beginning, validation's too; default: what the context leaves"),
  catalog: z.string().optional().describe("TSV, JSON or pickle of (title, year); rewards and metrics need it"),
  optimizer,
  schedule: scheduleSchema.prefault({ type: "constant" }).describe("of the learning rate, over optimizer updates"),
  validation: validation.optional(),
  log: logSchema,
  checkpoint: z
    .strictObject({
      every: positive.default(100).describe("steps between two checkpoints"),
      keep: positive.default(2).describe("newest checkpoints kept; best and final are kept besides"),
    })
    .prefault({})
    .describe("weights, optimizer and position: what --resume goes on from"),
};

const constraint = {
  constrain: z
    .enum(["none", "catalog"])
    .default("none")
    .describe("catalog: lists hold items of the catalog only, in sampling, loss, reference and validation alike"),
  exclude: z
    .array(z.enum(["seen", "repeated"]))
    .default(["seen", "repeated"])
    .describe("what constrained lists may not hold: titles of the dialogue, items that they hold already"),
  listLength: z
    .union([positive, z.tuple([positive, positive])])
    .optional()
    .describe("items of a constrained list, a number or the least and the most; default: ranks"),
  excludeColumn: z.string().optional().describe("column of further titles that a row's lists may not hold"),
  unreadable: z
    .enum(["error", "skip"])
    .default("error")
    .describe("catalog titles that are not read back from their line"),
  catalogCache: z.string().optional().describe("where the tokenised catalog is kept between runs; default: made anew"),
};

/** Stands in the configuration a run keeps of itself, which so can be used again as it is. */
const kind = <K extends "sft" | "train">(name: K) =>
  z.literal(name).optional().describe("what the configuration is for");

export const sftSchema = z.strictObject({
  kind: kind("sft"),
  ...common,
  ...constraint,
  ranks: positive.default(20).describe("list length of a constrained validation"),
  train: z.string().min(1).describe("JSONL with prompt and completion"),
  limit: positive.optional().describe("rows used, the first ones; default all"),
  epochs: z.number().positive().optional().describe("passes over the data; or give steps"),
  steps: positive.optional().describe("updates; counts where epochs stands too"),
  batchSize: positive.default(32).describe("sequences of one update"),
  maxCompletionTokens: positive
    .optional()
    .describe("longer demonstrations are an error rather than cut; default: the context"),
});

export const trainSchema = z.strictObject({
  kind: kind("train"),
  ...common,
  ...constraint,
  forced: z
    .enum(["exclude", "include"])
    .default("exclude")
    .describe(
      "tokens without an alternative: left out of ratio, mean and normaliser, since they say nothing of the policy",
    ),
  train: z.string().min(1).describe("JSONL with prompt and whatever the rewards read"),
  limit: positive.optional().describe("rows used, the first ones; default all"),
  reference: z.string().optional().describe("frozen model of the KL term; default: the model at the start"),
  steps: positive.optional().describe("rollout rounds; or give epochs"),
  epochs: z.number().positive().optional().describe("passes over the prompts, where steps does not stand"),
  promptsPerStep: positive.default(48).describe("the paper's 48 prompts x 8"),
  groupSize: positive.default(8).describe("rollouts of one prompt; the published code's 8"),
  updatesPerRollout: positive.default(1).describe("mu: 1 is strictly on-policy, where every ratio is 1"),
  ranks: positive.default(20).describe("N: list length that is asked for and rewarded"),
  maxNewTokens: positive.default(512).describe("length limit of a list in tokens; 20 titles take 200 to 400"),
  maxRows: positive
    .default(64)
    .describe("rows decoded together: more is faster until the processor is busy, and takes memory"),
  sampling: z
    .strictObject({
      temperature: z.number().positive().default(1).describe("1 as published: the loss uses the same distribution"),
      topK: z.number().int().min(0).default(0).describe("0: off; a truncated sampler is no longer the trained policy"),
      topP: z.number().positive().max(1).default(1).describe("1: off, for the same reason"),
      minP: z.number().min(0).max(1).default(0).describe("0: off, for the same reason"),
    })
    .prefault({})
    .describe("how rollouts are drawn"),
  modules: z
    .array(z.string().min(1))
    .default([])
    .describe(
      "JavaScript or TypeScript files that export own functions by name (docs/extend.md); default: built-in names alone",
    ),
  rewards: z
    .array(
      z.strictObject({
        name: z
          .string()
          .describe(
            `${rewardNames.join(", ")}, similarity, or one of modules: hits from each rank on (exp_inf: this rank's alone; log_decay: DCG@k:N; exp_gamma: by gamma), DCG of the list (for objectives with one advantage a list, as grpo), in-catalog share, -1 for a repeat, part of a hit by similarity`,
          ),
        weight: z.number().default(1).describe("factor in the sum"),
        gamma: z
          .number()
          .gt(1)
          .optional()
          .describe("of exp_gamma, which needs it: a hit j ranks below counts 1 / gamma^j"),
        embeddings: z
          .string()
          .optional()
          .describe("of similarity: JSON lines of {title, year, embedding}; similarity is their cosine"),
        edges: z
          .string()
          .optional()
          .describe(
            "of similarity, in place of embeddings: a knowledge graph as lines of node TAB node (TAB weight, 0.5 where missing), items as Title (Year)",
          ),
        depth: positive
          .optional()
          .describe("of edges: longest path; default 2, from item to item over one thing shared"),
        threshold: z
          .number()
          .min(0)
          .max(1)
          .optional()
          .describe(
            "of similarity: less earns nothing; default 0.5 with embeddings, whose cosine is seldom 0, and 0 with edges",
          ),
      }),
    )
    .min(1)
    .default([{ name: "exp_inf", weight: 1 }])
    .describe("summed with their weights; exp_inf is the paper's best"),
  repair: z
    .array(
      z.strictObject({
        name: z.string().describe(`${repairNames.join(", ")}, or one of modules`),
        low: z.number().min(0).lt(1).optional().describe("of window: where it begins; default 0, the likeliest"),
        width: z
          .number()
          .gt(0)
          .max(1)
          .optional()
          .describe("of window: share of the lists without a hit; default 0.5, the likelier half"),
      }),
    )
    .default([])
    .describe(
      "done to a group before its advantages, in this order; [anchor, pair] is ReCast, window TAWin; none as published",
    ),
  estimator: z
    .string()
    .default("group")
    .describe(
      `how advantages are made of rewards: ${estimatorNames.join(", ")}, or one of modules; group is the paper's`,
    ),
  segmentation: z
    .strictObject({
      name: z.string().describe(`${segmentationNames.join(", ")}, or one of modules`),
      pattern: z.string().optional().describe("of regex, which needs it: what ends a segment"),
      width: positive.optional().describe("of width, which needs it: tokens of a segment"),
      credit: z
        .enum(["line", "segment"])
        .default("line")
        .describe(
          "whose advantage a token of segment k has: its line's rank, or rank k (lists that are not lines, as JSON)",
        ),
    })
    .optional()
    .describe("what ratios are pooled over; default: the objective's `ratio`"),
  tokenWeights: z
    .strictObject({
      name: z.string().describe(`${tokenWeightNames.join(", ")}, or one of modules`),
      share: z
        .number()
        .gt(0)
        .max(1)
        .optional()
        .describe("of entropy: share of the weighted tokens that count; default 0.2, the paper's"),
    })
    .prefault({ name: "uniform" })
    .describe("factors on the weights of tokens, beside the objective's `weighting`"),
  objective: z
    .union([
      z.string(),
      z.looseObject({
        name: z
          .string()
          .describe(
            "preset, rule, an objective in TypeScript (dpo, s-dpo, entropy-target, clip-cov, kl-cov) or one of modules, with `params` of its own and `base`, the preset whose segments, weights and advantages it works on; beside it any field of docs/objectives.md, of one in TypeScript those that are not the native loss's",
          ),
      }),
    ])
    .default("rank-grpo")
    .describe("a preset, or a preset with changed fields (docs/objectives.md; `rank-grpo objectives` lists them)"),
  dynamicSampling: z
    .strictObject({
      minLiveGroups: positive.describe("groups with a signal to reach in each step"),
      maxRounds: positive.default(4).describe("rounds of promptsPerStep prompts before going on with what there is"),
    })
    .optional()
    .describe("draw further prompts until enough groups vary"),
});

export type SftConfig = z.input<typeof sftSchema>;
export type TrainConfig = z.input<typeof trainSchema>;
export type ResolvedSftConfig = z.output<typeof sftSchema>;
export type ResolvedTrainConfig = z.output<typeof trainSchema>;
