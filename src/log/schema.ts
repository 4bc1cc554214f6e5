// The configuration's `log`: which loggers a run writes to, beside metrics.jsonl.
import { z } from "zod";

export const wandbSchema = z.strictObject({
  project: z.string().min(1).default("rank-grpo").describe("made where missing"),
  entity: z.string().optional().describe("team or user; default: the key's own"),
  name: z.string().optional().describe("default: the run folder's name"),
  group: z.string().optional().describe("runs shown together, such as the seeds of one experiment"),
  tags: z.array(z.string()).default([]).describe("words to find the run by"),
  url: z.url().optional().describe("of the server; default: WANDB_BASE_URL, then the public one"),
});

export const mlflowSchema = z.strictObject({
  url: z.url().optional().describe("of the tracking server; default: MLFLOW_TRACKING_URI"),
  experiment: z.string().min(1).default("rank-grpo").describe("made where missing"),
  name: z.string().optional().describe("default: the run folder's name"),
  tags: z.record(z.string(), z.string()).default({}).describe("names and values to find the run by"),
});

export const logSchema = z
  .array(
    z.union([
      z.enum(["tensorboard", "csv", "wandb", "mlflow"]),
      z.strictObject({ wandb: wandbSchema.describe("Weights & Biases; WANDB_API_KEY holds the key") }),
      z.strictObject({ mlflow: mlflowSchema.describe("MLflow tracking server") }),
    ]),
  )
  .default([])
  .describe("where metrics go beside metrics.jsonl; keys of servers come from the environment, never from here");

export type LogConfig = z.output<typeof logSchema>;
