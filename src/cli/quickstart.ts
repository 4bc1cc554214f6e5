// `rank-grpo quickstart`: the whole method on a synthetic world, with before, after and the best possible.
import { join } from "node:path";
import Table from "cli-table3";
import { Command } from "commander";

import { type QuickstartRow, quickstart } from "../quickstart.ts";
import { countNumber, wholeNumber } from "./options.ts";
import { StepProgress } from "./progress.ts";
import { interruptible } from "./train.ts";

interface Flags {
  output: string;
  seed: number;
  sftSteps?: number;
  trainSteps?: number;
}

const bar = (share: number): string => "█".repeat(Math.round(Math.max(0, Math.min(1, share)) * 30));

export function describeRows(rows: readonly QuickstartRow[]): string {
  const table = new Table({
    head: ["lists", "Recall@10", "NDCG@10", "of the possible", "", "repeats"],
    style: { head: [], border: [] },
  });
  for (const row of rows)
    table.push([
      row.name,
      row.recall.toFixed(3),
      row.ndcg.toFixed(3),
      `${(100 * row.share).toFixed(0)} %`,
      bar(row.share),
      row.duplicates.toFixed(2),
    ]);
  return table.toString();
}

export function quickstartCommand(): Command {
  return new Command("quickstart")
    .description("Train a tiny ranker from scratch on a synthetic world whose optimum is known (a few minutes)")
    .option("--output <dir>", "where data, models and metrics go; new or empty", "runs/quickstart")
    .option("--seed <S>", "same seed, same machine, same figures", wholeNumber, 1)
    .option("--sft-steps <N>", "fewer than the default make a quick trial, not a good model", countNumber)
    .option("--train-steps <N>", "steps of Rank-GRPO", countNumber)
    .action(async (flags: Flags) => {
      process.stdout.write(
        "A world of 300 titles and 144 tastes. A dialogue names 3 titles; 3 others of its taste are to be found in a list of 10.\n",
      );
      const started = Date.now();
      const bars = { sft: new StepProgress("SFT      "), train: new StepProgress("Rank-GRPO") };
      const result = await quickstart({
        output: flags.output,
        seed: flags.seed,
        ...(flags.sftSteps === undefined ? {} : { sftSteps: flags.sftSteps }),
        ...(flags.trainSteps === undefined ? {} : { trainSteps: flags.trainSteps }),
        signal: interruptible(),
        onStep: (stage, report) => {
          bars[stage].step(report);
          if (report.step === report.steps) bars[stage].done();
        },
      });
      for (const progress of Object.values(bars)) progress.done();
      if (result.interrupted) {
        process.stdout.write(`Interrupted. What was done lies in ${result.folder}.\n`);
        return;
      }
      process.stdout.write(`${describeRows(result.rows)}\n`);
      process.stdout.write(
        `${Math.round((Date.now() - started) / 1000)} s. Model: ${join(result.folder, "rank-grpo", "final")}. Metrics: ${join(result.folder, "rank-grpo", "metrics.jsonl")}.\n`,
      );
    });
}
