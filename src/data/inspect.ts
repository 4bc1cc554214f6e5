// `data inspect`: what is in a file, and what in it makes rewards silently zero. Streamed; memory holds lengths and keys.
import { existsSync } from "node:fs";

import { RankGrpoError } from "../errors.ts";
import type { Catalog } from "../ranking/catalog.ts";
import { compact, type Item, readList } from "../ranking/list.ts";
import { hits, repeats } from "../ranking/rewards.ts";
import { isNearYear, normalizeTitle, parseYear } from "../ranking/title.ts";
import { encodeCompletion, encodePrompt } from "../text/encode.ts";
import type { Tokenizer } from "../text/types.ts";
import { readJsonl } from "./jsonl.ts";
import { recordDialogue } from "./record.ts";
import type { Content, Message, Sample } from "./sample.ts";
import { toSample } from "./samples.ts";
import { promptKey } from "./split.ts";

/** Numbers in ascending order, summed up. */
export interface Spread {
  count: number;
  min: number;
  median: number;
  p95: number;
  max: number;
  mean: number;
}

export interface Histogram {
  /** Lower ends of equally wide bins. */
  from: number[];
  counts: number[];
}

export interface Inspection {
  rows: number;
  dialogues: number;
  sources: Record<string, number>;
  /** Rows that have each column. */
  columns: Record<string, number>;
  groundTruths: {
    total: number;
    perRow: Spread;
    rowsWithout: number;
    years: { text: number; number: number; unreadable: number };
    alreadySeen: number;
    /** Of those with a readable year; absent without a catalogue. */
    inCatalog?: { exact: number; otherCase: number; otherYear: number; missing: number };
  };
  seenTitles: Spread;
  completions?: {
    rows: number;
    titles: Spread;
    unreadableLines: number;
    repeats: number;
    seen: number;
    inCatalog?: number;
    /** Hits of demonstrations against their own rows' ground truth, a row. 0 for demonstrations that never hit. */
    hitsPerList?: number;
  };
  tokens?: { prompt: Spread; promptHistogram: Histogram; completion?: Spread; total: Spread };
  duplicates: { ids: number; prompts: number };
  /** Dialogues or prompts that also stand in another file, by file. */
  leaks: Record<string, { dialogues: number; prompts: number }>;
  warnings: string[];
  /** The first row as the model reads it. */
  sample: string;
}

export interface InspectOptions {
  catalog?: Catalog;
  tokenizer?: Tokenizer;
  /** Positions that the model has; longer rows are warned of. */
  maxTokens?: number;
  /** Other splits, checked for the same dialogues and prompts. */
  against?: readonly string[];
  /** N: titles that a list should have. Default 20. */
  listLength?: number;
}

export function spreadOf(values: readonly number[]): Spread {
  if (values.length === 0) return { count: 0, min: 0, median: 0, p95: 0, max: 0, mean: 0 };
  const sorted = Float64Array.from(values).sort();
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)]!;
  const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  return { count: sorted.length, min: sorted[0]!, median: at(0.5), p95: at(0.95), max: sorted.at(-1)!, mean };
}

/** Ten bins of a round width. */
export function histogramOf(values: readonly number[]): Histogram {
  const top = values.reduce((a, b) => Math.max(a, b), 1);
  const rough = top / 10;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const width = Math.max(1, ([1, 2, 5, 10].find((m) => m * unit >= rough) ?? 10) * unit);
  const counts = new Array<number>(Math.floor(top / width) + 1).fill(0);
  for (const value of values) counts[Math.floor(value / width)]!++;
  return { from: counts.map((_, i) => i * width), counts };
}

const textOf = (content: Content): string =>
  content instanceof Int32Array
    ? `[${content.length} token ids]`
    : typeof content === "string"
      ? content
      : content.map((m) => m.content).join("\n");

/** Dialogue keys and prompt keys of a file. */
async function keysOf(file: string): Promise<{ dialogues: Set<string>; prompts: Set<string> }> {
  if (!existsSync(file))
    throw new RankGrpoError("IO", `Expected a file for against, got ${file}, which does not exist.`);
  const keys = { dialogues: new Set<string>(), prompts: new Set<string>() };
  for await (const row of readJsonl(file)) {
    if (row["id"] !== undefined || row["dialogue"] !== undefined) keys.dialogues.add(recordDialogue(row));
    const prompt = promptKey(row);
    if (prompt !== undefined) keys.prompts.add(prompt);
  }
  return keys;
}

