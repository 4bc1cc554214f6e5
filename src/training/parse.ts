// Configurations checked by their schemas before work starts: every fault is named, in a YAML file with line, column and the nearest key.
import { readFile } from "node:fs/promises";
import { type Document, isCollection, isMap, isScalar, isSeq, LineCounter, parseDocument } from "yaml";
import { z } from "zod";

import { nearest, RankGrpoError, refuse, shown } from "../errors.ts";
import { asIoError } from "../files.ts";

type Path = readonly PropertyKey[];
type Where = (path: Path) => string;

interface JsonSchema {
  properties?: Record<string, JsonSchema>;
  items?: JsonSchema;
  type?: string;
  default?: unknown;
  anyOf?: (JsonSchema | undefined)[];
  oneOf?: JsonSchema[];
  const?: unknown;
}

/** What a schema may be, unions opened. */
const alternatives = (schema: JsonSchema | undefined): JsonSchema[] => {
  const options = schema?.anyOf ?? schema?.oneOf;
  if (options) return options.flatMap(alternatives);
  return schema ? [schema] : [];
};

/** The schemas that may hold at `path`. */
function schemasAt(schema: z.ZodType, path: Path): JsonSchema[] {
  let current: JsonSchema = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as JsonSchema;
  for (const key of path) {
    const nodes = alternatives(current);
    current = { anyOf: nodes.map((node) => (typeof key === "number" ? node.items : node.properties?.[String(key)])) };
  }
  return alternatives(current);
}

/** One line for each fault, unions by the alternative that comes nearest. */
function explain(schema: z.ZodType, value: unknown, issues: readonly z.core.$ZodIssue[], where: Where): string[] {
  return issues.flatMap((issue): string[] => {
    if (issue.code === "unrecognized_keys") {
      const known = [...new Set(schemasAt(schema, issue.path).flatMap((node) => Object.keys(node.properties ?? {})))];
      return issue.keys.map((key) => {
        const near = nearest(key, known);
        const hint = near ? `Did you mean ${near}?` : `Known: ${known.join(", ")}.`;
        return `${where([...issue.path, key])}unknown key ${[...issue.path, key].join(".")}. ${hint}`;
      });
    }
    if (issue.code === "invalid_union" && issue.errors.length > 0) {
      const inside = issue.errors
        .filter((faults) => faults.some((fault) => fault.path.length > 0 || fault.code === "unrecognized_keys"))
        .sort((a, b) => a.length - b.length)[0];
      if (inside) {
        const whole = inside.map((fault) => ({ ...fault, path: [...issue.path, ...fault.path] }));
        return explain(schema, value, whole, where);
      }
    }
    const name = issue.path.join(".") || "the configuration";
    const got = issue.path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | undefined)?.[key], value);
    if (got === undefined) return [`${where(issue.path)}${name} is missing.`];
    return [`${where(issue.path)}${name}: ${expectation(schema, issue)}, got ${shown(got)}.`];
  });
}

function expectation(schema: z.ZodType, issue: z.core.$ZodIssue): string {
  const listed = (options: readonly unknown[]): string => `Expected ${[...new Set(options)].join(", ")}`;
  switch (issue.code) {
    case "invalid_type":
      return listed([issue.expected]);
    case "invalid_value":
      return listed(issue.values);
    case "invalid_union": {
      const kinds = issue.errors.flat().map((fault) => expectation(schema, fault).replace(/^Expected /, ""));
      return listed(kinds.length > 0 ? kinds : schemasAt(schema, issue.path).map((node) => node.const));
    }
    default:
      return issue.message;
  }
}

/** Checks an object against a schema. @throws BAD_CONFIG with every fault, each with the nearest known key */
export function parseConfig<S extends z.ZodType>(schema: S, value: unknown, where: Where = () => ""): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  throw new RankGrpoError(
    "BAD_CONFIG",
    `Expected a valid configuration, got:\n${explain(schema, value, result.error.issues, where).join("\n")}`,
  );
}

/** The default of a key, where it has one. */
const defaultAt = (schema: z.ZodType, path: Path): unknown => {
  let current = z.toJSONSchema(schema, { io: "input", unrepresentable: "any" }) as JsonSchema | undefined;
  for (const key of path) current = current?.properties?.[String(key)];
  return current?.default;
};

