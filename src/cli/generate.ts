// `rank-grpo generate` and `rank-grpo score`: JSONL in, JSONL out, in the order of the input.
import { Command } from "commander";

import type { Sample } from "../data/sample.ts";
import { readSamples } from "../data/samples.ts";
import { refuse } from "../errors.ts";
import { completionLimit } from "../evaluate.ts";
import { requireFreshFile } from "../files.ts";
import type { Generated, Group, Policy } from "../policy.ts";
import { encodeCompletion, encodePrompt } from "../text/encode.ts";
import { type ConstrainFlags, readConstraint, withConstrainFlags } from "./constrain.ts";
import {
  countNumber,
  type ModelFlags,
  nucleus,
  openModel,
  positiveNumber,
  share,
  wholeNumber,
  withModelFlags,
} from "./options.ts";
import { resumableHelp, writeResumable } from "./resumable.ts";

const promptOf = (policy: Policy, sample: Sample, room: number): Int32Array => {
  const ids = encodePrompt(policy.tokenizer, sample.prompt);
  if (ids.length > room)
    refuse(
      "BAD_DATA",
      `a prompt of at most ${room} tokens (the model's context less the completion)`,
      `sample ${sample.id}`,
      ids.length,
    );
  return ids;
};

interface GenerateFlags extends ConstrainFlags, ModelFlags {
  model: string;
  input: string;
  output: string;
  numGenerations: number;
  maxNewTokens?: number;
  maxRows: number;
  greedy?: boolean;
  temperature: number;
  topP: number;
  topK: number;
  minP: number;
  seed: number;
  ignoreEos?: boolean;
}

export function generateCommand(): Command {
  const command = new Command("generate")
    .description("Sample completions for the prompts of a JSONL file")
    .requiredOption("--model <path>", "Hugging Face folder or .gguf file")
    .requiredOption("--input <file>", "JSONL lines with prompt (text or messages) or prompt_ids")
    .requiredOption("--output <file>", "JSONL: the line with completions: [{text, ids, logprobs, finish_reason}]")
    .option("--num-generations <G>", "completions of each prompt", countNumber, 1)
    .option("--max-new-tokens <N>", "length limit in tokens (default: 512, or half of the context)", countNumber)
    .option("--max-rows <N>", "rows decoded together", countNumber, 64)
    .option("--greedy", "the most probable token each time")
    .option("--temperature <T>", "above 0", positiveNumber, 1)
    .option("--top-p <P>", "nucleus, in (0, 1]; 1: off", nucleus, 1)
    .option("--top-k <K>", "0: off", wholeNumber, 0)
    .option("--min-p <P>", "in [0, 1]; 0: off", share, 0)
    .option("--seed <S>", "same seed, same completions, whatever the batch", wholeNumber, 0)
    .option("--ignore-eos", "go on to --max-new-tokens");
  return withConstrainFlags(withModelFlags(command), { catalog: true, constrain: true })
    .addHelpText("after", resumableHelp)
    .addHelpText(
      "after",
      "\nExample:\n  rank-grpo generate --model runs/sft/final --input prompts.jsonl --output lists.jsonl --greedy\n",
    )
    .action(async (flags: GenerateFlags) => {
      requireFreshFile(flags.output);
      const samples = await readSamples(flags.input);
      const policy = await openModel(flags.model, flags);
      try {
        const maxNewTokens = completionLimit(policy, flags.maxNewTokens);
        const prompts = samples.map((sample) => promptOf(policy, sample, policy.maxPositions - maxNewTokens));
        const constraint = await readConstraint(flags, policy);
        constraint?.check(samples);
        const part = Math.max(1, Math.floor((4 * flags.maxRows) / flags.numGenerations));
        await writeResumable("generate", flags, samples.length, async function* (first) {
          for (; first < samples.length; first += part) {
            const chunk = prompts.slice(first, first + part);
            const generated = await policy.generate(chunk, {
              groupSize: flags.numGenerations,
              maxNewTokens,
              maxRows: flags.maxRows,
              greedy: flags.greedy ?? false,
              temperature: flags.temperature,
              topP: flags.topP,
              topK: flags.topK,
              minP: flags.minP,
              seed: flags.seed,
              ignoreStop: flags.ignoreEos ?? false,
              promptKeys: chunk.map((_, i) => first + i),
              ...(constraint ? { constraint: constraint.forSamples(samples.slice(first, first + part)) } : {}),
            });
            yield generated.map((group, i) => ({
              ...samples[first + i]!.columns,
              completions: group.map((completion) => describe(policy, completion)),
            }));
          }
        });
      } finally {
        policy.dispose();
      }
    });
}

