// The catalogue: which (title, year) pairs exist. Read from TSV, JSON or a pickle (as the paper's code ships it), asked by rewards,
// metrics and catalogue-constrained sampling.
import { readFile } from "node:fs/promises";
import { extname } from "node:path";
import { Parser } from "pickleparser";

import { RankGrpoError, refuse } from "../errors.ts";
import type { Item } from "./list.ts";
import { isNearYear, parseYear } from "./title.ts";

/** A row as a file holds it, and where it stands there. */
interface Row {
  readonly title: unknown;
  readonly year: unknown;
  readonly place: string;
}

const key = (item: Item): string => `${item.year}\t${item.title}`;

export class Catalog {
  /** Distinct items in the order of the file. */
  readonly items: readonly Item[];
  /** Entries of the source left out because their title is empty. */
  readonly skipped: number;
  readonly #indices = new Map<string, number>();
  readonly #years = new Map<string, number[]>();

  private constructor(items: Iterable<Item>, skipped: number) {
    const distinct: Item[] = [];
    for (const item of items) {
      if (this.#indices.has(key(item))) continue;
      this.#indices.set(key(item), distinct.length);
      distinct.push(item);
      const title = item.title.toLowerCase();
      const years = this.#years.get(title);
      if (years === undefined) this.#years.set(title, [item.year]);
      else years.push(item.year);
    }
    this.items = distinct;
    this.skipped = skipped;
  }

  /** A catalogue of these items, duplicates merged; those with an empty title are skipped and counted. */
  static from(items: Iterable<Item>): Catalog {
    const titled: Item[] = [];
    let skipped = 0;
    for (const item of items) {
      if (item.title.trim() === "") skipped++;
      else titled.push(item);
    }
    return new Catalog(titled, skipped);
  }

  /**
   * Reads a catalogue file. `.json`: a list of [title, year] or {title, year}; `.pkl` and `.pickle` (or any file that starts as pickle
   * protocol 2 to 5): a list, tuple or set of (title, year), nothing of it executed; anything else: lines of title TAB year.
   * Years may be integers or strings of digits; titles are kept exactly as they stand.
   *
   * @throws RankGrpoError `IO` if the file cannot be read, `BAD_DATA` with line or entry if its content cannot, or if no title is left.
   */
  static async load(path: string): Promise<Catalog> {
    let bytes: Uint8Array;
    try {
      bytes = await readFile(path);
    } catch (cause) {
      throw new RankGrpoError("IO", `Cannot read the catalogue ${path}: ${(cause as Error).message}`, { cause });
    }
    const catalog = Catalog.from(readItems(rowsOf(path, bytes), path));
    if (catalog.size === 0) {
      refuse(
        "BAD_DATA",
        "at least one title with its year",
        `the catalogue ${path}`,
        `${catalog.skipped} empty titles`,
      );
    }
    return catalog;
  }

  get size(): number {
    return this.items.length;
  }

  /** Whether exactly this title (case, accents) and year is in the catalogue: what a reward asks. */
  has(item: Item): boolean {
    return this.#indices.has(key(item));
  }

  /** Whether the lower-cased title is there with a year within 2: what the published in-catalogue ratio asks. */
  hasLoosely(item: Item): boolean {
    return this.#years.get(item.title.toLowerCase())?.some((year) => isNearYear(year, item.year)) ?? false;
  }

  /** Index of exactly this item in `items`, or -1. */
  indexOf(item: Item): number {
    return this.#indices.get(key(item)) ?? -1;
  }
}

function rowsOf(path: string, bytes: Uint8Array): Iterable<Row> {
  const extension = extname(path).toLowerCase();
  const protocol = bytes[0] === 0x80 && bytes[1]! >= 2 && bytes[1]! <= 5;
  if (protocol || extension === ".pkl" || extension === ".pickle") return pickleRows(path, bytes);
  const text = decodeText(path, bytes);
  return extension === ".json" ? jsonRows(path, text) : tsvRows(path, text);
}

function* readItems(rows: Iterable<Row>, path: string): Generator<Item> {
  for (const { title, year, place } of rows) {
    const name = `${place} of the catalogue ${path}`;
    if (typeof title !== "string") refuse("BAD_DATA", "a text as title", name, title);
    const parsed = parseYear(year);
    if (parsed === undefined) refuse("BAD_DATA", "a whole number as year", name, year);
    yield { title, year: parsed };
  }
}

function decodeText(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new RankGrpoError("BAD_DATA", `Expected UTF-8 text in the catalogue ${path}. Is it another kind of file?`, {
      cause,
    });
  }
}

function* tsvRows(path: string, text: string): Generator<Row> {
  let line = 0;
  for (const raw of text.split("\n")) {
    line++;
    const row = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
    if (row === "") continue;
    const tab = row.lastIndexOf("\t");
    if (tab < 0) refuse("BAD_DATA", "title TAB year", `line ${line} of the catalogue ${path}`, row);
    yield { title: row.slice(0, tab), year: row.slice(tab + 1), place: `line ${line}` };
  }
}

function jsonRows(path: string, text: string): Generator<Row> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new RankGrpoError("BAD_DATA", `Expected JSON in the catalogue ${path}: ${(cause as Error).message}`, {
      cause,
    });
  }
  return entryRows(path, value);
}

/** A pickle of plain values. Whatever would build an object or call a function is refused, not run. */
function pickleRows(path: string, bytes: Uint8Array): Generator<Row> {
  const forbid = (what: string): never => {
    throw new Error(`it refers to ${what}, and only lists, tuples, strings and integers are read`);
  };
  let value: unknown;
  try {
    value = new Parser({
      nameResolver: { resolve: (module, name) => forbid(`${module}.${name}`) },
      persistentResolver: { resolve: (id) => forbid(`persistent id ${id}`) },
      extensionResolver: { resolve: (code) => forbid(`extension ${code}`) },
      unpicklingTypeOfDictionary: "Map",
    }).parse<unknown>(bytes);
  } catch (cause) {
    throw new RankGrpoError("BAD_DATA", `Cannot read the catalogue ${path} as a pickle: ${(cause as Error).message}`, {
      cause,
    });
  }
  return entryRows(path, value);
}

function* entryRows(path: string, value: unknown): Generator<Row> {
  if (!Array.isArray(value)) refuse("BAD_DATA", "a list of [title, year]", `the catalogue ${path}`, value);
  for (const [index, entry] of value.entries()) {
    const place = `entry ${index + 1}`;
    if (Array.isArray(entry) && entry.length === 2) yield { title: entry[0], year: entry[1], place };
    else if (typeof entry === "object" && entry !== null && "title" in entry && "year" in entry) {
      yield { title: entry.title, year: entry.year, place };
    } else {
      refuse("BAD_DATA", "[title, year] or {title, year}", `${place} of the catalogue ${path}`, entry);
    }
  }
}