const percent = (part: number, whole: number): string =>
  whole === 0 ? "0 %" : `${((100 * part) / whole).toFixed(1)} %`;

/** Reads a JSON Lines file of samples and says what it holds. @throws BAD_DATA for rows that are no samples */
export async function inspectData(input: string, options: InspectOptions = {}): Promise<Inspection> {
  const { catalog, tokenizer, maxTokens, against = [], listLength = 20 } = options;
  const titles = catalog && titleIndex(catalog);
  const others = new Map<string, Awaited<ReturnType<typeof keysOf>>>();
  for (const file of against) others.set(file, await keysOf(file));

  const sources: Record<string, number> = {};
  const columns: Record<string, number> = {};
  const dialogues = new Set<string>();
  const ids = new Set<string>();
  const prompts = new Set<string>();
  const duplicates = { ids: 0, prompts: 0 };
  const leaks: Inspection["leaks"] = {};
  const leaked = new Map(against.map((file) => [file, { dialogues: new Set<string>(), prompts: new Set<string>() }]));
  const truthsPerRow: number[] = [];
  const seenPerRow: number[] = [];
  const listTitles: number[] = [];
  const promptTokens: number[] = [];
  const completionTokens: number[] = [];
  const totalTokens: number[] = [];
  const years = { text: 0, number: 0, unreadable: 0 };
  const membership = { exact: 0, otherCase: 0, otherYear: 0, missing: 0 };
  let [truths, rowsWithout, alreadySeen] = [0, 0, 0];
  const lists = { unreadable: 0, repeats: 0, seen: 0, inside: 0, hits: 0 };
  let sample = "";
  let index = 0;

  for await (const row of readJsonl(input, (row) => toSample(row, index++))) {
    const record = row.columns;
    const source = typeof record["source"] === "string" ? record["source"] : "(none)";
    sources[source] = (sources[source] ?? 0) + 1;
    for (const name of Object.keys(record)) columns[name] = (columns[name] ?? 0) + 1;
    const dialogue = recordDialogue({ ...record, id: row.id });
    dialogues.add(dialogue);
    if (ids.has(row.id)) duplicates.ids++;
    ids.add(row.id);
    const key = promptKey(record)!; // a sample has a prompt
    if (prompts.has(key)) duplicates.prompts++;
    prompts.add(key);
    for (const [file, keys] of others) {
      const named = record["id"] !== undefined || record["dialogue"] !== undefined;
      if (named && keys.dialogues.has(dialogue)) leaked.get(file)!.dialogues.add(dialogue);
      if (keys.prompts.has(key)) leaked.get(file)!.prompts.add(key);
    }

    const seenColumn = record["seen_titles"];
    const seen = new Set(
      Array.isArray(seenColumn) ? seenColumn.filter((title): title is string => typeof title === "string") : [],
    );
    seenPerRow.push(seen.size);
    const column = record["groundtruth_with_release_year"];
    const known: Item[] = [];
    let entries = 0;
    for (const pair of Array.isArray(column) ? (column as unknown[]) : []) {
      const [title, year] = Array.isArray(pair) ? (pair as unknown[]) : [];
      if (typeof title !== "string") continue;
      entries++;
      const parsed = parseYear(year);
      if (parsed === undefined) years.unreadable++;
      else {
        years[typeof year === "number" ? "number" : "text"]++;
        known.push({ title, year: parsed });
        if (titles) membership[titles({ title, year: parsed })]++;
      }
      if (seen.has(title)) alreadySeen++;
    }
    truths += entries;
    truthsPerRow.push(entries);
    if (known.length === 0) rowsWithout++;

    if (row.completion !== undefined && !(row.completion instanceof Int32Array)) {
      const slots = readList(textOf(row.completion));
      const items = compact(slots);
      listTitles.push(items.length);
      lists.unreadable += slots.length - items.length;
      lists.repeats += repeats(slots).reduce((sum, repeat) => sum + repeat, 0);
      for (const item of items) {
        if (seen.has(item.title)) lists.seen++;
        if (catalog?.has(item)) lists.inside++;
      }
      if (catalog) lists.hits += hits(slots, known, seen, catalog, listLength).reduce((sum, hit) => sum + hit, 0);
    }
    if (tokenizer) {
      const prompt = encodePrompt(tokenizer, row.prompt).length;
      promptTokens.push(prompt);
      const completion =
        row.completion === undefined ? 0 : encodeCompletion(tokenizer, row.completion, tokenizer.eosId).length;
      if (row.completion !== undefined) completionTokens.push(completion);
      totalTokens.push(prompt + completion);
    }
    if (sample === "") sample = rendered(row, tokenizer);
  }
  const rows = truthsPerRow.length;
  if (rows === 0) throw new RankGrpoError("BAD_DATA", `Expected at least one sample in ${input}, got none.`);
  for (const [file, keys] of leaked) leaks[file] = { dialogues: keys.dialogues.size, prompts: keys.prompts.size };

  const items = listTitles.reduce((sum, count) => sum + count, 0);
  const inspection: Inspection = {
    rows,
    dialogues: dialogues.size,
    sources,
    columns,
    groundTruths: {
      total: truths,
      perRow: spreadOf(truthsPerRow),
      rowsWithout,
      years,
      alreadySeen,
      ...(catalog && { inCatalog: membership }),
    },
    seenTitles: spreadOf(seenPerRow),
    ...(listTitles.length > 0 && {
      completions: {
        rows: listTitles.length,
        titles: spreadOf(listTitles),
        unreadableLines: lists.unreadable,
        repeats: lists.repeats,
        seen: lists.seen,
        ...(catalog && {
          inCatalog: items === 0 ? 0 : lists.inside / items,
          hitsPerList: lists.hits / listTitles.length,
        }),
      },
    }),
    ...(tokenizer && {
      tokens: {
        prompt: spreadOf(promptTokens),
        promptHistogram: histogramOf(promptTokens),
        ...(completionTokens.length > 0 && { completion: spreadOf(completionTokens) }),
        total: spreadOf(totalTokens),
      },
    }),
    duplicates,
    leaks,
    warnings: [],
    sample,
  };
  inspection.warnings = warningsOf(inspection, {
    catalog,
    maxTokens,
    listLength,
    long: maxTokens === undefined ? 0 : totalTokens.filter((n) => n > maxTokens).length,
  });
  return inspection;
}

