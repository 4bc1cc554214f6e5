// `rank-grpo objectives`: presets and rules with their parameters, defaults, ranges and sources.
import { Command } from "commander";

import { addon } from "../native.ts";
import { customObjectives } from "../objective/named.ts";
import { presets } from "../objectives.ts";
import { jsonOf } from "./options.ts";

/** All names, by kind. */
export const objectiveNames = (): string =>
  [
    `  presets     ${Object.keys(presets).join(", ")}`,
    `  rules       ${addon
      .objectiveList()
      .map((rule) => rule.name)
      .join(", ")}`,
    `  TypeScript  ${customObjectives.map(({ name }) => name).join(", ")}, those of modules`,
  ].join("\n");

export function objectivesCommand(): Command {
  return new Command("objectives")
    .description("List the objectives: presets, and the rules they are made of")
    .option("--json", "as JSON")
    .action((flags: { json?: boolean }) => {
      const rules = addon.objectiveList();
      if (flags.json) {
        process.stdout.write(`${jsonOf({ presets, rules, custom: customObjectives })}\n`);
        return;
      }
      const lines = ["Presets (objective: in a configuration; every field can be changed there)", ""];
      for (const preset of Object.values(presets)) {
        const params = Object.entries(preset.params).map(([name, value]) => `${name} ${value}`);
        lines.push(
          `  ${preset.name}`,
          `      rule ${preset.rule} (${params.join(", ")}), ratio per ${preset.ratio}, advantage per ${preset.advantage}, ${preset.weighting}, KL ${preset.beta} (${preset.kl})`,
          `      ${preset.source}`,
        );
      }
      lines.push("", "Rules", "");
      for (const rule of rules) {
        lines.push(`  ${rule.name}: ${rule.formula}`, `      ${rule.source}`);
        for (const p of rule.parameters)
          lines.push(`      ${p.name} = ${p.value}, from ${p.min} to ${p.max}: ${p.reason}`);
      }
      lines.push("", "Objectives in TypeScript (objective: in a configuration, their parameters under params)", "");
      for (const { name, source, formula, params } of customObjectives)
        lines.push(`  ${name}: ${formula}`, `      ${source}`, ...params.map((param) => `      ${param}`));
      process.stdout.write(`${lines.join("\n")}\n`);
    });
}
