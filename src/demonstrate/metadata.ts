// What an item is about, for embeddings: keywords and a plot, given in a table or written by the teacher, as in the paper's appendix.

import { readJsonl } from "../data/jsonl.ts";
import type { Message } from "../data/sample.ts";
import { delimiterOf, isJsonl, tableRows } from "../data/stream.ts";
import { refuse } from "../errors.ts";
import { formatItem, type Item } from "../ranking/list.ts";
import { collapseBlanks, normalizeTitle, parseYear } from "../ranking/title.ts";
import type { Teacher } from "./teacher.ts";

export interface ItemMetadata {
  keywords: string;
  plot: string;
}

const keyOf = (item: Item): string => `${item.year}\t${normalizeTitle(item.title)}`;

/** Metadata by item; the same movie by its rule-bound name. */
export class MetadataTable {
  private readonly entries = new Map<string, ItemMetadata>();
  set(item: Item, metadata: ItemMetadata): void {
    this.entries.set(keyOf(item), metadata);
  }
  get(item: Item): ItemMetadata | undefined {
    return this.entries.get(keyOf(item));
  }
  get size(): number {
    return this.entries.size;
  }

  /** The text that is embedded: name, keywords, plot; the name alone where nothing is known. */
  text(item: Item): string {
    const known = this.get(item);
    return known ? `${formatItem(item)}\nKeywords: ${known.keywords}\nPlot: ${known.plot}` : formatItem(item);
  }

  /** From CSV, TSV or JSON Lines with the columns title, year, and keywords or plot. @throws BAD_DATA for rows without a title or year */
  static async load(path: string): Promise<MetadataTable> {
    const table = new MetadataTable();
    const add = (row: Record<string, unknown>, place: string): void => {
      const year = parseYear(row["year"]);
      if (typeof row["title"] !== "string" || year === undefined)
        refuse("BAD_DATA", "a title and a year", place, JSON.stringify(row).slice(0, 80));
      const text = (value: unknown): string =>
        Array.isArray(value) ? value.join(", ") : typeof value === "string" ? value : "";
      table.set({ title: row["title"], year }, { keywords: text(row["keywords"]), plot: text(row["plot"]) });
    };
    if (isJsonl(path)) {
      let line = 0;
      for await (const row of readJsonl(path)) add(row, `${path}, row ${++line}`);
    } else
      for await (const { line, fields } of tableRows(path, { delimiter: delimiterOf(path) }))
        add(fields, `${path}:${line}`);
    return table;
  }
}

export function metadataChat(item: Item): Message[] {
  return [
    {
      role: "user",
      content: [
        `Summarise what the movie ${formatItem(item)} is about, in this form:`,
        "",
        formatItem(item),
        "Keywords: genres, themes, mood and people, separated by commas, without numbers",
        "Plot: one paragraph",
        "",
        "If you do not know the movie, write what one of this name is most probably about. Write nothing else.",
      ].join("\n"),
    },
  ];
}

/** Keywords and plot of an answer; undefined where it has neither. */
export function readMetadata(text: string): ItemMetadata | undefined {
  const bare = text.replace(/[*_#`]+/g, "");
  const keywords = /keywords?\s*:\s*([\s\S]*?)(?=\n\s*plots?\s*:|$)/i.exec(bare)?.[1] ?? "";
  const plot = /plots?\s*:\s*([\s\S]*)$/i.exec(bare)?.[1] ?? "";
  const found = { keywords: collapseBlanks(keywords), plot: collapseBlanks(plot) };
  return found.keywords || found.plot ? found : undefined;
}

/** Asks the teacher about every item that the table lacks, and adds what it says. Returns the share of unreadable answers. */
export async function describeItems(
  items: readonly Item[],
  table: MetadataTable,
  teacher: Teacher,
  onProgress?: (done: number, total: number) => void,
): Promise<number> {
  const open = [...new Map(items.filter((item) => !table.get(item)).map((item) => [keyOf(item), item])).values()];
  if (open.length === 0) return 0;
  const answers = await teacher.ask(open.map(metadataChat), { maxTokens: 512, ...(onProgress && { onProgress }) });
  let unreadable = 0;
  answers.forEach(({ text }, i) => {
    const metadata = readMetadata(text);
    if (metadata) table.set(open[i]!, metadata);
    else unreadable++;
  });
  return unreadable / open.length;
}
