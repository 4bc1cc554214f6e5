// A run folder while the run writes it: new rows as they come, and whether it still goes on.
import { existsSync } from "node:fs";
import { open, readFile } from "node:fs/promises";
import { join } from "node:path";

import { refuse } from "../errors.ts";
import { type RunStatus, runnerOf } from "../training/run.ts";
import { type Json, type Row, toRow } from "./runs.ts";

export class RunTail {
  readonly folder: string;
  /** All rows so far, by ascending step. */
  readonly rows: Row[] = [];
  status: RunStatus | undefined;
  #offset = 0;
  #file = -1;

  /** @throws IO where there is no run folder */
  constructor(folder: string) {
    if (!existsSync(join(folder, "config.yaml")))
      refuse("IO", "a run folder (with config.yaml)", "RUN", folder, "A run makes it when it starts.");
    this.folder = folder;
  }

  /** Reads what has come since the last call; returns how many rows are new. A line that is not whole yet waits for its end. */
  async read(): Promise<number> {
    const status = await readFile(join(this.folder, "status.json"), "utf8").catch(() => undefined);
    if (status !== undefined) this.status = JSON.parse(status) as RunStatus;
    const file = await open(join(this.folder, "metrics.jsonl")).catch(() => undefined);
    if (!file) return 0;
    try {
      const found = await file.stat();
      // a resumed run cuts its log back: another file under the name
      if (found.ino !== this.#file || found.size < this.#offset) {
        this.#offset = 0;
        this.rows.length = 0;
        this.#file = found.ino;
      }
      const bytes = Buffer.alloc(Math.max(0, found.size - this.#offset));
      await file.read(bytes, 0, bytes.length, this.#offset);
      const whole = bytes.lastIndexOf(10) + 1;
      this.#offset += whole;
      const lines = bytes
        .toString("utf8", 0, whole)
        .split("\n")
        .filter((line) => line.trim() !== "");
      for (const line of lines) this.rows.push(toRow(JSON.parse(line) as Json));
      return lines.length;
    } finally {
      await file.close();
    }
  }

  /** "gone": it says that it runs, but its process is no more (told only on its own machine). */
  get state(): RunStatus["state"] | "gone" {
    if (!this.status) return existsSync(join(this.folder, "final")) ? "finished" : "running";
    return runnerOf(this.status) === "gone" ? "gone" : this.status.state;
  }
}
