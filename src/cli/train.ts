// `rank-grpo sft` and `rank-grpo train`: a configuration, an output folder, progress, Ctrl-C, --resume.
import { Command } from "commander";

import { sftSchema, trainSchema } from "../training/config.ts";
import { describePlan, type MemoryPlan } from "../training/memory.ts";
import { readConfig } from "../training/parse.ts";
import type { Summary } from "../training/report.ts";
import { sft } from "../training/sft.ts";
import { train } from "../training/train.ts";
import { objectiveNames } from "./objectives.ts";
import { collect } from "./options.ts";
import { StepProgress } from "./progress.ts";

interface Flags {
  config: string;
  set: string[];
  output: string;
  resume?: boolean;
}

const sayMemory = (plan: MemoryPlan): void => void process.stderr.write(`${describePlan(plan)}\n`);

/** First Ctrl-C, SIGTERM, or a terminal that is closed: finish the step and save. Second Ctrl-C: stop at once. */
export function interruptible(): AbortSignal {
  const controller = new AbortController();
  let asked = false;
  // one listener for both: between two of them a signal would end the process at once
  process.on("SIGINT", () => {
    if (asked) process.exit(130);
    asked = true;
    process.stderr.write("\nFinishing this step and saving; press Ctrl-C again to stop at once.\n");
    controller.abort();
  });
  for (const end of ["SIGTERM", "SIGHUP"]) process.on(end, () => controller.abort());
  return controller.signal;
}

export function describeSummary(summary: Summary, command: string): string {
  const lines: string[] = [];
  if (summary.ended === "interrupted")
    lines.push(`Interrupted after step ${summary.steps}. Go on with the same command and --resume.`);
  if (summary.ended === "early-stop")
    lines.push(`Stopped early after step ${summary.steps}: validation no longer improves.`);
  if (summary.best)
    lines.push(
      `Best ${summary.best.metric}: ${summary.best.value.toFixed(4)} at step ${summary.best.step} (${summary.folder}/best)`,
    );
  if (summary.ended !== "interrupted") lines.push(`Model: ${summary.folder}/final`);
  lines.push(`Metrics: ${summary.folder}/metrics.jsonl`);
  if (summary.ended !== "interrupted")
    lines.push(`Next: rank-grpo ${command} --model ${summary.folder}/${summary.best ? "best" : "final"} ...`);
  return `${lines.join("\n")}\n`;
}

function command(name: string, description: string, example: string): Command {
  return new Command(name)
    .description(description)
    .requiredOption("--config <file>", "YAML configuration (every key: docs/configuration.md)")
    .option(
      "--set <key=value>",
      "change a key of it, e.g. --set optimizer.learningRate=1e-5; may be repeated",
      collect,
      [],
    )
    .requiredOption("--output <dir>", "run folder: config, metrics, samples, checkpoints, best, final")
    .option("--resume", "go on from the newest checkpoint of the folder, bit-identical to a run without the break")
    .addHelpText("after", `\nExample:\n  ${example}\n`);
}

export function sftCommand(): Command {
  return command(
    "sft",
    "Fine-tune a model on demonstrations (JSONL with prompt and completion)",
    "rank-grpo sft --config recipes/redial-smollm2-sft.yaml --output runs/sft",
  ).action(async (flags: Flags) => {
    const config = await readConfig(sftSchema, flags.config, flags.set);
    const progress = new StepProgress("sft");
    const summary = await sft(config, {
      output: flags.output,
      resume: flags.resume ?? false,
      signal: interruptible(),
      onMemory: sayMemory,
      onStep: (report) => progress.step(report),
    }).finally(() => progress.done());
    process.stdout.write(describeSummary(summary, "evaluate"));
  });
}

/** What `objective` may be, this project's own rules among them; nothing where there is no addon, since help works without one. */
function objectivesHelp(): string {
  try {
    return `Objectives (\`rank-grpo objectives\` tells their parameters):\n${objectiveNames()}\n`;
  } catch {
    return "";
  }
}

export function trainCommand(): Command {
  return command(
    "train",
    "Train a model with Rank-GRPO, or with GRPO, GSPO and others (objective: in the configuration)",
    "rank-grpo train --config recipes/redial-smollm2.yaml --set model=runs/sft/final --output runs/rank-grpo",
  )
    .addHelpText("after", objectivesHelp)
    .action(async (flags: Flags) => {
      const config = await readConfig(trainSchema, flags.config, flags.set);
      const progress = new StepProgress("train");
      const summary = await train(config, {
        output: flags.output,
        resume: flags.resume ?? false,
        signal: interruptible(),
        onMemory: sayMemory,
        onStep: (report) => progress.step(report),
      }).finally(() => progress.done());
      process.stdout.write(describeSummary(summary, "evaluate"));
    });
}
