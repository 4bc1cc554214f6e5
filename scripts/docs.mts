// Makes docs/configuration.md from the schemas and docs/cli.md from the commands' own help; with --check only says what is out of date.
import { readFileSync, writeFileSync } from "node:fs";
import type { Command } from "commander";
import { z } from "zod";

import { program } from "../src/cli/program.ts";
import { sftSchema, trainSchema } from "../src/training/config.ts";

interface Node {
  type?: string | string[];
  enum?: unknown[];
  const?: unknown;
  default?: unknown;
  description?: string;
  properties?: Record<string, Node>;
  required?: string[];
  items?: Node;
  anyOf?: Node[];
  oneOf?: Node[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
}

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");

function kind(node: Node): string {
  const options = node.anyOf ?? node.oneOf;
  if (options) return [...new Set(options.map(kind))].join(" or ");
  if (node.const !== undefined) return JSON.stringify(node.const);
  if (node.enum) return node.enum.map((value) => String(value)).join(", ");
  if (node.type === "array") return `list of ${kind(node.items ?? {})}`;
  if (node.type === "object") return "object";
  const name = Array.isArray(node.type) ? node.type.join(" or ") : (node.type ?? "any");
  const low =
    node.exclusiveMinimum !== undefined
      ? `> ${node.exclusiveMinimum}`
      : node.minimum !== undefined
        ? `>= ${node.minimum}`
        : "";
  const high = node.maximum !== undefined && node.maximum < Number.MAX_SAFE_INTEGER ? `<= ${node.maximum}` : "";
  const range = [low, high].filter((part) => part && !part.includes("900719925474099")).join(", ");
  return range ? `${name} ${range}` : name;
}

function rows(node: Node, prefix: string): string[] {
  const out: string[] = [];
  for (const [name, child] of Object.entries(node.properties ?? {})) {
    const path = prefix + name;
    const fallback =
      child.default !== undefined
        ? `\`${JSON.stringify(child.default)}\``
        : node.required?.includes(name)
          ? "required"
          : "";
    out.push(`| \`${path}\` | ${cell(kind(child))} | ${cell(fallback)} | ${cell(child.description ?? "")} |`);
    const seen = new Set<string>();
    for (const [value, below] of [[child, `${path}.`] as const, [child.items ?? {}, `${path}[].`] as const])
      for (const object of [value, ...(value.anyOf ?? []), ...(value.oneOf ?? [])])
        for (const row of rows(object, below)) if (!seen.has(row)) seen.add(row) && out.push(row);
  }
  return out;
}

const table = (schema: z.ZodType): string =>
  [
    "| key | type | default | what and why |",
    "| --- | --- | --- | --- |",
    ...rows(z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as Node, ""),
  ].join("\n");

const configuration = `# Configuration

Made from src/training/config.ts by \`npm run docs\`. A YAML file holds these keys; \`--set key.path=value\` changes one; the library takes the same object. An unknown key is an
error with line, column and the nearest known key. Paths are relative to where the command runs.

## \`sft\`

${table(sftSchema)}

## \`train\`

${table(trainSchema)}
`;

function help(command: Command, names: string[]): string {
  const path = [...names, command.name()];
  const own = command.configureHelp({ helpWidth: 110 }).helpInformation().trimEnd();
  const parts = [`## ${path.join(" ")}\n\n\`\`\`\n${own}\n\`\`\`\n`];
  for (const child of command.commands) parts.push(help(child, path));
  return parts.join("\n");
}

const pages: Record<string, string> = {
  "docs/configuration.md": configuration,
  "docs/cli.md": `# The command\n\nMade from the commands' own help by \`npm run docs\`.\n\n${help(program, [])}`,
};

const check = process.argv.includes("--check");
let stale = false;
for (const [path, text] of Object.entries(pages)) {
  let before = "";
  try {
    before = readFileSync(path, "utf8");
  } catch {}
  if (before === text) continue;
  stale = true;
  if (check) console.error(`${path} is out of date: run npm run docs`);
  else writeFileSync(path, text);
}
process.exit(check && stale ? 1 : 0);
