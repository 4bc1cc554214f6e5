// Text of files, streamed: plain, gzip or Zstandard by their first bytes; delimited tables (CSV, TSV) row by row; the elements of a
// JSON array one by one. Memory holds one record, whatever the file's size.
import { createReadStream } from "node:fs";
import { pipeline, Readable, Transform, type TransformCallback } from "node:stream";
import { createGunzip } from "node:zlib";
import { Decompress } from "fzstd";

import { RankGrpoError } from "../errors.ts";

function unzstd(): Transform {
  // fzstd calls back synchronously inside push
  const decoder = new Decompress();
  const stream = new Transform({
    transform(chunk: Buffer, _encoding, done: TransformCallback) {
      try {
        decoder.push(chunk);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
    flush(done) {
      try {
        decoder.push(new Uint8Array(0), true);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
  });
  decoder.ondata = (data) => {
    if (data.length > 0) stream.push(Buffer.from(data));
  };
  return stream;
}

function decoderOf(head: Buffer): Transform | undefined {
  const starts = (...magic: number[]): boolean => head.subarray(0, magic.length).equals(Buffer.of(...magic));
  return starts(0x1f, 0x8b) ? createGunzip() : starts(0x28, 0xb5, 0x2f, 0xfd) ? unzstd() : undefined;
}

/**
 * The bytes of a file in pieces, decompressed where its first bytes say gzip or Zstandard. Read once from begin to end: it may be a pipe.
 * @throws IO where it cannot be read; BAD_DATA where compressed data are torn
 */
export async function* fileBytes(path: string): AsyncGenerator<Buffer> {
  const file = createReadStream(path, { highWaterMark: 1 << 18 });
  const pieces = file[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  let head = Buffer.alloc(0);
  async function* whole(): AsyncGenerator<Buffer> {
    yield head;
    for (let next = await pieces.next(); !next.done; next = await pieces.next()) yield next.value;
  }
  try {
    for (let next = await pieces.next(); !next.done; next = await pieces.next()) {
      head = Buffer.concat([head, next.value]);
      if (head.length >= 4) break;
    }
    const decoder = decoderOf(head);
    // errors reach the reader of `decoder`
    yield* decoder ? (pipeline(Readable.from(whole()), decoder, () => {}) as AsyncIterable<Buffer>) : whole();
  } catch (error) {
    const { message, syscall } = error as NodeJS.ErrnoException;
    if (syscall !== undefined)
      throw new RankGrpoError("IO", `Expected a readable file at ${path}, got: ${message}.`, { cause: error });
    throw new RankGrpoError("BAD_DATA", `Expected whole compressed data at ${path}, got: ${message}.`, {
      cause: error,
    });
  } finally {
    file.destroy();
  }
}

/**
 * Decoded text in pieces; a UTF-8 byte order mark is dropped. Failures name the file.
 * @throws IO; BAD_DATA where it is not UTF-8: titles would change, and match nothing
 */
export async function* openText(path: string): AsyncGenerator<string> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  const decode = (chunk?: Buffer): string => {
    try {
      return decoder.decode(chunk, { stream: chunk !== undefined });
    } catch (cause) {
      throw new RankGrpoError(
        "BAD_DATA",
        `Expected UTF-8 in ${path}, got other bytes. Convert it, such as with iconv.`,
        {
          cause,
        },
      );
    }
  };
  for await (const chunk of fileBytes(path)) {
    const text = decode(chunk);
    if (text) yield text;
  }
  const rest = decode();
  if (rest) yield rest;
}

/** Lines of a text file without their ends (\n or \r\n), numbered from 1; empty ones too. */
export async function* textLines(path: string): AsyncGenerator<{ line: number; text: string }> {
  let held = "";
  let line = 0;
  for await (const piece of openText(path)) {
    held += piece;
    let start = 0;
    for (let end = held.indexOf("\n"); end >= 0; end = held.indexOf("\n", start)) {
      yield { line: ++line, text: held.slice(start, held[end - 1] === "\r" ? end - 1 : end) };
      start = end + 1;
    }
    held = held.slice(start);
  }
  if (held) yield { line: ++line, text: held.endsWith("\r") ? held.slice(0, -1) : held };
}

/** Whether a name says JSON Lines, plain or compressed. */
export const isJsonl = (path: string): boolean => /\.jsonl(\.gz|\.zst)?$/.test(path);

/** What stands between the fields of a table, by its name. */
export const delimiterOf = (path: string): string => (/\.tsv(\.gz|\.zst)?$/.test(path) ? "\t" : ",");

/** A row of a table: fields by column name, and the line it starts on. */
export interface TableRow {
  line: number;
  fields: Record<string, string>;
  /** Fields beyond or short of the header's count; 0 for a whole row. */
  excess: number;
}

/**
 * Rows of a delimited file (RFC 4180: fields may be quoted with ", a doubled quote is one quote, quoted fields may span lines).
 * The first row names the columns unless `columns` are given. `quotes: false` reads every quote as itself, as unquoted TSV needs.
 */
export async function* tableRows(
  path: string,
  options: { delimiter?: string; columns?: readonly string[]; quotes?: boolean } = {},
): AsyncGenerator<TableRow> {
  const delimiter = options.delimiter ?? ",";
  const quotes = options.quotes ?? true;
  let columns = options.columns;
  let fields: string[] = [];
  let field = "";
  let state: "start" | "plain" | "quoted" | "closed" = "start";
  let line = 1;
  let rowLine = 1;
  const endField = (): void => {
    fields.push(field);
    field = "";
    state = "start";
  };
  const endRow = (): TableRow | undefined => {
    endField();
    const row = fields;
    fields = [];
    const from = rowLine;
    rowLine = line + 1;
    if (row.length === 1 && row[0] === "") return undefined;
    if (!columns) {
      columns = row.map((name) => name.trim());
      return undefined;
    }
    const named: Record<string, string> = {};
    for (let i = 0; i < columns.length; i++) named[columns[i]!] = row[i] ?? "";
    return { line: from, fields: named, excess: row.length - columns.length };
  };
  let afterReturn = false;
  for await (const piece of openText(path)) {
    let i = 0;
    while (i < piece.length) {
      const c = piece[i]!;
      if (afterReturn && c === "\n") {
        // the \n of a \r\n that was taken as the row's end
        afterReturn = false;
        i++;
        continue;
      }
      afterReturn = false;
      if (state === "quoted") {
        const close = piece.indexOf('"', i);
        const end = close < 0 ? piece.length : close;
        for (let at = piece.indexOf("\n", i); at >= 0 && at < end; at = piece.indexOf("\n", at + 1)) line++;
        field += piece.slice(i, end);
        i = end;
        if (close >= 0) {
          state = "closed";
          i++;
        }
        continue;
      }
      if (c === '"' && quotes && (state === "start" || state === "closed")) {
        if (state === "closed") field += '"'; // a doubled quote
        state = "quoted";
        i++;
      } else if (c === delimiter) {
        endField();
        i++;
      } else if (c === "\n" || c === "\r") {
        afterReturn = c === "\r";
        const row = endRow();
        line++;
        i++;
        if (row) yield row;
      } else {
        let end = i + 1;
        while (end < piece.length && piece[end] !== delimiter && piece[end] !== "\n" && piece[end] !== "\r") end++;
        const rest = piece.slice(i, end);
        if (state === "closed" && rest.trim() !== "") field = `"${field}"`; // "Crocodile" Dundee: quotes of the text
        field += rest;
        state = "plain";
        i = end;
      }
    }
  }
  if (state === "quoted")
    throw new RankGrpoError(
      "BAD_DATA",
      `Expected a closing quote in ${path}, got the end of the file in the row of line ${rowLine}.`,
    );
  if (field || fields.length > 0) {
    const row = endRow();
    if (row) yield row;
  }
}

/**
 * The elements of a JSON document's list, parsed one at a time: the document is an array, or an object in which the first array is
 * the list ({"samples": [...]}). An element that is not valid JSON is given as its error.
 */
export async function* jsonElements(
  path: string,
): AsyncGenerator<{ number: number; value: unknown } | { number: number; error: string }> {
  let depth = 0; // inside the list: 0 between elements
  let inList = false;
  let finished = false;
  let inString = false;
  let escaped = false;
  let held = "";
  let number = 0;
  const finish = (): { number: number; value: unknown } | { number: number; error: string } | undefined => {
    const text = held.trim();
    held = "";
    if (!text) return undefined;
    number++;
    try {
      return { number, value: JSON.parse(text) as unknown };
    } catch (error) {
      return { number, error: (error as Error).message };
    }
  };
  for await (const piece of openText(path)) {
    let start = 0;
    for (let i = 0; i < piece.length && !finished; i++) {
      const c = piece[i]!;
      if (inString) {
        if (escaped) escaped = false;
        else if (c === "\\") escaped = true;
        else if (c === '"') inString = false;
        continue;
      }
      if (c === '"') inString = true;
      else if (!inList) {
        if (c === "[") {
          inList = true;
          start = i + 1;
        }
      } else if (c === "{" || c === "[") depth++;
      else if ((c === "," && depth === 0) || (c === "]" && depth === 0)) {
        held += piece.slice(start, i);
        start = i + 1;
        finished = c === "]";
        const element = finish();
        if (element) yield element;
      } else if (c === "}" || c === "]") depth--;
    }
    if (inList && !finished) held += piece.slice(start);
    if (finished) return;
  }
  if (!inList)
    throw new RankGrpoError("BAD_DATA", `Expected a JSON list in ${path}, got none. JSON Lines files end in .jsonl.`);
  throw new RankGrpoError(
    "BAD_DATA",
    `Expected the end of the JSON list in ${path}, got the end of the file after ${number} elements.`,
  );
}
