// Chat templates, rendered as transformers' apply_chat_template renders them (Jinja with trim_blocks and lstrip_blocks, tojson without
// escapes, raise_exception, strftime_now). One thing differs on purpose: today's date never enters a prompt; it is an option.
import { Environment, Interpreter, Template } from "@huggingface/jinja";

import type { Message } from "../data/sample.ts";
import { RankGrpoError, refuse } from "../errors.ts";

export interface ChatOptions {
  /**
   * The day that templates print (Llama 3.1 and later, SmolLM3), as YYYY-MM-DD. Default "2024-07-26": the date that Llama 3.1's own template
   * falls back to. Prompts must not drift from one day to the next, so the clock is never asked.
   */
  date?: string;
  /** Further variables for the template, such as { enable_thinking: false } for Qwen3. Default: none. */
  variables?: Readonly<Record<string, unknown>>;
}

// The whitespace of Python's str.strip, which is not that of String.prototype.trim.
const blank = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const blankStart = new RegExp(`^[${blank}]+`);
const blankEnd = new RegExp(`[${blank}]+$`);

/** Python's str.strip, lstrip and rstrip: whitespace, or any of the characters given. */
function strip(text: string, characters: string | null, start: boolean, end: boolean): string {
  if (characters === null) {
    const left = start ? text.replace(blankStart, "") : text;
    return end ? left.replace(blankEnd, "") : left;
  }
  const all = Array.from(text);
  const set = new Set(characters);
  let [from, to] = [0, all.length];
  while (start && from < to && set.has(all[from] as string)) from++;
  while (end && to > from && set.has(all[to - 1] as string)) to--;
  return all.slice(from, to).join("");
}

const method =
  (start: boolean, end: boolean) =>
  (text: unknown, characters: unknown = null): string => {
    if (typeof text !== "string") throw new Error("strip() of something that is no text");
    return strip(text, typeof characters === "string" ? characters : null, start, end);
  };

/** What a list or an object of a template holds: values of the engine, each around one of JavaScript's. */
const inner = (value: unknown): unknown =>
  typeof value === "object" && value !== null && "value" in value ? value.value : value;

/** Python's ==: texts, numbers, lists and objects by value, True is 1; but to the engine's functions none and what is undefined are one. */
function equal(a: unknown, b: unknown): boolean {
  if (Array.isArray(a) && Array.isArray(b))
    return a.length === b.length && a.every((item, i) => equal(inner(item), inner(b[i])));
  if (a instanceof Map && b instanceof Map)
    return a.size === b.size && [...a].every(([key, item]) => b.has(key) && equal(inner(item), inner(b.get(key))));
  const plain = (value: unknown): unknown => (typeof value === "boolean" ? Number(value) : value);
  return plain(a) === plain(b);
}

/** No identifier of a template can clash with a name that has a dot in it. */
const pythonFunctions: Record<string, (...values: unknown[]) => unknown> = {
  "value.==": equal,
  "value.!=": (a, b) => !equal(a, b),
  "str.strip": method(true, true),
  "str.lstrip": method(true, false),
  "str.rstrip": method(false, true),
  "str.trim": (value, characters) => method(true, true)(value === undefined ? "" : String(value), characters),
};

interface Node {
  type: string;
  [field: string]: unknown;
}
const isNode = (value: unknown): value is Node =>
  typeof value === "object" && value !== null && typeof (value as { type?: unknown }).type === "string";

/**
 * The engine's strip(), lstrip(), rstrip() and trim ignore their argument and use JavaScript's whitespace, and its == is JavaScript's, for
 * which an empty text is false: turns `x.strip(c)`, `x | trim`, `x == y` and `x != y` into calls of the functions above, in place.
 */
function usePythonFunctions(value: unknown): void {
  if (Array.isArray(value)) {
    for (const item of value) usePythonFunctions(item);
  } else if (value instanceof Map) {
    for (const [key, item] of value) {
      usePythonFunctions(key);
      usePythonFunctions(item);
    }
  } else if (isNode(value)) {
    for (const field of Object.values(value)) usePythonFunctions(field);
    const { callee, filter, operator } = value as { callee?: unknown; filter?: unknown; operator?: unknown };
    if (value.type === "BinaryExpression" && isNode(operator) && ["==", "!="].includes(String(operator["value"]))) {
      const name: Node = { type: "Identifier", value: `value.${operator["value"]}` };
      Object.assign(value, { type: "CallExpression", callee: name, args: [value["left"], value["right"]] });
    } else if (value.type === "CallExpression" && isNode(callee) && callee.type === "MemberExpression") {
      const property = callee["property"];
      const name = isNode(property) && callee["computed"] === false ? `str.${String(property["value"])}` : "";
      if (!Object.hasOwn(pythonFunctions, name) || name === "str.trim") return;
      value["args"] = [callee["object"], ...(value["args"] as unknown[])];
      value["callee"] = Object.assign(property as Node, { value: name });
    } else if (value.type === "FilterExpression" && isNode(filter)) {
      const called = filter.type === "CallExpression";
      const name = called ? filter["callee"] : filter;
      if (!isNode(name) || name["value"] !== "trim") return;
      Object.assign(value, {
        type: "CallExpression",
        callee: Object.assign(name, { value: "str.trim" }),
        args: [value["operand"], ...(called ? (filter["args"] as unknown[]) : [])],
      });
    }
  }
}

