// The `rank-grpo` command's tree: one file for each subcommand.
import { readFileSync } from "node:fs";
import { Command } from "commander";

import { benchCommand } from "./bench.ts";
import { compareCommand } from "./compare.ts";
import { dataCommand } from "./data.ts";
import { devicesCommand } from "./devices.ts";
import { evaluateCommand } from "./evaluate.ts";
import { generateCommand, scoreCommand } from "./generate.ts";
import { buildCommand, objectiveCommand } from "./objective.ts";
import { objectivesCommand } from "./objectives.ts";
import { quickstartCommand } from "./quickstart.ts";
import { recommendCommand } from "./recommend.ts";
import { reportCommand } from "./report.ts";
import { sftCommand, trainCommand } from "./train.ts";
import { watchCommand } from "./watch.ts";

const version = (
  JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string }
).version;

export const program = new Command("rank-grpo")
  .description("Train LLM rankers and recommenders with Rank-GRPO (arXiv 2510.20150)")
  .version(version);
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
  recommendCommand(),
  dataCommand(),
  objectivesCommand(),
  objectiveCommand(),
  buildCommand(),
  devicesCommand(),
  benchCommand(),
])
  program.addCommand(command);

/** A wrong call is one line too, with where to look. */
function complainInOneLine(command: Command, path: string): void {
  command.configureOutput({
    outputError: (text, write) => {
      const line = text
        .trim()
        .replace(/^error: /, "")
        .replaceAll(/\s*\n\s*/g, " ");
      write(`rank-grpo: ${line.replace(/([^.?!)])$/, "$1.")} See ${path} --help.\n`);
    },
  });
  for (const child of command.commands) complainInOneLine(child, `${path} ${child.name()}`);
}
complainInOneLine(program, program.name());