/** How a movie stands to a catalogue: the reward asks for the exact pair. */
function titleIndex(catalog: Catalog): (item: Item) => "exact" | "otherCase" | "otherYear" | "missing" {
  const years = new Map<string, number[]>();
  for (const { title, year } of catalog.items) {
    const key = normalizeTitle(title);
    const known = years.get(key);
    if (known) known.push(year);
    else years.set(key, [year]);
  }
  return (item) => {
    if (catalog.has(item)) return "exact";
    const known = years.get(normalizeTitle(item.title));
    if (!known) return "missing";
    if (known.includes(item.year)) return "otherCase";
    return known.some((year) => isNearYear(year, item.year)) ? "otherYear" : "missing";
  };
}

function rendered(row: Sample, tokenizer: Tokenizer | undefined): string {
  const completion = row.completion === undefined ? "" : textOf(row.completion);
  if (row.prompt instanceof Int32Array)
    return tokenizer ? tokenizer.decode(row.prompt, { keepSpecial: true }) + completion : textOf(row.prompt);
  if (typeof row.prompt === "string") return row.prompt + completion;
  const messages = row.prompt as readonly Message[];
  if (tokenizer?.chatTemplate !== undefined)
    return tokenizer.renderChat(messages, { addGenerationPrompt: true }) + completion;
  const all = row.completion === undefined ? messages : [...messages, { role: "assistant", content: completion }];
  return all.map((message) => `[${message.role}]\n${message.content}`).join("\n");
}

