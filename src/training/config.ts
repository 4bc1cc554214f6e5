// Configurations of sft and train: every option with default, range and reason, validated before work starts.
// YAML files go through readConfig, which names line, column and the nearest known key.
import { readFile } from "node:fs/promises";
import { isScalar, LineCounter, parseDocument } from "yaml";
import { z } from "zod";

import { nearest, RankGrpoError } from "../errors.ts";
import { asIoError } from "../files.ts";
import { logSchema } from "../log/schema.ts";
import { scheduleSchema } from "./schedule.ts";

const positive = z.number().int().min(1);

const optimizer = z
  .strictObject({
    learningRate: z.number().positive().describe("base rate of AdamW"),
    beta1: z.number().min(0).max(1).default(0.9).describe("the field's default"),
    beta2: z.number().min(0).max(1).default(0.99).describe("the published RL setting; 0.999 is usual for long SFT"),
    epsilon: z.number().positive().default(1e-8).describe("torch's default, outside the root"),
    weightDecay: z.number().min(0).default(0).describe("decoupled; off as in the paper"),
    maxGradNorm: z.number().min(0).default(1).describe("global norm clipping as published; 0: off"),
  })
  .describe("AdamW");

const modelShape = z.strictObject({
  model_type: z.enum(["llama", "qwen2", "qwen3"]).default("llama"),
  hidden_size: positive,
  intermediate_size: positive,
  num_hidden_layers: positive,
  num_attention_heads: positive,
  num_key_value_heads: positive.optional(),
  head_dim: positive.optional(),
  max_position_embeddings: positive.default(2048),
  rms_norm_eps: z.number().positive().default(1e-5),
  rope_theta: z.number().positive().default(10000),
  tie_word_embeddings: z.boolean().default(true),
});

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
    every: positive.default(50).describe("steps between two validations; step 0 and the last are always validated"),
    metric: z.string().default("ndcg@10").describe("what `best` is chosen by, larger is better"),
    patience: positive.optional().describe("validations without a better value before training stops; default never"),
    maxNewTokens: positive.optional().describe("default: the training's"),
  })
  .describe("lists are generated greedily and measured against the ground truth");

const common = {
  model,
  seed: z
    .number()
    .int()
    .min(0)
    .max(2 ** 53)
    .default(1),
  compute: z
    .enum(["f32", "bf16"])
    .default("f32")
    .describe("bf16: faster where the processor has it; master weights stay f32"),
  activationMiB: z
    .number()
    .int()
    .min(0)
    .default(1024)
    .describe("memory of a pass's activations; layers that do not fit are computed again (0: all, a third more work)"),
  microBatchTokens: positive
    .default(2048)
    .describe("tokens of one forward and backward pass; lower it for less memory"),
  maxPromptTokens: positive
    .optional()
    .describe("longer prompts lose their beginning; default: what the context leaves"),
  catalog: z.string().optional().describe("TSV, JSON or pickle of (title, year); rewards and metrics need it"),
  optimizer,
  schedule: scheduleSchema.prefault({ type: "constant" }),
  validation: validation.optional(),
  log: logSchema,
  checkpoint: z
    .strictObject({
      every: positive.default(100).describe("steps between two checkpoints"),
      keep: positive.default(2).describe("newest checkpoints kept; best and final are kept besides"),
    })
    .prefault({}),
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
  excludeColumn: z.string().optional().describe("column of further titles that a row's lists may not hold"),
  unreadable: z
    .enum(["error", "skip"])
    .default("error")
    .describe("catalog titles that are not read back from their line"),
  catalogCache: z.string().optional().describe("where the tokenised catalog is kept between runs; default: made anew"),
};

/** Stands in the configuration a run keeps of itself, which so can be used again as it is. */
const kind = <K extends "sft" | "train">(name: K) => z.literal(name).optional();