/** Whether a schema takes a name alone for an object that is called so (`objective: grpo`). */
const mayBeNamed = (schema: z.ZodType, path: Path): boolean =>
  schemasAt(schema, path).some((node) => node.type === "string") &&
  schemasAt(schema, [...path, "name"]).some((node) => node.type === "string");

/** Refuses a path whose last part is no place of the list that it would stand in. */
function requirePlace(document: Document, path: readonly (string | number)[], setting: string): void {
  const above = path.slice(0, -1);
  const list = document.getIn(above, true);
  if (!isSeq(list)) return;
  const [place, name] = [path.at(-1)!, above.join(".")];
  if (typeof place === "string" || place > list.items.length)
    refuse(
      "BAD_CONFIG",
      `a place of the list ${name}, from 0 to ${list.items.length},`,
      "--set",
      setting,
      `${name}=[...] sets all of it.`,
    );
}

/** Changes one key of a document; returns its path. @throws BAD_CONFIG */
function applySetting(document: Document, setting: string, schema: z.ZodType): (string | number)[] {
  const at = setting.indexOf("=");
  if (at < 1) refuse("BAD_CONFIG", "key=value", "--set", setting);
  const path = setting
    .slice(0, at)
    .split(".")
    .map((key) => (/^\d+$/.test(key) ? Number(key) : key));
  const value = parseDocument(setting.slice(at + 1));
  if (value.errors.length > 0) refuse("BAD_CONFIG", "key=value with a value in YAML", "--set", setting);
  // what stands above a new key is made, or made room for: model.shape over a model that was a path; a name stays (objective.beta over grpo)
  for (let n = 1; n <= path.length; n++) {
    requirePlace(document, path.slice(0, n), setting);
    if (n === path.length) break;
    const key = path.slice(0, n);
    const above = document.getIn(key, true);
    if (isCollection(above)) continue;
    const name = mayBeNamed(schema, key) ? (isScalar(above) ? above.value : defaultAt(schema, key)) : undefined;
    const made = typeof name === "string" ? { name } : typeof path[n] === "number" ? [] : {};
    document.setIn(key, document.createNode(made));
  }
  document.setIn(path, value.toJS());
  return path;
}

/**
 * Reads a YAML file, applies `key.path=value` settings (values in YAML), and checks it.
 * @throws BAD_CONFIG with file, line and column of every fault; IO
 */
export async function readConfig<S extends z.ZodType>(
  schema: S,
  file: string,
  settings: readonly string[] = [],
): Promise<z.output<S>> {
  const text = await readFile(file, "utf8").catch((error: unknown) => {
    throw asIoError(error, file);
  });
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines });
  const [fault] = document.errors;
  if (fault) {
    const at = fault.linePos?.[0];
    throw new RankGrpoError(
      "BAD_CONFIG",
      `${file}:${at?.line ?? 1}:${at?.col ?? 1}: Expected YAML, got ${fault.message.split("\n")[0]}`,
    );
  }
  if (document.contents === null) document.contents = document.createNode({}) as unknown as typeof document.contents;
  const set = isMap(document.contents) ? settings.map((setting) => applySetting(document, setting, schema)) : [];
  const where: Where = (path) => {
    if (set.some((key) => key.length <= path.length && key.every((part, i) => part === path[i]))) return "--set: ";
    for (let n = path.length; n >= 0; n--) {
      const parent = n > 0 ? document.getIn(path.slice(0, n - 1), true) : undefined;
      const items = (parent as { items?: { key?: unknown; value?: unknown }[] } | undefined)?.items;
      const pair = items?.find((item) => isScalar(item.key) && item.key.value === path[n - 1]);
      const node = (pair?.key ?? (n > 0 ? document.getIn(path.slice(0, n), true) : document.contents)) as
        | { range?: [number, number, number] | null }
        | undefined;
      if (node?.range) {
        const { line, col } = lines.linePos(node.range[0]);
        return `${file}:${line}:${col}: `;
      }
    }
    return `${file}: `;
  };
  return parseConfig(schema, document.toJS(), where);
}
