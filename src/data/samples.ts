// Samples from JSONL in TRL's shapes: prompt and completion as text, as messages or as token ids, or input_ids with completion_mask.
// What is not clear is refused with its line and column; every other column is kept for the reward function.
import { refuse } from "../errors.ts";
import { readJsonl } from "./jsonl.ts";
import type { Content, Message, Sample } from "./sample.ts";

type Row = Readonly<Record<string, unknown>>;

function bad(what: string, column: string, value: unknown): never {
  refuse("BAD_DATA", what, column, value);
}

function readIds(value: unknown, column: string): Int32Array {
  if (!Array.isArray(value)) bad("a list of token ids", column, value);
  if (value.length === 0) bad("at least one token id", column, value);
  value.forEach((id: unknown, i) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > 0x7fffffff)
      bad("a token id (a whole number, 0 or more)", `${column}[${i}]`, id);
  });
  return Int32Array.from(value as number[]);
}

function readContent(value: unknown, column: string): Content {
  if (typeof value === "string") return value;
  if (!Array.isArray(value)) bad("text or a list of messages", column, value);
  if (value.length === 0) bad("at least one message", column, value);
  return value.map((message: unknown, i): Message => {
    const { role, content } = (message ?? {}) as { role?: unknown; content?: unknown };
    if (typeof role !== "string" || role === "") bad("a text", `${column}[${i}].role`, role);
    if (typeof content !== "string") bad("a text", `${column}[${i}].content`, content);
    return message as Message;
  });
}

/** input_ids with completion_mask: 0s for the prompt, then 1s for the completion, both at least once. */
function splitByMask(row: Row): { prompt: Int32Array; completion: Int32Array } {
  const ids = readIds(row["input_ids"], "input_ids");
  const mask = row["completion_mask"];
  if (!Array.isArray(mask)) bad("a list of 0 and 1", "completion_mask", mask);
  if (mask.length !== ids.length) bad(`${ids.length} values (as input_ids has)`, "completion_mask", mask.length);
  let start = ids.length;
  mask.forEach((bit: unknown, i) => {
    if (bit !== 0 && bit !== 1) bad("0 or 1", `completion_mask[${i}]`, bit);
    if (bit === 1 && i < start) start = i;
    if (bit === 0 && i > start) bad("1 to the end once it is 1", `completion_mask[${i}]`, bit);
  });
  if (start === 0) bad("0 first, for at least one token of prompt,", "completion_mask", mask);
  if (start === ids.length) bad("at least one 1, the completion,", "completion_mask", mask);
  return { prompt: ids.slice(0, start), completion: ids.slice(start) };
}

function readPair(row: Row): { prompt: Content; completion?: Content } {
  if (row["input_ids"] !== undefined) return splitByMask(row);
  // ids say exactly what text says through a tokenizer: where both stand in a row, the ids count
  const ids = row["prompt_ids"] !== undefined;
  if (!ids && row["prompt"] === undefined)
    bad("prompt, prompt_ids or input_ids", "the line's columns", Object.keys(row).join(", "));
  const prompt = ids ? readIds(row["prompt_ids"], "prompt_ids") : readContent(row["prompt"], "prompt");
  if (prompt === "") bad("a text", "prompt", prompt);
  if (row["completion_ids"] !== undefined)
    return { prompt, completion: readIds(row["completion_ids"], "completion_ids") };
  const value = row["completion"];
  if (value === undefined || value === null) return { prompt };
  const completion = readContent(value, "completion");
  if (typeof completion !== "string" && (completion.length !== 1 || (completion[0] as Message).role !== "assistant"))
    bad("one message of the assistant", "completion", value);
  return { prompt, completion };
}

/** A sample from one row; `index` counts the samples of its file. Throws BAD_DATA naming the column. */
export function toSample(row: Row, index: number): Sample {
  const id = row["id"] ?? index;
  if (typeof id !== "string" && typeof id !== "number") bad("a text or a number", "id", id);
  return { index, id: String(id), ...readPair(row), columns: row };
}

/**
 * The samples of a JSONL file (plain, gzip or Zstandard), at most `limit` of them (all by default). BAD_DATA with the lines and columns of the first
 * ten faults, or where there is no sample; IO where the file cannot be read.
 */
export async function readSamples(path: string, options: { limit?: number } = {}): Promise<Sample[]> {
  const samples: Sample[] = [];
  let index = 0; // of bad lines too, so that a row keeps its number when another is mended
  for await (const sample of readJsonl(path, (row) => toSample(row, index++), options)) samples.push(sample);
  if (samples.length === 0) refuse("BAD_DATA", "at least one sample", path, 0);
  return samples;
}
