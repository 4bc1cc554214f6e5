#!/usr/bin/env node
// The `rank-grpo` command: one file for each subcommand; errors as one line, never a stack.
import { readFileSync } from "node:fs";
import { Command } from "commander";

import { compareCommand } from "./compare.ts";
import { devicesCommand } from "./devices.ts";
import { evaluateCommand } from "./evaluate.ts";
import { generateCommand, scoreCommand } from "./generate.ts";
import { buildCommand, objectiveCommand } from "./objective.ts";
import { objectivesCommand } from "./objectives.ts";
import { quickstartCommand } from "./quickstart.ts";
import { reportCommand } from "./report.ts";
import { sftCommand, trainCommand } from "./train.ts";
import { watchCommand } from "./watch.ts";

const version = (
  JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }
).version;

const program = new Command("rank-grpo")
  .description("Train LLM rankers and recommenders with Rank-GRPO (arXiv 2510.20150)")
  .version(version)
  .showSuggestionAfterError()
  .showHelpAfterError("(--help lists the options)");
for (const command of [
  quickstartCommand(),
  sftCommand(),
  trainCommand(),
  evaluateCommand(),
  compareCommand(),
  reportCommand(),
  watchCommand(),
  generateCommand(),
  scoreCommand(),
  objectivesCommand(),
  objectiveCommand(),
  buildCommand(),
  devicesCommand(),
])
  program.addCommand(command);

try {
  await program.parseAsync();
} catch (error) {
  const code = error instanceof Error && "code" in error ? `${String(error.code)}: ` : "";
  process.stderr.write(`rank-grpo: ${code}${error instanceof Error ? error.message : String(error)}\n`);
  if (process.env["RANK_GRPO_DEBUG"] && error instanceof Error) process.stderr.write(`${error.stack}\n`);
  process.exitCode = 1;
}
