// Answers on disk, found again by what was asked: a run that is stopped, repeated or extended pays for nothing twice. One small file an
// answer, each renamed into place when whole, so a killed process leaves only whole answers.
import { createHash } from "node:crypto";
import { mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";

import { asIoError } from "../files.ts";

export class AnswerCache {
  readonly folder: string;
  private written = 0;
  constructor(folder: string) {
    this.folder = folder;
  }

  /** The key of a question: every field that can change the answer belongs into it. */
  static key(question: unknown): string {
    return createHash("sha256").update(JSON.stringify(question)).digest("hex");
  }

  private path(key: string): string {
    return join(this.folder, key.slice(0, 2), `${key}.json`);
  }

  /** The stored answer; undefined where there is none or its file cannot be read as JSON. */
  async get<T>(key: string): Promise<T | undefined> {
    try {
      return JSON.parse(await readFile(this.path(key), "utf8")) as T;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== undefined && code !== "ENOENT") throw asIoError(error, this.path(key));
      return undefined;
    }
  }

  async set(key: string, answer: unknown): Promise<void> {
    const path = this.path(key);
    const part = `${path}.${process.pid}-${this.written++}.part`;
    try {
      await mkdir(dirname(path), { recursive: true });
      await writeFile(part, JSON.stringify(answer));
      await rename(part, path);
    } catch (error) {
      throw asIoError(error, path);
    }
  }
}