const months = "January February March April May June July August September October November December".split(" ");
const weekdays = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/** Python's strftime in the C locale for a day at midnight. */
function strftime(day: Date, format: string): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const [month, weekday] = [months[day.getUTCMonth()] as string, weekdays[day.getUTCDay()] as string];
  const fields: Record<string, string> = {
    Y: String(day.getUTCFullYear()),
    y: two(day.getUTCFullYear() % 100),
    m: two(day.getUTCMonth() + 1),
    d: two(day.getUTCDate()),
    B: month,
    b: month.slice(0, 3),
    A: weekday,
    a: weekday.slice(0, 3),
    H: "00",
    I: "12",
    M: "00",
    S: "00",
    p: "AM",
    "%": "%",
  };
  return format.replace(/%(.?)/gs, (whole, key: string) => {
    const field = fields[key];
    if (field === undefined) throw new Error(`strftime_now does not know ${whole}`);
    return field;
  });
}

function range(start: number, stop?: number, step = 1): number[] {
  const [from, to] = stop === undefined ? [0, start] : [start, stop];
  if (step === 0) throw new Error("range() step must not be zero");
  return Array.from({ length: Math.max(0, Math.ceil((to - from) / step)) }, (_, i) => from + i * step);
}

/**
 * Compiles a Jinja template into a function of its variables. BAD_CHECKPOINT where it is no template (`where` names it), BAD_DATA where it
 * refuses its variables (raise_exception and the like).
 */
export function compileTemplate(
  source: string,
  where: string,
  date = "2024-07-26",
): (variables: Readonly<Record<string, unknown>>) => string {
  const day = new Date(`${date}T00:00:00Z`);
  if (!/^\d{4}-\d\d-\d\d$/.test(date) || Number.isNaN(day.getTime()) || day.toISOString().slice(0, 10) !== date)
    refuse("INVALID_ARGUMENT", "a day as YYYY-MM-DD", "date", date);
  let program: Template["parsed"];
  try {
    program = new Template(source).parsed;
  } catch (error) {
    throw new RankGrpoError(
      "BAD_CHECKPOINT",
      `Expected a Jinja chat template in ${where}, got: ${(error as Error).message}.`,
    );
  }
  usePythonFunctions(program);
  const globals = {
    true: true,
    false: false,
    none: null,
    True: true,
    False: false,
    None: null,
    range,
    raise_exception: (message: unknown) => {
      throw new Error(String(message));
    },
    strftime_now: (format: string) => strftime(day, format),
    date_string: strftime(day, "%d %b %Y"),
    ...pythonFunctions,
  };
  return (variables) => {
    const environment = new Environment();
    for (const [name, value] of Object.entries({ ...globals, ...variables })) environment.set(name, value);
    try {
      return String(new Interpreter(environment).run(program).value);
    } catch (error) {
      throw new RankGrpoError(
        "BAD_DATA",
        `Expected a chat that the template of ${where} accepts, got: ${(error as Error).message}.`,
      );
    }
  };
}

export type RenderChat = (messages: readonly Message[], options?: { addGenerationPrompt?: boolean }) => string;

/**
 * A checkpoint's chat template. `specialTokens` are the variables that transformers hands over (bos_token, eos_token, ...).
 * The source may be a list of named templates; the one named "default" is taken.
 */
export function chatRenderer(
  source: string,
  where: string,
  specialTokens: Readonly<Record<string, string>>,
  options: ChatOptions = {},
): RenderChat {
  const render = compileTemplate(source, where, options.date);
  return (messages, { addGenerationPrompt = false } = {}) =>
    render({
      ...specialTokens,
      ...options.variables,
      messages: messages.map((message) => ({ ...message })),
      tools: null,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
    });
}
