// The model a run starts from: a checkpoint, a shape from scratch, or the checkpoint that is resumed.
import { refuse } from "../errors.ts";
import { Policy, type PolicyOptions } from "../policy.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import type { ResolvedSftConfig, ResolvedTrainConfig } from "./config.ts";
import type { Run } from "./run.ts";

/** Opens the policy of a run, with its optimizer where the run is resumed; `options` beside where and how the configuration computes. */
export async function openModel(
  config: ResolvedSftConfig | ResolvedTrainConfig,
  run: Pick<Run, "resumed">,
  options: PolicyOptions = { activationMiB: config.activationMiB, optimizerState: config.optimizer.state },
): Promise<Policy> {
  const { device, determinism, compute, weights, chat } = config;
  const all = { device, determinism, compute, weights, ...options };
  if (run.resumed) {
    const policy = await Policy.load(run.resumed.folder, { ...all, chat });
    await policy.loadOptimizer(run.resumed.folder);
    return policy;
  }
  if (typeof config.model === "string") return Policy.load(config.model, { ...all, chat });
  const { shape, tokenizer: path, std } = config.model;
  const tokenizer =
    (await loadTokenizer(path, chat)) ??
    refuse("BAD_CONFIG", "a folder or .gguf with a tokenizer", "model.tokenizer", path);
  const { num_key_value_heads, head_dim, ...rest } = shape;
  return Policy.create(
    {
      ...rest,
      ...(num_key_value_heads === undefined ? {} : { num_key_value_heads }),
      ...(head_dim === undefined ? {} : { head_dim }),
      vocab_size: tokenizer.vocabSize,
      ...(tokenizer.eosId === undefined ? {} : { eos_token_id: tokenizer.eosId }),
    },
    { ...all, seed: config.seed, std, tokenizer },
  );
}
