// Makes docs/configuration.md from the schemas, docs/cli.md from the commands' own help, docs/api.md from the declarations and
// docs/performance.md from recorded benchmarks, RESULTS.md from recorded runs; with --check it only says which are out of date.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Command } from "commander";
import { z } from "zod";

import { program } from "../src/cli/program.ts";
import { sftSchema, trainSchema } from "../src/training/config.ts";
import { apiPage } from "./api.mts";
import { performancePages } from "./performance.mts";
import { resultPages } from "./results.mts";

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
  exclusiveMaximum?: number;
}

const cell = (text: string): string => text.replaceAll("|", "\\|").replaceAll("\n", " ");

function kind(node: Node): string {
  const options = node.anyOf ?? node.oneOf;
  if (options) return [...new Set(options.map(kind))].join(" or ");
  if (node.const !== undefined) return String(node.const);
  if (node.enum) return node.enum.map((value) => String(value)).join(", ");
  if (node.type === "array") return `list of ${kind(node.items ?? {})}`;
  if (node.type === "object") return "object";
  const name = Array.isArray(node.type) ? node.type.join(" or ") : (node.type ?? "any");
  const low = node.exclusiveMinimum === undefined ? `>= ${node.minimum}` : `> ${node.exclusiveMinimum}`;
  const hasLow = node.exclusiveMinimum !== undefined || (node.minimum ?? -Infinity) > -Number.MAX_SAFE_INTEGER;
  const high = node.exclusiveMaximum === undefined ? `<= ${node.maximum}` : `< ${node.exclusiveMaximum}`;
  const hasHigh = node.exclusiveMaximum !== undefined || (node.maximum ?? Infinity) < Number.MAX_SAFE_INTEGER;
  const range = [...(hasLow ? [low] : []), ...(hasHigh ? [high] : [])].join(", ");
  return range ? `${name} ${range}` : name;
}

/** Properties of the objects that a node may be, merged: a key of several alternatives stands once, required where all ask for it. */
function properties(node: Node): [name: string, child: Node, required: boolean][] {
  const objects = [node, ...(node.anyOf ?? []), ...(node.oneOf ?? [])].filter((option) => option.properties);
  const merged = new Map<string, { nodes: Node[]; required: number }>();
  for (const object of objects)
    for (const [name, child] of Object.entries(object.properties!)) {
      const entry = merged.get(name) ?? { nodes: [], required: 0 };
      if (!entry.nodes.some((other) => JSON.stringify(other) === JSON.stringify(child))) entry.nodes.push(child);
      if (object.required?.includes(name)) entry.required++;
      merged.set(name, entry);
    }
  return [...merged].map(([name, { nodes, required }]) => {
    const always = required === objects.length;
    if (nodes.length === 1) return [name, nodes[0]!, always];
    const description = nodes.map((child) => `${kind(child)}: ${child.description ?? ""}`).join("; ");
    return [name, { anyOf: nodes, description }, always];
  });
}

function rows(node: Node, prefix: string): string[] {
  const out: string[] = [];
  for (const [name, child, required] of properties(node)) {
    const path = prefix + name;
    if (child.description === undefined) throw new Error(`${path} has no description`);
    const fallback = child.default !== undefined ? `\`${JSON.stringify(child.default)}\`` : required ? "required" : "";
    out.push(`| \`${path}\` | ${cell(kind(child))} | ${cell(fallback)} | ${cell(child.description)} |`);
    out.push(...rows(child, `${path}.`));
    if (child.items) out.push(...rows(child.items, `${path}[].`));
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

// the pages are the same whether an addon is built or not: help names rules only where there is one
process.env["RANK_GRPO_ADDON"] = "none";

/** The help of a command and of those below it, as `--help` prints it. */
function help(command: Command, names: string[]): string {
  const path = [...names, command.name()];
  let own = "";
  command.configureHelp({ helpWidth: 110 }).configureOutput({ writeOut: (text) => (own += text) });
  command.outputHelp();
  const parts = [`## ${path.join(" ")}\n\n\`\`\`\n${own.trim()}\n\`\`\`\n`];
  for (const child of command.commands) parts.push(help(child, path));
  return parts.join("\n");
}

const root = fileURLToPath(new URL("..", import.meta.url));
const pages: Record<string, string> = {
  "docs/api.md": apiPage(root),
  "docs/configuration.md": configuration,
  ...performancePages(root),
  ...resultPages(root),
  "docs/cli.md": `# The command\n\nMade from the commands' own help by \`npm run docs\`.\n\n${help(program, [])}`,
};

const check = process.argv.includes("--check");
let stale = false;
for (const [path, text] of Object.entries(pages)) {
  const file = join(root, path);
  if (existsSync(file) && readFileSync(file, "utf8") === text) continue;
  stale = true;
  console.log(check ? `${path} is out of date: run npm run docs` : `written: ${path}`);
  if (check) continue;
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
}
process.exit(check && stale ? 1 : 0);