export const sftSchema = z.strictObject({
  kind: kind("sft"),
  ...common,
  ...constraint,
  ranks: positive.default(20).describe("list length of a constrained validation"),
  train: z.string().min(1).describe("JSONL with prompt and completion"),
  limit: positive.optional().describe("rows used, the first ones; default all"),
  epochs: z.number().positive().optional().describe("passes over the data; or give steps"),
  steps: positive.optional(),
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
  limit: positive.optional(),
  reference: z.string().optional().describe("frozen model of the KL term; default: the model at the start"),
  steps: positive.optional().describe("rollout rounds; or give epochs"),
  epochs: z.number().positive().optional(),
  promptsPerStep: positive.default(48).describe("the paper's 48 prompts x 8"),
  groupSize: positive.default(8).describe("rollouts of one prompt; the published code's 8"),
  updatesPerRollout: positive.default(1).describe("mu: 1 is strictly on-policy, where every ratio is 1"),
  ranks: positive.default(20).describe("N: list length that is asked for and rewarded"),
  maxNewTokens: positive.default(512),
  maxRows: positive.default(64).describe("rows decoded together"),
  sampling: z
    .strictObject({
      temperature: z.number().positive().default(1).describe("1 as published: the loss uses the same distribution"),
      topK: z.number().int().min(0).default(0),
      topP: z.number().positive().max(1).default(1),
      minP: z.number().min(0).max(1).default(0),
    })
    .prefault({}),
  rewards: z
    .array(
      z.strictObject({
        name: z.string(),
        weight: z.number().default(1),
        options: z.record(z.string(), z.unknown()).default({}),
      }),
    )
    .min(1)
    .default([{ name: "exp_inf", weight: 1, options: {} }])
    .describe("summed with their weights; exp_inf is the paper's best"),
  objective: z
    .union([z.string(), z.looseObject({ name: z.string() })])
    .default("rank-grpo")
    .describe("a preset, or a preset with changed fields"),
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

type Path = readonly PropertyKey[];
type Where = (path: Path) => string;

const keysAt = (schema: z.ZodType, path: Path): string[] => {
  let current: unknown = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" });
  for (const key of path) {
    const node = current as { properties?: Record<string, unknown>; items?: unknown };
    current = typeof key === "number" ? node.items : node.properties?.[String(key)];
    const union = current as { anyOf?: { type?: string }[] } | undefined;
    if (union?.anyOf) current = union.anyOf.find((option) => option.type === "object");
  }
  return Object.keys((current as { properties?: Record<string, unknown> } | undefined)?.properties ?? {});
};

function explain(schema: z.ZodType, issues: readonly z.core.$ZodIssue[], where: Where): string {
  return issues
    .map((issue) => {
      if (issue.code === "unrecognized_keys") {
        const known = keysAt(schema, issue.path);
        return issue.keys
          .map((key) => {
            const near = nearest(key, known);
            const hint = near ? `Did you mean ${near}?` : `Known: ${known.join(", ")}.`;
            return `${where([...issue.path, key])}unknown key ${[...issue.path, key].join(".")}. ${hint}`;
          })
          .join("\n");
      }
      return `${where(issue.path)}${issue.path.join(".") || "the configuration"}: ${issue.message}.`;
    })
    .join("\n");
}

/** Checks an object against a schema. @throws BAD_CONFIG with every fault, each with the nearest known key */
export function parseConfig<S extends z.ZodType>(schema: S, value: unknown, where: Where = () => ""): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new RankGrpoError(
    "BAD_CONFIG",
    `Expected a valid configuration, got:\n${explain(schema, result.error.issues, where)}`,
  );
}

/**
 * Reads a YAML file, applies `key.path=value` settings (values in YAML), and checks it.
 * @throws BAD_CONFIG with file, line and column of every fault; IO
 */
export async function readConfig<S extends z.ZodType>(
  schema: S,
  file: string,
  settings: readonly string[] = [],
): Promise<z.output<S>> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw asIoError(error, file);
  });
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const [fault] = document.errors;
  if (fault) {
    const at = fault.linePos?.[0];
    throw new RankGrpoError(
      "BAD_CONFIG",
      `${file}:${at?.line ?? 1}:${at?.col ?? 1}: Expected YAML, got ${fault.message.split("\n")[0]}`,
    );
  }
  if (document.contents === null) document.contents = document.createNode({}) as unknown as typeof document.contents;
  for (const setting of settings) {
    const at = setting.indexOf("=");
    if (at < 1) throw new RankGrpoError("BAD_CONFIG", `Expected key=value for --set, got ${JSON.stringify(setting)}.`);
    const path = setting
      .slice(0, at)
      .split(".")
      .map((key) => (/^\d+$/.test(key) ? Number(key) : key));
    document.setIn(path, parseDocument(setting.slice(at + 1)).toJS());
  }
  const where: Where = (path) => {
    for (let n = path.length; n >= 0; n--) {
      const parent = n > 0 ? document.getIn(path.slice(0, n - 1), true) : undefined;
      const items = (parent as { items?: { key?: unknown; value?: unknown }[] } | undefined)?.items;
      const pair = items?.find((item) => isScalar(item.key) && item.key.value === path[n - 1]);
      const node = (pair?.key ?? (n > 0 ? document.getIn(path.slice(0, n), true) : document.contents)) as
        | { range?: [number, number, number] | null }
        | undefined;
      if (node?.range) {
        const { line, col } = lines.linePos(node.range[0]);
        return `${file}:${line}:${col}: `;
      }
    }
    return `${file}: `;
  };
  return parseConfig(schema, document.toJS(), where);
}
