// Catalog-constrained lists: which tokens may follow, so that a list holds items of the catalog only, none twice, none excluded. The
// distribution over the allowed tokens is what is sampled, scored and trained.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";

import type { Sample } from "../data/sample.ts";
import { RankGrpoError, refuse } from "../errors.ts";
import { addon, type NativeCatalog, type NativeLines, type NativeListRules } from "../native.ts";
import { LineEncoder } from "../text/lines.ts";
import type { Tokenizer } from "../text/types.ts";
import { Catalog } from "./catalog.ts";
import { formatItem, type Item, readList } from "./list.ts";
import { seenTitles } from "./rewards.ts";
import { parseYear } from "./title.ts";

export interface ConstraintOptions {
  /** Items of a list: a number, or the least and the most. */
  length: number | readonly [least: number, most: number];
  /** Default ["seen", "repeated"]: titles that the dialogue names (`seen_titles`), and items that the list holds already. */
  exclude?: readonly ("seen" | "repeated")[];
  /** Column of a sample with further [title, year] pairs or titles that its lists may not hold (out of stock, another region). */
  excludeColumn?: string;
  /**
   * Titles that are not read back from their line (a mark at the end, a year of three digits): "error" (default) names the first,
   * "skip" leaves them out of every list.
   */
  unreadable?: "error" | "skip";
  /** Text of a line, default `Title (Year)`. An own one is not held against the reading of lists, which rewards and metrics stand on. */
  line?: (item: Item) => string;
  /** File where the tokenised catalog is kept between runs; made where missing. Default: none. */
  cache?: string;
}

/** What the policy needs to keep one batch of rows inside the catalog. */
export interface Constraint {
  readonly native: NativeCatalog;
  readonly rules: NativeListRules;
  /** Items that each row may not hold. */
  readonly excluded: readonly (readonly number[])[];
}

/** The catalog as one tokenizer writes it, and the rules of its lists. */
export class CatalogConstraint {
  readonly #native: NativeCatalog;
  readonly #catalog: Catalog;
  readonly #rules: Required<NativeListRules>;
  readonly #options: ConstraintOptions;
  readonly #byTitle: ReadonlyMap<string, readonly number[]>;
  /** Token ids of an item's line with the newline that follows it. */
  readonly lineOf: (item: number) => readonly number[];

  private constructor(
    native: NativeCatalog,
    catalog: Catalog,
    options: ConstraintOptions,
    lineOf: (item: number) => readonly number[],
  ) {
    this.#native = native;
    this.#catalog = catalog;
    this.lineOf = lineOf;
    this.#options = options;
    const { length, exclude = ["seen", "repeated"] } = options;
    const [least, most] = typeof length === "number" ? [length, length] : length;
    for (const [name, value] of [
      ["least", least],
      ["most", most],
    ] as const)
      if (!Number.isInteger(value) || value < 1)
        refuse("INVALID_ARGUMENT", "a whole number from 1", `list length (${name})`, value);
    if (most < least) refuse("INVALID_ARGUMENT", "least <= most", "list length", `${least} to ${most}`);
    this.#rules = { least, most, repeats: !exclude.includes("repeated") };
    const byTitle = new Map<string, number[]>();
    for (const [i, { title }] of catalog.items.entries()) {
      const same = byTitle.get(title);
      if (same) same.push(i);
      else byTitle.set(title, [i]);
    }
    this.#byTitle = byTitle;
  }

  /**
   * Tokenises every line, checks that it reads back, and builds the tries (or opens them from the cache).
   * @param stopId the token that ends a list
   * @throws BAD_DATA for a title that does not read back; INVALID_ARGUMENT naming both where two titles share a tokenisation;
   * BAD_CHECKPOINT for a cache that is damaged or belongs to another catalog or tokenizer
   */
  static async create(
    all: Catalog,
    tokenizer: Tokenizer,
    stopId: number,
    options: ConstraintOptions,
  ): Promise<CatalogConstraint> {
    const line = options.line ?? formatItem;
    const readable = options.line === undefined;
    const catalog =
      readable && options.unreadable === "skip"
        ? Catalog.from(all.items.filter((item) => readsBack(item, line(item))))
        : all;
    if (catalog.size === 0) refuse("BAD_DATA", "at least one title", "the catalog", "none");
    const texts = catalog.items.map(line);
    const hash = createHash("sha256").update(`${tokenizer.fingerprint}\n${stopId}\n${readable}\n`);
    for (const text of texts) hash.update(`${text}\n`);
    const key = hash.digest("hex");
    const encoder = new LineEncoder(tokenizer, stopId);
    const lineOf = (item: number): readonly number[] => encoder.tokens(texts[item]!).line;
    if (options.cache !== undefined && existsSync(options.cache))
      return new CatalogConstraint(await addon.NativeCatalog.open(options.cache, key), catalog, options, lineOf);
    if (readable)
      for (const [i, item] of catalog.items.entries())
        if (!readsBack(item, texts[i]!))
          refuse(
            "BAD_DATA",
            "a title that is read back from its line",
            `catalog item ${i + 1}`,
            texts[i],
            'Remove it from the catalog, or set unreadable: "skip".',
          );
    const native = await addon.NativeCatalog.build({ names: texts, ...tokenise(texts, encoder) });
    if (options.cache !== undefined) await native.save(options.cache, key);
    return new CatalogConstraint(native, catalog, options, lineOf);
  }

