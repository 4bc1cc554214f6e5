// Any table with a prompt column: CSV, TSV or JSON Lines, the columns named by the caller (prompt=question,groundtruth=answers,...).

import { recommendationPrompt } from "../record.ts";
import { delimiterOf, isJsonl, tableRows } from "../stream.ts";
import { recordOf, requireColumns } from "./columns.ts";
import type { Importer } from "./importer.ts";
import { trl } from "./trl.ts";

export const generic: Importer = {
  format: "generic",
  help: "CSV, TSV or JSON Lines with a column mapping (--columns prompt=question,groundtruth=answers,seen=known,id=key)",
  async *read(path, bad, options) {
    const wrap = (content: string): string =>
      options.instruct
        ? recommendationPrompt([{ speaker: "USER", text: content.replace(/\s+/g, " ").trim() }])[0]!.content
        : content;
    if (isJsonl(path)) {
      for await (const record of trl.read(path, bad, options)) {
        const prompt = record.prompt.map((message) =>
          message.role === "user" ? { ...message, content: wrap(message.content) } : message,
        );
        yield { ...record, source: "generic", prompt };
      }
      return;
    }
    const seen = new Set<string>();
    for await (const { line, fields, excess } of tableRows(path, { delimiter: delimiterOf(path) })) {
      for (const column of Object.keys(fields)) seen.add(column);
      try {
        if (excess !== 0) throw new Error(excess > 0 ? "too many fields" : "too few fields");
        const record = recordOf(fields, options.columns, options.years, `row:${line}`, "generic");
        yield { ...record, prompt: record.prompt.map((message) => ({ ...message, content: wrap(message.content) })) };
      } catch (error) {
        bad.add(path, line, (error as Error).message);
      }
    }
    requireColumns(options.columns, seen, path);
  },
};
