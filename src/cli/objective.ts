// `rank-grpo objective new | check | show` and `rank-grpo build`: from an idea to a rule the trainer uses by name.
import { join } from "node:path";
import { Command } from "commander";

import { refuse } from "../errors.ts";
import { requireFresh, writeFileAtomic } from "../files.ts";
import { buildAddon } from "../objective/build.ts";
import { checkObjective, formatReport } from "../objective/check.ts";
import { newObjective } from "../objective/new.ts";
import { drawObjective, drawSvg, drawText, pageOf } from "../objective/show.ts";
import { jsonOf } from "./options.ts";

const print = (text: string): void => void process.stdout.write(`${text}\n`);

interface ShowFlags {
  dir: string;
  set: string[];
  svg?: string;
  page?: string;
  overwrite?: boolean;
}

export function objectiveCommand(): Command {
  const command = new Command("objective").description("Write, check and draw the rule of an objective");
  command
    .command("new")
    .argument("<name>", "lower-case letters, digits and hyphens")
    .description("Write the header of a new rule; it compiles as it is")
    .option("--dir <folder>", "where to", ".")
    .action(async (name: string, flags: { dir: string }) => {
      const path = await newObjective(name, flags.dir);
      print(`${path}\nNext: rank-grpo objective check ${name} --dir ${flags.dir}`);
    });
  command
    .command("check")
    .argument("<name>", "a rule of the folder, or of the package")
    .description("Compile a rule and hold its gradient against central differences; name kinks, limits and twins")
    .option("--dir <folder>", "where its header is", ".")
    .option("--json", "as JSON")
    .action(async (name: string, flags: { dir: string; json?: boolean }) => {
      const report = await checkObjective(name, flags.dir);
      print(flags.json ? jsonOf(report) : formatReport(report));
      if (!report.passed) process.exitCode = 1;
    });
  command
    .command("show")
    .argument("<name>", "a rule of the folder, or of the package")
    .description("Draw a rule's loss and slope over the ratio, for A > 0 and A < 0")
    .option("--dir <folder>", "where its header is", ".")
    .option("--set <name=value>", "a parameter (repeatable)", (value: string, all: string[]) => [...all, value], [])
    .option("--svg <file>", "write the drawing as SVG too")
    .option("--page <folder>", "write a page of documentation with the drawing: NAME.md and NAME.svg")
    .option("--overwrite", "replace what is there")
    .action(async (name: string, flags: ShowFlags) => {
      const files = flags.page === undefined ? [] : [join(flags.page, `${name}.md`), join(flags.page, `${name}.svg`)];
      if (!flags.overwrite)
        for (const file of flags.svg === undefined ? files : [flags.svg, ...files])
          requireFresh(file, "Give another name or --overwrite.");
      const drawing = await drawObjective(name, { folder: flags.dir, params: readSettings(flags.set) });
      print(drawText(drawing));
      if (flags.svg !== undefined) await writeFileAtomic(flags.svg, drawSvg(drawing));
      if (flags.page !== undefined) {
        const { page, svg } = await pageOf(name, flags.dir);
        await writeFileAtomic(join(flags.page, `${name}.md`), page);
        await writeFileAtomic(join(flags.page, `${name}.svg`), svg);
      }
    });
  return command;
}

function readSettings(settings: readonly string[]): Record<string, number> {
  return Object.fromEntries(
    settings.map((setting) => {
      const [name, text] = setting.split("=");
      const value = Number(text);
      if (!name || text === undefined || text === "" || Number.isNaN(value))
        refuse("INVALID_ARGUMENT", "name=number", "--set", setting);
      return [name, value];
    }),
  );
}

export function buildCommand(): Command {
  return new Command("build")
    .description(
      "Compile the native addon for this project, with own rules where given (needs cmake and a C++17 compiler)",
    )
    .option("--objectives <folder>", "folder of rule headers to add")
    .option("--output <folder>", "where the addon goes; .rank-grpo is found by itself", ".rank-grpo")
    .option("--jobs <n>", "compilers at a time; default: the machine's threads")
    .option("--verbose", "print what cmake prints")
    .action(async (flags: { objectives?: string; output: string; jobs?: string; verbose?: boolean }) => {
      const jobs = flags.jobs === undefined ? undefined : Number(flags.jobs);
      if (jobs !== undefined && !(Number.isInteger(jobs) && jobs >= 1))
        refuse("INVALID_ARGUMENT", "a whole number from 1", "--jobs", flags.jobs);
      const started = Date.now();
      const result = await buildAddon({
        output: flags.output,
        ...(flags.objectives === undefined ? {} : { objectives: flags.objectives }),
        ...(jobs === undefined ? {} : { jobs }),
        ...(flags.verbose ? { onLine: print } : {}),
      });
      const added =
        result.added.length > 0 ? `, with ${result.added.join(", ")} among its ${result.rules.length} rules` : "";
      print(`${result.addon}${added} (${((Date.now() - started) / 1000).toFixed(0)} s)`);
    });
}