  /** The items that lists are made of, by the numbers that exclusions and recommendations use. */
  get items(): readonly Item[] {
    return this.#catalog.items;
  }

  /** Length and repeats of lists. */
  get rules(): { readonly least: number; readonly most: number; readonly repeats: boolean } {
    return this.#rules;
  }

  /** Tokens of the longest line: `most` times this bounds a list. */
  get longestLine(): number {
    return this.#native.describe().longestLine;
  }

  /** Bytes of the tokenised catalog, in memory or mapped. */
  get bytes(): number {
    return this.#native.describe().bytes;
  }

  /** Tokens of all lines, newlines included. */
  get tokens(): number {
    return this.#native.describe().tokens;
  }

  /** Constraint of one row for each sample; a group's rows share their sample's. */
  forSamples(samples: readonly Sample[]): Constraint {
    return { native: this.#native, rules: this.#rules, excluded: samples.map((sample) => this.#excluded(sample)) };
  }

  /**
   * Asks of all samples, before work starts, what `forSamples` would ask of each in its turn.
   * @throws BAD_DATA where a sample's columns cannot be read or leave too few items, or where `excludeColumn` is no column of any
   */
  check(samples: readonly Sample[]): void {
    const { excludeColumn } = this.#options;
    if (excludeColumn !== undefined && samples.every(({ columns }) => columns[excludeColumn] === undefined))
      refuse("BAD_DATA", "a column that some sample has", "excludeColumn", excludeColumn);
    for (const sample of samples) this.#excluded(sample);
  }

  /**
   * Whether this list could have been drawn for a sample: the lines of items of the catalog, none excluded, none twice where that is so, as many as
   * asked for.
   */
  allows(sample: Sample, text: string): boolean {
    const items = readList(text).map((slot) => (slot === null ? -1 : this.#catalog.indexOf(slot)));
    const excluded = new Set(this.#excluded(sample));
    const { least, most, repeats } = this.#rules;
    return (
      items.length >= least &&
      items.length <= most &&
      items.every((item) => item >= 0 && !excluded.has(item)) &&
      (repeats || new Set(items).size === items.length) &&
      this.textOf(items) === text
    );
  }

  /** A list of these items as text. */
  textOf(items: readonly number[]): string {
    const line = this.#options.line ?? formatItem;
    return items.map((item) => line(this.#catalog.items[item]!)).join("\n");
  }

  /** Constraint of one row that may not hold these items. */
  excluding(items: readonly number[]): Constraint {
    return { native: this.#native, rules: this.#rules, excluded: [items] };
  }

  #excluded(sample: Sample): number[] {
    const { exclude = ["seen", "repeated"], excludeColumn } = this.#options;
    const items = new Set<number>();
    if (exclude.includes("seen"))
      for (const title of seenTitles(sample)) for (const item of this.#byTitle.get(title) ?? []) items.add(item);
    if (excludeColumn !== undefined) {
      const column = sample.columns[excludeColumn] ?? [];
      if (!Array.isArray(column))
        refuse(
          "BAD_DATA",
          "a list of titles or [title, year] pairs",
          `${excludeColumn} of sample ${sample.id}`,
          column,
        );
      for (const entry of column as unknown[]) {
        const [title, given] = Array.isArray(entry) ? (entry as unknown[]) : [];
        const year = parseYear(given);
        if (typeof entry === "string") for (const item of this.#byTitle.get(entry) ?? []) items.add(item);
        else if (typeof title === "string" && year !== undefined) items.add(this.#catalog.indexOf({ title, year }));
        else refuse("BAD_DATA", "a title or [title, year]", `${excludeColumn} of sample ${sample.id}`, entry);
      }
      items.delete(-1);
    }
    const least = this.#rules.repeats ? 1 : this.#rules.least;
    if (this.#catalog.size - items.size < least)
      throw new RankGrpoError(
        "BAD_DATA",
        `Expected at least ${least} items after exclusions for sample ${sample.id}, got ${this.#catalog.size - items.size}. Exclude less, or ask for a shorter list.`,
      );
    return [...items].sort((a, b) => a - b);
  }
}

function readsBack(item: Item, text: string): boolean {
  const [slot, ...others] = readList(text);
  return others.length === 0 && slot?.title === item.title && slot.year === item.year;
}

function tokenise(texts: readonly string[], encoder: LineEncoder): NativeLines {
  const line = new RaggedIds(texts.length);
  const last = new RaggedIds(texts.length);
  for (const text of texts) {
    const tokens = encoder.tokens(text);
    line.push(tokens.line);
    last.push(tokens.last);
  }
  return { lineOffsets: line.offsets, lineTokens: line.ids, lastOffsets: last.offsets, lastTokens: last.ids };
}

/** Rows of ids in one array that grows: a million lines are no JavaScript arrays. */
class RaggedIds {
  readonly offsets: Int32Array;
  #ids = new Int32Array(1024);
  #rows = 0;

  constructor(rows: number) {
    this.offsets = new Int32Array(rows + 1);
  }

  push(row: readonly number[]): void {
    const begin = this.offsets[this.#rows]!;
    const end = begin + row.length;
    if (end > this.#ids.length) {
      const wider = new Int32Array(2 * end);
      wider.set(this.#ids);
      this.#ids = wider;
    }
    this.#ids.set(row, begin);
    this.offsets[++this.#rows] = end;
  }

  get ids(): Int32Array {
    return this.#ids.subarray(0, this.offsets[this.#rows]!);
  }
}
