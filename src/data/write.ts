// JSON Lines out: streamed to a temporary name, renamed when whole, gzip where the name ends in .gz.
import { createWriteStream, existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";

import { RankGrpoError } from "../errors.ts";

/** Refuses a path that is taken, unless `overwrite`. */
export function refuseExisting(path: string, overwrite = false): void {
  if (!overwrite && existsSync(path))
    throw new RankGrpoError(
      "IO",
      `Expected a new path for output, got ${path}, which exists. Give another name or --overwrite.`,
    );
}

/** A name beside `path` that no other process uses; the file is renamed from it when whole. */
export const temporaryName = (path: string): string => `${path}.${process.pid}.part`;

/** Writes records, one JSON object a line. Nothing is left behind where the records or the disk fail. */
export async function writeLines(
  path: string,
  records: AsyncIterable<unknown> | Iterable<unknown>,
  overwrite = false,
): Promise<void> {
  refuseExisting(path, overwrite);
  mkdirSync(dirname(path), { recursive: true });
  const part = temporaryName(path);
  async function* lines(): AsyncGenerator<string> {
    for await (const record of records) yield `${JSON.stringify(record)}\n`;
  }
  try {
    const source = Readable.from(lines());
    const target = createWriteStream(part);
    if (path.endsWith(".gz")) await pipeline(source, createGzip(), target);
    else await pipeline(source, target);
    renameSync(part, path);
  } catch (error) {
    rmSync(part, { force: true });
    throw error;
  }
}
