// TRL's JSON Lines: prompt and completion as text or as messages, or `messages` alone; further columns are kept for reward functions.
import { basename } from "node:path";
import { textLines } from "../stream.ts";
import { recordOf, requireColumns } from "./columns.ts";
import type { Importer } from "./importer.ts";

export const trl: Importer = {
  format: "trl",
  help: "TRL's JSON Lines: prompt and completion (text or messages), or messages; other columns are kept",
  async *read(path, bad, { columns, years }) {
    const name = basename(path).replace(/\.jsonl?(\.gz|\.zst)?$/, "");
    const seen = new Set<string>();
    for await (const { line, text } of textLines(path)) {
      if (!text.trim()) continue;
      try {
        const row: unknown = JSON.parse(text);
        if (!row || typeof row !== "object" || Array.isArray(row)) throw new Error("a line that is no object");
        for (const column of Object.keys(row)) seen.add(column);
        yield recordOf(row as Record<string, unknown>, columns, years, `${name}:${line}`, "trl");
      } catch (error) {
        bad.add(path, line, (error as Error).message);
      }
    }
    requireColumns(columns, seen, path);
  },
};