const describe = (policy: Policy, { ids, logprobs, finish }: Generated): object => ({
  text: policy.tokenizer?.decode(ids) ?? "",
  ids: [...ids],
  logprobs: [...logprobs],
  finish_reason: finish,
});

interface ScoreFlags extends ConstrainFlags, ModelFlags {
  model: string;
  input: string;
  output: string;
  temperature: number;
  microBatchTokens: number;
}

export function scoreCommand(): Command {
  const command = new Command("score")
    .description("Log-probs and entropies of given completions")
    .requiredOption("--model <path>", "Hugging Face folder or .gguf file")
    .requiredOption(
      "--input <file>",
      "JSONL lines with prompt and completion (text or messages), or prompt_ids and completion_ids",
    )
    .requiredOption("--output <file>", "JSONL: the line with completion_ids, logprobs, entropies (nats)")
    .option("--temperature <T>", "of the scored distribution, above 0", positiveNumber, 1)
    .option("--micro-batch-tokens <N>", "tokens of one pass", countNumber, 2048);
  return withConstrainFlags(withModelFlags(command), { catalog: true, constrain: true })
    .addHelpText("after", resumableHelp)
    .addHelpText(
      "after",
      "\nExample:\n  rank-grpo score --model runs/train/best --input pairs.jsonl --output scores.jsonl\n",
    )
    .action(async (flags: ScoreFlags) => {
      requireFreshFile(flags.output);
      const samples = await readSamples(flags.input);
      const policy = await openModel(flags.model, flags);
      try {
        const groups = samples.map((sample): Group => {
          if (sample.completion === undefined)
            refuse("BAD_DATA", "a completion", `sample ${sample.id} of ${flags.input}`, "none");
          const completion = encodeCompletion(policy.tokenizer, sample.completion, policy.stopId);
          if (completion.length >= policy.maxPositions)
            refuse(
              "BAD_DATA",
              `a completion of fewer than ${policy.maxPositions} tokens (the model's context)`,
              `sample ${sample.id}`,
              completion.length,
            );
          return {
            prompt: promptOf(policy, sample, policy.maxPositions - completion.length),
            completions: [completion],
          };
        });
        const constraint = await readConstraint(flags, policy);
        constraint?.check(samples);
        await writeResumable("score", flags, samples.length, async function* (first) {
          for (; first < groups.length; first += 64) {
            const chunk = groups.slice(first, first + 64);
            const { logprobs, entropies } = await policy.score(chunk, {
              temperature: flags.temperature,
              microBatchTokens: flags.microBatchTokens,
              entropies: true,
              ...(constraint ? { constraint: constraint.forSamples(samples.slice(first, first + 64)) } : {}),
            });
            let end = 0;
            yield chunk.map((group, i) => {
              const ids = group.completions[0]!;
              const at = end;
              end += ids.length;
              return {
                ...samples[first + i]!.columns,
                completion_ids: [...ids],
                logprobs: [...logprobs.subarray(at, end)],
                entropies: [...entropies!.subarray(at, end)],
              };
            });
          }
        });
      } finally {
        policy.dispose();
      }
    });
}
