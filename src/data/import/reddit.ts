// Reddit-v2 as the paper's authors and their followers share it: a Hugging Face folder, a JSON file ({"samples": [...]} or a list), or
// JSON Lines, with the columns of the unified schema. Each responding user is a sample of its own, so contexts repeat.
import { statSync } from "node:fs";
import { isJsonl, jsonElements } from "../stream.ts";
import { recordOf } from "./columns.ts";
import { huggingface } from "./huggingface.ts";
import type { Importer } from "./importer.ts";
import { trl } from "./trl.ts";

export const reddit: Importer = {
  format: "reddit-v2",
  help: "Reddit-v2 of the paper: a Hugging Face folder, JSON or JSON Lines",
  async *read(path, bad, options) {
    if (statSync(path).isDirectory()) {
      let number = 0;
      for await (const record of huggingface.read(path, bad, options))
        yield { ...record, id: `reddit-v2:${number++}`, source: "reddit_v2" };
      return;
    }
    if (isJsonl(path)) {
      for await (const record of trl.read(path, bad, options)) yield { ...record, source: "reddit_v2" };
      return;
    }
    for await (const element of jsonElements(path)) {
      if ("error" in element) {
        bad.add(path, element.number, element.error);
        continue;
      }
      try {
        if (!element.value || typeof element.value !== "object") throw new Error("an element that is no object");
        const row = element.value as Record<string, unknown>;
        const id =
          typeof row["sample_id"] === "string" ? `reddit-v2-${row["sample_id"]}` : `reddit-v2:${element.number - 1}`;
        yield recordOf(row, {}, options.years, id, "reddit_v2", false);
      } catch (error) {
        bad.add(path, element.number, (error as Error).message);
      }
    }
  },
};
