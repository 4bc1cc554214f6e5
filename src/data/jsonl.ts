// Reading JSONL as a stream: lines end at "\n" alone (U+2028 may stand inside a text), a byte order mark, "\r" and blank lines are passed
// over, gzip and Zstandard are unpacked on the way. Faults are told by file and line.
import { isUtf8 } from "node:buffer";

import { RankGrpoError, refuse, shown } from "../errors.ts";
import { fileBytes } from "./stream.ts";

/** Bad lines that one message names; reading stops there. */
const shownFaults = 10;

/** Lines of a file as bytes, without their \n, numbered from 1. */
export async function* lines(path: string): AsyncGenerator<{ line: number; bytes: Buffer }> {
  const parts: Buffer[] = []; // of a line that spans chunks
  let line = 0;
  for await (const chunk of fileBytes(path)) {
    let start = 0;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      const rest = chunk.subarray(start, end);
      yield { line: ++line, bytes: parts.length > 0 ? Buffer.concat([...parts.splice(0), rest]) : rest };
      start = end + 1;
    }
    if (start < chunk.length) parts.push(chunk.subarray(start));
  }
  if (parts.length > 0) yield { line: ++line, bytes: Buffer.concat(parts) };
}

function parse(bytes: Buffer, first: boolean): Record<string, unknown> | undefined {
  if (!isUtf8(bytes)) throw new RankGrpoError("BAD_DATA", "Expected UTF-8, got other bytes.");
  const text = bytes.toString("utf8", first && bytes.subarray(0, 3).equals(Buffer.of(0xef, 0xbb, 0xbf)) ? 3 : 0).trim();
  if (text === "") return undefined;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RankGrpoError("BAD_DATA", `Expected JSON, got: ${(error as Error).message}.`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value))
    throw new RankGrpoError("BAD_DATA", `Expected a JSON object, got ${shown(value)}.`);
  return value as Record<string, unknown>;
}

/**
 * The objects of a JSONL file in order, at most `limit` of them (all by default), each through `convert` (which refuses a row by throwing a RankGrpoError; blank lines never reach it).
 * Good rows go on coming after a bad line; at the end, at the limit or at the tenth bad line, BAD_DATA names the first ten with their line numbers.
 * IO where the file cannot be read, BAD_DATA too where its compression is torn.
 */
export async function* readJsonl<T = Record<string, unknown>>(
  path: string,
  convert: (row: Record<string, unknown>, line: number) => T = (row) => row as T,
  options: { limit?: number } = {},
): AsyncGenerator<T> {
  const limit = options.limit ?? Number.POSITIVE_INFINITY;
  if (!(limit >= 1)) refuse("INVALID_ARGUMENT", "a number of at least 1", "limit", limit);
  let count = 0;
  const faults: string[] = [];
  for await (const { line, bytes } of lines(path)) {
    let row: T;
    try {
      const parsed = parse(bytes, line === 1);
      if (parsed === undefined) continue;
      row = convert(parsed, line);
    } catch (error) {
      if (!(error instanceof RankGrpoError)) throw error;
      faults.push(`line ${line}: ${error.message}`);
      if (faults.length === shownFaults) break;
      continue;
    }
    yield row;
    if (++count >= limit) break;
  }
  if (faults.length === 1) throw new RankGrpoError("BAD_DATA", `${path}, ${faults[0]}`);
  if (faults.length > 1) {
    const these = faults.length === shownFaults ? `the first ${shownFaults} bad lines` : `${faults.length} bad lines`;
    throw new RankGrpoError("BAD_DATA", `${path}, ${these}:\n  ${faults.join("\n  ")}`);
  }
}
