// Files that are never half written and never overwritten silently.
import { randomBytes } from "node:crypto";
import { accessSync, constants, existsSync, readdirSync, statSync } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { dirname, join, resolve, sep } from "node:path";

import { RankGrpoError } from "./errors.ts";

/** A name beside `path` that a process may leave behind only where it is killed. */
export const temporary = (path: string): string => `${path}.tmp-${randomBytes(4).toString("hex")}`;

/** Whether something was left by a process that was killed while it wrote. */
export const isTemporary = (name: string): boolean => /\.tmp-[0-9a-f]{8}$/.test(name);

/** Writes `text` under a temporary name beside `path`, syncs it, and renames. Replaces what was there. */
export async function writeFileAtomic(path: string, text: string | Uint8Array): Promise<void> {
  const name = temporary(path);
  try {
    await mkdir(dirname(path), { recursive: true });
    const file = await open(name, "w");
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(name, path);
  } catch (error) {
    await rm(name, { force: true });
    throw asIoError(error, path);
  }
}

/** Fills a folder under a temporary name, then renames it to `path`. With `replace`, what was there goes only after the new one is whole. */
export async function writeFolderAtomic(
  path: string,
  fill: (folder: string) => Promise<void>,
  options: { replace?: boolean } = {},
): Promise<void> {
  if (!options.replace) requireFresh(path);
  const name = temporary(path);
  const old = temporary(path);
  try {
    await mkdir(name, { recursive: true });
    await fill(name);
    if (existsSync(path)) await rename(path, old);
    await rename(name, path);
    await rm(old, { recursive: true, force: true });
  } catch (error) {
    await rm(name, { recursive: true, force: true });
    throw asIoError(error, path);
  }
}

/** IO where `path` is a file or a folder that holds anything, or where nothing can be made: asked before work starts. */
export function requireFresh(path: string, fix = "Choose another place, or remove it first."): void {
  if (!existsSync(path)) {
    requireWritable(path);
    return;
  }
  let entries: string[];
  try {
    entries = readdirSync(path);
  } catch {
    entries = [path];
  }
  if (entries.length > 0)
    throw new RankGrpoError("IO", `Expected a new or empty place for output, got ${path}, which exists. ${fix}`);
}

/** The same for a file: an empty folder would take no file once the work is done. */
export function requireFreshFile(path: string, fix?: string): void {
  if (path.endsWith(sep) || (existsSync(path) && statSync(path).isDirectory()))
    throw new RankGrpoError("IO", `Expected the name of a file for output, got ${path}, a folder.`);
  requireFresh(path, fix);
}

/** IO where `path` is a pipe, for what reads its input twice: the second time there would be nothing. */
export function requireFile(path: string): void {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found?.isFIFO() || found?.isSocket())
    throw new RankGrpoError(
      "IO",
      `Expected a file, which is read twice, got ${path}, a pipe. Write it to a file first.`,
    );
}

/** Names, sizes and ages of the files of a path: another stamp where a model or a file was made anew under the same name. */
export function stampOf(path: string): unknown {
  const { size, mtimeMs } = statSync(path);
  if (!statSync(path).isDirectory()) return [size, mtimeMs];
  return readdirSync(path)
    .toSorted()
    .map((name) => {
      const file = statSync(join(path, name));
      return [name, file.size, file.mtimeMs];
    });
}

/** IO where the nearest folder above `path` that exists is none, or cannot be written to. */
function requireWritable(path: string): void {
  let above = dirname(resolve(path));
  while (!existsSync(above)) above = dirname(above);
  const refused = (got: string): never => {
    throw new RankGrpoError("IO", `Expected a folder that can be written to for ${path}, got ${above}, ${got}.`);
  };
  if (!statSync(above).isDirectory()) refused("which is a file");
  try {
    accessSync(above, constants.W_OK);
  } catch {
    refused("which cannot");
  }
}

/** Operating-system errors as typed ones; typed ones as they are. */
export function asIoError(error: unknown, path: string): Error {
  if (error instanceof Error && "code" in error && "syscall" in error)
    return new RankGrpoError("IO", `Expected access to ${path}, got ${error.message}.`, { cause: error });
  return error instanceof Error ? error : new Error(String(error));
}
