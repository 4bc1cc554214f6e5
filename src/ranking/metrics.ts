// TEMPORARY until the ranking room lands
import type { Catalog } from "./catalog.ts";
import type { Item, Slot } from "./list.ts";
import { repeats } from "./rewards.ts";
export interface ListRow {
  id: string;
  slots: Slot[];
  truths: Item[];
  seen: ReadonlySet<string>;
}
export interface MetricOptions {
  ideal?: "standard" | "filtered";
}
export function measureLists(rows: ListRow[], catalog: Catalog | undefined, _o: MetricOptions): Record<string, number> {
  let r = 0,
    n = 0,
    d = 0;
  for (const row of rows) {
    const list = row.slots
      .filter((s): s is Item => s !== null && !row.seen.has(s.title) && (catalog?.has(s) ?? true))
      .slice(0, 10);
    const used = new Set<number>();
    let dcg = 0;
    for (const t of row.truths) {
      const at = list.findIndex((x) => x.title === t.title && Math.abs(x.year - t.year) <= 2);
      if (at >= 0 && !used.has(at)) {
        used.add(at);
        dcg += 1 / Math.log2(at + 2);
      }
    }
    let ideal = 0;
    for (let i = 0; i < Math.min(10, row.truths.length); i++) ideal += 1 / Math.log2(i + 2);
    r += used.size / row.truths.length;
    n += dcg / ideal;
    d += repeats(row.slots).reduce((a, b) => a + b, 0);
  }
  return { "recall@10": r / rows.length, "ndcg@10": n / rows.length, duplicates: d / rows.length };
}
