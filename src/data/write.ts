// JSON Lines out: streamed to a temporary name, renamed when whole, gzip where the name ends in .gz.
import { createWriteStream } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";

import { asIoError, requireFreshFile, temporary } from "../files.ts";

/** Writes records, one JSON object a line. Nothing is left behind where the records or the disk fail. */
export async function writeLines(
  path: string,
  records: AsyncIterable<unknown> | Iterable<unknown>,
  overwrite = false,
): Promise<void> {
  if (!overwrite) requireFreshFile(path, "Give another name or --overwrite.");
  const part = temporary(path);
  async function* lines(): AsyncGenerator<string> {
    for await (const record of records) yield `${JSON.stringify(record)}\n`;
  }
  try {
    await mkdir(dirname(path), { recursive: true });
    const target = createWriteStream(part);
    if (path.endsWith(".gz")) await pipeline(Readable.from(lines()), createGzip(), target);
    else await pipeline(Readable.from(lines()), target);
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true });
    throw asIoError(error, path);
  }
}
