// A catalogue out of data: every movie that is a ground truth or stands in a demonstration, as Catalog.load reads it (title TAB year).
import { RankGrpoError } from "../errors.ts";
import { requireFreshFile, writeFileAtomic } from "../files.ts";
import { type Item, readList } from "../ranking/list.ts";
import { parseYear } from "../ranking/title.ts";
import { readJsonl } from "./jsonl.ts";

export interface CatalogOptions {
  /** Titles of demonstrations too. Default true, as the published catalogue seems to be made. */
  completions?: boolean;
  /** Least number of records that name an item. Default 1. */
  minCount?: number;
}

/** Items of JSON Lines files with the number of records that name each, in order of title and year. */
export async function collectCatalog(
  files: readonly string[],
  options: CatalogOptions = {},
): Promise<(Item & { count: number })[]> {
  const { completions = true, minCount = 1 } = options;
  const counts = new Map<string, Item & { count: number }>();
  const add = (title: string, year: number): void => {
    if (!title.trim() || /[\t\n\r]/.test(title)) return;
    const key = `${title}\t${year}`;
    const known = counts.get(key);
    if (known) known.count++;
    else counts.set(key, { title, year, count: 1 });
  };
  for (const file of files)
    for await (const row of readJsonl(file)) {
      const truths = row["groundtruth_with_release_year"];
      for (const pair of Array.isArray(truths) ? (truths as unknown[]) : []) {
        const [title, year] = Array.isArray(pair) ? (pair as unknown[]) : [];
        const parsed = parseYear(year);
        if (typeof title === "string" && parsed !== undefined) add(title, parsed);
      }
      const completion = row["completion"];
      if (!completions || completion === undefined) continue;
      const text =
        typeof completion === "string" ? completion : ((completion as { content?: string }[])[0]?.content ?? "");
      for (const item of readList(text)) if (item) add(item.title, item.year);
    }
  const items = [...counts.values()].filter((item) => item.count >= minCount);
  if (items.length === 0)
    throw new RankGrpoError("BAD_DATA", `Expected at least one title with a year in ${files.join(", ")}, got none.`);
  return items.sort((a, b) => (a.title < b.title ? -1 : a.title > b.title ? 1 : a.year - b.year));
}

export async function writeCatalog(path: string, items: readonly Item[], overwrite = false): Promise<void> {
  if (!overwrite) requireFreshFile(path, "Give another name or --overwrite.");
  await writeFileAtomic(path, items.map(({ title, year }) => `${title}\t${year}\n`).join(""));
}