function warningsOf(
  found: Inspection,
  {
    catalog,
    maxTokens,
    listLength,
    long,
  }: { catalog: Catalog | undefined; maxTokens: number | undefined; listLength: number; long: number },
): string[] {
  const { rows, groundTruths: truths, completions: lists, duplicates } = found;
  const warnings: string[] = [];
  const warn = (condition: boolean, text: string): void => {
    if (condition) warnings.push(text);
  };
  warn(
    found.columns["groundtruth_with_release_year"] === undefined,
    "No row has groundtruth_with_release_year: every reward is 0. Map it at import.",
  );
  warn(
    truths.rowsWithout > 0 && found.columns["groundtruth_with_release_year"] !== undefined,
    `${truths.rowsWithout} rows (${percent(truths.rowsWithout, rows)}) have no ground truth with a readable year: their rewards are 0.`,
  );
  warn(
    truths.years.unreadable > 0,
    `${truths.years.unreadable} ground truths have a year that is no whole number: they can never be hit.`,
  );
  warn(
    truths.years.text > 0 && truths.years.number > 0,
    `Years are text in ${truths.years.text} ground truths and numbers in ${truths.years.number}: both are read here, the published code needs one.`,
  );
  warn(
    truths.alreadySeen > 0,
    `${truths.alreadySeen} ground truths are named in their own seen_titles: seen titles earn nothing.`,
  );
  warn(
    found.columns["seen_titles"] === undefined,
    "No row has seen_titles: titles that the user named count as recommendations.",
  );
  const inside = truths.inCatalog;
  if (inside) {
    const known = inside.exact + inside.otherCase + inside.otherYear + inside.missing;
    warn(
      known > 0 && inside.exact === 0,
      "No ground truth is in the catalogue: every reward is 0. Is it the catalogue of these data?",
    );
    warn(
      inside.exact > 0 && inside.missing > 0,
      `${inside.missing} ground truths (${percent(inside.missing, known)}) are not in the catalogue: they can never be hit.`,
    );
    warn(
      inside.otherCase > 0,
      `${inside.otherCase} ground truths are in the catalogue with other capitals or blanks: a list must spell the title as the catalogue does.`,
    );
    warn(
      inside.otherYear > 0,
      `${inside.otherYear} ground truths are in the catalogue with a year within 2: a list must name the catalogue's year.`,
    );
  }
  const odd = catalog?.items.filter(({ year }) => year < 1870 || year > 2100) ?? [];
  warn(
    odd.length > 0,
    `The catalogue has ${odd.length} years outside 1870 to 2100, such as ${odd[0]?.title} (${odd[0]?.year}): lists are read for four digits.`,
  );
  warn((catalog?.skipped ?? 0) > 0, `${catalog?.skipped} catalogue entries have an empty title and were left out.`);
  if (lists) {
    warn(
      lists.titles.min < listLength,
      `Demonstrations have as few as ${lists.titles.min} readable titles; ${listLength} are expected.`,
    );
    warn(
      lists.titles.max > listLength,
      `Demonstrations have up to ${lists.titles.max} titles; those beyond ${listLength} are penalised.`,
    );
    warn(lists.unreadableLines > 0, `${lists.unreadableLines} lines of demonstrations are no "Title (Year)".`);
    warn(lists.repeats > 0, `${lists.repeats} titles of demonstrations repeat an earlier one of their list.`);
    warn(lists.seen > 0, `${lists.seen} titles of demonstrations are already seen: they earn nothing.`);
    warn(
      lists.inCatalog !== undefined && lists.inCatalog < 1,
      `${percent(1 - (lists.inCatalog ?? 1), 1)} of the demonstrations' titles are not in the catalogue.`,
    );
    warn(
      lists.hitsPerList === 0,
      "No demonstration hits a ground truth: check years and titles before training, rewards may be 0 throughout.",
    );
    warn(lists.rows < rows, `${rows - lists.rows} rows have no completion: SFT cannot use them.`);
  }
  warn(long > 0, `${long} rows are longer than ${maxTokens} tokens: they would be cut.`);
  warn(duplicates.ids > 0, `${duplicates.ids} ids occur again: lists are matched to rows by id.`);
  warn(
    duplicates.prompts > 0,
    `${duplicates.prompts} prompts occur again (in Reddit-v2 one for every user who answered): keep equal prompts on one side of a split.`,
  );
  for (const [file, { dialogues, prompts }] of Object.entries(found.leaks))
    warn(
      dialogues > 0 || prompts > 0,
      `${dialogues} dialogues and ${prompts} prompts also stand in ${file}: evaluation on it is not held out.`,
    );
  return warnings;
}
