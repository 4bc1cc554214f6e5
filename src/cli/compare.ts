// `rank-grpo compare A B`: whether B's lists are better than A's on the same dialogues, with intervals.
import Table from "cli-table3";
import { Command } from "commander";

import { requireFreshFile, writeFileAtomic } from "../files.ts";
import { type Comparison, compareEvaluations } from "../report/compare.ts";
import { readEvaluation } from "../report/evaluations.ts";
import { countNumber, wholeNumber } from "./options.ts";

interface Flags {
  metrics?: string[];
  resamples: number;
  seed: number;
  output?: string;
}

const names = (text: string): string[] => text.split(",").filter((name) => name !== "");
const signed = (value: number): string => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`;

export function describeComparison(comparison: Comparison): string {
  const table = new Table({
    head: ["", "A", "B", "B − A", "95 % interval", "p", "rows better / worse / equal"],
    style: { head: [], border: [] },
  });
  const floor = 2 / (comparison.resamples + 1);
  for (const d of comparison.differences)
    table.push([
      d.metric,
      d.a.toFixed(4),
      d.b.toFixed(4),
      signed(d.difference),
      `[${signed(d.low)}, ${signed(d.high)}]`,
      d.p <= floor ? `≤ ${floor.toPrecision(1)}` : d.p.toFixed(4),
      `${d.better} / ${d.worse} / ${d.equal}`,
    ]);
  const { seeds } = comparison;
  const several = [...(seeds.a > 1 ? ["A"] : []), ...(seeds.b > 1 ? ["B"] : [])];
  return [
    table.toString(),
    `${comparison.rows} rows of ${comparison.dialogues} dialogues; ${seeds.a} and ${seeds.b} evaluations. Paired bootstrap over ` +
      `dialogues${several.length > 0 ? " and seeds" : ""}, ${comparison.resamples} resamples.`,
    several.length > 0
      ? `The intervals speak of new dialogues and of new training runs${several.length === 1 ? ` of ${several[0]} alone` : ""}.`
      : "The intervals speak of these two models on new dialogues; give several seeds a side (A1,A2,A3 B1,B2,B3) to speak of the methods.",
  ].join("\n");
}

export function compareCommand(): Command {
  return new Command("compare")
    .description("Test whether B is better than A: paired bootstrap over dialogues, and over seeds")
    .argument("<A>", "evaluation JSON (or a run folder that holds evaluation.json); several seeds with commas", names)
    .argument("<B>", "the same, on the same rows", names)
    .option("--metrics <names>", "with commas (default: Recall@k and NDCG@k, k = 5, 10, 15, 20)", names)
    .option("--resamples <N>", "at least 100", countNumber, 10_000)
    .option("--seed <S>", "of the resampling", wholeNumber, 0)
    .option("--output <file>", "JSON with the figures")
    .addHelpText(
      "after",
      "\nExample:\n  rank-grpo compare runs/sft/evaluation.json runs/rank-grpo/evaluation.json\n  rank-grpo compare grpo-1.json,grpo-2.json rank-1.json,rank-2.json --metrics ndcg@20\n",
    )
    .action(async (a: string[], b: string[], flags: Flags) => {
      if (flags.output) requireFreshFile(flags.output);
      const read = (files: readonly string[]): Promise<Awaited<ReturnType<typeof readEvaluation>>[]> =>
        Promise.all(files.map(readEvaluation));
      const comparison = compareEvaluations(await read(a), await read(b), {
        resamples: flags.resamples,
        seed: flags.seed,
        ...(flags.metrics ? { metrics: flags.metrics } : {}),
      });
      process.stdout.write(`A: ${a.join(", ")}\nB: ${b.join(", ")}\n${describeComparison(comparison)}\n`);
      if (flags.output) {
        await writeFileAtomic(flags.output, `${JSON.stringify({ a, b, ...comparison }, null, 2)}\n`);
        process.stdout.write(`Written: ${flags.output}\n`);
      }
    });
}
