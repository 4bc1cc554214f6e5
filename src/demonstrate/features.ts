// Sparse embeddings that need no model: TF-IDF of texts, and co-occurrence of items in dialogues. Rows have length 1 (0 where nothing is
// known), so products are cosines.
import type { NativeSparse } from "../native.ts";

/** Rows of (column, value) pairs as compressed rows, each scaled to length 1. */
export function unitRows(rows: readonly ReadonlyMap<number, number>[]): NativeSparse {
  let total = 0;
  for (const row of rows) total += row.size;
  const sparse = {
    offsets: new Int32Array(rows.length + 1),
    columns: new Int32Array(total),
    values: new Float32Array(total),
  };
  let at = 0;
  rows.forEach((row, r) => {
    let squares = 0;
    for (const value of row.values()) squares += value * value;
    const scale = squares > 0 ? 1 / Math.sqrt(squares) : 0;
    for (const [column, value] of [...row].sort((a, b) => a[0] - b[0])) {
      sparse.columns[at] = column;
      sparse.values[at++] = value * scale;
    }
    sparse.offsets[r + 1] = at;
  });
  return sparse;
}

/** Lower-cased runs of letters, digits and apostrophes. */
export const wordsOf = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}']+/gu) ?? [];

/**
 * TF-IDF (1 + log tf) log((1 + n) / (1 + df)) of several lists of texts in one vocabulary. Document frequencies come from all of them;
 * words of only one text are left out, for they match nothing.
 */
export function tfidf(lists: readonly (readonly string[])[]): { width: number; rows: NativeSparse[] } {
  const counts = lists.map((texts) =>
    texts.map((text) => {
      const count = new Map<string, number>();
      for (const word of wordsOf(text)) count.set(word, (count.get(word) ?? 0) + 1);
      return count;
    }),
  );
  const frequency = new Map<string, number>();
  for (const list of counts)
    for (const count of list) for (const word of count.keys()) frequency.set(word, (frequency.get(word) ?? 0) + 1);
  const columns = new Map<string, number>();
  for (const [word, df] of frequency) if (df > 1) columns.set(word, columns.size);
  const documents = counts.reduce((sum, list) => sum + list.length, 0);
  const rows = counts.map((list) =>
    unitRows(
      list.map((count) => {
        const row = new Map<number, number>();
        for (const [word, tf] of count) {
          const column = columns.get(word);
          if (column === undefined) continue;
          row.set(column, (1 + Math.log(tf)) * Math.log((1 + documents) / (1 + frequency.get(word)!)));
        }
        return row;
      }),
    ),
  );
  return { width: Math.max(1, columns.size), rows };
}

/**
 * Items as the dialogues that name them: the product of two items is c(u, v) / sqrt((c(u) + shrink) (c(v) + shrink)), the cosine of their
 * occurrences, shrunk where they are few. A context is the mean of its items' directions.
 */
export function cooccurrence(
  dialogues: readonly ReadonlySet<number>[],
  items: number,
  contexts: readonly Iterable<number>[],
  shrink: number,
): { width: number; items: NativeSparse; contexts: NativeSparse } {
  const occurrences: number[][] = Array.from({ length: items }, () => []);
  dialogues.forEach((named, dialogue) => {
    for (const item of named) occurrences[item]!.push(dialogue);
  });
  const total = occurrences.reduce((sum, list) => sum + list.length, 0);
  const sparse = {
    offsets: new Int32Array(items + 1),
    columns: new Int32Array(total),
    values: new Float32Array(total),
  };
  let at = 0;
  occurrences.forEach((list, item) => {
    for (const dialogue of list) {
      sparse.columns[at] = dialogue;
      sparse.values[at++] = 1 / Math.sqrt(list.length + shrink);
    }
    sparse.offsets[item + 1] = at;
  });
  const rows = contexts.map((named) => {
    const row = new Map<number, number>();
    for (const item of named)
      for (const dialogue of occurrences[item]!)
        row.set(dialogue, (row.get(dialogue) ?? 0) + 1 / Math.sqrt(occurrences[item]!.length + shrink));
    return row;
  });
  return { width: Math.max(1, dialogues.length), items: sparse, contexts: unitRows(rows) };
}
