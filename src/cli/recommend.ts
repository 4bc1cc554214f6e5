// `rank-grpo recommend`: the N most probable items of the catalog for every dialogue, proven.
import { Command } from "commander";

import { readSamples } from "../data/samples.ts";
import { refuse } from "../errors.ts";
import { requireFreshFile } from "../files.ts";
import { formatItem } from "../ranking/list.ts";
import { encodePrompt } from "../text/encode.ts";
import { type ConstrainFlags, readConstraint, withConstrainFlags } from "./constrain.ts";
import { countNumber, type ModelFlags, openModel, positiveNumber, withModelFlags } from "./options.ts";
import { resumableHelp, writeResumable } from "./resumable.ts";

interface Flags extends Omit<ConstrainFlags, "constrain" | "listLength">, ModelFlags {
  catalog: string;
  model: string;
  input: string;
  output: string;
  top: number;
  temperature: number;
}

export function recommendCommand(): Command {
  const command = new Command("recommend")
    .description("The most probable items of a catalog for each dialogue, exactly, by best-first search")
    .requiredOption("--model <path>", "Hugging Face folder or .gguf file")
    .requiredOption("--input <file>", "JSONL lines with prompt (text or messages) or prompt_ids, and seen_titles")
    .requiredOption("--catalog <file>", "TSV (title, year), JSON, or pickle of (title, year)")
    .requiredOption("--output <file>", "JSONL: id, completion (the list as text) and items: [{title, year, logprob}]")
    .option("--top <N>", "items of each answer", countNumber, 20)
    .option("--temperature <T>", "of the distribution, above 0", positiveNumber, 1);
  return withConstrainFlags(withModelFlags(command), { catalog: false, constrain: false })
    .addHelpText("after", resumableHelp)
    .addHelpText(
      "after",
      "\nThe output is also what `evaluate --completions` reads.\n\nExample:\n  rank-grpo recommend --model runs/train/best --input test.jsonl --catalog catalog.tsv --top 20 --output top.jsonl\n",
    )
    .action(async (flags: Flags) => {
      requireFreshFile(flags.output);
      const samples = await readSamples(flags.input);
      const policy = await openModel(flags.model, flags);
      try {
        const constraint = (await readConstraint({ ...flags, constrain: "catalog", listLength: [1, 1] }, policy))!;
        constraint.check(samples);
        const room = policy.maxPositions - constraint.longestLine;
        const asked = samples.map((sample) => {
          const within = constraint.forSamples([sample]);
          const left = constraint.items.length - within.excluded[0]!.length;
          if (left < flags.top)
            refuse(
              "BAD_DATA",
              `at least ${flags.top} items after exclusions`,
              `sample ${sample.id}`,
              left,
              "Lower --top.",
            );
          return { id: sample.id, prompt: encodePrompt(policy.tokenizer, sample.prompt).slice(-room), within };
        });
        await writeResumable("recommend", flags, samples.length, async function* (first) {
          for (const { id, prompt, within } of asked.slice(first)) {
            const found = await policy.recommend(prompt, within, {
              top: flags.top,
              temperature: flags.temperature,
            });
            const items = [...found.items].map((item, i) => ({
              ...constraint.items[item]!,
              logprob: found.logprobs[i]!,
            }));
            yield [{ id, completion: items.map(formatItem).join("\n"), items }];
          }
        });
      } finally {
        policy.dispose();
      }
    });
}
