// `rank-grpo report`: one HTML file on what runs did, to read, to print, to send.
import { Command } from "commander";

import { requireFreshFile, writeFileAtomic } from "../files.ts";
import { makeReport } from "../report/report.ts";
import { wholeNumber } from "./options.ts";

interface Flags {
  output: string;
  replace?: boolean;
  title?: string;
  evaluation: string[];
  before?: string;
  after?: string;
  data?: string;
  catalog?: string;
  dialogues: number;
}

const collect = (value: string, before: string[]): string[] => [...before, value];

export function reportCommand(): Command {
  return new Command("report")
    .description("Write one self-contained HTML file on what runs did")
    .argument(
      "<RUN...>",
      "run folders, folders of run folders, or NAME=FOLDER; runs that differ in their seed form a band",
    )
    .requiredOption("--output <file>", "the HTML file")
    .option("--replace", "where the file exists")
    .option("--title <text>", "heading of the page")
    .option(
      "--evaluation <file>",
      "JSON of evaluate (with --train: its baselines become lines); may be repeated. A run's evaluation.json is found by itself",
      collect,
      [],
    )
    .option("--before <file>", "JSON of evaluate: lists before training, shown beside those of --after")
    .option("--after <file>", "JSON of evaluate: lists after training, on the same rows")
    .option("--data <file>", "the JSONL that --before and --after were measured on")
    .option("--catalog <file>", "TSV, JSON or pickle: marks titles that are outside")
    .option("--dialogues <N>", "dialogues to show, the first ones", wholeNumber, 200)
    .addHelpText(
      "after",
      "\nExample:\n  rank-grpo report runs/rank-grpo-1 runs/rank-grpo-2 runs/rank-grpo-3 --evaluation runs/sft/evaluation.json --output report.html\n",
    )
    .action(async (runs: string[], flags: Flags) => {
      if (!flags.replace) requireFreshFile(flags.output, "Choose another --output, or say --replace.");
      const { output, replace: _, evaluation, ...rest } = flags;
      const text = await makeReport({ runs, evaluations: evaluation, ...rest });
      await writeFileAtomic(output, text);
      process.stdout.write(`Written: ${output} (${Math.ceil(Buffer.byteLength(text) / 1024)} KiB)\n`);
    });
}
