// Options that several commands have, and the numbers that are given to them: refused with the option's name before work starts.
import { type Command, InvalidArgumentError, Option } from "commander";
import { parseDocument } from "yaml";

import { Policy } from "../policy.ts";
import type { ChatOptions } from "../text/template.ts";

const number = (text: string): number => (text.trim() === "" ? Number.NaN : Number(text));

/** 0, 1, 2, ... */
export const wholeNumber = (text: string): number => {
  const value = number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError("Expected a whole number.");
  return value;
};

/** 1, 2, 3, ... */
export const countNumber = (text: string): number => {
  const value = number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError("Expected a whole number from 1.");
  return value;
};

export const realNumber = (text: string): number => {
  const value = number(text);
  if (!Number.isFinite(value)) throw new InvalidArgumentError("Expected a number.");
  return value;
};

export const positiveNumber = (text: string): number => {
  const value = number(text);
  if (!Number.isFinite(value) || value <= 0) throw new InvalidArgumentError("Expected a number above 0.");
  return value;
};

/** In (0, 1]. */
export const nucleus = (text: string): number => {
  const value = number(text);
  if (!(value > 0 && value <= 1)) throw new InvalidArgumentError("Expected a number above 0 and up to 1.");
  return value;
};

/** In [0, 1]. */
export const share = (text: string): number => {
  const value = number(text);
  if (!(value >= 0 && value <= 1)) throw new InvalidArgumentError("Expected a number from 0 to 1.");
  return value;
};

/** JSON for programs. It has no Infinity, which a rule's range may end at: that is text. */
export const jsonOf = (value: unknown): string =>
  JSON.stringify(value, (_, x: unknown) => (x === Infinity || x === -Infinity ? String(x) : x), 2);

/** Of an option that may be repeated. */
export const collect = (value: string, before: readonly string[] = []): string[] => [...before, value];

/** How a command opens its model. */
export interface ModelFlags {
  compute: "f32" | "bf16";
  device: "auto" | "cpu" | "cuda";
  determinism: "exact" | "fast";
  chat?: ChatOptions;
}

/** `date=2025-01-31` is the day that templates print; every other name is a variable of the template, its value in YAML. */
function chatOption(text: string, before: ChatOptions = {}): ChatOptions {
  const at = text.indexOf("=");
  if (at < 1) throw new InvalidArgumentError("Expected name=value.");
  const [name, value] = [text.slice(0, at), text.slice(at + 1)];
  if (name === "date") return { ...before, date: value };
  const document = parseDocument(value);
  if (document.errors.length > 0) throw new InvalidArgumentError("Expected name=value with a value in YAML.");
  return { ...before, variables: { ...before.variables, [name]: document.toJS() as unknown } };
}

/** Adds how a model is opened; `--model` itself is the command's own. */
export function withModelFlags(command: Command): Command {
  return command
    .addOption(
      new Option(
        "--compute <type>",
        "matrix products in f32, or with bf16 operands: half the memory to read, and faster where the processor multiplies pairs of them",
      )
        .choices(["f32", "bf16"])
        .default("f32"),
    )
    .addOption(new Option("--device <name>", "where to compute").choices(["auto", "cpu", "cuda"]).default("cpu"))
    .addOption(
      new Option("--determinism <mode>", "exact, or fast: a GPU's large products by cuBLAS")
        .choices(["exact", "fast"])
        .default("exact"),
    )
    .option(
      "--chat <name=value>",
      "variable of the chat template, e.g. enable_thinking=false, or date=YYYY-MM-DD; may be repeated",
      chatOption,
    );
}

/** Opens a model that is only asked. */
export const openModel = (path: string, flags: ModelFlags): Promise<Policy> =>
  Policy.load(path, {
    compute: flags.compute,
    device: flags.device,
    determinism: flags.determinism,
    trainable: false,
    ...(flags.chat ? { chat: flags.chat } : {}),
  });
