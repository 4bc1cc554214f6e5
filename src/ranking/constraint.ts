// Catalog-constrained lists: which tokens may follow, so that a list holds items of the catalog only, none twice, none excluded. The
// distribution over the allowed tokens is what is sampled, scored and trained.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";

import type { Sample } from "../data/sample.ts";
import { RankGrpoError, refuse } from "../errors.ts";
import { addon, type NativeCatalog, type NativeListRules } from "../native.ts";
import type { Tokenizer } from "../text/types.ts";
import { Catalog } from "./catalog.ts";
import { formatItem, type Item, readList } from "./list.ts";
import { seenTitles } from "./rewards.ts";

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
  /** Text of a line, default `Title (Year)`. */
  line?: (item: Item) => string;
  /** Where the tries are kept between runs (two files); made where missing. Default: none. */
  cache?: string;
}

/** What the policy needs to keep one batch of rows inside the catalog. */
export interface Constraint {
  readonly native: NativeCatalog;
  readonly rules: NativeListRules;
  /** Items that each row may not hold. */
  readonly excluded: readonly (readonly number[])[];
}

/** The catalog as one tokenizer writes it. */
export class CatalogConstraint {
  readonly #native: NativeCatalog;
  readonly #catalog: Catalog;
  readonly #rules: NativeListRules;
  readonly #options: ConstraintOptions;
  readonly #byTitle: ReadonlyMap<string, readonly number[]>;

  private constructor(native: NativeCatalog, catalog: Catalog, options: ConstraintOptions) {
    this.#native = native;
    this.#catalog = catalog;
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
    const catalog =
      options.unreadable === "skip" ? Catalog.from(all.items.filter((item) => readsBack(item, line(item)))) : all;
    const texts = catalog.items.map(line);
    const hash = createHash("sha256").update(`${tokenizer.fingerprint}\n${stopId}\n`);
    for (const text of texts) hash.update(`${text}\n`);
    const key = hash.digest("hex");
    if (options.cache !== undefined && existsSync(`${options.cache}.line`))
      return new CatalogConstraint(await addon.NativeCatalog.open(options.cache, key), catalog, options);
    const native = await addon.NativeCatalog.build({
      names: texts,
      ...tokenise(catalog, texts, tokenizer, stopId, options.line === undefined),
    });
    if (options.cache !== undefined) await native.save(options.cache, key);
    return new CatalogConstraint(native, catalog, options);
  }

  /** The items that lists are made of, by the numbers that exclusions and recommendations use. */
  get items(): readonly Item[] {
    return this.#catalog.items;
  }

  /** Tokens of the longest line: `most` times this bounds a list. */
  get longestLine(): number {
    return this.#native.describe().longestLine;
  }

  /** Bytes of the tries. */
  get bytes(): number {
    return this.#native.describe().bytes;
  }

  /** Constraint of one row for each sample; a group's rows share their sample's. */
  forSamples(samples: readonly Sample[]): Constraint {
    return { native: this.#native, rules: this.#rules, excluded: samples.map((sample) => this.#excluded(sample)) };
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
        if (typeof entry === "string") for (const item of this.#byTitle.get(entry) ?? []) items.add(item);
        else if (Array.isArray(entry) && typeof entry[0] === "string")
          items.add(this.#catalog.indexOf({ title: entry[0], year: Number(entry[1]) }));
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

/** A line that is followed by another (its newline included), and one that ends the list (the stop token included), as the tokenizer writes them. */
function tokenise(
  catalog: Catalog,
  texts: readonly string[],
  tokenizer: Tokenizer,
  stopId: number,
  readable: boolean,
): { lineOffsets: Int32Array; lineTokens: Int32Array; lastOffsets: Int32Array; lastTokens: Int32Array } {
  const lineOffsets = new Int32Array(texts.length + 1);
  const lastOffsets = new Int32Array(texts.length + 1);
  const line: number[] = [];
  const last: number[] = [];
  for (const [i, text] of texts.entries()) {
    const ids = tokenizer.encode(`${text}\n`);
    const end = tokenizer.encode(text);
    if (tokenizer.decode(ids) !== `${text}\n` || tokenizer.decode(end) !== text)
      refuse("BAD_DATA", "a line that the tokenizer writes and reads back unchanged", `catalog item ${i + 1}`, text);
    if (readable) {
      if (!readsBack(catalog.items[i]!, text))
        refuse(
          "BAD_DATA",
          "a title that is read back from its line",
          `catalog item ${i + 1}`,
          text,
          'Remove it from the catalog, or set unreadable: "skip".',
        );
    }
    for (const id of ids) line.push(id);
    for (const id of end) last.push(id);
    last.push(stopId);
    lineOffsets[i + 1] = line.length;
    lastOffsets[i + 1] = last.length;
  }
  return { lineOffsets, lineTokens: Int32Array.from(line), lastOffsets, lastTokens: Int32Array.from(last) };
}
